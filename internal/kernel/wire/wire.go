// Package wire speaks netlink over lasting sockets: requests, dumps, batches, attributes, and errors in the kernel's own words.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	receiveBuffer = 1 << 20 // answers to a large batch of refused messages
	maxTries      = 8       // of a dump that another program's change interrupted
	headerLen     = unix.SizeofNlMsghdr
)

// Message is a request, or one part of an answer.
type Message struct {
	Type  uint16
	Flags uint16 // NLM_F_REQUEST is added
	Body  []byte // what follows the header: a family header, then attributes

	Operation, Object string // for errors
	Port              uint32 // read only: port of the socket that caused a notification
	Seq               uint32 // read only
}

// Socket is a netlink socket in the network namespace of the thread that opened it. It is safe for concurrent use.
type Socket struct {
	mu   sync.Mutex
	fd   int
	port uint32
	seq  uint32
	buf  []byte
}

// Open opens a socket of a netlink family (unix.NETLINK_…) in the calling thread's network namespace.
func Open(family int) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket of family %d: %w", family, err)
	}
	s := &Socket{fd: fd, buf: make([]byte, 128<<10)}
	if err := s.prepare(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up netlink socket of family %d: %w", family, err)
	}
	return s, nil
}

func (s *Socket) prepare() error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		return err
	}
	s.port = name.(*unix.SockaddrNetlink).Pid
	// Every Linux that Salp supports has these; a missing one costs words in an error, nothing else.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	return nil
}

// Port is the socket's netlink address, by which notifications name who caused them and nft tables their owner.
func (s *Socket) Port() uint32 { return s.port }

// Close closes the socket. nft tables that it owns are gone with it.
func (s *Socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return nil
	}
	err := unix.Close(s.fd)
	s.fd = -1
	return err
}

// Do sends one request and waits until the kernel has done or refused it. It returns what came before the acknowledgement.
func (s *Socket) Do(m Message) ([]Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Flags |= unix.NLM_F_ACK
	if err := s.send([]Message{m}); err != nil {
		return nil, err
	}
	return s.answers(m, s.seq)
}

// Dump asks for all objects of a kind. A dump that was interrupted by a change is asked for again.
func (s *Socket) Dump(m Message) ([]Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Flags |= unix.NLM_F_DUMP
	for range maxTries {
		if err := s.send([]Message{m}); err != nil {
			return nil, err
		}
		out, err := s.answers(m, s.seq)
		if !errors.Is(err, errInterrupted) && !Is(err, unix.EINTR) {
			return out, err
		}
	}
	return nil, fmt.Errorf("%s %s: other programs change it faster than it can be read", m.Operation, m.Object)
}

// Batch sends messages that the kernel takes all or none of (an nf_tables transaction, whose begin and end are among them). It
// returns the first few refusals. The kernel works through a batch before the send returns, so what it has to say is there by
// then.
func (s *Socket) Batch(ms []Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.send(ms); err != nil {
		return err
	}
	first := s.seq - uint32(len(ms)) + 1
	var refused refusals
	for {
		n, err := s.receive(unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return refused.join()
		case errors.Is(err, unix.ENOBUFS): // more refusals than the buffer holds; what it holds can be read
			refused.more++
			continue
		case err != nil:
			refused.list = append(refused.list, fmt.Errorf("read the answer to %s %s: %w", ms[0].Operation, ms[0].Object, err))
			return refused.join()
		}
		err = each(s.buf[:n], func(m Message) error {
			i := int(int32(m.Seq - first))
			if i >= 0 && i < len(ms) && m.Type == unix.NLMSG_ERROR {
				refused.add(refusal(ms[i], m))
			}
			return nil
		})
		if err != nil {
			refused.list = append(refused.list, err)
			return refused.join()
		}
	}
}

const maxRefusals = 8 // that are told of one batch

type refusals struct {
	list []error
	more int
}

func (r *refusals) add(err error) {
	switch {
	case err == nil:
	case len(r.list) < maxRefusals:
		r.list = append(r.list, err)
	default:
		r.more++
	}
}

func (r *refusals) join() error {
	if r.more > 0 {
		return errors.Join(append(r.list, errors.New("and more refusals of the same transaction"))...)
	}
	return errors.Join(r.list...)
}

// send writes all messages as one datagram, numbered in sequence.
func (s *Socket) send(ms []Message) error {
	if s.fd < 0 {
		return fmt.Errorf("%s %s: %w", ms[0].Operation, ms[0].Object, os.ErrClosed)
	}
	s.drain()
	var b []byte
	for _, m := range ms {
		s.seq++
		b = encode(b, m, s.seq)
	}
	if len(b) > 128<<10 { // the default send buffer is about 200 KiB and holds the kernel's own bookkeeping too
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*len(b))
	}
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				return fmt.Errorf("send %s %s (%d bytes): %w", ms[0].Operation, ms[0].Object, len(b), err)
			}
			return nil
		}
	}
}

// drain throws away what an earlier request that failed half-way left unread.
func (s *Socket) drain() {
	for {
		if _, err := s.receive(unix.MSG_DONTWAIT); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

func encode(b []byte, m Message, seq uint32) []byte {
	start := len(b)
	b = binary.NativeEndian.AppendUint32(b, uint32(headerLen+len(m.Body)))
	b = binary.NativeEndian.AppendUint16(b, m.Type)
	b = binary.NativeEndian.AppendUint16(b, m.Flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, m.Body...)
	for (len(b)-start)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

var (
	errInterrupted = errors.New("dump interrupted")
	errDone        = errors.New("done")
)

func (s *Socket) receive(flags int) (int, error) {
	for {
		n, from, err := unix.Recvfrom(s.fd, s.buf, flags)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if sender, ok := from.(*unix.SockaddrNetlink); ok && sender.Pid != 0 {
			continue // only the kernel is believed
		}
		return n, nil
	}
}

// answers reads until the request with that number is done or refused.
func (s *Socket) answers(asked Message, seq uint32) ([]Message, error) {
	var out []Message
	interrupted := false
	for {
		n, err := s.receive(0)
		if err != nil {
			return out, fmt.Errorf("read the answer to %s %s: %w", asked.Operation, asked.Object, err)
		}
		err = each(s.buf[:n], func(m Message) error {
			if m.Seq != seq {
				return nil
			}
			interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Type {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				if e := refusal(asked, m); e != nil {
					return e
				}
				return errDone
			}
			m.Body = append([]byte(nil), m.Body...)
			out = append(out, m)
			return nil
		})
		switch {
		case errors.Is(err, errDone) && interrupted:
			return nil, errInterrupted
		case errors.Is(err, errDone):
			return out, nil
		case err != nil:
			return out, err
		}
	}
}

// Split calls do for each message of a datagram that the kernel sent.
func Split(b []byte, do func(Message)) error {
	return each(b, func(m Message) error { do(m); return nil })
}

func each(b []byte, do func(Message) error) error {
	for len(b) >= headerLen {
		length := int(binary.NativeEndian.Uint32(b))
		if length < headerLen || length > len(b) {
			return fmt.Errorf("netlink: message of %d bytes in %d bytes", length, len(b))
		}
		m := Message{
			Type:  binary.NativeEndian.Uint16(b[4:]),
			Flags: binary.NativeEndian.Uint16(b[6:]),
			Seq:   binary.NativeEndian.Uint32(b[8:]),
			Port:  binary.NativeEndian.Uint32(b[12:]),
			Body:  b[headerLen:length],
		}
		if err := do(m); err != nil {
			return err
		}
		b = b[min((length+3)&^3, len(b)):]
	}
	return nil
}

// refusal returns nil when an NLMSG_ERROR or NLMSG_DONE message is an acknowledgement.
func refusal(asked, m Message) error {
	if len(m.Body) < 4 {
		return nil
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(m.Body)))
	if errno == 0 {
		return nil
	}
	e := &Error{Operation: asked.Operation, Object: asked.Object, Errno: errno, Hint: hint(errno)}
	if m.Flags&unix.NLM_F_ACK_TLVS == 0 {
		return e
	}
	skip := 4 + headerLen
	if m.Type == unix.NLMSG_DONE {
		skip = 4
	}
	if m.Type == unix.NLMSG_ERROR && m.Flags&unix.NLM_F_CAPPED == 0 && len(m.Body) >= skip {
		echoed := int(binary.NativeEndian.Uint32(m.Body[4:])) // the request is echoed whole before the attributes
		skip = 4 + max(headerLen, (echoed+3)&^3)
	}
	if len(m.Body) < skip {
		return e
	}
	as, err := Decode(m.Body[skip:])
	if err != nil {
		return e
	}
	e.Words = as.String(unix.NLMSGERR_ATTR_MSG)
	if as.Has(unix.NLMSGERR_ATTR_OFFS) {
		e.Attribute = readable(asked, int(as.U32(unix.NLMSGERR_ATTR_OFFS)))
	}
	return e
}

// readable returns the string in the attribute of a request that the kernel points at, or the first one inside it (a refused nft
// expression's name), or "" when there is no text.
func readable(asked Message, offset int) string {
	offset -= headerLen
	if offset < 0 || offset+unix.SizeofNlAttr > len(asked.Body) {
		return ""
	}
	at := asked.Body[offset:]
	length := int(binary.NativeEndian.Uint16(at))
	if length < unix.SizeofNlAttr || length > len(at) {
		return ""
	}
	data := at[unix.SizeofNlAttr:length]
	if binary.NativeEndian.Uint16(at[2:])&unix.NLA_F_NESTED != 0 {
		inner, err := Decode(data)
		if err != nil || len(inner) == 0 {
			return ""
		}
		data = inner[0].Data
	}
	return printable(data)
}

func printable(data []byte) string {
	if len(data) < 2 || data[len(data)-1] != 0 {
		return ""
	}
	data = data[:len(data)-1]
	for _, c := range data {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	return string(data)
}
