package relay

import (
	"salp/internal/dial"
	"salp/internal/engine"
	"salp/internal/listen"
)

// Tunnel is a connection that others have begun: two connected sockets that nobody watches any more, and what was read from them already.
type Tunnel struct {
	Client, Server     int
	Place              dial.Server
	Lease              *listen.Lease
	ToServer, ToClient []byte // in buffers that the loop has lent, the relay's from now on; nil: nothing
	Note               *Note  // nil: nobody wants to know
}

// Adopt goes on with the connection, which the listener has counted in already, until it ends.
func (r *Relay) Adopt(l *engine.Loop, t *Tunnel) {
	c := r.take()
	c.fd = [2]int32{int32(t.Client), int32(t.Server)}
	c.lease, c.place, c.note, c.last = t.Lease, t.Place, t.Note, l.Now()
	for i, rest := range [2][]byte{client: t.ToServer, server: t.ToClient} {
		c.dir[i].sent = true
		if rest != nil {
			c.dir[i].rest, c.dir[i].blocked = rest, true // until the receiver's socket says that it takes something, which Watch makes it say at once
		}
	}
	c.slot = l.Add(c)
	for side, fd := range c.fd {
		if e := l.Watch(c.slot, uint8(side), int(fd)); e != 0 {
			c.fail(l, listen.Internal)
			return
		}
	}
	c.setTimer(l)
}
