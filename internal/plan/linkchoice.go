package plan

import (
	"fmt"
	"slices"

	"salp/internal/config"
)

// linkChoice is what becomes of flows, of one family, that a rule names.
type linkChoice struct {
	kind   linkFate
	spans  []span // of links, by which they are spread; one for a single link
	spread config.Spread
}

type linkFate int

const (
	toLinks linkFate = iota
	toMain           // the host's own table decides
	refuse
	discard
)

// choose decides about names in their order. A name whose links are all down is passed over; when all are, strict refuses, and otherwise any
// link does that is up, and in the end the last resort.
func (r *linkRecipe) choose(f Family, names []string, strict bool) linkChoice {
	ready := func(u *uplink) bool { return u.ready(f) }
	if c, ok := r.first(names, ready); ok {
		return c
	}
	if strict {
		return linkChoice{kind: refuse}
	}
	if c, ok := r.first([]string{config.LinkBalanced}, ready); ok {
		return c
	}
	switch r.cfg.Balance.LastResort {
	case config.LastResortReject:
		return linkChoice{kind: refuse}
	case config.LastResortMain:
		return linkChoice{kind: toMain}
	}
	hasWay := func(u *uplink) bool { return u.way(f).Usable() }
	if c, ok := r.first(append(slices.Clone(names), config.LinkBalanced), hasWay); ok {
		return c
	}
	return linkChoice{kind: toMain} // no link is for the family, or has an address in it
}

// first returns the choice of the first name that has a link that may be used.
func (r *linkRecipe) first(names []string, may func(*uplink) bool) (linkChoice, bool) {
	for _, name := range names {
		if name == config.LinkBlackhole {
			return linkChoice{kind: discard}, true
		}
		spread := r.cfg.Balance.Spread
		if g := r.cfg.LinkGroup(name); g != nil {
			spread = g.Spread
		}
		shares := r.shares(r.cfg.LinksOf(name), may)
		if spans := spansOf(shares, spread); len(spans) > 0 {
			return linkChoice{spans: spans, spread: spread}, true
		}
	}
	return linkChoice{}, false
}

// shares are the links that take part in spreading. Metered ones do while no other is up.
func (r *linkRecipe) shares(links []*config.Link, may func(*uplink) bool) []share {
	var all, free []share
	for _, u := range r.links {
		if !slices.Contains(links, u.Link) {
			continue
		}
		s := share{link: u.number, weight: u.LinkFacts.Weight, up: may(u)}
		all = append(all, s)
		if !u.Metered {
			free = append(free, s)
		}
	}
	if slices.ContainsFunc(free, func(s share) bool { return s.up }) {
		return free
	}
	return all
}

func spansOf(shares []share, spread config.Spread) []span {
	if spread == config.SpreadFlow {
		return dealt(shares)
	}
	return hashed(shares)
}

// link returns the link of a choice that has but one, else nil.
func (r *linkRecipe) link(c linkChoice) *uplink {
	if c.kind != toLinks || slices.ContainsFunc(c.spans, func(s span) bool { return s.link != c.spans[0].link }) {
		return nil
	}
	return r.links[c.spans[0].link-1]
}

// linkSeed is any number: a fixed one keeps clients on their links when Salp is started again.
const linkSeed = 0x5a1b5a1b

// rules make the choice, in a chain where packets of the family, or with both of any, arrive.
func (r *linkRecipe) rules(c linkChoice, f Family, both bool) []NFTRule {
	var only []Expr
	if !both {
		only = []Expr{NFProto{Family: f}}
	}
	with := func(comment string, exprs ...Expr) []NFTRule {
		return []NFTRule{rule(comment, slices.Concat(only, exprs)...)}
	}
	switch {
	case c.kind == refuse: // TCP by a reset: the kernel bounds the rate of its ICMP errors, and clients would wait
		return append(with("no link is up for it", L4Proto{Protos: []byte{TCP}}, Counter{Name: LinksRefused}, RejectReset{}),
			with("no link is up for it", Counter{Name: LinksRefused}, Reject{})...)
	case c.kind == discard:
		return with("not to leave", Counter{Name: LinksDropped}, Verdict{Word: "drop"})
	case c.kind == toMain:
		return with("no link is up: the host's own table decides", back)
	}
	if u := r.link(c); u != nil {
		return with("link "+u.name, Goto{Chain: u.takeChain()})
	}
	var entries []VerdictRange
	for _, s := range c.spans {
		entries = append(entries, VerdictRange{First: s.first, Last: s.last, Do: Goto{Chain: r.links[s.link-1].takeChain()}})
	}
	if c.spread == config.SpreadFlow {
		return with("each flow for itself, by weight", VMap{Key: NumGen{Random: true, Mod: c.spans[len(c.spans)-1].last + 1}, Entries: entries})
	}
	return []NFTRule{rule(fmt.Sprintf("by %s, by weight", c.spread),
		VMap{Key: JHash{Fields: spreadFields(c.spread, f), Mod: hashValues, Seed: linkSeed}, Entries: entries})}
}

func spreadFields(s config.Spread, f Family) Fields {
	switch s {
	case config.SpreadClient:
		return Fields{SaddrOf(f)}
	case config.SpreadDestination:
		return Fields{DaddrOf(f)}
	}
	return Fields{SaddrOf(f), DaddrOf(f)}
}

// target is the chain that sends flows to links.
func (r *linkRecipe) target(name string, links []string, strict bool) Chain {
	c := Chain{Name: name}
	choices := map[Family]linkChoice{}
	for _, f := range r.families {
		choices[f] = r.choose(f, links, strict)
	}
	same := true
	for _, f := range r.families {
		same = same && r.simple(choices[f]) && r.says(choices[f]) == r.says(choices[r.families[0]])
	}
	for _, f := range r.families {
		c.Rules = append(c.Rules, r.rules(choices[f], f, same)...)
		if same {
			break
		}
	}
	return c
}

// simple says whether the rules of a choice are the same for both families.
func (r *linkRecipe) simple(c linkChoice) bool {
	return c.kind != toLinks || c.spread == config.SpreadFlow || r.link(c) != nil
}

// says is what distinguishes choices.
func (r *linkRecipe) says(c linkChoice) string {
	if u := r.link(c); u != nil {
		return u.name
	}
	return fmt.Sprint(c.kind, c.spans, c.spread)
}
