package traffic

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
)

// Serve answers requests at an IPv4 address with that many loops until in ends. It writes a line when it listens, and a Seen for
// every line of in.
func Serve(at netip.AddrPort, loops int, in io.Reader, out io.Writer) error {
	runtime.GOMAXPROCS(loops + 2)
	s := &server{fault: make(chan error, loops+1), anywhere: at.Addr().IsUnspecified()}
	for range loops {
		l, err := newServerLoop(s, at)
		if err != nil {
			return err
		}
		go l.run()
	}
	if _, err := fmt.Fprintln(out, `{}`); err != nil {
		return err
	}
	go s.answer(in, out)
	return <-s.fault
}

type server struct {
	mu       sync.Mutex
	seen     map[netip.Addr]int64
	locals   map[netip.Addr]int64
	anywhere bool         // it listens at all addresses, and tells at which clients came
	requests atomic.Int64 // HTTP
	fault    chan error   // what ends it: a loop's error, or nil
}

func (s *server) answer(in io.Reader, out io.Writer) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if err := json.NewEncoder(out).Encode(s.report()); err != nil {
			s.fault <- err
			return
		}
	}
	s.fault <- lines.Err()
}

func (s *server) report() Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := Seen{Addresses: map[string]int64{}, Requests: s.requests.Load()}
	for a, n := range s.seen {
		seen.Addresses[a.String()] = n
	}
	if s.anywhere {
		seen.Locals = map[string]int64{}
		for a, n := range s.locals {
			seen.Locals[a.String()] = n
		}
	}
	s.seen, s.locals = nil, nil
	return seen
}

// noteLocal notes at which address of the server a connection has come.
func (s *server) noteLocal(fd int) {
	a, errno := localAddress(fd)
	if errno != 0 {
		return // it went away
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locals == nil {
		s.locals = map[netip.Addr]int64{}
	}
	s.locals[a]++
}

func (s *server) note(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[netip.Addr]int64{}
	}
	s.seen[a]++
}

// chunk is the most that is sent or received in one call.
const chunk = 256 << 10

type serverLoop struct {
	server   *server
	poll     *poller
	listener int
	conns    []*serverConn // by descriptor
	buf      []byte
}

// serverConn is one connection. got counts the bytes of a request that is not complete yet, owed those of the response.
type serverConn struct {
	fd      int
	got     int
	head    [HeaderSize]byte
	owed    int64
	last    bool
	waiting bool // for room to send
	http    bool // its first byte was none of ours
	request head
	out     []byte // HTTP: the head of the response, what is left of it to send
}

func newServerLoop(s *server, at netip.AddrPort) (*serverLoop, error) {
	l := &serverLoop{server: s, buf: make([]byte, chunk), conns: make([]*serverConn, maxConnections)}
	var err error
	if l.poll, err = newPoller(); err != nil {
		return nil, err
	}
	if l.listener, err = listenOn(at); err != nil {
		return nil, err
	}
	return l, l.poll.add(l.listener, syscall.EPOLLIN)
}

func (l *serverLoop) run() {
	runtime.LockOSThread()
	for {
		events, err := l.poll.wait(100)
		if err != nil {
			l.server.fault <- err
			return
		}
		for _, e := range events {
			if int(e.Fd) == l.listener {
				l.accept()
			} else if c := l.conns[e.Fd]; c != nil {
				l.serve(c, e.Events)
			}
		}
	}
}

func (l *serverLoop) accept() {
	for range 64 {
		fd, from, errno := accept(l.listener)
		if errno != 0 {
			return // nobody waits, or it went away, or there is no descriptor left: the client will tell
		}
		l.server.note(from)
		if l.server.anywhere {
			l.server.noteLocal(fd)
		}
		if fd >= len(l.conns) || l.poll.add(fd, syscall.EPOLLIN|syscall.EPOLLRDHUP) != nil {
			closeFD(fd)
			continue
		}
		l.conns[fd] = &serverConn{fd: fd}
	}
}

func (l *serverLoop) serve(c *serverConn, events uint32) {
	if events&syscall.EPOLLIN != 0 && !l.read(c) || events&syscall.EPOLLOUT != 0 && !l.flush(c) {
		l.close(c)
	}
}

func (l *serverLoop) close(c *serverConn) {
	l.conns[c.fd] = nil
	closeFD(c.fd)
}

// read takes requests in and says whether the connection goes on. A stream's client sends nothing after its request.
func (l *serverLoop) read(c *serverConn) bool {
	n, errno := receive(c.fd, l.buf, 0)
	if errno != 0 {
		return errno == syscall.EAGAIN
	}
	if n == 0 {
		return false
	}
	if c.http = c.http || c.got == 0 && l.buf[0] != magic; c.http {
		return l.readHTTP(c, l.buf[:n]) && l.flush(c)
	}
	for b := l.buf[:n]; len(b) > 0; {
		if c.got < HeaderSize {
			k := copy(c.head[c.got:], b)
			c.got += k
			b = b[k:]
			if c.got < HeaderSize {
				break
			}
		}
		h, err := decode(&c.head)
		if err != nil {
			return false
		}
		k := min(len(b), int(h.request)-c.got)
		c.got += k
		b = b[k:]
		if c.got == int(h.request) {
			c.got, c.last = 0, h.last
			c.owed = min(Endless-c.owed, h.response) + c.owed
		}
	}
	return l.flush(c)
}

// flush sends one chunk of what is owed, and the rest when there is room: so that one stream does not starve the others.
func (l *serverLoop) flush(c *serverConn) bool {
	if len(c.out) > 0 {
		if !l.sendHTTP(c) {
			return false
		}
	} else if c.owed > 0 {
		n, errno := send(c.fd, l.buf[:min(c.owed, chunk)])
		if errno != 0 && errno != syscall.EAGAIN {
			return false
		}
		c.owed -= int64(n)
	}
	if c.owed == 0 && len(c.out) == 0 && c.last {
		return false
	}
	if waiting := c.owed > 0 || len(c.out) > 0; waiting != c.waiting {
		c.waiting = waiting
		events := uint32(syscall.EPOLLIN | syscall.EPOLLRDHUP)
		if waiting {
			events |= syscall.EPOLLOUT
		}
		return l.poll.change(c.fd, events) == nil
	}
	return true
}
