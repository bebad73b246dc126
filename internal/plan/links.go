package plan

import (
	"math/bits"
	"net/netip"
	"slices"

	"salp/internal/config"
)

// The links' table has no owner: links need no process, and stay as they last were when Salp dies.
//
// A flow is decided about by its first packet, and the number of its link is kept in its conntrack mark (the bits kernel.link_marks).
// Each packet gets it from there, and an ip rule sends what has it to the table of that link. Constants are set by chains of their own,
// one a link, because older kernels do not compute a mark from two values.
//
// The host's own table stays as it is and comes first, without its default route: what it knows a special way to, goes that way.

// uplink is a link of the configuration and how it is now.
type uplink struct {
	*config.Link
	LinkFacts
	name   string
	number int
	mark   uint32
	table  uint32
}

// linkRecipe is what the links' table, rules and routes are made from.
type linkRecipe struct {
	cfg      *config.Config
	facts    Facts
	families []Family
	links    []*uplink
	mask     uint32
	divert   uint32 // the mark of packets that are delivered here, 0 when there are none
	sets     []Set
}

// linksTable is the suffix of the table's name.
const linksTable = "-links"

// newLinkRecipe returns nil when there are no links.
func newLinkRecipe(cfg *config.Config, f Facts, transparent bool) *linkRecipe {
	if len(cfg.Links) == 0 {
		return nil
	}
	r := &linkRecipe{cfg: cfg, facts: f, families: families(f), mask: cfg.Kernel.LinkMarks}
	if transparent {
		r.divert = MarksIn(cfg.Kernel.Marks).Divert
	}
	shift := bits.TrailingZeros32(r.mask)
	for i, l := range cfg.Links {
		u := &uplink{Link: l, name: l.Name, number: i + 1, mark: uint32(i+1) << shift, table: cfg.Kernel.LinkTable + uint32(i) + 1}
		if n := slices.IndexFunc(f.Links, func(o LinkFacts) bool { return o.Name == l.Name }); n >= 0 {
			u.LinkFacts = f.Links[n]
		}
		u.LinkFacts.Weight = max(u.LinkFacts.Weight, 1)
		r.links = append(r.links, u)
	}
	return r
}

// LinkMark returns the value that a link, counted from 1, has in the bits of marks that a mask says.
func LinkMark(mask uint32, number int) uint32 { return uint32(number) << bits.TrailingZeros32(mask) }

// way is how a link leads out in a family. It is not Usable when the link is not for the family.
func (u *uplink) way(f Family) LinkRoute {
	if !u.serves(f) {
		return LinkRoute{}
	}
	return u.LinkFacts.Of(f)
}

func (u *uplink) serves(f Family) bool { return f == IPv4 && u.Link.IPv4 || f == IPv6 && u.Link.IPv6 }

// ready says whether new flows of a family may use the link.
func (u *uplink) ready(f Family) bool { return u.Up && u.way(f).Usable() }

func (u *uplink) takeChain() string { return "take-" + u.name }
func (u *uplink) markChain() string { return "mark-" + u.name }

// ownSet is the name of the set of a link's own addresses.
func (u *uplink) ownSet(f Family) string { return "own-" + u.name + familyDigit(f) }

// atSet is the name of the set of the addresses that others reach this host at.
func (u *uplink) atSet(f Family) string {
	if f == IPv6 && u.NPT.IsValid() {
		return "at-" + u.name + familyDigit(f)
	}
	return u.ownSet(f)
}

// flows, leaked, refused and dropped are counters.
func (u *uplink) flows() string  { return "flows-" + u.name }
func (u *uplink) leaked() string { return "leaked-" + u.name }

// Counters of the links' table that are not of a link.
const (
	LinksRefused = "refused" // packets that began a flow for which no link was up
	LinksDropped = "dropped" // packets of flows that a rule sends to blackhole
)

// LinkFlows is the name of the counter, in the links' table, of the flows that a link was given; LinkLeaked of the packets that were kept
// from leaving by it with a source that is not its own.
func LinkFlows(link string) string { return (&uplink{name: link}).flows() }

// LinkLeaked is described at LinkFlows.
func LinkLeaked(link string) string { return (&uplink{name: link}).leaked() }

// LinksTable is the name of the links' table, beside a table of that name.
func LinksTable(nftTable string) string { return nftTable + linksTable }

func familyDigit(f Family) string {
	if f == IPv6 {
		return "-6"
	}
	return "-4"
}

func (r *linkRecipe) table() Table {
	t := Table{Name: LinksTable(r.cfg.Kernel.NFTable), Counters: []string{LinksRefused, LinksDropped}}
	for _, u := range r.links {
		t.Counters = append(t.Counters, u.flows(), u.leaked())
	}
	chains := r.inbound()
	chains = append(chains, r.outbound()...)
	chains = append(chains, r.decisions()...)
	for _, u := range r.links {
		chains = append(chains, r.take(u))
		if len(r.links) > aFew {
			chains = append(chains, r.keep(u))
		}
	}
	chains = append(chains, r.forwards()...)
	if f := r.flowtable(); f != nil {
		t.Flowtables, chains = []Flowtable{*f}, append(chains, r.offload(f)...)
	}
	t.Chains = append(append(chains, r.masquerade()), r.leaving()...)
	r.addressSets()
	t.Sets = r.sets
	return t
}

// lan are the prefixes of the inside, of one family.
func (r *linkRecipe) lan(f Family) []netip.Prefix { return ofOne(f, r.cfg.Balance.Inside.Networks) }

func ofOne(f Family, all []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(all), func(p netip.Prefix) bool { return p.Addr().Is4() != (f == IPv4) })
}

// near are the prefixes that no link leads to: the inside, and what the host's interfaces are in.
func (r *linkRecipe) near(f Family) []netip.Prefix {
	all := r.lan(f)
	for _, i := range r.facts.Interfaces {
		for _, p := range ofOne(f, i.Addresses) {
			if !i.Loopback && !p.IsSingleIP() && !p.Addr().IsLinkLocalUnicast() {
				all = append(all, p.Masked())
			}
		}
	}
	return all
}

// addresses are those that others reach this host at by a link.
func (u *uplink) addresses(f Family) []netip.Prefix {
	var all []netip.Prefix
	for _, a := range u.way(f).Addresses {
		all = append(all, single(a))
	}
	if a := u.Masquerade.Of(int(f)); a.IsValid() {
		all = append(all, single(a))
	}
	return all
}

// own are the addresses that packets may have which leave by a link.
func (u *uplink) own(f Family) []netip.Prefix {
	all := u.addresses(f)
	if f == IPv6 && u.NPT.IsValid() {
		all = append(all, u.NPT.Masked())
	}
	return all
}

// Names of sets.
const (
	nearSet = "near"
	lanSet  = "inside"
)

func (r *linkRecipe) addressSets() {
	for _, f := range r.families {
		r.addSet(nearSet+familyDigit(f), f, r.near(f))
		if len(r.cfg.Balance.Inside.Networks) > 0 {
			r.addSet(lanSet+familyDigit(f), f, r.lan(f))
		}
		for _, u := range r.links {
			r.addSet(u.ownSet(f), f, u.own(f))
			if at := u.atSet(f); at != u.ownSet(f) && len(r.cfg.Forward) > 0 {
				r.addSet(at, f, u.addresses(f))
			}
		}
	}
}

// addSet adds a set of prefixes. They are elements, so that a change of them changes no rule.
func (r *linkRecipe) addSet(name string, f Family, prefixes []netip.Prefix) {
	r.sets = append(r.sets, Set{Name: name, Type: Fields{SaddrOf(f)}.SetType(), Interval: true, Elements: IntervalElements(prefixes)})
}

func (r *linkRecipe) wans() []string {
	var names []string
	for _, u := range r.links {
		names = append(names, u.Interface)
	}
	return ifnames(names)
}

// aFew is up to how many links are compared one after another: looking one up in a map costs a packet what three or four comparisons do.
const aFew = 3

// remembered are the rules that make a packet go the way of its flow. Every packet passes here.
func (r *linkRecipe) remembered() []NFTRule {
	if len(r.links) > aFew {
		return []NFTRule{rule("its link is known", r.known(true, (*uplink).markChain))}
	}
	var rules []NFTRule
	for _, u := range r.links {
		rules = append(rules, rule("a flow of link "+u.name, CTMark{r.mask, u.mark}, SetMarkBits{Mask: r.mask, Value: u.mark}, back))
	}
	return rules
}

// known sends packets of flows that have a link to the chain that prefix begins; ct says where the number is looked up.
func (r *linkRecipe) known(ct bool, chain func(*uplink) string) VMap {
	m := VMap{Key: MaskedMark{CT: ct, Mask: r.mask}}
	for _, u := range r.links {
		m.Entries = append(m.Entries, VerdictRange{First: u.mark, Last: u.mark, Do: Goto{Chain: chain(u)}})
	}
	return m
}

// take gives a flow to a link for as long as it lives.
func (r *linkRecipe) take(u *uplink) Chain {
	return Chain{Name: u.takeChain(), Rules: []NFTRule{rule("a flow of this link from now on", Counter{Name: u.flows()},
		SetMarkBits{CT: true, Mask: r.mask, Value: u.mark}, SetMarkBits{Mask: r.mask, Value: u.mark})}}
}

// keep makes a packet go the way of its flow.
func (r *linkRecipe) keep(u *uplink) Chain {
	return Chain{Name: u.markChain(), Rules: []NFTRule{rule("a packet of a flow of this link", SetMarkBits{Mask: r.mask, Value: u.mark})}}
}

// afterMangle is just behind the chains that decide what is delivered to a listener.
const afterMangle = -149

// inbound gives packets that come in their link: answers and servers inside must leave by the link that the question came in by.
func (r *linkRecipe) inbound() []Chain {
	c := Chain{Name: "links-in", Type: "filter", Hook: "prerouting", Priority: afterMangle, Rules: append(r.remembered(),
		rule("only the first packet of a flow decides", CTState{States: []string{"new"}, Not: true}, back))}
	for _, u := range r.links {
		c.Rules = append(c.Rules, rule("came in by link "+u.name, IIFName{Names: []string{u.Interface}}, Goto{Chain: u.takeChain()}))
	}
	if r.divert != 0 {
		c.Rules = append(c.Rules, rule("for a listener of ours", Mark{r.divert, r.divert}, back))
	}
	inside := r.cfg.Balance.Inside
	if len(inside.Interfaces) == 0 {
		return []Chain{c}
	}
	from := IIFName{Names: ifnames(inside.Interfaces)}
	if len(inside.Networks) == 0 {
		c.Rules = append(c.Rules, rule("from the inside", from, Goto{Chain: decide}))
		return []Chain{c}
	}
	for _, f := range r.families {
		c.Rules = append(c.Rules, rule("from the inside", from, In{Key: Fields{SaddrOf(f)}, Set: lanSet + familyDigit(f)}, Goto{Chain: decide}))
	}
	return []Chain{c}
}

// outbound gives what this host sends its link. The chain has type route, so that the way is looked up again.
func (r *linkRecipe) outbound() []Chain {
	return []Chain{{Name: "links-out", Type: "route", Hook: "output", Priority: afterMangle, Rules: append(r.remembered(),
		rule("its socket has chosen", r.known(false, (*uplink).takeChain)),
		rule("only the first packet of a flow decides", CTState{States: []string{"new"}, Not: true}, back),
		rule("this host's own traffic", Goto{Chain: decideOwn}))}}
}

// local returns from a chain for what no link leads to.
func (r *linkRecipe) local() []NFTRule {
	rules := []NFTRule{rule("for this host or its networks", DaddrType{Types: []string{"local", "broadcast", "anycast", "multicast"}}, back)}
	for _, f := range r.families {
		rules = append(rules, rule("near: no link leads there", In{Key: Fields{DaddrOf(f)}, Set: nearSet + familyDigit(f)}, back))
	}
	return rules
}
