package httpproxy

import (
	"syscall"

	"salp/internal/dial"
	"salp/internal/engine"
	"salp/internal/htpasswd"
	"salp/internal/http1"
	"salp/internal/listen"
	"salp/internal/sniff"
	"salp/internal/sock"
)

type state uint8

const (
	waitingForHead state = iota // between two requests, and before the first
	readingHead                 // a part of a head is there
	asking                      // a goroutine has been asked for something
	dialing                     // to a server; the head lies in conn.in
	exchanging                  // the request is sent, or the answer is
	lingering                   // everything was sent and the FIN too; what the client still sends is thrown away
)

// conn is a client's connection.
type conn struct {
	proxy    *Proxy
	next     *conn     // in the proxy's free list
	up       *upstream // the connection to a server that it has now
	last     *upstream // that it had last, if that is idle
	ex       *exchange // nil between two requests
	lookup   *name     // what was last found out about a name
	flow     listen.Flow
	in       []byte // read, but not used yet
	user     string // who has been authenticated last
	slot     engine.Slot
	since    int64 // when the state began, or a byte last moved
	due      int64 // when the slot's timer comes; 0: not set
	requests uint32
	scan     http1.Scan
	fd       int32
	inlet
	state    state
	sniffed  bool            // it is HTTP
	opaque   bool            // it is not: it becomes a tunnel as soon as the server is connected
	asked    bool            // what the goroutine was asked is known now
	answered htpasswd.Answer // that, of a password
}

// inlet is what is known of what can be read from a socket.
type inlet struct {
	readable bool          // there may be something
	closing  bool          // the FIN has come in, behind what the socket has
	urgent   bool          // there were urgent bytes: a short read proves nothing
	eof      bool          // everything was read
	failed   syscall.Errno // the error that was taken off the socket: it comes behind what can still be read
	secure   *dial.Secure  // of a server by TLS, whose ends are told there; nil: the socket tells of them
}

// note takes down what an event says.
func (in *inlet) note(ev engine.Event) {
	in.urgent = in.urgent || ev&engine.Urgent != 0
	in.closing = in.closing || ev&(engine.PeerClosed|engine.Hangup) != 0
	if ev&(engine.In|engine.PeerClosed|engine.Hangup) != 0 && !in.eof {
		in.readable = true
	}
}

// read reads once. 0 bytes with errno 0: there is nothing now, or, with eof, nothing any more.
func (in *inlet) read(fd int32, b []byte) (int, syscall.Errno) {
	n, e := sock.Recv(int(fd), b)
	switch {
	case e == syscall.EAGAIN:
		in.readable = false
		return 0, 0
	case e != 0:
		return 0, e
	case n == 0 && in.broken():
		return 0, in.failed
	case n == 0:
		in.readable, in.eof = false, true
	case n < len(b) && in.closing && in.secure != nil: // it is only known at the end of which kind that is
	case n < len(b) && !in.urgent && in.failed == 0: // the socket is empty; what comes later is a new event
		in.readable, in.eof = false, in.closing
	}
	return n, 0
}

// broken says that the end that was read is an error: one that was taken off the socket, or the end of TLS that was cut.
func (in *inlet) broken() bool {
	if in.failed == 0 && in.secure.WasCut() {
		in.failed = syscall.ECONNRESET
	}
	return in.failed != 0
}

// Handle implements engine.Handler.
func (c *conn) Handle(l *engine.Loop, ev engine.Event) {
	switch {
	case ev&engine.Timer != 0:
		c.timer(l)
		return
	case ev&engine.Again != 0:
		c.again(l)
		return
	case ev&engine.Error != 0:
		if e := sock.Error(int(c.fd)); e != 0 {
			c.clientBroken(l, e)
			return
		}
	}
	c.note(ev)
	if ev&engine.Out != 0 && c.state == exchanging && c.ex.resp.blocked {
		c.ex.resp.blocked = false
		if !c.pumpResponse(l) {
			return
		}
	}
	c.advance(l)
}

// advance reads from the client what its state wants.
func (c *conn) advance(l *engine.Loop) {
	switch c.state {
	case waitingForHead, readingHead:
		c.readHead(l)
	case exchanging:
		c.pumpRequest(l)
	case lingering:
		c.throwAway(l)
	}
}

// again goes on where a turn was given to others, or with a request that has come in already.
func (c *conn) again(l *engine.Loop) {
	switch c.state {
	case waitingForHead, readingHead:
		if c.in != nil && !c.use(l, c.in) {
			return
		}
		c.advance(l)
	case exchanging:
		if c.pumpResponse(l) {
			c.advance(l)
		}
	case lingering:
		c.throwAway(l)
	}
}

// headroom is what may be put in front of a message that lies in the scratch buffer.
const headroom = 4 << 10

// readHead reads until a head is there.
func (c *conn) readHead(l *engine.Loop) {
	if c.waitsForServer() {
		return
	}
	for c.readable && (c.state == waitingForHead || c.state == readingHead) {
		data, e := c.receive(l)
		switch {
		case e != 0:
			c.clientBroken(l, e)
			return
		case data == nil && c.eof:
			c.ended(l)
			return
		case data == nil:
			return
		case !c.use(l, data):
			return
		}
	}
	if c.eof && (c.state == waitingForHead || c.state == readingHead) {
		c.ended(l)
	}
}

// waitsForServer says that there is no need to read before the server is connected: nothing that could be in the request makes a difference.
func (c *conn) waitsForServer() bool {
	return c.up != nil && c.up.attempt != nil && c.proxy.Shared.Access == nil && !c.eof
}

// receive reads from the client, behind what is there already. nil: there is nothing.
func (c *conn) receive(l *engine.Loop) ([]byte, syscall.Errno) {
	if c.in == nil {
		n, e := c.read(c.fd, l.Scratch()[headroom:])
		if n == 0 {
			return nil, e
		}
		c.proxy.Counters.BytesIn += uint64(n)
		return l.Scratch()[headroom : headroom+n], e
	}
	c.in = grow(l, c.in)
	n, e := c.read(c.fd, c.in[len(c.in):cap(c.in)])
	if n == 0 {
		return nil, e
	}
	c.proxy.Counters.BytesIn += uint64(n)
	c.in = c.in[:len(c.in)+n]
	return c.in, e
}

// largestLent is the largest buffer that a loop lends. Heads may be larger, if not often.
const largestLent = 64 << 10

// lend returns an empty buffer with room for n bytes.
func lend(l *engine.Loop, n int) []byte {
	if n <= largestLent {
		return l.Buffer(n)
	}
	return make([]byte, 0, n)
}

// grow returns the buffer itself if it has room, or else a larger one with its content.
func grow(l *engine.Loop, b []byte) []byte {
	if len(b) < cap(b) {
		return b
	}
	larger := append(lend(l, 2*cap(b)), b...)
	l.Return(b)
	return larger
}

// keep holds data, what of the client's bytes was not used, for later.
func (c *conn) keep(l *engine.Loop, data []byte) {
	if c.in == nil {
		if len(data) > 0 {
			c.in = append(lend(l, len(data)), data...)
		}
		return
	}
	if len(data) == 0 {
		c.drop(l)
		return
	}
	c.in = c.in[:copy(c.in[:cap(c.in)], data)] // data is the end of what c.in holds
}

func (c *conn) drop(l *engine.Loop) {
	if c.in != nil {
		l.Return(c.in)
		c.in = nil
	}
}

// use looks at the client's bytes, which begin where a request should. It is false when the connection is over, or not ours any more.
func (c *conn) use(l *engine.Loop, data []byte) bool {
	if !c.sniffed {
		switch kind, _ := sniff.Look(data); {
		case kind == sniff.More:
			c.keep(l, data)
			c.begin(l, readingHead)
			return true
		case kind == sniff.HTTP, kind == sniff.HTTP2 && c.proxy.guarded: // the codec refuses HTTP/2, in which rules would see nothing
			c.sniffed = true
		default:
			return c.becomeOpaque(l, data)
		}
	}
	if n := http1.EmptyLine(data); n > 0 {
		data, c.scan = data[n:], http1.Scan{}
	}
	n, err := c.scan.Next(data, &c.proxy.limits)
	switch {
	case err != nil:
		return c.malformed(l, data, err)
	case n == 0:
		c.keep(l, data)
		if len(data) > 0 {
			c.begin(l, readingHead)
		}
		return true
	}
	c.scan = http1.Scan{}
	return c.request(l, data, n)
}

// begin enters a state, unless the connection is in it.
func (c *conn) begin(l *engine.Loop, s state) {
	if c.state != s {
		c.state, c.since = s, l.Now()
		c.setTimer(l)
	}
}

// ended handles the client's FIN where no request is under way: what it has sent of one is thrown away.
func (c *conn) ended(l *engine.Loop) {
	if c.up != nil && !c.sniffed {
		c.becomeOpaque(l, c.in) // such a connection may end one way first
		return
	}
	c.close(l)
}

// clientBroken ends a connection that the client has reset, or that the kernel gave up on. The server learns of it by a reset, too.
func (c *conn) clientBroken(l *engine.Loop, e syscall.Errno) {
	kind := listen.ClientLost
	if e == syscall.ECONNRESET || e == syscall.EPIPE {
		kind = listen.ClientReset
	}
	if c.state != waitingForHead || c.requests == 0 {
		c.proxy.Counters.Errors[kind]++
	}
	if c.ex != nil {
		c.ex.aborted = true
	}
	c.reset(l)
}

// reset ends the connection with a RST to both sides.
func (c *conn) reset(l *engine.Loop) {
	c.flow.Break()
	sock.Reset(int(c.fd))
	if c.up != nil {
		c.up.conn = nil
		c.up.reset(l)
		c.up = nil
	}
	c.forget(l)
}

// close ends a connection to which everything was sent.
func (c *conn) close(l *engine.Loop) {
	sock.Close(int(c.fd))
	c.letGo(l, false)
	c.forget(l)
}

// forget gives back everything the connection had, its struct too: nothing may touch it afterwards. The sockets are closed, or others'.
func (c *conn) forget(l *engine.Loop) {
	c.drop(l)
	if c.ex != nil {
		c.record(l)
		c.done(l)
	}
	l.Remove(c.slot)
	c.proxy.Listener.End(c.proxy.Counters, c.flow.Lease)
	c.proxy.give(c)
}

// lingerBytes is how much of what a client goes on sending is thrown away before it is cut off.
const lingerBytes = 1 << 20

// linger ends the connection when the client has read the answer: closing at once would reset it while the client sends (RFC 9112 9.6).
func (c *conn) linger(l *engine.Loop) bool {
	c.letGo(l, false)
	c.drop(l)
	if c.eof || sock.CloseWrite(int(c.fd)) != 0 {
		c.close(l)
		return false
	}
	c.state, c.since, c.due = lingering, l.Now(), 0
	c.requests = 0 // counts what is thrown away from here
	c.setTimer(l)
	c.throwAway(l)
	return false
}

func (c *conn) throwAway(l *engine.Loop) {
	for c.readable {
		n, e := c.read(c.fd, l.Scratch())
		c.requests += uint32(n)
		if e != 0 || c.requests > lingerBytes {
			sock.Close(int(c.fd))
			c.forget(l)
			return
		}
	}
	if c.eof {
		c.close(l)
	}
}
