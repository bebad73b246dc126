package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Peer is what a server saw of one connection.
type Peer struct {
	From netip.AddrPort // who connected
	To   netip.AddrPort // the address it connected to
}

func (p Peer) String() string { return p.From.String() + " " + p.To.String() }

// Handler serves one connection; the connection is closed when it returns.
type Handler func(*net.TCPConn)

// Server accepts connections on a host and records who they came from.
type Server struct {
	ln       *net.TCPListener
	handler  Handler
	accepted atomic.Int64

	mu     sync.Mutex
	peers  []Peer
	conns  map[*net.TCPConn]struct{}
	closed bool
}

// maxPeers bounds what a Server remembers.
const maxPeers = 100_000

// Serve starts a server on an address of the host ("[::]:80" for both families); it ends with the lab.
func (h *Host) Serve(addr string, handler Handler) (*Server, error) {
	return h.ServeWith(addr, ListenOptions{}, handler)
}

// ServeWith is Serve with options for the listening socket.
func (h *Host) ServeWith(addr string, o ListenOptions, handler Handler) (*Server, error) {
	ln, err := h.Listen(addr, o)
	if err != nil {
		return nil, err
	}
	s := &Server{ln: ln, handler: handler, conns: map[*net.TCPConn]struct{}{}}
	h.lab.atEnd(s.Close)
	go s.run()
	return s, nil
}

func (s *Server) run() {
	for {
		c, err := s.ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond) // a connection that was reset in the queue, or no descriptors for a moment
			continue
		}
		if s.note(c) {
			go s.serve(c)
		}
	}
}

func (s *Server) note(c *net.TCPConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = Reset(c)
		return false
	}
	s.conns[c] = struct{}{}
	if len(s.peers) < maxPeers {
		s.peers = append(s.peers, Peer{Remote(c), Local(c)})
	}
	s.accepted.Add(1)
	return true
}

func (s *Server) serve(c *net.TCPConn) {
	s.handler(c)
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	_ = c.Close() // the handler may have closed it
}

// Addr returns the address the server listens on.
func (s *Server) Addr() netip.AddrPort { return addrPort(s.ln.Addr()) }

// Accepted returns how many connections came.
func (s *Server) Accepted() int { return int(s.accepted.Load()) }

// Peers returns the connections that came, in order.
func (s *Server) Peers() []Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Peer(nil), s.peers...)
}

// Last returns the connection that came last; false when none came yet.
func (s *Server) Last() (Peer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.peers) == 0 {
		return Peer{}, false
	}
	return s.peers[len(s.peers)-1], true
}

// Close stops listening and resets what is open.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	_ = s.ln.Close()
	for c := range s.conns {
		_ = Reset(c)
	}
}

// Echo sends back what comes until the client ends.
func Echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

// Tell sends one line, the address and port it sees of the client and its own ("10.0.1.2:40000 10.0.2.2:80"), and then echoes.
// ParseTold reads it.
func Tell(c *net.TCPConn) {
	if _, err := fmt.Fprintf(c, "%s\n", Peer{Remote(c), Local(c)}); err != nil {
		return
	}
	Echo(c)
}

// ParseTold reads the line that Tell sent.
func ParseTold(line string) (Peer, error) {
	var from, to string
	if _, err := fmt.Sscan(line, &from, &to); err != nil {
		return Peer{}, fmt.Errorf("not a line of lab.Tell: %q: %w", line, err)
	}
	var p Peer
	var err error
	if p.From, err = netip.ParseAddrPort(from); err != nil {
		return Peer{}, err
	}
	p.To, err = netip.ParseAddrPort(to)
	return p, err
}

// Sink reads until the client ends and then answers with one line: the number of bytes and their SHA-256.
func Sink(c *net.TCPConn) {
	sum := sha256.New()
	n, err := io.Copy(sum, c)
	if err == nil {
		_, _ = fmt.Fprintf(c, "%d %s\n", n, hex.EncodeToString(sum.Sum(nil)))
	}
}

// Source sends n bytes of Pattern as soon as a client connects, and ends.
func Source(n int64) Handler {
	return func(c *net.TCPConn) { _, _ = io.Copy(c, Pattern(n)) }
}

// Banner sends text first, as mail servers do, and then echoes.
func Banner(text string) Handler {
	return func(c *net.TCPConn) {
		if _, err := io.WriteString(c, text); err == nil {
			Echo(c)
		}
	}
}

// ResetAfter reads n bytes and then resets the connection.
func ResetAfter(n int64) Handler {
	return func(c *net.TCPConn) {
		_, _ = io.CopyN(io.Discard, c, n)
		_ = Reset(c)
	}
}

// AnswerAtEnd reads until the client has ended its half and only then answers: count bytes got, then n bytes of Pattern.
// A proxy that does not keep the half-close never gets an answer.
func AnswerAtEnd(n int64) Handler {
	return func(c *net.TCPConn) {
		got, err := io.Copy(io.Discard, c)
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(c, "%d\n", got); err == nil {
			_, _ = io.Copy(c, Pattern(n))
		}
	}
}

// Hold keeps the connection open and reads nothing until the other end is gone or the lab closes.
func Hold(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	for {
		if gone, err := peerGone(raw); gone || err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// HTTP answers each HTTP/1.1 request of a keep-alive connection (requests without bodies) with size bytes; for load tests.
func HTTP(size int) Handler {
	body := make([]byte, size)
	head := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: application/octet-stream\r\n\r\n", size)
	answer := append(head, body...)
	return func(c *net.TCPConn) { answerRequests(c, answer) }
}

func answerRequests(c *net.TCPConn, answer []byte) {
	buf := make([]byte, 4096)
	matched := 0 // bytes of the blank line seen, across reads
	const blank = "\r\n\r\n"
	for {
		n, err := c.Read(buf)
		for _, b := range buf[:n] {
			switch {
			case b == blank[matched]:
				matched++
			case b == blank[0]:
				matched = 1
			default:
				matched = 0
			}
			if matched == len(blank) {
				matched = 0
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}
		if err != nil {
			return
		}
	}
}
