package pool

import (
	"hash/fnv"
	"time"
)

// The families of endpoints that a connection may need.
const (
	anyFamily = iota
	ipv4
	ipv6
	families
)

func familyOf(w *Want) int {
	switch {
	case !w.SameFamily:
		return anyFamily
	case w.Client.Is4():
		return ipv4
	}
	return ipv6
}

// set is what can be chosen from. It is never changed.
type set struct {
	groups  [families]group
	sticky  map[uint32]*choice // those that have clients of their own, by the id of the endpoint
	growing bool               // a server in slow start is among them
}

// group are the endpoints of a family that new connections go to: those that are up and no backups, or if there are none the backups.
type group struct {
	choices  []choice
	schedule []uint16 // indexes of choices in the order of smooth weighted round robin
	total    int64    // of the weights
	even     bool     // all weights are the same
}

// choice is an endpoint with its present share.
type choice struct {
	*Endpoint
	weight int64 // in hundredths while it grows
	limit  int64 // of connections; 0: none
}

// take takes a place, if there is one.
func (c *choice) take() bool {
	if c.limit == 0 {
		c.active.Add(1)
		return true
	}
	for {
		now := c.active.Load()
		if now+c.elsewhere.Load() >= c.limit {
			return false
		}
		if c.active.CompareAndSwap(now, now+1) {
			return true
		}
	}
}

// load is how many connections the endpoint has, also elsewhere.
func (c *choice) load() int64 { return c.active.Load() + c.elsewhere.Load() }

// full says that take would fail.
func (c *choice) full() bool { return c.limit > 0 && c.load() >= c.limit }

// keptEndpoints bounds the endpoints that are kept for their counters after they ceased to be members.
const keptEndpoints = 1024

// renew puts a new set in place. The caller has the mutex.
func (p *Pool) renew(now time.Time) {
	former := p.endpoints
	p.endpoints = nil
	s := &set{sticky: map[uint32]*choice{}}
	var regular, backups []choice
	weightless := true
	for i := range p.cfg.Servers {
		weightless = weightless && p.cfg.Servers[i].Weight == 0
	}
	for _, m := range p.members {
		c, backup, ok := p.choice(m, former, now, weightless)
		if !ok {
			continue
		}
		p.endpoints = append(p.endpoints, c.Endpoint)
		if m.State == Up || m.State == Drain {
			s.sticky[c.id] = &choice{c.Endpoint, c.weight, c.limit}
		}
		switch {
		case m.State != Up || c.weight == 0:
		case backup:
			backups = append(backups, c)
		default:
			regular = append(regular, c)
		}
	}
	p.keep(former)
	for family := range s.groups {
		g := &s.groups[family]
		if g.choices = of(family, regular); len(g.choices) == 0 {
			g.choices = of(family, backups)
		}
		s.growing = g.grow(p.cfg.SlowStart, p.members, now) || s.growing
		g.plan()
	}
	p.current.Store(s)
}

// choice makes the choice of a member, with its whole share, from the endpoint that was there before if there was one.
func (p *Pool) choice(m Member, former []*Endpoint, now time.Time, weightless bool) (c choice, backup, ok bool) {
	for i := range p.cfg.Servers {
		s := &p.cfg.Servers[i]
		if s.String() != m.Server {
			continue
		}
		c.weight, c.limit = int64(s.Weight)*100, int64(s.MaxConnections)
		if weightless {
			c.weight = 100
		}
		for _, e := range former {
			if e.server == m.Server && e.address == m.Address {
				c.Endpoint = e
				return c, s.Backup, true
			}
		}
		id := identity(m)
		c.Endpoint = &Endpoint{pool: p, server: m.Server, address: m.Address, header: p.cfg.ProxyHeaderOf(s),
			id: uint32(id ^ id>>32), seed: mix(id), counters: make([]padded, p.loops)}
		return c, s.Backup, true
	}
	return c, false, false
}

// identity is a number for a server's address that is the same in every process.
func identity(m Member) uint64 {
	h := fnv.New64a()
	h.Write([]byte(m.Server + " " + m.Address.String()))
	return h.Sum64()
}

// keep keeps endpoints that are no members any more, for their connections and counters.
func (p *Pool) keep(former []*Endpoint) {
	there := make(map[*Endpoint]bool, len(p.endpoints))
	for _, e := range p.endpoints {
		there[e] = true
	}
	spare := keptEndpoints
	for i := len(former) - 1; i >= 0; i-- {
		if e := former[i]; !there[e] && (e.active.Load() > 0 || spare > 0) {
			p.endpoints = append(p.endpoints, e)
			spare--
		}
	}
}

func of(family int, all []choice) []choice {
	var some []choice
	for _, c := range all {
		if is4 := c.address.Addr().Is4(); family == anyFamily || is4 == (family == ipv4) {
			some = append(some, c)
		}
	}
	return some
}

// grow cuts the shares of those in slow start to what is theirs by now, and says whether there are any.
func (g *group) grow(slow time.Duration, members []Member, now time.Time) bool {
	if slow == 0 || len(g.choices) < 2 {
		return false
	}
	growing := false
	for i := range g.choices {
		c := &g.choices[i]
		for _, m := range members {
			age := now.Sub(m.Since)
			if m.Server != c.server || m.Address != c.address || !m.Recovered || age >= slow {
				continue
			}
			growing = true
			percent := max(10, int64(100*max(age, 0)/slow))
			c.weight = c.weight * percent / 100
			if c.limit > 0 {
				c.limit = max(1, c.limit*percent/100)
			}
		}
	}
	return growing
}
