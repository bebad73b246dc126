package relay

import (
	"syscall"
	"time"

	"salp/internal/dial"
	"salp/internal/engine"
	"salp/internal/listen"
	"salp/internal/policy"
	"salp/internal/sock"
)

// The two sides of a connection are the indexes of fd, the tags of its descriptors, and of dir, which is named by where its bytes come from.
const (
	client = 0
	server = 1
)

// conn is a connection: its two sockets and what is under way between them.
type conn struct {
	relay   *Relay
	next    *conn // in the relay's free list
	lease   *listen.Lease
	attempt *dial.Attempt // nil once the server is connected
	note    *Note         // nil: nobody wants to know
	place   dial.Server   // from then on
	slot    engine.Slot
	last    int64 // when it was accepted, or connected, or a byte last moved
	fd      [2]int32
	dir     [2]direction
	owing   bool // the server was not sent the last ACK of the handshake
	alive   bool // keepalive was set on the upstream half
}

// Handle implements engine.Handler.
func (c *conn) Handle(l *engine.Loop, ev engine.Event) {
	switch {
	case c.attempt != nil:
		c.early(l, ev)
	case ev&(engine.Timer|engine.Again) != 0:
		c.turn(l, ev)
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
func (c *conn) early(l *engine.Loop, ev engine.Event) {
	if ev&(engine.Timer|engine.Again) == 0 && ev.Tag() == client {
		if ev&engine.Error != 0 {
			c.fail(l, listen.ClientReset)
			return
		}
		c.dir[client].note(ev)
		return
	}
	c.reached(l, c.attempt.Handle(l, ev), ev)
}

// reached goes on from where the attempt to connect is now.
func (c *conn) reached(l *engine.Loop, p dial.Progress, ev engine.Event) {
	switch p {
	case dial.Failed:
		c.fail(l, c.attempt.Kind)
	case dial.Broken:
		e := c.attempt.Errno
		c.take(false)
		c.broken(l, server, e)
	case dial.Connected:
		c.take(c.dir[client].readable)
		c.opened(l, ev)
	}
}

// take takes the connected socket over. more says that the client has sent something already.
func (c *conn) take(more bool) {
	if c.note != nil {
		c.note.Server = c.attempt.Address()
	}
	fd, place, sent := c.attempt.Take(more)
	c.fd[server], c.place, c.attempt = int32(fd), place, nil
	c.dir[client].sent = sent
}

// opened begins to carry, with what has come in by now. ev is the event of the server's socket that said it is connected.
func (c *conn) opened(l *engine.Loop, ev engine.Event) {
	c.last = l.Now()
	c.setTimer(l)
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
	if !c.alive && c.relay.alive > 0 {
		sock.SetKeepalive(int(c.fd[server]), c.relay.alive)
		c.alive = true
	}
	c.setTimer(l)
}

// fail counts why the connection ends, and resets both sides.
func (c *conn) fail(l *engine.Loop, kind listen.Kind) {
	c.note.failed(kind)
	c.relay.counters.Errors[kind]++
	c.reset(l)
}

// broken ends a connection that one side has reset, or that the kernel gave up on. What that side had sent before is passed on
// as far as the other takes it now, and then a RST.
func (c *conn) broken(l *engine.Loop, side int, e syscall.Errno) {
	kind := listen.ClientReset
	switch gone := e == syscall.ECONNRESET || e == syscall.EPIPE; {
	case side == server:
		if kind = listen.ServerReset; gone {
			c.place.Counters().Resets++
		} else {
			kind = listen.ServerLost
			c.place.Counters().Lost++
		}
	case !gone:
		kind = listen.ClientLost
	}
	c.relay.counters.Errors[kind]++
	c.note.failed(kind)
	c.lastWords(l, side)
	c.reset(l)
}

func (c *conn) reset(l *engine.Loop) {
	c.note.broken()
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

// LinkLost implements dial.LinkUser.
func (c *conn) LinkLost(l *engine.Loop, links *policy.Links) {
	switch {
	case c.attempt != nil:
		c.reached(l, c.attempt.LinkLost(l), 0)
	case links.Dead(c.place.Link()):
		c.fail(l, listen.LinkDown)
	}
}

// forget gives back everything the connection had, its struct too: nothing may touch it afterwards.
func (c *conn) forget(l *engine.Loop) {
	for i := range c.dir {
		c.dir[i].drop(l)
	}
	if c.attempt != nil {
		c.attempt.Abort()
	} else {
		c.place.End()
	}
	l.Remove(c.slot)
	if c.note != nil {
		c.note.Done(c.note)
	}
	c.relay.listener.End(c.relay.counters, c.lease)
	c.relay.give(c)
}

func (n *Note) failed(kind listen.Kind) {
	if n != nil && !n.Failed {
		n.Failed, n.Kind = true, kind
	}
}

// broken tells those beyond the sockets that these are about to be reset.
func (n *Note) broken() {
	if n == nil {
		return
	}
	if n.Broken != nil {
		n.Broken.Store(true)
	}
	n.Secure.Break()
}
