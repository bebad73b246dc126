package wire

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// Adopt makes a Socket of a netlink socket that an earlier program of this process opened with Open and left open over execve(2). It has the
// same address, and still owns what it owned. The file stays the caller's: the Socket has a descriptor of its own.
func Adopt(file *os.File) (*Socket, error) {
	conn, err := socket.FileConn(file, "netlink")
	if err != nil {
		return nil, fmt.Errorf("take over a netlink socket: %w", err)
	}
	address, err := conn.Getsockname()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("take over a netlink socket: getsockname: %w", err)
	}
	own, ok := address.(*unix.SockaddrNetlink)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("take over a netlink socket: descriptor %d is a socket at %T", file.Fd(), address)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("take over a netlink socket: %w", err)
	}
	return &Socket{conn: &adopted{Conn: conn, port: own.Pid}, raw: raw, buf: make([]byte, 128<<10)}, nil
}

// Descriptor is the number of the socket's descriptor, which stays the Socket's own. It is for handing the socket on over execve(2).
func (s *Socket) Descriptor() (int, error) {
	number := -1
	if err := s.raw.Control(func(fd uintptr) { number = int(fd) }); err != nil {
		return -1, fmt.Errorf("netlink socket: %w", err)
	}
	return number, nil
}

// connection is what a Socket asks of the library: *netlink.Conn, which can only be made for a new socket, or adopted.
type connection interface {
	SendMessages([]netlink.Message) ([]netlink.Message, error)
	SetWriteBuffer(bytes int) error
	PID() uint32
	Close() error
}

// adopted does for a socket that is there already what netlink.Conn does for new ones. Its options were set when it was opened.
type adopted struct {
	*socket.Conn
	port     uint32
	sequence atomic.Uint32
}

// PID implements connection.
func (a *adopted) PID() uint32 { return a.port }

// SendMessages implements connection: it numbers the messages and sends them as one datagram.
func (a *adopted) SendMessages(ms []netlink.Message) ([]netlink.Message, error) {
	var datagram []byte
	for i := range ms {
		h := &ms[i].Header
		h.Length = uint32(aligned(headerLen + len(ms[i].Data)))
		h.Sequence, h.PID = a.sequence.Add(1), a.port
		b, err := ms[i].MarshalBinary()
		if err != nil {
			return nil, err
		}
		datagram = append(datagram, b...)
	}
	_, err := a.Sendmsg(context.Background(), datagram, nil, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}, 0)
	return ms, err
}
