// Package pool chooses a server for each connection.
package pool

import (
	"net/netip"
	"sync/atomic"

	"salp/internal/config"
)

// Pool is a set of servers. Its methods may be called by all loops at once.
type Pool struct {
	all, ipv4, ipv6 turns
}

// turns are servers that take turns.
type turns struct {
	servers []netip.AddrPort
	next    atomic.Uint64
	_       [40]byte // the counter is written by all loops: keep it off the next one's cache line
}

// New makes a pool from its configuration.
func New(c *config.Pool) *Pool {
	p := &Pool{}
	for _, s := range c.Servers {
		p.all.servers = append(p.all.servers, s.Address)
		if s.Address.Addr().Is4() {
			p.ipv4.servers = append(p.ipv4.servers, s.Address)
		} else {
			p.ipv6.servers = append(p.ipv6.servers, s.Address)
		}
	}
	return p
}

// Pick chooses a server, whichever family it has. It is false when there is none.
func (p *Pool) Pick() (netip.AddrPort, bool) { return p.all.pick() }

// PickFor chooses a server of the same family as the client, for connections that carry the client's address.
func (p *Pool) PickFor(client netip.Addr) (netip.AddrPort, bool) {
	if client.Is4() {
		return p.ipv4.pick()
	}
	return p.ipv6.pick()
}

func (t *turns) pick() (netip.AddrPort, bool) {
	if len(t.servers) == 0 {
		return netip.AddrPort{}, false
	}
	return t.servers[(t.next.Add(1)-1)%uint64(len(t.servers))], true
}
