package plan

import (
	"slices"
	"strings"
)

// rules sends marked packets to our table, for each interface that packets of transparent halves come in by.
func (r *recipe) rules() []Rule {
	var rules []Rule
	for _, f := range r.families {
		for _, name := range r.ingress() {
			rules = append(rules, Rule{Family: f, Priority: r.kernel.Priority, Mark: r.marks.Divert, Mask: r.marks.Divert, IIF: name, Table: r.kernel.Table})
		}
	}
	return rules
}

// ingress returns the interfaces that packets of transparent halves come in by, sorted: clients' packets by those that are taken in
// from, and servers' answers to clients' addresses by any that is up. An interface needs no address for that.
func (r *recipe) ingress() []string {
	var names []string
	for _, t := range r.tproxied {
		names = append(names, t.interfaces...)
	}
	if r.borrows {
		for _, i := range r.interfaces {
			if i.Up && !i.Loopback && !i.Enslaved {
				names = append(names, i.Name)
			}
		}
	}
	return slices.Compact(slices.SortedFunc(slices.Values(names), strings.Compare))
}

func (r *recipe) routes() []Route {
	if !r.transparent() {
		return nil
	}
	var routes []Route
	for _, f := range r.families {
		routes = append(routes, localDefault(f, r.kernel.Table))
	}
	return routes
}

// sysctls makes the host a router, which it must be for what is not taken in and for every connection while no worker lives.
// An interface that is configured by router advertisements would lose its routes when forwarding comes on, so they come first.
func (r *recipe) sysctls() []Sysctl {
	why := "what is not taken in must pass"
	switch {
	case r.links:
		why = "links need a router"
	case !r.intercepted && !r.forwards:
		return nil
	}
	all := []Sysctl{{Name: "net/ipv4/ip_forward", Value: "1", Why: why}}
	if !r.facts.IPv6 {
		return all
	}
	for _, i := range r.interfaces {
		if i.AcceptsRA {
			all = append(all, Sysctl{Name: "net/ipv6/conf/" + i.Name + "/accept_ra", Value: "2", Why: "keep the routes from router advertisements while forwarding"})
		}
	}
	return append(all, Sysctl{Name: "net/ipv6/conf/all/forwarding", Value: "1", Why: why})
}
