package relay

import (
	"syscall"
	"time"

	"salp/internal/engine"
	"salp/internal/listen"
	"salp/internal/sock"
)

// The two sides of a connection are the indexes of fd, the tags of its descriptors, and of dir, which is named by where its bytes come from.
const (
	client = 0
	server = 1
)

type state uint8

const (
	dialing state = iota // connecting, or waiting for the keeper to make the port free
	open
)

// conn is a connection: its two sockets and what is under way between them.
type conn struct {
	relay *Relay
	next  *conn // in the relay's free list
	lease *listen.Lease
	slot  engine.Slot
	last  int64 // when it was accepted, or connected, or a byte last moved
	fd    [2]int32
	dir   [2]direction
	state state
	must  bool // the client's port or no connection
	kept  bool // the socket being connected has the client's port
	fell  bool // it has another, though the client's was wanted
	owing bool // the server was not sent the last ACK of the handshake
	alive bool // keepalive was set on the upstream half
}

// Handle implements engine.Handler.
func (c *conn) Handle(l *engine.Loop, ev engine.Event) {
	switch {
	case ev&(engine.Timer|engine.Again) != 0:
		c.turn(l, ev)
	case c.state == dialing:
		c.early(l, int(ev.Tag()), ev)
	default:
		c.ready(l, int(ev.Tag()), ev)
	}
}

func (c *conn) turn(l *engine.Loop, ev engine.Event) {
	switch {
	case ev&engine.Timer != 0:
		c.timer(l)
		return
	case c.owing:
		c.owing = false
		if !c.dir[client].sent {
			sock.Ack(int(c.fd[server]))
		}
	}
	if c.pump(l, client) {
		c.pump(l, server)
	}
}

// ready moves what an event on one side lets move: what came in from it, and what waits to go out to it.
func (c *conn) ready(l *engine.Loop, side int, ev engine.Event) {
	if ev&engine.Error != 0 {
		if e := sock.Error(int(c.fd[side])); e != 0 {
			c.broken(l, side, e)
			return
		}
	}
	in := &c.dir[side]
	if in.note(ev) && !in.blocked && !c.pump(l, side) {
		return
	}
	if out := &c.dir[1-side]; out.blocked && ev&engine.Out != 0 {
		out.blocked = false
		c.pump(l, 1-side)
	}
}

// early handles events until the server is connected. What the client sends meanwhile waits in its socket.
func (c *conn) early(l *engine.Loop, side int, ev engine.Event) {
	if side == client {
		if ev&engine.Error != 0 {
			c.fail(l, listen.ClientReset)
			return
		}
		c.dir[client].note(ev)
		return
	}
	if ev&(engine.Error|engine.Hangup) != 0 {
		e := sock.Error(int(c.fd[server]))
		if e != syscall.ECONNRESET && e != syscall.EPIPE {
			c.unreachable(l, e)
			return
		}
		c.state = open // it was connected, if not for long
		c.broken(l, server, e)
		return
	}
	if ev&engine.Out == 0 {
		return
	}
	c.state = open
	c.last = l.Now()
	c.setTimer(l)
	switch {
	case c.kept:
		c.relay.counters.PortKept++
	case c.fell:
		c.relay.counters.PortFallbacks++
	}
	if c.dir[client].readable && !c.pump(l, client) {
		return
	}
	if c.dir[server].note(ev) && !c.pump(l, server) {
		return
	}
	if !c.dir[client].sent {
		c.owing = true
		l.Again(c.slot) // what the client has sent may be among the events of this turn; if not, the ACK must go without it
	}
}

// connect starts to connect. A port that is taken is asked for once: then the connection waits, and tries again. It is false when the
// connection is over.
func (c *conn) connect(l *engine.Loop, d sock.Dial, ask bool) bool {
	fd, e := sock.Connect(&d)
	if e == 0 {
		c.fd[server], c.kept = int32(fd), d.KeepPort
		if e = l.Watch(c.slot, server, fd); e != 0 {
			c.fail(l, listen.Internal)
		}
		return e == 0
	}
	if !taken(e) || !d.KeepPort {
		c.unreachable(l, e)
		return false
	}
	if ask && c.relay.destroy != nil {
		c.ask(l, d)
		return true
	}
	return c.again(l, d, false)
}

// ask has what stands in the way of a kept port destroyed, and the connection tried again afterwards. That may be in another
// life of the struct: the slot tells.
func (c *conn) ask(l *engine.Loop, d sock.Dial) {
	slot := c.slot
	c.relay.destroy(d.Source, d.Server, func(err error) {
		l.Post(func() {
			if l.Handler(slot) == engine.Handler(c) {
				c.again(l, d, err == nil)
			}
		})
	})
}

// again tries once more with the client's port when that has been made free, and else with another if that will do.
func (c *conn) again(l *engine.Loop, d sock.Dial, free bool) bool {
	switch {
	case free:
		return c.connect(l, d, false)
	case c.must:
		c.fail(l, listen.NoPort)
		return false
	}
	d.KeepPort = false
	c.fell = true
	return c.connect(l, d, false)
}

func taken(e syscall.Errno) bool { return e == syscall.EADDRNOTAVAIL || e == syscall.EADDRINUSE }

// unreachable ends a connection whose server could not be connected to.
func (c *conn) unreachable(l *engine.Loop, e syscall.Errno) {
	switch e {
	case syscall.ECONNREFUSED:
		c.fail(l, listen.ConnectRefused)
	case syscall.ETIMEDOUT:
		c.fail(l, listen.ConnectTimeout)
	case syscall.EADDRNOTAVAIL, syscall.EADDRINUSE:
		c.fail(l, listen.NoPort)
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM:
		c.fail(l, listen.Descriptors)
	default:
		c.fail(l, listen.ConnectOther)
	}
}

// keepaliveAfter is when the upstream half gets its keepalive: connections that are shorter spare three system calls.
const keepaliveAfter = 5 * time.Second

// setTimer sets the slot's timer for the bound that is reached first if nothing happens.
func (c *conn) setTimer(l *engine.Loop) {
	wait, _ := c.bound(l.Now())
	if c.relay.alive > 0 && !c.alive {
		wait = min(wait, keepaliveAfter)
	}
	if wait != never {
		l.SetTimer(c.slot, wait)
	}
}

// timer looks whether a bound is really over: bytes that moved since the timer was set have put it off.
func (c *conn) timer(l *engine.Loop) {
	wait, kind := c.bound(l.Now())
	if wait <= 0 {
		c.fail(l, kind)
		return
	}
	if c.state == open && !c.alive && c.relay.alive > 0 {
		sock.SetKeepalive(int(c.fd[server]), c.relay.alive)
		c.alive = true
	}
	c.setTimer(l)
}

// fail counts why the connection ends, and resets both sides.
func (c *conn) fail(l *engine.Loop, kind listen.Kind) {
	c.relay.counters.Errors[kind]++
	c.reset(l)
}

// broken ends a connection that one side has reset, or that the kernel gave up on. What that side had sent before is passed on
// as far as the other takes it now, and then a RST.
func (c *conn) broken(l *engine.Loop, side int, e syscall.Errno) {
	kind := listen.ClientReset
	switch gone := e == syscall.ECONNRESET || e == syscall.EPIPE; {
	case gone && side == server:
		kind = listen.ServerReset
	case !gone && side == server:
		kind = listen.ServerLost
	case !gone:
		kind = listen.ClientLost
	}
	c.relay.counters.Errors[kind]++
	c.lastWords(l, side)
	c.reset(l)
}

func (c *conn) reset(l *engine.Loop) {
	for _, fd := range c.fd {
		if fd >= 0 {
			sock.Reset(int(fd))
		}
	}
	c.forget(l)
}

// close ends a connection whose directions have both ended: closing sends the FIN that is still owed.
func (c *conn) close(l *engine.Loop) {
	sock.Close(int(c.fd[client]))
	sock.Close(int(c.fd[server]))
	c.forget(l)
}

// forget gives back everything the connection had, its struct too: nothing may touch it afterwards.
func (c *conn) forget(l *engine.Loop) {
	for i := range c.dir {
		c.dir[i].drop(l)
	}
	l.Remove(c.slot)
	c.relay.listener.End(c.relay.counters, c.lease)
	c.relay.give(c)
}
