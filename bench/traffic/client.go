package traffic

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"
)

// Load does a job until in ends. It writes a Count when every connection has had an answer, and one more for every line of in.
func Load(job Job, in io.Reader, out io.Writer) error {
	if err := job.Check(); err != nil {
		return err
	}
	runtime.GOMAXPROCS(job.Loops + 2)
	debug.SetGCPercent(-1) // the loops allocate next to nothing, and a collection would wait for their system calls
	c := &client{job: job, started: time.Now(), ready: make(chan struct{}, job.Loops), fault: make(chan error, job.Loops+1)}
	if job.HTTP {
		c.request = appendRequest(nil, job.Target.String(), job.Response, job.Reconnect, job.Request)
	}
	for i := range job.Loops {
		l, err := newClientLoop(c, share(job.Connections, job.Loops, i), i)
		if err != nil {
			return err
		}
		c.loops = append(c.loops, l)
	}
	for _, l := range c.loops {
		go l.run()
	}
	go c.answer(in, out)
	return <-c.fault
}

// share is the part of n that the i-th of parts gets.
func share(n, parts, i int) int { return (n + parts - 1 - i) / parts }

type client struct {
	job     Job
	request []byte // HTTP: what every request is
	started time.Time
	loops   []*clientLoop
	ready   chan struct{}
	fault   chan error // what ends it: a loop's error, or nil
}

func (c *client) answer(in io.Reader, out io.Writer) {
	for range c.loops {
		<-c.ready
	}
	enc := json.NewEncoder(out)
	lines := bufio.NewScanner(in)
	for more := true; more; more = lines.Scan() {
		if err := enc.Encode(c.count()); err != nil {
			c.fault <- err
			return
		}
	}
	c.fault <- lines.Err()
}

func (c *client) count() Count {
	n := Count{Elapsed: time.Since(c.started)}
	for _, l := range c.loops {
		n.Exchanges += l.exchanges.Load()
		n.Bytes += l.bytes.Load()
		n.Connections += l.connections.Load()
		n.Failures += l.failures.Load()
		if e := l.first.Load(); e != nil && n.FirstError == "" {
			n.FirstError = *e
		}
	}
	return n
}

type clientLoop struct {
	client *client
	poll   *poller
	wanted int           // connections
	conns  []*clientConn // by descriptor
	turn   int           // of the source addresses
	buf    []byte
	greet  int // connections without an answer as yet

	exchanges, bytes, connections, failures atomic.Int64
	first                                   atomic.Pointer[string]
}

// clientConn is one connection; left counts the bytes of the response that are to come.
type clientConn struct {
	fd      int
	asked   bool
	greeted bool // it, or the one before it in its place, has had an answer
	left    int64
	heading bool // HTTP: the head of the response is not complete
	head    head
}

func newClientLoop(c *client, wanted, number int) (*clientLoop, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	return &clientLoop{client: c, poll: p, wanted: wanted, greet: wanted, turn: number,
		conns: make([]*clientConn, maxConnections), buf: make([]byte, chunk)}, nil
}

func (l *clientLoop) run() {
	runtime.LockOSThread()
	l.client.fault <- l.work()
}

// atOnce bounds the connections that are begun before answers are looked at, so that no listen queue overflows.
const atOnce = 64

// work ends with an error only.
func (l *clientLoop) work() error {
	for {
		for n := 0; l.wanted > 0 && n < atOnce; n++ {
			l.wanted--
			if err := l.open(&clientConn{}); err != nil {
				return err
			}
		}
		patience := 100
		if l.wanted > 0 {
			patience = 1
		}
		events, err := l.poll.wait(patience)
		if err != nil {
			return err
		}
		for _, e := range events {
			if c := l.conns[e.Fd]; c != nil {
				if err := l.step(c, e.Events); err != nil {
					return err
				}
			}
		}
	}
}

// open begins c's connection anew.
func (l *clientLoop) open(c *clientConn) error {
	job := &l.client.job
	var from netip.Addr
	if len(job.Sources) > 0 {
		from = job.Sources[l.turn%len(job.Sources)]
		l.turn++
	}
	fd, err := dial(from, job.Target)
	if err != nil {
		return err
	}
	if fd >= len(l.conns) {
		return errors.New("too many descriptors")
	}
	c.fd, c.asked, c.left = fd, false, job.Response
	l.conns[fd] = c
	l.connections.Add(1)
	return l.poll.add(fd, syscall.EPOLLIN|syscall.EPOLLOUT|syscall.EPOLLRDHUP|edge)
}

// again counts a failure and begins c's connection anew; too many of them end the job.
func (l *clientLoop) again(c *clientConn, why string, cause error) error {
	text := why
	if cause != nil {
		text = fmt.Sprintf("%s: %v", why, cause)
	}
	l.first.CompareAndSwap(nil, &text)
	if l.failures.Add(1) > maxFailures {
		return fmt.Errorf("%d connections failed, the first with: %s", maxFailures, *l.first.Load())
	}
	l.close(c)
	return l.open(c)
}

func (l *clientLoop) close(c *clientConn) {
	l.conns[c.fd] = nil
	closeFD(c.fd)
}

func (l *clientLoop) step(c *clientConn, events uint32) error {
	if !c.asked {
		return l.begin(c)
	}
	if events&syscall.EPOLLIN == 0 {
		return nil
	}
	if l.client.job.Response == Endless {
		return l.drain(c)
	}
	for {
		n, errno := receive(c.fd, l.buf, 0)
		if errno == syscall.EAGAIN {
			return nil
		}
		if errno != 0 {
			return l.again(c, "waiting for the response", errno)
		}
		l.bytes.Add(int64(n))
		if !l.client.job.HTTP {
			c.left -= int64(n)
		} else if err := c.takeHTTP(l.buf[:n]); err != nil {
			return l.again(c, "reading the response", err)
		}
		if n < len(l.buf) || c.left <= 0 { // there is no more (epoll(7), question 9)
			return l.progress(c, n == 0 || events&syscall.EPOLLRDHUP != 0 && c.left == 0)
		}
	}
}

// begin sends the first request of a connection that has come about, or learns that it has not.
func (l *clientLoop) begin(c *clientConn) error {
	if err := l.ask(c); err != nil {
		return l.again(c, "connecting", err)
	}
	if l.client.job.Response == Endless {
		return l.poll.change(c.fd, syscall.EPOLLIN)
	}
	return nil
}

func (l *clientLoop) ask(c *clientConn) error {
	job := &l.client.job
	request := l.client.request
	if !job.HTTP {
		head := header{uint32(job.Request), job.Response, job.Reconnect}.encode()
		copy(l.buf, head[:])
		request = l.buf[:job.Request]
	}
	n, errno := send(c.fd, request)
	if errno != 0 {
		return errno
	}
	if n != len(request) {
		return fmt.Errorf("only %d bytes of the request were taken", n)
	}
	c.asked, c.left = true, job.Response
	c.heading, c.head.got = job.HTTP, c.head.got[:0]
	return nil
}

// progress goes on when bytes have come in, or the end.
func (l *clientLoop) progress(c *clientConn, ended bool) error {
	job := &l.client.job
	switch {
	case c.left < 0:
		return l.again(c, "the response is too long", nil)
	case ended && (c.left > 0 || !job.Reconnect):
		return l.again(c, fmt.Sprintf("the connection ended %d bytes early", c.left), nil)
	case c.left > 0, job.Reconnect && !ended:
		return nil
	}
	l.exchanges.Add(1)
	l.answered(c)
	switch {
	case job.Reconnect:
		l.close(c)
		return l.open(c)
	case job.Hold:
		c.left = 0
		return nil
	}
	if err := l.ask(c); err != nil {
		return l.again(c, "sending a request", err)
	}
	return nil
}

// answered notes that c has had an answer; when all have, the loop is ready.
func (l *clientLoop) answered(c *clientConn) {
	if c.greeted {
		return
	}
	c.greeted = true
	if l.greet--; l.greet == 0 {
		l.client.ready <- struct{}{}
	}
}

// drain drops a part of a stream.
func (l *clientLoop) drain(c *clientConn) error {
	n, errno := receive(c.fd, l.buf, syscall.MSG_TRUNC)
	if errno == syscall.EAGAIN {
		return nil
	}
	if errno != 0 {
		return l.again(c, "in the stream", errno)
	}
	if n == 0 {
		return l.again(c, "the stream ended", nil)
	}
	l.bytes.Add(int64(n))
	l.answered(c)
	return nil
}
