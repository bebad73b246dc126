// Package relay carries opaque TCP between a client and a server, on the engine.
//
// What one side does the other sees: bytes in order and whole, a FIN as a FIN while the other direction goes on, a RST as a RST,
// and no window where the reader has none. A server that cannot be reached is a RST to the client. Nothing is kept for a
// connection that is idle but its struct: bytes go through the loop's scratch buffer, what the receiver does not take waits in a
// borrowed buffer (at most 64 KiB in each direction), and the sender is not read until it is gone. Bulk goes through a
// borrowed pipe (splice(2)).
package relay

import (
	"net/netip"
	"sync/atomic"
	"time"

	"salp/internal/config"
	"salp/internal/dial"
	"salp/internal/engine"
	"salp/internal/listen"
	"salp/internal/policy"
	"salp/internal/sock"
)

// Relay serves one listener on one loop. It implements listen.Server.
type Relay struct {
	listener *listen.Listener
	counters *listen.Counters
	rule     *policy.Rule
	dialer   *dial.Dialer
	timeouts config.Timeouts
	alive    int   // keepalive of upstream halves in seconds; 0: off
	free     *conn // connections to use again, linked by next
	spare    int   // how many these are
}

// New makes a relay. The counters are those of the loop it will run on, and the dialer is of that loop.
func New(c *config.Listener, n *listen.Listener, counters *listen.Counters, rule *policy.Rule, dialer *dial.Dialer) *Relay {
	return &Relay{listener: n, counters: counters, rule: rule, dialer: dialer, timeouts: c.Timeouts, alive: sock.Seconds(c.Keepalive)}
}

// Abort resets a handler that is a connection of a relay, and does nothing to any other. It says whether it was one.
func Abort(l *engine.Loop, h engine.Handler) bool {
	c, ok := h.(*conn)
	if ok {
		c.reset(l)
	}
	return ok
}

// Serve implements listen.Server: it starts to connect to the server and carries the connection until it ends.
func (r *Relay) Serve(l *engine.Loop, fd int, f *listen.Flow) {
	d, kind, ok := r.rule.Decide(f)
	if !ok {
		r.counters.Errors[kind]++
		sock.Reset(fd)
		r.listener.End(r.counters, f.Lease)
		return
	}
	r.Carry(l, fd, f, &d, nil)
}

// Note tells of a connection that has ended to who asked for it.
type Note struct {
	Server  netip.AddrPort // the zero value: none was reached
	In, Out uint64         // bytes from the client and to it
	Failed  bool
	Kind    listen.Kind  // why, when it failed
	Broken  *atomic.Bool // is set before the sockets are reset; nil: nobody asks
	Secure  *dial.Secure // of a server by TLS; nil: the server's socket tells how it ends
	Done    func(*Note)  // is called once, on the loop
}

// Carry is Serve for a connection that has been decided about. Bytes that the client has sent are still in its socket. With a note it is told of
// the end. Flow and decision are only read during the call.
func (r *Relay) Carry(l *engine.Loop, fd int, f *listen.Flow, d *policy.Decision, note *Note) {
	c := r.take()
	c.note = note
	c.fd = [2]int32{int32(fd), -1}
	c.lease = f.Lease
	c.last = l.Now()
	c.slot = l.Add(c)
	var p dial.Progress
	if c.attempt, p = r.dialer.Start(l, c.slot, server, f, d); p == dial.Failed {
		c.fail(l, c.attempt.Kind)
		return
	}
	if e := l.Watch(c.slot, client, fd); e != 0 {
		c.fail(l, listen.Internal)
	}
}

// spareConns bounds the structs kept for new connections; a burst leaves no more than these behind.
const spareConns = 1024

func (r *Relay) take() *conn {
	c := r.free
	if c == nil {
		return &conn{relay: r}
	}
	r.free, c.next = c.next, nil
	r.spare--
	return c
}

func (r *Relay) give(c *conn) {
	*c = conn{relay: r}
	if r.spare < spareConns {
		c.next, r.free = r.free, c
		r.spare++
	}
}

// bound is, of a connection that is open, how long it is until a bound is over if nothing moves meanwhile, and the reason to end the connection for then.
func (c *conn) bound(now int64) (time.Duration, listen.Kind) {
	t := &c.relay.timeouts
	idle := left(t.Idle, c.last, now)
	if c.dir[0].eof || c.dir[1].eof {
		if half := left(t.HalfClosed, c.last, now); half < idle {
			return half, listen.HalfClosed
		}
	}
	return idle, listen.Idle
}

const never = time.Duration(1<<63 - 1)

// left is how much of a bound is left at now; never when there is none.
func left(bound time.Duration, since, now int64) time.Duration {
	if bound <= 0 {
		return never
	}
	return bound - time.Duration(now-since)
}
