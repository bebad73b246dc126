package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"salp/internal/config"
)

// Priorities of the links' rules, counted from kernel.priority, whose own rules deliver packets to listeners and come before. The host's own
// table, without its default route, is asked before any of a link. Each rule costs each packet a little, twice: the kernel also looks up the way back.
const (
	ruleLocal  = 1 // sent by this host: its own table
	ruleDevice = 2 // bound to the link's interface
	ruleFlow   = 3 // belongs to a flow of the link: the host's own table
	ruleMark   = 4 // belongs to a flow of the link
	ruleBound  = 5 // bound to an address of the link, and no link is this host's own way: the host's own table
	ruleSource = 6 // bound to an address of the link
	ruleOwn    = 8 // sent by this host, and not decided about
)

// lastMetric is that of the route which is there when no other is.
const lastMetric = 1<<32 - 2

// rulesAndRoutes sends packets with a link's mark, and sockets that are bound to the link, to the link's table.
func (r *linkRecipe) rulesAndRoutes() (rules []Rule, routes []Route) {
	for _, f := range r.families {
		own, ok := r.ownWay(f)
		for _, u := range r.links {
			if u.serves(f) {
				rules, routes = append(rules, r.rulesOf(f, u, ok)...), append(routes, u.routes(f)...)
			}
		}
		if !ok {
			continue
		}
		table := own.table
		if a := r.anchor(f); a.IsValid() && r.ownSpread(f) {
			table = r.cfg.Kernel.LinkTable
			route := own.routes(f)[0]
			route.Table, route.Src = table, a
			routes = append(routes, route)
		}
		rules = append(rules, r.main(ruleLocal, Rule{Family: f, IIF: "lo"}), r.at(ruleOwn, Rule{Family: f, IIF: "lo", Mask: r.mask, Table: table}))
	}
	slices.SortStableFunc(rules, func(a, b Rule) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Priority, b.Priority))
	})
	return rules, routes
}

// rulesOf are those of one link. Without a rule for all that this host sends, its own table is asked for each kind of it.
func (r *linkRecipe) rulesOf(f Family, u *uplink, local bool) []Rule {
	flow := Rule{Family: f, Mark: u.mark, Mask: r.mask, Table: u.table}
	rules := []Rule{r.main(ruleFlow, flow), r.at(ruleMark, flow)}
	way := u.way(f)
	if !way.Usable() {
		return rules
	}
	bound := func(main, at uint32, one Rule) {
		one.Family, one.Table = f, u.table
		if !local {
			rules = append(rules, r.main(main, one))
		}
		rules = append(rules, r.at(at, one))
	}
	bound(ruleLocal, ruleDevice, Rule{OIF: way.Dev})
	for _, a := range way.Addresses {
		bound(ruleBound, ruleSource, Rule{From: single(a)})
	}
	return rules
}

// at gives a rule its place.
func (r *linkRecipe) at(place uint32, one Rule) Rule {
	one.Priority = r.cfg.Kernel.Priority + place
	return one
}

// main makes a rule ask the host's own table without its default route.
func (r *linkRecipe) main(place uint32, one Rule) Rule {
	one.Table, one.SuppressDefault = MainTable, true
	return r.at(place, one)
}

// routes are those of the link's table: out by the link, or nowhere.
func (u *uplink) routes(f Family) []Route {
	nowhere := Route{Family: f, Table: u.table, Type: RouteUnreachable, Metric: lastMetric}
	way := u.way(f)
	if !way.Usable() {
		return []Route{nowhere}
	}
	out := Route{Family: f, Table: u.table, Type: RouteUnicast, Via: way.Gateway.WithZone(""), Dev: way.Dev, MTU: uint32(u.MTU), OnLink: way.Gateway.IsValid()}
	if f == IPv4 && len(way.Addresses) > 0 {
		out.Src = way.Addresses[0] // IPv6 chooses among the interface's by RFC 6724, and forgets the source of a route with the address
	}
	return []Route{out, nowhere}
}

// ownWay is the link whose table gives this host's unbound sockets a way out and a source: the one that its traffic uses, or the first of
// those, or any.
func (r *linkRecipe) ownWay(f Family) (*uplink, bool) {
	c := r.ownChoice(f)
	if c.kind == toMain {
		return nil, false
	}
	if c.kind == toLinks {
		return r.links[c.spans[0].link-1], true
	}
	n := slices.IndexFunc(r.links, func(u *uplink) bool { return u.way(f).Usable() })
	if n < 0 {
		return nil, false
	}
	return r.links[n], true
}

// ownChoice is what becomes of this host's traffic that nothing else decides about.
func (r *linkRecipe) ownChoice(f Family) linkChoice {
	for _, l := range r.cfg.Balance.Rules {
		if ofAll(l) {
			return r.choose(f, l.Links, l.Strict)
		}
	}
	return r.choose(f, []string{r.cfg.Balance.Default}, false)
}

// ownSpread says whether this host's traffic uses several links, so that an unbound socket must be told from one that is bound to the link whose
// address the kernel would give it.
func (r *linkRecipe) ownSpread(f Family) bool {
	own := r.link(r.ownChoice(f))
	return own == nil || slices.ContainsFunc(r.cfg.Balance.Rules, func(l config.LinkRule) bool {
		return ownToo(l) && r.link(r.choose(f, l.Links, l.Strict)) != own
	})
}

// anchor is an address of this host that unbound sockets get while their link is not decided: one of the inside, which no link has. What
// leaves with it is masqueraded. It is invalid when there is none.
func (r *linkRecipe) anchor(f Family) netip.Addr {
	for _, name := range r.cfg.Balance.Inside.Interfaces {
		for _, i := range r.facts.Interfaces {
			for _, p := range ofOne(f, i.Addresses) {
				if i.Name == name && i.Up && !p.Addr().IsLinkLocalUnicast() {
					return p.Addr()
				}
			}
		}
	}
	return netip.Addr{}
}

// sysctls let strict reverse-path checks look with the mark of the packet's link.
func (r *linkRecipe) sysctls() []Sysctl {
	var all []Sysctl
	for _, u := range r.links {
		if slices.ContainsFunc(r.facts.Interfaces, func(i Interface) bool { return i.Name == u.Interface && i.StrictPath }) {
			all = append(all, Sysctl{Name: "net/ipv4/conf/" + u.Interface + "/src_valid_mark", Value: "1", Why: "its reverse-path check is strict, and the mark says the way back"})
		}
	}
	return all
}
