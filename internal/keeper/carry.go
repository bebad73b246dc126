package keeper

import (
	"slices"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/plan"
)

// carryOver adds to a plan what the connections of older workers take, which a reload must not cut: the plan in force minus all that
// takes in new connections. newest is the worker that the plan is for.
func (k *keeper) carryOver(p plan.Plan, newest *worker) plan.Plan {
	for _, w := range k.workers {
		if w != newest && w.state != admin.WorkerStarting && transparent(w.cfg) {
			return carry(p, k.plan)
		}
	}
	return p
}

// transparent tells whether connections of a configuration need the kernel for as long as they live.
func transparent(cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Listeners, func(l *config.Listener) bool {
		return l.Via != config.ViaKernel && (l.Intercept != nil || l.Source == config.SourceClient)
	})
}

// carry returns next with the rules, routes and chains of old that bring packets of running connections to their sockets.
func carry(next, old plan.Plan) plan.Plan {
	next.Routes = union(next.Routes, slices.DeleteFunc(slices.Clone(old.Routes), func(r plan.Route) bool { return r.Type != plan.RouteLocal }))
	next.Rules = union(next.Rules, slices.DeleteFunc(slices.Clone(old.Rules), func(r plan.Rule) bool { return !delivers(next.Routes, r) }))
	for _, t := range old.Tables {
		if !t.Owner { // the other table refuses new connections
			continue
		}
		chains := leftovers(t)
		if i := slices.IndexFunc(next.Tables, func(n plan.Table) bool { return n.Owner }); i >= 0 {
			next.Tables = slices.Clone(next.Tables)
			next.Tables[i].Chains = withMissing(next.Tables[i].Chains, chains)
		} else if len(chains) > 0 {
			next.Tables = append([]plan.Table{{Name: t.Name, Owner: true, Chains: chains}}, next.Tables...)
		}
	}
	return next
}

// delivers tells whether a rule looks into a table that makes packets local.
func delivers(routes []plan.Route, r plan.Rule) bool {
	return slices.ContainsFunc(routes, func(o plan.Route) bool {
		return o.Type == plan.RouteLocal && o.Family == r.Family && o.Table == r.Table
	})
}

func union[T comparable](a, b []T) []T {
	all := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(all, x) {
			all = append(all, x)
		}
	}
	return all
}

func withMissing(have, more []plan.Chain) []plan.Chain {
	all := slices.Clone(have)
	for _, c := range more {
		if !slices.ContainsFunc(have, func(h plan.Chain) bool { return h.Name == c.Name }) {
			all = append(all, c)
		}
	}
	return all
}

// tracked keeps connection tracking on, which the kernel switches off with the last rule that asks for it (nf_ct_netns_put). It matches
// no first packet, and a NAT chain sees no others.
var tracked = plan.NFTRule{Exprs: []plan.Expr{plan.CTDNAT{}, plan.Verdict{Word: "accept"}}, Comment: "translate redirected connections to their end"}

// leftovers returns the chains of a table without the rules that take in. NAT chains stay, whatever is in them: without any, and without
// connection tracking, packets of redirected connections are translated no more (nf_nat_core.c).
func leftovers(t plan.Table) []plan.Chain {
	var base, regular []plan.Chain
	for _, c := range t.Chains {
		if takesIn(t, c.Name) && c.Hook == "" {
			continue
		}
		c.Rules = slices.DeleteFunc(slices.Clone(c.Rules), func(r plan.NFTRule) bool { return ruleTakesIn(t, r) })
		switch {
		case c.Type == "nat":
			c.Rules = []plan.NFTRule{tracked}
			base = append(base, c)
		case c.Hook == "":
			regular = append(regular, c)
		case len(c.Rules) > 0:
			base = append(base, c)
		}
	}
	return slices.Concat(base, slices.DeleteFunc(regular, func(c plan.Chain) bool { return !jumpedTo(base, c.Name) }))
}

// takesIn tells whether a regular chain, or one that it jumps to, takes in or refuses new connections.
func takesIn(t plan.Table, name string) bool {
	for _, c := range t.Chains {
		if c.Name == name {
			return slices.ContainsFunc(c.Rules, func(r plan.NFTRule) bool { return ruleTakesIn(t, r) })
		}
	}
	return false
}

func ruleTakesIn(t plan.Table, r plan.NFTRule) bool {
	return slices.ContainsFunc(r.Exprs, func(e plan.Expr) bool {
		switch e := e.(type) {
		case plan.TProxy, plan.Redirect, plan.RejectReset, plan.InSet, plan.RateOver, plan.Meter:
			return true
		case plan.Jump:
			return takesIn(t, e.Chain)
		}
		return false
	})
}

func jumpedTo(chains []plan.Chain, name string) bool {
	return slices.ContainsFunc(chains, func(c plan.Chain) bool {
		return slices.ContainsFunc(c.Rules, func(r plan.NFTRule) bool { return slices.Contains(r.Exprs, plan.Expr(plan.Jump{Chain: name})) })
	})
}
