package link

import (
	"net/netip"
	"slices"
	"time"

	"salp/internal/plan"
)

// Observe takes in what the kernel holds, and returns the changes that follow from it. gateways are the default routes of others, with which
// routes in the links' own tables are not confused.
func (s *Set) Observe(interfaces []plan.Interface, gateways []plan.Gateway, now time.Time) []Change {
	first, last := s.cfg.Kernel.LinkTable+1, s.cfg.Kernel.LinkTable+uint32(len(s.links))
	gateways = slices.DeleteFunc(slices.Clone(gateways), func(g plan.Gateway) bool { return g.Table >= first && g.Table <= last })
	var changes []Change
	for _, l := range s.links {
		was := l.fault
		l.look(interfaces, gateways)
		if l.machine != nil && l.fault != "" && (was == "" || l.machine.Verdict().Up) {
			l.machine.Force(now, false, l.fault) // it must rise again when it is back
		}
		changes = append(changes, l.settle(now)...)
	}
	return changes
}

// look finds the ways out by the link, and what is missing.
func (l *Link) look(interfaces []plan.Interface, gateways []plan.Gateway) {
	c := l.Config
	l.ways = [2]plan.LinkRoute{}
	i := slices.IndexFunc(interfaces, func(i plan.Interface) bool { return i.Name == c.Interface })
	switch {
	case i < 0:
		l.fault = "there is no interface " + c.Interface
		return
	case !interfaces[i].Up:
		l.fault = "interface " + c.Interface + " is down"
		return
	case !interfaces[i].Carrier:
		l.fault = "interface " + c.Interface + " has no carrier"
		return
	}
	here := &interfaces[i]
	var lacks string
	for n, family := range []struct {
		of plan.Family
		on bool
	}{{plan.IPv4, c.IPv4}, {plan.IPv6, c.IPv6}} {
		if !family.on {
			continue
		}
		way, missing := l.way(family.of, here, gateways)
		if l.ways[n] = way; missing != "" && lacks == "" {
			lacks = missing
		}
	}
	l.fault = ""
	if !l.ways[0].Usable() && !l.ways[1].Usable() {
		l.fault = lacks
	}
}

// way is the way out in one family, or what is missing for there to be one.
func (l *Link) way(f plan.Family, here *plan.Interface, gateways []plan.Gateway) (way plan.LinkRoute, missing string) {
	learned, found := learn(f, here.Name, gateways)
	addresses := l.addresses(f, here, learned.Src)
	given := l.Config.Gateway.Of(int(f))
	switch {
	case len(addresses) == 0:
		return way, "interface " + here.Name + " has no address"
	case !given.IsValid() && !found && !here.Peer:
		return way, "no default route tells the gateway of " + here.Name
	}
	via := given
	if !via.IsValid() {
		via = learned.Via
	}
	return plan.LinkRoute{Dev: here.Name, Gateway: via, Addresses: addresses}, ""
}

// learn returns the best default route by the interface: of the main table before others, then by metric.
func learn(f plan.Family, dev string, gateways []plan.Gateway) (best plan.Gateway, found bool) {
	const main = 254
	better := func(a, b *plan.Gateway) bool {
		if (a.Table == main) != (b.Table == main) {
			return a.Table == main
		}
		if a.Metric != b.Metric {
			return a.Metric < b.Metric
		}
		return a.Table < b.Table || a.Table == b.Table && a.Via.Compare(b.Via) < 0
	}
	for i := range gateways {
		g := &gateways[i]
		if g.Family == f && g.Dev == dev && (!found || better(g, &best)) {
			best, found = *g, true
		}
	}
	return best, found
}

// addresses returns the link's own addresses of a family, best first: those that the configuration names, as far as they are there, or the
// interface's, that which the default route prefers before others. Link-local ones are no use beyond the link.
func (l *Link) addresses(f plan.Family, here *plan.Interface, preferred netip.Addr) []netip.Addr {
	var there []netip.Addr
	for _, p := range here.Addresses {
		if a := p.Addr(); a.Is4() == (f == plan.IPv4) && !a.IsLinkLocalUnicast() && !slices.Contains(there, a) {
			there = append(there, a)
		}
	}
	if len(l.Config.Addresses) > 0 {
		return slices.DeleteFunc(slices.Clone(l.Config.Addresses), func(a netip.Addr) bool { return !slices.Contains(there, a) })
	}
	slices.SortStableFunc(there, func(a, b netip.Addr) int {
		switch {
		case a == preferred && b != preferred:
			return -1
		case b == preferred && a != preferred:
			return 1
		}
		return 0
	})
	return there
}
