package pool

import (
	"math"
	"math/rand/v2"
	"net/netip"

	"salp/internal/config"
)

// choose takes a place on an endpoint that was not tried, nil when there is none.
func (p *Pool) choose(g *group, family int, w *Want, tried *Tried) *Endpoint {
	switch p.cfg.Balance {
	case config.BalanceLeastConnections:
		return leastConnections(p, g, family, tried)
	case config.BalanceSource:
		return bySource(p, g, family, w, tried)
	case config.BalanceRandom:
		return random(p, g, family, tried)
	case config.BalanceFirst:
		return first(g, tried)
	}
	return roundRobin(p, g, family, tried)
}

// roundRobin takes the next of the schedule. One that is full or was tried loses its turn.
func roundRobin(p *Pool, g *group, family int, tried *Tried) *Endpoint {
	n := uint64(len(g.schedule))
	if n == 0 {
		return nil
	}
	turn := p.turn[family].Add(1) - 1
	for range 2 * len(g.choices) {
		if c := &g.choices[g.schedule[turn%n]]; (tried.n == 0 || !tried.Has(c.Endpoint)) && c.take() {
			return c.Endpoint
		}
		turn = p.turn[family].Add(1) - 1
	}
	return first(g, tried)
}

// first takes the first that has a place.
func first(g *group, tried *Tried) *Endpoint {
	for i := range g.choices {
		if c := &g.choices[i]; !tried.Has(c.Endpoint) && c.take() {
			return c.Endpoint
		}
	}
	return nil
}

// attempts is how often a choice is made anew when another loop took the last place of what was chosen.
const attempts = 3

// leastConnections takes the one with the fewest connections for its weight. Among several of them it is their turn that decides, so
// that idle servers share what comes one by one.
func leastConnections(p *Pool, g *group, family int, tried *Tried) *Endpoint {
	n := uint64(len(g.schedule))
	for range attempts {
		best := least(g, tried)
		if best == nil {
			return nil
		}
		load := best.load()
		turn := p.turn[family].Add(1) - 1
		for range min(n, uint64(2*len(g.choices))) {
			c := &g.choices[g.schedule[turn%n]]
			if !less(load, best.weight, c.load(), c.weight) && !c.full() && !tried.Has(c.Endpoint) {
				best = c
				break
			}
			turn++
		}
		if best.take() {
			return best.Endpoint
		}
	}
	return first(g, tried)
}

// least returns the choice with the fewest connections for its weight.
func least(g *group, tried *Tried) *choice {
	var best *choice
	var load int64
	for i := range g.choices {
		c := &g.choices[i]
		now := c.load()
		if (best == nil || less(now, c.weight, load, best.weight)) && !c.full() && !tried.Has(c.Endpoint) {
			best, load = c, now
		}
	}
	return best
}

// less compares two loads for their weights.
func less(a, weightA, b, weightB int64) bool { return a*weightB < b*weightA }

// random draws two by weight and takes the one with fewer connections for its weight. (Mitzenmacher, The Power of Two Choices in
// Randomized Load Balancing)
func random(p *Pool, g *group, family int, tried *Tried) *Endpoint {
	n := len(g.schedule)
	if n == 0 {
		return nil
	}
	for range attempts {
		a, b := &g.choices[g.schedule[rand.IntN(n)]], &g.choices[g.schedule[rand.IntN(n)]]
		if less(b.load(), b.weight, a.load(), a.weight) {
			a, b = b, a
		}
		if !tried.Has(a.Endpoint) && a.take() {
			return a.Endpoint
		}
		if !tried.Has(b.Endpoint) && b.take() {
			return b.Endpoint
		}
	}
	return leastConnections(p, g, family, tried)
}

// bySource takes the one that scores highest with the client: each client has its own order of servers, so that one that comes or goes moves
// only clients of its own (weighted rendezvous hashing: Schindelhauer, Schomaker, Weighted Distributed Hash Tables, 2005). One that is full
// or, with overload, has more than its share is passed over for the next in that order.
func bySource(p *Pool, g *group, family int, w *Want, tried *Tried) *Endpoint {
	key := hashAddr(w.Client)
	bound := func(*choice) int64 { return math.MaxInt64 }
	if p.cfg.Overload > 0 {
		all := int64(1)
		for i := range g.choices {
			all += g.choices[i].load()
		}
		bound = func(c *choice) int64 {
			return (all*c.weight*int64(p.cfg.Overload) + g.total*100 - 1) / (g.total * 100)
		}
	}
	ceiling, last := math.Inf(1), -1
	for range g.choices {
		best, score := -1, math.Inf(-1)
		for i := range g.choices {
			s := g.score(key, i)
			if s > score && (s < ceiling || s == ceiling && i > last) {
				best, score = i, s
			}
		}
		if best < 0 {
			return nil
		}
		if c := &g.choices[best]; !tried.Has(c.Endpoint) && c.load() < bound(c) && c.take() {
			return c.Endpoint
		}
		ceiling, last = score, best
	}
	if p.cfg.Overload > 0 {
		return leastConnections(p, g, family, tried) // others have made more connections meanwhile
	}
	return nil
}

// score is how much a client belongs to an endpoint: -weight / ln(u), with a number u from 0 to 1 that is the pair's own.
func (g *group) score(key uint64, i int) float64 {
	c := &g.choices[i]
	u := (float64(mix(key^c.seed)>>11) + 0.5) / (1 << 53)
	if g.even {
		return u
	}
	return -float64(c.weight) / math.Log(u)
}

// hashAddr is the same in every process.
func hashAddr(a netip.Addr) uint64 {
	b := a.As16()
	var high, low uint64
	for i := range 8 {
		high, low = high<<8|uint64(b[i]), low<<8|uint64(b[8+i])
	}
	return mix(mix(high) + low)
}

// mix is the finalizer of SplitMix64. (Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators, 2014)
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
