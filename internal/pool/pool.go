// Package pool chooses a server for each connection, and knows how many each has.
//
// A Pool is shared by all loops of a worker. What can be chosen is a set that is never changed: Set and Tick put another in its
// place when a server's state, address or share changes, so that a choice takes no lock. Round robin costs one shared counter, the
// other ways look at the counts of connections of all servers. Only a pool with max_connections ever locks, and only while connections wait.
//
// Two workers share nothing but the table of stickiness, which lies in memory that the keeper holds. During a reload the bounds on
// connections count those of the worker before as the keeper tells them (Elsewhere), so a bound can be passed by what the
// two make between two beats.
package pool

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"salp/internal/config"
)

// Pool is a set of servers. Its methods may be called by all loops at once.
type Pool struct {
	name  string
	cfg   *config.Pool
	loops int

	current atomic.Pointer[set]
	turn    [families]turn
	queue   queue
	stick   *Table // nil: no memory

	noServer, queueFull, queueTimeouts atomic.Uint64

	mutex     sync.Mutex // of what follows, which is changed as a whole
	members   []Member
	endpoints []*Endpoint // the members, and those that were and have connections or counters still
}

// turn counts the choices among one family's endpoints. It is written by all loops: keep it off the next one's cache line.
type turn struct {
	atomic.Uint64
	_ [56]byte
}

// State says what a server is fit for.
type State uint8

const (
	Up    State = iota
	Down        // no new connections
	Drain       // none but those of clients that stick to it
	Maint       // none at all
)

// Member is one address of one server, as the keeper knows it.
type Member struct {
	Server    string // as the configuration names it
	Address   netip.AddrPort
	State     State
	Since     time.Time // of State
	Recovered bool      // it is up again since then: slow start
}

// Want says what a server is wanted for.
type Want struct {
	Client     netip.Addr
	SameFamily bool // the server must have the client's address family, since it is shown the client's address
}

// Tried are endpoints that are not to be chosen again. The zero value is none of them.
type Tried struct {
	list [1 + config.MaxRetries]*Endpoint
	n    int
}

// Add adds one, and does nothing when there are too many.
func (t *Tried) Add(e *Endpoint) {
	if t.n < len(t.list) {
		t.list[t.n] = e
		t.n++
	}
}

// Has says whether an endpoint was tried.
func (t *Tried) Has(e *Endpoint) bool {
	for _, tried := range t.list[:t.n] {
		if tried == e {
			return true
		}
	}
	return false
}

// Outcome says why Pick chose nothing.
type Outcome uint8

const (
	Chosen   Outcome = iota
	Full             // all that would do have as many connections as they may: Wait may help
	NoServer         // none would do
)

// New makes a pool from its configuration, for a worker with so many loops. Its servers are up, those that have a name when Set tells
// their addresses. stick is the table of a pool that has one, nil else.
func New(c *config.Pool, loops int, stick *Table) *Pool {
	p := &Pool{name: c.Name, cfg: c, loops: loops}
	if c.Stick != nil {
		p.stick = stick
	}
	var members []Member
	for i := range c.Servers {
		if s := &c.Servers[i]; s.Address.IsValid() {
			members = append(members, Member{Server: s.String(), Address: s.Address})
		}
	}
	p.Set(members, time.Now())
	return p
}

// Retries is how many further tries a connection has when one fails.
func (p *Pool) Retries() int { return p.cfg.Retries }

// SameNetwork is what becomes of connections whose server would answer the client directly.
func (p *Pool) SameNetwork() config.SameNetwork { return p.cfg.SameNetwork }

// Pick takes a place on an endpoint that was not tried. Who has it calls Release when the connection has ended.
func (p *Pool) Pick(w *Want, tried *Tried) (*Endpoint, Outcome) {
	if p.queue.length.Load() > 0 {
		return nil, Full // those who wait come first
	}
	return p.pick(w, tried)
}

func (p *Pool) pick(w *Want, tried *Tried) (*Endpoint, Outcome) {
	s := p.current.Load()
	family := familyOf(w)
	g := &s.groups[family]
	if p.stick == nil {
		if e := p.choose(g, family, w, tried); e != nil {
			return e, Chosen
		}
		return nil, p.none(g, tried)
	}
	now := uint32(time.Now().Unix())
	if tried.n == 0 {
		if id, ok := p.stick.get(w.Client, now); ok {
			if c := s.sticky[id]; c != nil && (!w.SameFamily || c.address.Addr().Is4() == w.Client.Is4()) && c.take() {
				p.stick.put(w.Client, id, now+uint32(p.cfg.Stick.For/time.Second))
				return c.Endpoint, Chosen
			}
		}
	}
	e := p.choose(g, family, w, tried)
	if e == nil {
		return nil, p.none(g, tried)
	}
	p.stick.put(w.Client, e.id, now+uint32(p.cfg.Stick.For/time.Second))
	return e, Chosen
}

// none says why nothing was chosen: Full when something fit is left that was not tried.
func (p *Pool) none(g *group, tried *Tried) Outcome {
	for i := range g.choices {
		if !tried.Has(g.choices[i].Endpoint) {
			return Full
		}
	}
	p.noServer.Add(1)
	return NoServer
}

// More says whether there is an endpoint that was not tried.
func (p *Pool) More(w *Want, tried *Tried) bool {
	return len(p.current.Load().groups[familyOf(w)].choices) > tried.n
}

// QueueTimeout is how long a connection may wait for a place.
func (p *Pool) QueueTimeout() time.Duration { return p.cfg.Queue.Timeout }

// Set tells which members there are now and in which state, all of them; who is not among them gets no connections. It is to be called by one
// goroutine at a time. Connections that wait are served if that has made room.
func (p *Pool) Set(members []Member, now time.Time) {
	p.mutex.Lock()
	p.members = members
	p.renew(now)
	p.mutex.Unlock()
	p.queue.serve(p)
}

// Tick gives servers in slow start what is theirs by now. It is to be called some times a second.
func (p *Pool) Tick(now time.Time) {
	if !p.current.Load().growing {
		return
	}
	p.mutex.Lock()
	p.renew(now)
	p.mutex.Unlock()
	p.queue.serve(p)
}

// Endpoints are all that have counters: those that can be chosen, and those that were members once. The slice is the caller's.
func (p *Pool) Endpoints() []*Endpoint {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return append([]*Endpoint(nil), p.endpoints...)
}

// Counts are a pool's counters as a whole. All but Queued only grow.
type Counts struct {
	Queued        uint64 // wait now
	QueueFull     uint64 // found no place to wait
	QueueTimeouts uint64 // waited in vain
	NoServer      uint64 // found no server that would do
}

// Counts returns them.
func (p *Pool) Counts() Counts {
	return Counts{Queued: uint64(p.queue.length.Load()), QueueFull: p.queueFull.Load(), QueueTimeouts: p.queueTimeouts.Load(), NoServer: p.noServer.Load()}
}

// Elsewhere tells how many connections to each address other workers have.
func (p *Pool) Elsewhere(active map[netip.AddrPort]int64) {
	for _, e := range p.Endpoints() {
		e.elsewhere.Store(active[e.address])
	}
	p.queue.serve(p)
}
