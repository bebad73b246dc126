package relay

import (
	"syscall"

	"salp/internal/engine"
	"salp/internal/listen"
	"salp/internal/sock"
)

const (
	// rounds bounds what one connection moves in one turn: 1 MiB copied, or some MiB spliced.
	rounds = 16
	// fullReads of the whole scratch buffer show that a direction is bulk, and make it splice.
	fullReads = 2
	// smallBursts in a row, of less than smallBurst bytes each, show that it is no longer.
	smallBursts = 8
	smallBurst  = 16 << 10
	// slowRead is how much is read at once for a receiver that has been slow, so that not much is left over.
	slowRead = 16 << 10
)

// direction is one way through a connection.
type direction struct {
	rest []byte       // read and not taken by the receiver, in a borrowed buffer; nil when there is none
	pipe *engine.Pipe // borrowed while it holds bytes, and during a burst

	readable bool // the sender's socket may have something
	closing  bool // the sender's FIN has come in, behind what its socket has
	urgent   bool // there were urgent bytes: a short read proves nothing
	blocked  bool // the receiver took less than it was given; it reports when it takes more
	slow     bool // it did so once
	eof      bool // everything was read
	shut     bool // and written, and the FIN passed on
	sent     bool // something was written
	nodelay  bool // the receiver's socket has no Nagle delay
	splicing bool

	full  uint8  // full reads so far
	small uint8  // small bursts in a row
	burst uint32 // bytes spliced in this burst
}

// note takes down what an event on the sender's socket says, and whether there may be something to read.
func (d *direction) note(ev engine.Event) bool {
	if ev&engine.Urgent != 0 {
		d.urgent = true
	}
	if ev&(engine.PeerClosed|engine.Hangup) != 0 {
		d.closing = true
	}
	if ev&(engine.In|engine.PeerClosed|engine.Hangup) != 0 && !d.eof {
		d.readable = true
	}
	return d.readable
}

func (d *direction) drop(l *engine.Loop) {
	if d.rest != nil {
		l.Return(d.rest)
		d.rest = nil
	}
	if d.pipe != nil {
		l.ReturnPipe(d.pipe)
		d.pipe = nil
	}
}

// pump moves what it can from side i to the other, until there is nothing to read, the receiver takes no more, or it is
// others' turn. It is false when the connection is over.
func (c *conn) pump(l *engine.Loop, i int) bool {
	d := &c.dir[i]
	for range rounds {
		if d.blocked || d.shut {
			return true
		}
		if d.rest != nil || d.pipe != nil {
			if e := c.flush(l, i); e != 0 {
				c.broken(l, 1-i, e)
				return false
			}
			if d.blocked {
				return true
			}
		}
		if d.eof {
			return c.end(l, i)
		}
		if !d.readable {
			d.drop(l)
			return true
		}
		from, e := c.move(l, i)
		if e != 0 {
			c.broken(l, from, e)
			return false
		}
	}
	l.Again(c.slot)
	return true
}

// move reads once from side i and writes it to the other. An error is told with the side it is of.
func (c *conn) move(l *engine.Loop, i int) (int, syscall.Errno) {
	d := &c.dir[i]
	if d.splicing {
		if d.pipe == nil {
			d.pipe = l.Pipe()
		}
		if d.pipe != nil {
			return i, c.fill(l, i)
		}
	}
	return c.copy(l, i)
}

func (c *conn) copy(l *engine.Loop, i int) (int, syscall.Errno) {
	d := &c.dir[i]
	b := l.Scratch()
	if d.slow {
		b = b[:slowRead]
	}
	n, e := sock.Recv(int(c.fd[i]), b)
	if e == syscall.EAGAIN {
		d.readable = false
		return i, 0
	}
	if e != 0 {
		return i, e
	}
	if n == 0 {
		return i, c.ended(i)
	}
	c.count(l, i, n)
	if n == len(b) {
		d.grew()
	} else if !d.urgent && !(d.closing && i == server && c.secure()) {
		// The socket is empty (tcp_recvmsg stops short only there and at an urgent mark); what comes later is a new event.
		d.readable, d.eof = false, d.closing
	}
	sent, e := c.write(i, b[:n])
	if e != 0 {
		return 1 - i, e
	}
	if sent < n {
		d.rest = append(l.Buffer(n-sent), b[sent:n]...)
		d.blocked, d.slow = true, true
	}
	return i, 0
}

// ended takes down that side i has ended, which is an error where a server's TLS was cut.
func (c *conn) ended(i int) syscall.Errno {
	d := &c.dir[i]
	if i == server && c.secure() && c.note.Secure.WasCut() {
		return syscall.ECONNRESET
	}
	d.eof, d.readable = true, false
	return 0
}

// secure says that TLS is spoken with the server, so that only its very end tells of which kind that is.
func (c *conn) secure() bool { return c.note != nil && c.note.Secure != nil }

// grew counts full reads.
func (d *direction) grew() {
	if d.full++; d.full >= fullReads {
		d.full, d.splicing, d.small = 0, true, 0
	}
}

// write gives bytes to the receiver of direction i. 0 bytes with errno 0: it takes none. Nagle's algorithm is only switched off when
// something is written for the second time, since the first bytes of a connection are never held back; the client's
// half has it off from its listener.
func (c *conn) write(i int, b []byte) (int, syscall.Errno) {
	d, to := &c.dir[i], int(c.fd[1-i])
	if i == client && !d.nodelay {
		if d.sent {
			sock.SetNoDelay(to)
			d.nodelay = true
		}
		d.sent = true
	}
	n, e := sock.Send(to, b, d.eof)
	if e == syscall.EAGAIN {
		return 0, 0
	}
	return n, e
}

// fill moves bytes from side i into the pipe.
func (c *conn) fill(l *engine.Loop, i int) syscall.Errno {
	d := &c.dir[i]
	n, e := sock.Splice(int(c.fd[i]), d.pipe.Write, engine.PipeSize, false)
	switch {
	case e == syscall.EAGAIN:
		d.readable = false
		d.calm()
		return 0
	case e != 0:
		return e
	case n == 0:
		return c.ended(i)
	}
	d.pipe.Held = n
	d.burst += uint32(n)
	c.count(l, i, n)
	return 0
}

// calm ends a burst: after some small ones in a row the direction copies again, which is cheaper for them.
func (d *direction) calm() {
	if d.burst >= smallBurst {
		d.small = 0
	} else if d.small++; d.small >= smallBursts {
		d.splicing = false
	}
	d.burst = 0
}

// flush writes what is left over to the receiver of direction i. The errno is the receiver's.
func (c *conn) flush(l *engine.Loop, i int) syscall.Errno {
	d := &c.dir[i]
	if d.rest != nil {
		n, e := c.write(i, d.rest)
		if e != 0 {
			return e
		}
		if n > 0 {
			c.last = l.Now()
		}
		if n < len(d.rest) {
			d.rest = d.rest[:copy(d.rest, d.rest[n:])]
			d.blocked = true
			return 0
		}
		l.Return(d.rest)
		d.rest = nil
	}
	if d.pipe == nil {
		return 0
	}
	for d.pipe.Held > 0 {
		n, e := sock.Splice(d.pipe.Read, int(c.fd[1-i]), d.pipe.Held, d.eof)
		if e == syscall.EAGAIN {
			d.blocked = true
			return 0
		}
		if e != 0 {
			return e
		}
		if n == 0 {
			return syscall.EIO // the pipe is empty before its time: bytes are lost
		}
		d.pipe.Held -= n
		c.last = l.Now()
	}
	return 0
}

// end passes the FIN of side i on, once everything before it is written.
func (c *conn) end(l *engine.Loop, i int) bool {
	d := &c.dir[i]
	d.drop(l)
	d.shut = true
	if c.dir[1-i].shut {
		c.close(l)
		return false
	}
	sock.CloseWrite(int(c.fd[1-i]))
	if c.relay.timeouts.HalfClosed > 0 {
		c.setTimer(l)
	}
	return true
}

func (c *conn) count(l *engine.Loop, i, n int) {
	c.last = l.Now()
	if c.note != nil {
		c.note.count(i, n)
	}
	if i == client {
		c.relay.counters.BytesIn += uint64(n)
		c.place.Counters().BytesIn += uint64(n)
	} else {
		c.relay.counters.BytesOut += uint64(n)
		c.place.Counters().BytesOut += uint64(n)
	}
}

// lastWords passes on what a side had sent before it died, as far as the other takes it without waiting.
func (c *conn) lastWords(l *engine.Loop, side int) {
	d := &c.dir[side]
	if c.attempt != nil || d.blocked || d.shut {
		return
	}
	if d.rest != nil || d.pipe != nil {
		if e := c.flush(l, side); e != 0 || d.blocked {
			return
		}
	}
	b := l.Scratch()
	for range rounds {
		n, e := sock.Recv(int(c.fd[side]), b)
		if e != 0 || n == 0 {
			return
		}
		c.count(l, side, n)
		if sent, e := c.write(side, b[:n]); e != 0 || sent < n {
			return
		}
	}
}

var _ listen.Server = (*Relay)(nil)

func (n *Note) count(side, bytes int) {
	if side == client {
		n.In += uint64(bytes)
	} else {
		n.Out += uint64(bytes)
	}
}
