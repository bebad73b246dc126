// Package wire adds to a netlink connection what a careful writer needs: refusals that name the object, transactions, and dumps that are whole.
//
// Sockets, options, numbering and encoding are github.com/mdlayher/netlink's.
package wire

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	receiveBuffer = 1 << 20 // answers to a large batch of refused messages
	maxTries      = 8       // of a dump that another program's change interrupted
	headerLen     = unix.SizeofNlMsghdr
)

// Message is a request.
type Message struct {
	Type  uint16
	Flags uint16 // NLM_F_REQUEST is added
	Body  []byte // what follows the header: a family header, then attributes

	Operation, Object string // for errors
}

// Socket is a netlink socket in the network namespace of the thread that opened it. It is safe for concurrent use.
type Socket struct {
	mu     sync.Mutex // one request and its answer at a time
	conn   connection
	raw    syscall.RawConn
	buf    []byte
	closed bool
}

func dial(family int, config *netlink.Config) (*netlink.Conn, error) {
	conn, err := netlink.Dial(family, config)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket of family %d: %w", family, err)
	}
	_ = conn.SetReadBuffer(receiveBuffer) // a smaller one loses words of refusals, or notifications, which is noticed
	return conn, nil
}

// Open opens a socket of a netlink family (unix.NETLINK_…) in the calling thread's network namespace.
func Open(family int) (*Socket, error) {
	conn, err := dial(family, nil)
	if err != nil {
		return nil, err
	}
	// Every Linux that Salp supports has these; a missing one costs words in an error, nothing else.
	for _, o := range []netlink.ConnOption{netlink.ExtendedAcknowledge, netlink.CapAcknowledge, netlink.GetStrictCheck} {
		_ = conn.SetOption(o, true)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("set up netlink socket of family %d: %w", family, err)
	}
	return &Socket{conn: conn, raw: raw, buf: make([]byte, 128<<10)}, nil
}

// Port is the socket's netlink address, by which notifications name who caused them and nft tables their owner.
func (s *Socket) Port() uint32 { return s.conn.PID() }

// Close closes the socket. nft tables that it owns are gone with it.
func (s *Socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.conn.Close()
}

// Do sends one request and waits until the kernel has done or refused it. It returns what came before the acknowledgement.
func (s *Socket) Do(m Message) ([]netlink.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Flags |= unix.NLM_F_ACK
	seq, err := s.send([]Message{m})
	if err != nil {
		return nil, err
	}
	return s.answers(m, seq)
}

// Dump asks for all objects of a kind. A dump that was interrupted by a change is asked for again.
func (s *Socket) Dump(m Message) ([]netlink.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Flags |= unix.NLM_F_DUMP
	for range maxTries {
		seq, err := s.send([]Message{m})
		if err != nil {
			return nil, err
		}
		out, err := s.answers(m, seq)
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
	first, err := s.send(ms)
	if err != nil {
		return err
	}
	var refused refusals
	for {
		err := s.receive(false, func(m netlink.Message) error {
			i := int(int32(m.Header.Sequence - first))
			if i >= 0 && i < len(ms) && m.Header.Type == netlink.Error {
				refused.add(refusal(ms[i], m))
			}
			return nil
		})
		switch {
		case errors.Is(err, unix.EAGAIN):
			return refused.join()
		case errors.Is(err, unix.ENOBUFS): // more refusals than the buffer holds; what it holds can be read
			refused.more++
		case err != nil:
			refused.list = append(refused.list, fmt.Errorf("read the answer to %s %s: %w", ms[0].Operation, ms[0].Object, err))
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

// send writes all messages as one datagram, and returns the number of the first.
func (s *Socket) send(ms []Message) (uint32, error) {
	if s.closed {
		return 0, fmt.Errorf("%s %s: %w", ms[0].Operation, ms[0].Object, os.ErrClosed)
	}
	s.drain()
	out := make([]netlink.Message, len(ms))
	length := 0
	for i, m := range ms {
		out[i] = netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(m.Type), Flags: netlink.HeaderFlags(m.Flags) | netlink.Request}, Data: m.Body}
		length += headerLen + len(m.Body)
	}
	if length > 128<<10 { // the default send buffer is about 200 KiB and holds the kernel's own bookkeeping too
		_ = s.conn.SetWriteBuffer(2 * length)
	}
	sent, err := s.conn.SendMessages(out)
	if err != nil {
		return 0, fmt.Errorf("send %s %s (%d bytes): %w", ms[0].Operation, ms[0].Object, length, err)
	}
	return sent[0].Header.Sequence, nil
}

// drain throws away what an earlier request that failed half-way left unread.
func (s *Socket) drain() {
	for {
		err := s.receive(false, func(netlink.Message) error { return nil })
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

var (
	errInterrupted = errors.New("dump interrupted")
	errDone        = errors.New("done")
)

// receive reads a datagram and calls do for each message in it, until do fails. Without wait it is EAGAIN when there is none.
// Bodies are valid only during the call.
//
// netlink.Conn.Receive would not do. It always waits, but of a batch that was taken the kernel says nothing. It keeps the last
// message of a dump to itself, the only one to say that a dump was interrupted when nothing else was left to tell. And it takes
// refusals for broken that echo only the head of the request, as they must so that many of a large batch fit.
func (s *Socket) receive(wait bool, do func(netlink.Message) error) error {
	var n int
	var sender unix.Sockaddr
	var readErr error
	err := s.raw.Read(func(fd uintptr) bool {
		for {
			n, sender, readErr = unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT)
			if !errors.Is(readErr, unix.EINTR) {
				return !wait || !errors.Is(readErr, unix.EAGAIN)
			}
		}
	})
	if err = errors.Join(err, readErr); err != nil {
		return err
	}
	if from, ok := sender.(*unix.SockaddrNetlink); ok && from.Pid != 0 {
		return nil // only the kernel is believed
	}
	return split(s.buf[:aligned(n)], do)
}

func aligned(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

func split(b []byte, do func(netlink.Message) error) error {
	for len(b) >= headerLen {
		var m netlink.Message
		if err := m.UnmarshalBinary(b); err != nil {
			return err
		}
		if err := do(m); err != nil {
			return err
		}
		b = b[min(aligned(int(m.Header.Length)), len(b)):]
	}
	return nil
}

// answers reads until the request with that number is done or refused.
func (s *Socket) answers(asked Message, seq uint32) ([]netlink.Message, error) {
	var out []netlink.Message
	interrupted := false
	for {
		var refused error
		err := s.receive(true, func(m netlink.Message) error {
			if m.Header.Sequence != seq {
				return nil
			}
			interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
			switch m.Header.Type {
			case netlink.Error, netlink.Done:
				refused = refusal(asked, m)
				return errDone
			}
			m.Data = append([]byte(nil), m.Data...)
			out = append(out, m)
			return nil
		})
		switch {
		case errors.Is(err, errDone) && refused != nil:
			return out, refused
		case errors.Is(err, errDone) && interrupted:
			return nil, errInterrupted
		case errors.Is(err, errDone):
			return out, nil
		case err != nil:
			return out, fmt.Errorf("read the answer to %s %s: %w", asked.Operation, asked.Object, err)
		}
	}
}
