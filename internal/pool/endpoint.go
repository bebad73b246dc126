package pool

import (
	"net/netip"
	"sync/atomic"

	"salp/internal/config"
)

// Endpoint is one address of a server of a pool.
type Endpoint struct {
	pool     *Pool
	server   string
	address  netip.AddrPort
	header   config.ProxyHeader
	id       uint32   // what the table of stickiness knows it by
	seed     uint64   // of its hashes
	counters []padded // by loop

	_         [64]byte // what follows is written by all loops
	active    atomic.Int64
	elsewhere atomic.Int64 // the same in other workers, as the keeper last told it
	_         [48]byte
}

// Server is the name of the server in the configuration.
func (e *Endpoint) Server() string { return e.server }

// Address is where to connect to.
func (e *Endpoint) Address() netip.AddrPort { return e.address }

// Header is the version of the PROXY protocol that is spoken to the server.
func (e *Endpoint) Header() config.ProxyHeader { return e.header }

// Active is how many places are taken now.
func (e *Endpoint) Active() int64 { return e.active.Load() }

// Release gives a place back that Pick gave, and lets one that waits have it.
func (e *Endpoint) Release() {
	e.active.Add(-1)
	if e.pool.queue.length.Load() > 0 {
		e.pool.queue.serve(e.pool)
	}
}

// Usable says whether a connection to the server that is idle may be used for another request.
func (e *Endpoint) Usable() bool { return e.pool.current.Load().sticky[e.id] != nil }

// Counters are the server's on the loop with that number, to be touched only there.
func (e *Endpoint) Counters(loop int) *Counters { return &e.counters[loop].Counters }

// Counters count one server's connections on one loop. All but Active only grow.
type Counters struct {
	Connections uint64 // that were established
	Active      uint64 // places taken, connections that are being established among them
	BytesIn     uint64 // client to server
	BytesOut    uint64 // server to client
	Refused     uint64 // connects that the server refused
	TimedOut    uint64 // connects that it did not answer
	Unreachable uint64 // connects that failed otherwise
	Resets      uint64 // established connections that the server reset
	Lost        uint64 // established connections that the kernel gave up on
	Retries     uint64 // connects that failed and were made again, here or on another server
	SameNetwork uint64 // connections whose client is in the server's own network
}

// Add adds other to c.
func (c *Counters) Add(other *Counters) {
	c.Connections += other.Connections
	c.Active += other.Active
	c.BytesIn += other.BytesIn
	c.BytesOut += other.BytesOut
	c.Refused += other.Refused
	c.TimedOut += other.TimedOut
	c.Unreachable += other.Unreachable
	c.Resets += other.Resets
	c.Lost += other.Lost
	c.Retries += other.Retries
	c.SameNetwork += other.SameNetwork
}

// padded keeps the counters of one loop off the cache lines of another's.
type padded struct {
	Counters
	_ [64]byte
}
