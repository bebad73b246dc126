// Package diag asks the kernel about TCP sockets and destroys those in TIME_WAIT that are in the way. (sock_diag(7))
package diag

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
)

const (
	requestLen = 56 // struct inet_diag_req_v2
	messageLen = 72 // struct inet_diag_msg
	v6Only     = 11 // INET_DIAG_SKV6ONLY
	noCookie   = ^uint64(0)

	idOffset    = 8 // of struct inet_diag_sockid in the request
	idInMessage = 4 // and in the answer
	idLen       = 48

	timeWait = 6 // TCP_TIME_WAIT
	listen   = 10
)

var states = []string{"", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV"}

// Conn is a lasting sock_diag connection in one network namespace. It is safe for concurrent use.
type Conn struct{ s *wire.Socket }

// Open opens the connection in the network namespace of the calling thread.
func Open() (*Conn, error) {
	s, err := wire.Open(unix.NETLINK_SOCK_DIAG)
	return &Conn{s}, err
}

// Close closes the connection.
func (c *Conn) Close() error { return c.s.Close() }

// request makes a struct inet_diag_req_v2. Invalid addresses stand for any.
func request(family uint8, states uint32, local, remote netip.AddrPort, cookie uint64) []byte {
	b := make([]byte, requestLen)
	b[0], b[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], states)
	id := b[idOffset:]
	binary.BigEndian.PutUint16(id[0:], local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	copy(id[4:20], local.Addr().AsSlice())
	copy(id[20:36], remote.Addr().AsSlice())
	binary.NativeEndian.PutUint64(id[40:], cookie)
	return b
}

// DestroyTimeWait destroys the socket with exactly this 4-tuple, if it is in TIME_WAIT. That there is none is success, that it
// is in another state an error. The socket that was looked at is the one destroyed: its cookie goes along.
func (c *Conn) DestroyTimeWait(local, remote netip.AddrPort) error {
	local, remote = unmapped(local), unmapped(remote)
	family := uint8(unix.AF_INET)
	if local.Addr().Is6() {
		family = unix.AF_INET6
	}
	if !local.IsValid() || !remote.IsValid() || local.Addr().Is6() != remote.Addr().Is6() {
		return fmt.Errorf("destroy TIME_WAIT socket %s to %s: not two addresses of one family", local, remote)
	}
	object := fmt.Sprintf("TCP socket %s to %s", local, remote)
	list, err := c.s.Do(wire.Message{Type: unix.SOCK_DIAG_BY_FAMILY, Body: request(family, ^uint32(0), local, remote, noCookie), Operation: "look up", Object: object})
	if wire.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(list) == 0 || len(list[0].Data) < messageLen {
		return fmt.Errorf("look up %s: the kernel's answer is too short", object)
	}
	found := list[0].Data
	if found[1] != timeWait {
		return fmt.Errorf("destroy %s: it is in state %s, not TIME_WAIT", object, state(found[1]))
	}
	return c.destroy(family, found, object)
}

// destroy destroys the very socket that a struct inet_diag_msg is about, if it is in TIME_WAIT: the cookie goes along.
func (c *Conn) destroy(family uint8, found []byte, object string) error {
	body := request(family, 1<<timeWait, netip.AddrPort{}, netip.AddrPort{}, noCookie)
	copy(body[idOffset:], found[idInMessage:idInMessage+idLen])
	_, err := c.s.Do(wire.Message{Type: unix.SOCK_DESTROY, Body: body, Operation: "destroy", Object: object})
	if wire.Is(err, unix.ENOENT, unix.ESTALE) {
		return nil // its time was over in the meantime
	}
	return explain(err)
}

// list returns a struct inet_diag_msg, with its attributes behind it, for each TCP socket of a family in a state.
func (c *Conn) list(family uint8, in int, object string) ([][]byte, error) {
	all, err := c.s.Dump(wire.Message{Type: unix.SOCK_DIAG_BY_FAMILY, Body: request(family, 1<<in, netip.AddrPort{}, netip.AddrPort{}, noCookie),
		Operation: "list", Object: object})
	var found [][]byte
	for _, m := range all {
		if len(m.Data) >= messageLen {
			found = append(found, m.Data)
		}
	}
	return found, err
}

func explain(err error) error {
	if e, ok := err.(*wire.Error); ok && e.Errno == unix.EOPNOTSUPP {
		e.Hint = "this kernel cannot destroy such sockets (CONFIG_INET_DIAG_DESTROY)"
	}
	return err
}

func state(n uint8) string {
	if int(n) < len(states) {
		return states[n]
	}
	return strconv.Itoa(int(n))
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// CanDestroy asks whether the kernel has SOCK_DESTROY, by destroying a socket that cannot exist. nil means yes.
func (c *Conn) CanDestroy() error {
	none := netip.MustParseAddrPort("0.0.0.0:0")
	_, err := c.s.Do(wire.Message{Type: unix.SOCK_DESTROY, Body: request(unix.AF_INET, 1<<timeWait, none, none, noCookie), Operation: "destroy", Object: "no TCP socket"})
	if wire.Is(err, unix.ENOENT) {
		return nil
	}
	return explain(err)
}

// Listening returns the addresses on which TCP sockets listen that none of the processes (names below /proc) holds. A socket
// of both families is there with both wildcards.
func (c *Conn) Listening(but ...string) ([]netip.AddrPort, error) {
	own := map[uint32]bool{}
	for _, process := range but {
		addInodes(own, process)
	}
	var out []netip.AddrPort
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		list, err := c.list(family, listen, "listening TCP sockets")
		if err != nil {
			return nil, err
		}
		for _, found := range list {
			if !own[binary.NativeEndian.Uint32(found[68:])] {
				out = append(out, addresses(family, found)...)
			}
		}
	}
	return out, nil
}

func addresses(family uint8, b []byte) []netip.AddrPort {
	port := binary.BigEndian.Uint16(b[4:])
	if family == unix.AF_INET {
		return []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[8:12])), port)}
	}
	addr := netip.AddrFrom16([16]byte(b[8:24])).Unmap()
	out := []netip.AddrPort{netip.AddrPortFrom(addr, port)}
	as, err := wire.Decode(b[messageLen:])
	if only, known := as.Get(v6Only); addr == netip.IPv6Unspecified() && err == nil && known && len(only) > 0 && only[0] == 0 {
		out = append(out, netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	}
	return out
}

// addInodes adds the inodes of the sockets that a process holds.
func addInodes(to map[uint32]bool, process string) {
	dir := "/proc/" + process + "/fd/"
	entries, _ := os.ReadDir(dir) // gone, or not ours to see: then it holds nothing of ours
	for _, e := range entries {
		link, err := os.Readlink(dir + e.Name())
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]"), 10, 32); err == nil {
			to[uint32(n)] = true
		}
	}
}
