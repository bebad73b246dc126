package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxMessage bounds the JSON of one message in bytes; the jobs and states of the most servers that a file can name fit.
	MaxMessage = 32 << 20
	// MaxDescriptors bounds the descriptors beside one message. It is the kernel's own bound (SCM_MAX_FD in
	// include/net/scm.h); a group with more sockets takes several Sockets messages of the same listener and address.
	MaxDescriptors = 253
	// SendTimeout bounds how long Send waits for an other side that does not read.
	SendTimeout = 2 * time.Second

	// packetSize bounds one packet. It stays well under the default socket buffer (net.core.wmem_default, 208 KiB), which an
	// unprivileged worker cannot raise, so that a message which is larger goes as several packets.
	packetSize = 32 << 10
)

// The first byte of a packet says whether the message goes on in the next one.
const (
	packetLast byte = iota
	packetMore
)

// Conn is one end of the socket between keeper and worker. Send may be called by several goroutines at once, Receive by one.
type Conn struct {
	unix *net.UnixConn

	sending sync.Mutex
	broken  error // why no more can be sent: a message was cut in its middle
	paused  atomic.Bool

	packet [packetSize]byte
	oob    []byte
}

// Pair makes a connected pair: the keeper's end, and the worker's as a file to start the worker with. The caller closes
// both; the file as soon as the worker has started, or the end of the worker would go unnoticed.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("control socket: socketpair: %w", err)
	}
	worker := os.NewFile(uintptr(fds[1]), "control")
	c, err := FromFD(uintptr(fds[0]))
	if err != nil {
		worker.Close()
		return nil, nil, err
	}
	return c, worker, nil
}

// FromFD takes over the descriptor that a worker inherited, and closes it when it is not such a socket.
func FromFD(fd uintptr) (*Conn, error) {
	file := os.NewFile(fd, "control")
	if file == nil {
		return nil, fmt.Errorf("control socket: %d is no descriptor", fd)
	}
	defer file.Close()
	if err := isControl(int(fd)); err != nil {
		return nil, fmt.Errorf("control socket: descriptor %d: %w", fd, err)
	}
	conn, err := net.FileConn(file) // a close-on-exec, non-blocking copy
	if err != nil {
		return nil, fmt.Errorf("control socket: descriptor %d: %w", fd, err)
	}
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("control socket: descriptor %d is a %T", fd, conn)
	}
	return &Conn{unix: uc, oob: make([]byte, unix.CmsgSpace(MaxDescriptors*4))}, nil
}

// isControl refuses descriptors that are something else, so that a worker started by hand ends with a message.
func isControl(fd int) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	if domain != unix.AF_UNIX || kind != unix.SOCK_SEQPACKET {
		return errors.New("not a Unix socket of type SOCK_SEQPACKET")
	}
	return nil
}

// Close ends the connection: a Receive under way returns, and the other side's next one returns io.EOF.
func (c *Conn) Close() error { return c.unix.Close() }

// Send sends m with copies of the descriptors fds, which the caller keeps. An error that is os.ErrDeadlineExceeded means that the other
// side has not read for SendTimeout; syscall.EPIPE that it is gone.
func (c *Conn) Send(m Message, fds ...int) error {
	text, err := encode(m)
	if err != nil {
		return err
	}
	if len(fds) > MaxDescriptors {
		return fmt.Errorf("control: %s with %d descriptors, at most %d go in one message", m.kind(), len(fds), MaxDescriptors)
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.broken != nil {
		return c.broken
	}
	if err := c.unix.SetWriteDeadline(time.Now().Add(SendTimeout)); err != nil {
		return fmt.Errorf("control: send %s: %w", m.kind(), err)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := c.write(text, rights); err != nil {
		return fmt.Errorf("control: send %s: %w", m.kind(), err)
	}
	return nil
}

// write sends text in as many packets as it takes, with the descriptors beside the first.
func (c *Conn) write(text, rights []byte) error {
	packet := make([]byte, 0, min(len(text)+1, packetSize))
	for first := true; first || len(text) > 0; first = false {
		n := min(len(text), packetSize-1)
		flag := packetLast
		if n < len(text) {
			flag = packetMore
		}
		packet = append(append(packet[:0], flag), text[:n]...)
		if _, _, err := c.unix.WriteMsgUnix(packet, rights, nil); err != nil {
			if !first {
				c.broken = fmt.Errorf("an earlier message was cut: %w", err)
			}
			return err
		}
		text, rights = text[n:], nil
	}
	return nil
}

// ErrPaused is what Receive returns after Pause.
var ErrPaused = errors.New("control: paused")

// Pause makes the Receive under way, and all that follow, return ErrPaused, never in the middle of a message: what has not been received is
// left for whoever reads the socket next, as the program that takes the place of this one.
func (c *Conn) Pause() error {
	c.paused.Store(true)
	return c.unix.SetReadDeadline(longAgo)
}

// Unpause undoes Pause. It must not be called while a Receive is under way.
func (c *Conn) Unpause() error {
	c.paused.Store(false)
	return c.unix.SetReadDeadline(time.Time{})
}

var longAgo = time.Unix(1, 0)

// Descriptor is the number of the socket's descriptor, which stays the connection's own. It is for handing the socket on to the program
// that takes the place of this one.
func (c *Conn) Descriptor() (int, error) {
	raw, err := c.unix.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("control socket: %w", err)
	}
	number := -1
	if err := raw.Control(func(fd uintptr) { number = int(fd) }); err != nil {
		return -1, fmt.Errorf("control socket: %w", err)
	}
	return number, nil
}

// Receive waits for the next message. The descriptors that came with it belong to the caller and are close-on-exec. The error is io.EOF
// when the other side has closed its end or died, and ErrPaused after Pause; after any other error the connection is of no use any more.
//
// A message of a kind that this version does not know is dropped: the other side may be of a later one.
func (c *Conn) Receive() (Message, []int, error) {
	for {
		m, fds, err := c.receive()
		if !errors.Is(err, errUnknownKind) {
			return m, fds, err
		}
	}
}

func (c *Conn) receive() (Message, []int, error) {
	var text []byte
	var fds []int
	late := false
	for {
		flag, chunk, more, err := c.readPacket()
		fds = append(fds, more...)
		if errors.Is(err, os.ErrDeadlineExceeded) && c.paused.Load() {
			if text == nil {
				return Message{}, nil, ErrPaused
			}
			if !late { // the rest of the message is on its way
				late = true
				defer func() { _ = c.unix.SetReadDeadline(longAgo) }()
				err = c.unix.SetReadDeadline(time.Now().Add(SendTimeout))
				if err == nil {
					continue
				}
			}
		}
		switch {
		case err != nil:
		case len(text)+len(chunk) > MaxMessage:
			err = fmt.Errorf("control: a message of more than %d bytes", MaxMessage)
		case len(fds) > MaxDescriptors:
			err = fmt.Errorf("control: a message with more than %d descriptors", MaxDescriptors)
		case flag == packetMore && len(chunk) == 0:
			err = errors.New("control: an empty packet inside a message")
		}
		if err != nil {
			closeAll(fds)
			return Message{}, nil, err
		}
		text = append(text, chunk...)
		if flag == packetLast {
			break
		}
	}
	m, err := decode(text)
	if err == nil {
		err = m.check(len(fds))
	}
	if err != nil {
		closeAll(fds)
		return Message{}, nil, err
	}
	return m, fds, nil
}

// readPacket reads one packet; the chunk is valid until the next call, the descriptors belong to the caller also when there is an error.
func (c *Conn) readPacket() (flag byte, chunk []byte, fds []int, err error) {
	n, oobn, flags, _, err := c.unix.ReadMsgUnix(c.packet[:], c.oob)
	if errors.Is(err, syscall.ECONNRESET) {
		// The other side closed with messages of ours unread. The kernel tells that before it gives us what it had sent (unix(7)).
		n, oobn, flags, _, err = c.unix.ReadMsgUnix(c.packet[:], c.oob)
	}
	fds, rightsErr := rights(c.oob[:max(oobn, 0)])
	switch {
	case errors.Is(err, io.EOF) && n == 0:
		return 0, nil, fds, io.EOF
	case err != nil:
		return 0, nil, fds, fmt.Errorf("control: receive: %w", err)
	case rightsErr != nil:
		return 0, nil, fds, fmt.Errorf("control: receive: %w", rightsErr)
	case flags&unix.MSG_CTRUNC != 0:
		return 0, nil, fds, errors.New("control: receive: descriptors were lost: too many in the packet or too many open files")
	case flags&unix.MSG_TRUNC != 0:
		return 0, nil, fds, fmt.Errorf("control: receive: a packet of more than %d bytes", packetSize)
	case n == 0:
		return 0, nil, fds, io.EOF
	case c.packet[0] != packetLast && c.packet[0] != packetMore:
		return 0, nil, fds, fmt.Errorf("control: receive: unknown kind of packet %d", c.packet[0])
	}
	return c.packet[0], c.packet[1:n], fds, nil
}

// rights takes the descriptors out of control messages. What could be taken is returned also with an error, so that it can be closed.
func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		if messages[i].Header.Level != unix.SOL_SOCKET || messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		got, rightsErr := unix.ParseUnixRights(&messages[i])
		fds = append(fds, got...)
		err = errors.Join(err, rightsErr)
	}
	return fds, err
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func encode(m Message) ([]byte, error) {
	if m.kind() == "" {
		return nil, errors.New("control: a message must have exactly one field set")
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("control: encode %s: %w", m.kind(), err)
	}
	if len(text) > MaxMessage {
		return nil, fmt.Errorf("control: %s of %d bytes, at most %d", m.kind(), len(text), MaxMessage)
	}
	return text, nil
}

var errUnknownKind = errors.New("control: decode: a message of a kind that is not known")

func decode(text []byte) (Message, error) {
	var m Message
	if err := json.Unmarshal(text, &m); err != nil {
		return Message{}, fmt.Errorf("control: decode: %w", err)
	}
	switch {
	case m.kind() != "":
		return m, nil
	case m == Message{}:
		return Message{}, errUnknownKind
	}
	return Message{}, errors.New("control: decode: several fields are set")
}
