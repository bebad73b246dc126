package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"salp/internal/config"
)

// Names of chains that decide about first packets.
const (
	decide    = "decide"
	decideOwn = "decide-own"
	otherwise = "default"
	ownOther  = "default-own"
)

// decisions are the chains that choose a link.
func (r *linkRecipe) decisions() []Chain {
	in, own := Chain{Name: decide, Rules: r.local()}, Chain{Name: decideOwn, Rules: r.local()}
	var targets []Chain
	catchAll := []string{r.cfg.Balance.Default}
	strict, pinned := false, true
	for i, l := range r.cfg.Balance.Rules {
		if l.Listener != "" {
			continue // the worker asks for the link itself
		}
		name := fmt.Sprintf("rule-%d", i+1)
		in.Rules = append(in.Rules, r.pins(i, l, name)...)
		targets = append(targets, r.target(name, l.Links, l.Strict))
		switch {
		case !pinned || !ownToo(l):
		case ofAll(l):
			catchAll, strict, pinned = l.Links, l.Strict, false
		default:
			own.Rules = append(own.Rules, r.pins(i, l, name)...)
		}
	}
	in.Rules = append(in.Rules, rule("no rule names it", Goto{Chain: otherwise}))
	own.Rules = append(own.Rules, r.bound()...)
	own.Rules = append(own.Rules, rule("no rule names it", Goto{Chain: ownOther}))
	return append([]Chain{in, own, r.target(otherwise, []string{r.cfg.Balance.Default}, false), r.target(ownOther, catchAll, strict)}, targets...)
}

// ownToo says whether a rule is about this host's own traffic as well: it is from no place inside.
func ownToo(l config.LinkRule) bool {
	return len(l.From) == 0 && len(l.Interfaces) == 0 && l.Listener == ""
}

// ofAll says whether a rule matches all that this host sends.
func ofAll(l config.LinkRule) bool {
	return ownToo(l) && len(l.To) == 0 && len(l.Ports) == 0 && len(l.Protocol) == 0 && len(l.DSCP) == 0
}

// bound keeps what is sent from a link's address on that link. The link whose table gives unbound sockets their source is left out when it
// cannot be told whether a socket was bound.
func (r *linkRecipe) bound() []NFTRule {
	var rules []NFTRule
	for _, f := range r.families {
		way, _ := r.ownWay(f)
		for _, u := range r.links {
			if u.way(f).Usable() && !(way == u && r.ownSpread(f) && !r.anchor(f).IsValid()) {
				rules = append(rules, rule("bound to link "+u.name, In{Key: Fields{SaddrOf(f)}, Set: u.ownSet(f)}, Goto{Chain: u.takeChain()}))
			}
		}
	}
	return rules
}

// pins match what a rule of the configuration names.
func (r *linkRecipe) pins(i int, l config.LinkRule, chain string) []NFTRule {
	comment := fmt.Sprintf("balance.rules[%d]", i)
	var into []Expr
	if len(l.Interfaces) > 0 {
		into = []Expr{IIFName{Names: ifnames(l.Interfaces)}}
	}
	if len(l.From)+len(l.To)+len(l.DSCP) == 0 {
		var rules []NFTRule
		for _, proto := range protocols(l, r.families...) {
			rules = append(rules, rule(comment, slices.Concat(into, proto, []Expr{Goto{Chain: chain}})...))
		}
		return rules
	}
	var rules []NFTRule
	for _, f := range r.families {
		from, okFrom := r.places(f, l.From, fmt.Sprintf("rule-%d-from", i+1), true)
		to, okTo := r.places(f, l.To, fmt.Sprintf("rule-%d-to", i+1), false)
		if !okFrom || !okTo {
			continue
		}
		for _, class := range classes(l, f) {
			for _, proto := range protocols(l, f) {
				rules = append(rules, rule(comment, slices.Concat(into, from, to, class, proto, []Expr{Goto{Chain: chain}})...))
			}
		}
	}
	return rules
}

// places matches an address against what a rule names: nothing for no condition. ok is false when nothing of the family is named.
func (r *linkRecipe) places(f Family, places []config.Place, set string, source bool) (match []Expr, ok bool) {
	if len(places) == 0 {
		return nil, true
	}
	prefixes, moving := r.resolve(f, places)
	if len(prefixes) == 0 && !moving {
		return nil, false
	}
	if len(prefixes) == 1 && !moving {
		if source {
			return []Expr{Saddr{Prefix: prefixes[0]}}, true
		}
		return []Expr{Daddr{Prefix: prefixes[0]}}, true
	}
	name, field := set+familyDigit(f), DaddrOf(f)
	if source {
		field = SaddrOf(f)
	}
	if !slices.ContainsFunc(r.sets, func(s Set) bool { return s.Name == name }) {
		r.addSet(name, f, prefixes)
	}
	return []Expr{In{Key: Fields{field}, Set: name}}, true
}

// resolve returns the prefixes that places have now. moving says that they may be others later: names and lists are looked up again.
func (r *linkRecipe) resolve(f Family, places []config.Place) (prefixes []netip.Prefix, moving bool) {
	for _, p := range places {
		switch {
		case p.Name != "":
			moving = true
			for _, a := range r.facts.Names[p.Name] {
				prefixes = append(prefixes, single(a))
			}
		case p.List != "":
			moving = true
			prefixes = append(prefixes, r.facts.Lists[p.List]...)
		default:
			prefixes = append(prefixes, p.Prefix.Masked())
		}
	}
	return ofOne(f, prefixes), moving
}

func classes(l config.LinkRule, f Family) [][]Expr {
	if len(l.DSCP) == 0 {
		return [][]Expr{nil}
	}
	var all [][]Expr
	for _, v := range l.DSCP {
		all = append(all, []Expr{DSCP{Family: f, Value: v}})
	}
	return all
}

// Numbers of /etc/protocols that only links name.
const (
	protoGRE  byte = 47
	protoESP  byte = 50
	protoSCTP byte = 132
)

// protocols are the matches of protocol and ports of a rule, of which one must fit.
func protocols(l config.LinkRule, families ...Family) [][]Expr {
	if len(l.Ports) > 0 {
		var all [][]Expr
		for _, proto := range []struct {
			word   config.Transport
			number byte
		}{{config.TransportTCP, TCP}, {config.TransportUDP, UDP}} {
			if len(l.Protocol) == 0 || slices.Contains(l.Protocol, proto.word) {
				all = append(all, []Expr{DPort{Ranges: joined(l.Ports), Proto: proto.number}})
			}
		}
		return all
	}
	if len(l.Protocol) == 0 {
		return [][]Expr{nil}
	}
	var numbers []byte
	for _, p := range l.Protocol {
		switch p {
		case config.TransportICMP:
			for _, f := range families {
				numbers = append(numbers, map[Family]byte{IPv4: ICMP, IPv6: ICMPv6}[f])
			}
		default:
			numbers = append(numbers, map[config.Transport]byte{config.TransportTCP: TCP, config.TransportUDP: UDP, config.TransportGRE: protoGRE,
				config.TransportESP: protoESP, config.TransportSCTP: protoSCTP}[p])
		}
	}
	slices.Sort(numbers)
	return [][]Expr{{L4Proto{Protos: slices.Compact(numbers)}}}
}
