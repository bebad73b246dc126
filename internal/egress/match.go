package egress

import (
	"net/netip"
	"slices"

	"salp/internal/config"
)

// Match returns the index of the first rule that matches, -1 when none does.
func (r *Rules) Match(f *Flow, s *State) int {
	for i := range r.cfg.Balance.Rules {
		if r.Refuses(&r.cfg.Balance.Rules[i], f, s) == "" {
			return i
		}
	}
	return -1
}

// Refuses names the condition of a rule that a flow does not meet, "" when it meets all.
func (r *Rules) Refuses(rule *config.LinkRule, f *Flow, s *State) string {
	switch {
	case rule.Listener != "" && rule.Listener != f.Listener:
		return "listener"
	case len(rule.Interfaces) > 0 && !slices.Contains(rule.Interfaces, f.Interface):
		return "interfaces"
	case len(rule.Protocol) > 0 && !slices.Contains(rule.Protocol, f.Protocol):
		return "protocol"
	case len(rule.Ports) > 0 && !r.hasPort(rule, f):
		return "ports"
	case len(rule.DSCP) > 0 && !slices.Contains(rule.DSCP, f.DSCP):
		return "dscp"
	case len(rule.From) > 0 && !r.has(rule.From, f.From, s):
		return "from"
	case len(rule.To) > 0 && !r.has(rule.To, f.To.Addr(), s):
		return "to"
	}
	return ""
}

func (r *Rules) hasPort(rule *config.LinkRule, f *Flow) bool {
	switch f.Protocol {
	case config.TransportTCP, config.TransportUDP, config.TransportSCTP:
	default:
		return false
	}
	if f.Protocol == config.TransportSCTP && len(rule.Protocol) == 0 {
		return false // of TCP and UDP, unless the rule says more
	}
	return slices.ContainsFunc(rule.Ports, func(p config.PortRange) bool { return p.First <= f.To.Port() && f.To.Port() <= p.Last })
}

func (r *Rules) has(places []config.Place, a netip.Addr, s *State) bool {
	if !a.IsValid() {
		return false
	}
	for i := range places {
		p := &places[i]
		switch {
		case p.Prefix.IsValid():
			if p.Prefix.Contains(a) {
				return true
			}
		case p.Name != "":
			if slices.Contains(s.Names[p.Name], a) {
				return true
			}
		case p.List != "":
			if set := r.lists[p.List]; set != nil && set.Has(a) {
				return true
			}
		}
	}
	return false
}

// AskArrival says that some rule asks by which interface, or with which DSCP, a flow comes in.
func (r *Rules) AskArrival() bool {
	return slices.ContainsFunc(r.cfg.Balance.Rules, func(l config.LinkRule) bool { return len(l.Interfaces)+len(l.DSCP) > 0 })
}

// Names returns the host names that rules and forwards mention, sorted.
func Names(cfg *config.Config) []string {
	var names []string
	eachPlace(cfg, func(p *config.Place) {
		if p.Name != "" {
			names = append(names, p.Name)
		}
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// Lists returns the lists of addresses that rules and forwards mention, sorted.
func Lists(cfg *config.Config) []string {
	var lists []string
	eachPlace(cfg, func(p *config.Place) {
		if p.List != "" {
			lists = append(lists, p.List)
		}
	})
	slices.Sort(lists)
	return slices.Compact(lists)
}

func eachPlace(cfg *config.Config, do func(*config.Place)) {
	var all []config.Place
	for i := range cfg.Balance.Rules {
		all = append(append(all, cfg.Balance.Rules[i].From...), cfg.Balance.Rules[i].To...)
	}
	for i := range cfg.Forward {
		all = append(all, cfg.Forward[i].From...)
	}
	for i := range all {
		do(&all[i])
	}
}
