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

// turns are endpoints that take turns.
type turns struct {
	endpoints []*Endpoint
	next      atomic.Uint64
	_         [40]byte // the counter is written by all loops: keep it off the next one's cache line
}

// Want says what a server is wanted for.
type Want struct {
	Client     netip.Addr
	SameFamily bool // the server must have the client's address family, since it is shown the client's address
}

// Tried are endpoints that are not to be chosen again. The zero value is none of them.
type Tried struct {
	first [maxTried]*Endpoint
	n     int
}

// maxTried is how many endpoints one connection can try.
const maxTried = 1 + maxRetries

const maxRetries = 2

// Add adds one, and does nothing when there are too many.
func (t *Tried) Add(e *Endpoint) {
	if t.n < len(t.first) {
		t.first[t.n] = e
		t.n++
	}
}

// Has says whether an endpoint was tried.
func (t *Tried) Has(e *Endpoint) bool {
	for _, tried := range t.first[:t.n] {
		if tried == e {
			return true
		}
	}
	return false
}

// New makes a pool from its configuration, for a worker with so many loops.
func New(c *config.Pool, loops int) *Pool {
	p := &Pool{}
	for _, s := range c.Servers {
		if s.Host != "" {
			continue // its addresses come from the keeper
		}
		e := &Endpoint{address: s.Address, counters: make([]padded, loops)}
		p.all.endpoints = append(p.all.endpoints, e)
		if s.Address.Addr().Is4() {
			p.ipv4.endpoints = append(p.ipv4.endpoints, e)
		} else {
			p.ipv6.endpoints = append(p.ipv6.endpoints, e)
		}
	}
	return p
}

// Retries is how many further tries a connection has when one fails.
func (p *Pool) Retries() int { return maxRetries }

// More says whether there is an endpoint that was not tried.
func (p *Pool) More(w *Want, tried *Tried) bool { return len(p.of(w).endpoints) > tried.n }

func (p *Pool) of(w *Want) *turns {
	switch {
	case !w.SameFamily:
		return &p.all
	case w.Client.Is4():
		return &p.ipv4
	}
	return &p.ipv6
}

// Pick takes a place on an endpoint that was not tried, nil when there is none. Who has it calls Release when the connection has ended.
func (p *Pool) Pick(w *Want, tried *Tried) *Endpoint {
	t := p.of(w)
	for range t.endpoints {
		e := t.endpoints[(t.next.Add(1)-1)%uint64(len(t.endpoints))]
		if tried.n == 0 || !tried.Has(e) {
			e.active.Add(1)
			return e
		}
	}
	return nil
}
