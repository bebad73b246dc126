package plan

import (
	"fmt"
	"slices"

	"salp/internal/config"
)

// forwards leads what is addressed to links to servers inside, and brings those who ask from the inside back through this host.
func (r *linkRecipe) forwards() []Chain {
	if len(r.cfg.Forward) == 0 {
		return nil
	}
	c := Chain{Name: "links-forward", Type: "nat", Hook: "prerouting", Priority: -100}
	for i, fwd := range r.cfg.Forward {
		f := familyOf(fwd.To.Addr())
		if !slices.Contains(r.families, f) {
			continue
		}
		from, ok := r.places(f, fwd.From, fmt.Sprintf("forward-%d-from", i+1), true)
		if !ok {
			continue
		}
		for _, u := range r.links {
			if len(fwd.Links) > 0 && !slices.Contains(fwd.Links, u.name) || !u.serves(f) {
				continue
			}
			for _, ports := range forwardPorts(fwd, fwd.Ports) {
				c.Rules = append(c.Rules, rule(fmt.Sprintf("forward[%d]: an address of link %s", i, u.name),
					slices.Concat(from, []Expr{In{Key: Fields{DaddrOf(f)}, Set: u.atSet(f)}, ports, DNAT{Family: f, To: fwd.To}})...))
			}
		}
	}
	return []Chain{c}
}

func forwardPorts(fwd config.Forward, ports []config.PortRange) []Expr {
	var all []Expr
	for _, p := range fwd.Protocol {
		proto := TCP
		if p == config.TransportUDP {
			proto = UDP
		}
		all = append(all, DPort{Ranges: joined(ports), Proto: proto})
	}
	return all
}

// hairpins make the answers to those inside who dialled a link's address come back through this host: the server would answer them directly.
func (r *linkRecipe) hairpins() []NFTRule {
	inside := ifnames(r.cfg.Balance.Inside.Interfaces)
	if len(inside) == 0 {
		return nil
	}
	var rules []NFTRule
	for i, fwd := range r.cfg.Forward {
		if !slices.Contains(r.families, familyOf(fwd.To.Addr())) {
			continue
		}
		ports := fwd.Ports
		if p := fwd.To.Port(); p != 0 {
			ports = []config.PortRange{{First: p, Last: p}}
		}
		for _, match := range forwardPorts(fwd, ports) {
			rules = append(rules, rule(fmt.Sprintf("forward[%d]: asked from the inside", i), IIFName{Names: inside}, OIFName{Names: inside},
				CTStatus{Bits: []string{"dnat"}}, Daddr{Prefix: single(fwd.To.Addr())}, match, Masquerade{}))
		}
	}
	return rules
}

// masquerade gives flows of a link an address of the link. Flows that are not spread have no link's mark and are nobody's here.
func (r *linkRecipe) masquerade() Chain {
	c := Chain{Name: "links-masquerade", Type: "nat", Hook: "postrouting", Priority: 100, Rules: r.hairpins()}
	for _, u := range r.links {
		out := []Expr{OIFName{Names: []string{u.Interface}}, Mark{r.mask, u.mark}}
		if u.NPT.IsValid() && u.serves(IPv6) && slices.Contains(r.families, IPv6) {
			for _, lan := range r.lan(IPv6) {
				if lan.Bits() == u.NPT.Bits() {
					c.Rules = append(c.Rules, rule("the prefix of link "+u.name, slices.Concat(out,
						[]Expr{Saddr{Prefix: lan.Masked()}, SNATPrefix{Pairs: []PrefixPair{{From: lan.Masked(), To: u.NPT.Masked()}}}})...))
				}
			}
		}
		if u.MasqueradeOff || !r.cfg.Balance.Masquerade {
			continue
		}
		for _, f := range r.families {
			if !u.serves(f) {
				continue
			}
			var address Expr = Masquerade{}
			if a := u.Masquerade.Of(int(f)); a.IsValid() {
				address = SNAT{To: a}
			}
			c.Rules = append(c.Rules, rule("an address of link "+u.name, slices.Concat(out,
				[]Expr{u.isOwn(f, true), SaddrType{Types: []string{"local"}, Not: true}, address})...))
		}
	}
	return c
}

// guardedMap leads from a link's interface to its guard, where there are more than a few.
const guardedMap = "guarded"

func (u *uplink) guardChain() string { return "guard-" + u.name }

// leaving looks at each packet that leaves, behind all translation: one chain, for its price is paid by every packet.
func (r *linkRecipe) leaving() []Chain {
	c := Chain{Name: "links-leave", Type: "filter", Hook: "postrouting", Priority: 110, Rules: []NFTRule{
		rule("announces the size of its segments", syn, Jump{Chain: clampChain})}}
	chains := []Chain{r.segments()}
	guarded := slices.DeleteFunc(slices.Clone(r.links), func(u *uplink) bool { return u.MasqueradeOff })
	for _, u := range guarded {
		chains = append(chains, r.guard(u))
	}
	c.Rules = append(c.Rules, r.toGuards(guarded)...)
	return append([]Chain{c}, chains...)
}

// toGuards sends packets to the guard of the link that they leave by.
func (r *linkRecipe) toGuards(guarded []*uplink) []NFTRule {
	if len(guarded) > aFew {
		to := Set{Name: guardedMap, Type: Fields{OIFNameKey}.SetType(), Data: "verdict"}
		for _, u := range guarded {
			to.Elements = append(to.Elements, fmt.Sprintf("%q : goto %s", u.Interface, u.guardChain()))
		}
		r.sets = append(r.sets, to)
		return []NFTRule{rule("leaves by a link", VMap{Key: Fields{OIFNameKey}, Map: guardedMap})}
	}
	var rules []NFTRule
	for _, u := range guarded {
		rules = append(rules, rule("leaves by link "+u.name, OIFName{Names: []string{u.Interface}}, Goto{Chain: u.guardChain()}))
	}
	return rules
}

// guard keeps packets from leaving by a link with a source that is not the link's: conntrack translates none that it calls invalid.
func (r *linkRecipe) guard(u *uplink) Chain {
	c := Chain{Name: u.guardChain()}
	for _, f := range r.families {
		if u.serves(f) {
			c.Rules = append(c.Rules, rule("an address of the link", u.isOwn(f, false), back))
		}
	}
	c.Rules = append(c.Rules, rule("an address of the interface", SaddrType{Types: []string{"local"}}, back))
	for _, f := range r.families {
		if u.serves(f) {
			c.Rules = append(c.Rules,
				rule("asks for an address", Saddr{Prefix: single(wildcard(f))}, back),
				rule("a source that is not the link's", NFProto{Family: f}, Counter{Name: u.leaked()}, Verdict{Word: "drop"}))
		}
	}
	return c
}

// isOwn matches a source that is (not: is not) the link's. Nearly every link has one address, which is compared at a fifth of what a look into a set costs.
func (u *uplink) isOwn(f Family, not bool) Expr {
	if own := u.own(f); len(own) == 1 {
		return Saddr{Prefix: own[0], Not: not}
	}
	return In{Key: Fields{SaddrOf(f)}, Set: u.ownSet(f), Not: not}
}

const clampChain = "clamp"

// syn matches what announces the size of segments.
var syn = TCPFlags{Mask: SYN | RST, Value: SYN}

// segments keeps TCP from announcing segments that the links' packets cannot hold. It is behind the translation, where the kernel knows
// the route of what leaves as well as in its chain for forwarding (net/netfilter/nft_rt.c, nft_rt_validate).
func (r *linkRecipe) segments() Chain {
	c := Chain{Name: clampChain}
	for _, u := range r.links {
		if u.MSS > 0 {
			c.Rules = append(c.Rules,
				rule("link "+u.name+": mss", OIFName{Names: []string{u.Interface}}, syn, ClampMSS{Size: uint16(u.MSS)}),
				rule("link "+u.name+": mss", IIFName{Names: []string{u.Interface}}, syn, ClampMSS{Size: uint16(u.MSS)}))
		}
	}
	c.Rules = append(c.Rules,
		rule("what the MTU on the way holds", OIFName{Names: r.wans()}, syn, ClampMSS{}),
		rule("what the MTU on the way holds", IIFName{Names: r.wans()}, syn, ClampMSS{}))
	return c
}
