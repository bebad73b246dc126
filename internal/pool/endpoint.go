package pool

import (
	"net/netip"
	"sync/atomic"
)

// Endpoint is one address of a server of a pool.
type Endpoint struct {
	address  netip.AddrPort
	active   atomic.Int64
	counters []padded // by loop
}

// Address is where to connect to.
func (e *Endpoint) Address() netip.AddrPort { return e.address }

// Active is how many places are taken now.
func (e *Endpoint) Active() int64 { return e.active.Load() }

// Release gives a place back that Pick gave.
func (e *Endpoint) Release() { e.active.Add(-1) }

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
	Resets      uint64 // established connections that the server reset, or that the kernel gave up on
	Retries     uint64 // connects that failed and were made again, here or on another server
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
	c.Retries += other.Retries
}

// padded keeps the counters of one loop off the cache lines of another's.
type padded struct {
	Counters
	_ [56]byte
}
