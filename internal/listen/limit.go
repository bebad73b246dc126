package listen

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"

	"salp/internal/config"
)

// Listener is what the loops share of one listener. Its methods may be called by all of them at once.
type Listener struct {
	Name    string
	Method  Method
	Arrival bool // flows tell by which interface they come, and with which DSCP

	connections int64 // limits, 0: none
	perClient   int32

	active    atomic.Int64                         // only kept when there is a limit
	elsewhere atomic.Int64                         // the same in other workers, as the keeper last told it
	clients   *clients                             // nil without a limit per client
	others    atomic.Pointer[map[netip.Addr]int32] // what clients have in other workers
	proxy     *config.ProxyProtocol
	rate      *Rate // of each client that a PROXY header tells; nil: no bound
}

// NewListener makes a listener from its configuration.
func NewListener(c *config.Listener) *Listener {
	n := &Listener{Name: c.Name, Method: MethodOf(c), connections: int64(c.Limits.Connections), perClient: int32(c.Limits.PerClient), proxy: c.ProxyProtocol}
	if n.perClient > 0 {
		n.clients = newClients()
	}
	if c.ProxyProtocol != nil && c.Limits.ClientRate > 0 {
		n.rate = NewRate(c.Limits.ClientRate, 0)
	}
	return n
}

// admit takes a place in both limits, or says which of them is reached.
func (n *Listener) admit(client netip.Addr) (*Lease, Kind, bool) {
	if !n.admitOne() {
		return nil, LimitListener, false
	}
	lease, kind, ok := n.admitClient(client)
	if !ok {
		n.leave(nil)
	}
	return lease, kind, ok
}

// Elsewhere tells how many of the listener's connections other workers have, in all and of each client. The map is the listener's from now on.
func (n *Listener) Elsewhere(active int64, clients map[netip.Addr]int32) {
	n.elsewhere.Store(active)
	if len(clients) == 0 {
		n.others.Store(nil)
	} else {
		n.others.Store(&clients)
	}
}

// EachClient calls f with every client that has a connection now, and how many it has, where there is a limit per client. f must be quick.
func (n *Listener) EachClient(f func(client netip.Addr, active int32)) {
	if n.clients == nil {
		return
	}
	for i := range n.clients.shard {
		s := &n.clients.shard[i]
		s.Lock()
		for client, lease := range s.leases {
			f(client, lease.count)
		}
		s.Unlock()
	}
}

// admitOne takes a place in the listener's limit alone.
func (n *Listener) admitOne() bool {
	if n.connections > 0 && n.active.Add(1)+n.elsewhere.Load() > n.connections {
		n.active.Add(-1)
		return false
	}
	return true
}

// admitClient takes a place in the limit of the client alone.
func (n *Listener) admitClient(client netip.Addr) (*Lease, Kind, bool) {
	if n.clients == nil {
		return nil, 0, true
	}
	limit := n.perClient
	if others := n.others.Load(); others != nil {
		limit -= (*others)[client]
	}
	lease := n.clients.take(client, limit)
	if lease == nil {
		return nil, LimitClient, false
	}
	return lease, 0, true
}

func (n *Listener) leave(lease *Lease) {
	if n.connections > 0 {
		n.active.Add(-1)
	}
	if lease != nil {
		n.clients.release(lease)
	}
}

// End gives back the place of a connection that has ended, and counts it out. c are the counters of the loop that accepted it.
func (n *Listener) End(c *Counters, lease *Lease) {
	c.Active--
	n.leave(lease)
}

// Lease is a client's entry in the limit per client address.
type Lease struct {
	client netip.Addr
	count  int32
}

const shards = 64

// clients counts connections by client address. It holds an entry for each address that has a connection now, and no other.
type clients struct {
	seed  maphash.Seed
	shard [shards]shard
}

type shard struct {
	sync.Mutex
	leases map[netip.Addr]*Lease
	_      [48]byte // a cache line each
}

func newClients() *clients {
	c := &clients{seed: maphash.MakeSeed()}
	for i := range c.shard {
		c.shard[i].leases = make(map[netip.Addr]*Lease)
	}
	return c
}

func (c *clients) of(a netip.Addr) *shard { return &c.shard[maphash.Comparable(c.seed, a)%shards] }

// take returns nil when the client has as many connections as it may.
func (c *clients) take(a netip.Addr, limit int32) *Lease {
	s := c.of(a)
	s.Lock()
	defer s.Unlock()
	lease := s.leases[a]
	if lease == nil && limit > 0 {
		lease = &Lease{client: a}
		s.leases[a] = lease
	}
	if lease == nil || lease.count >= limit {
		return nil
	}
	lease.count++
	return lease
}

func (c *clients) release(lease *Lease) {
	s := c.of(lease.client)
	s.Lock()
	defer s.Unlock()
	if lease.count--; lease.count == 0 {
		delete(s.leases, lease.client)
	}
}
