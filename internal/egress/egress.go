// Package egress decides which Internet link a flow takes: by the rules of balance, by what the links are now, and by how flows are spread.
//
// It is pure, and shared by all loops of a worker, which gives its sockets the mark of the link, and by commands that explain. What the
// kernel forwards itself is decided about by the nft rules that package plan makes of the same configuration.
package egress

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"

	"salp/internal/access"
	"salp/internal/config"
)

// Flow is what is known of a flow before it takes a link.
type Flow struct {
	From      netip.Addr // the source that the other side sees; invalid: the host's own, whichever the link has
	Client    netip.Addr // on whose behalf it is, for keeping flows together; the same as From, or behind it
	To        netip.AddrPort
	Protocol  config.Transport
	DSCP      uint8
	Interface string // that it came in by; "": the host itself sends it
	Listener  string // for which Salp makes it; "": somebody else makes it
}

// State is how the links are now. It is immutable.
type State struct {
	Links []Link // in the order of the file
	Local []netip.Prefix
	Names map[string][]netip.Addr // what the host names in rules resolve to
}

// Link is how one link is.
type Link struct {
	Up         bool
	Weight     int
	IPv4, IPv6 bool // there is a way out in the family
}

// Rules are those of a configuration. They are immutable.
type Rules struct {
	cfg    *config.Config
	lists  map[string]*access.AddressSet
	groups map[string][]int // numbers of links, counted from 1, by the names that stand for several
}

// New makes the rules. lists are the address lists that rules may name; one that is not there is empty.
func New(cfg *config.Config, lists map[string]*access.AddressSet) *Rules {
	r := &Rules{cfg: cfg, lists: lists, groups: map[string][]int{}}
	add := func(name string) {
		for _, l := range cfg.LinksOf(name) {
			_, number := cfg.Link(l.Name)
			r.groups[name] = append(r.groups[name], number)
		}
	}
	add(config.LinkBalanced)
	for _, g := range cfg.Balance.Groups {
		add(g.Name)
	}
	for _, l := range cfg.Links {
		add(l.Name)
	}
	return r
}

// Action is what becomes of a flow.
type Action string

const (
	Send      Action = "link"      // it takes Choice.Link
	Main      Action = "main"      // the host's own routing table decides
	Local     Action = "local"     // it stays within the host's own networks
	Blackhole Action = "blackhole" // it is dropped
	Reject    Action = "reject"    // it is refused, for no link is up that it may use
)

// Choice is the answer for one flow.
type Choice struct {
	Action   Action
	Link     int    // number of the link, counted from 1; 0 unless Send
	Among    []int  // the links that it was spread over, Link among them
	Others   []int  // links that it may take when it cannot get through by Link, best first
	Rule     int    // index of the rule that decides; -1: none matches, and the default or a wish does
	Name     string // of Rule or the default, what it names: a link, a group or another word
	Fallback bool   // none of what the rule names is up, so another link is taken
	Assumed  bool   // no link is up: those that there are are used as if they were
}

// Choose decides about a flow. wish is what its listener or access rule says: a link or a group; "": the rules of balance decide.
func (r *Rules) Choose(f *Flow, s *State, wish string) Choice {
	c := Choice{Action: Local, Rule: -1}
	if within(f.To.Addr(), s.Local) || within(f.To.Addr(), r.cfg.Balance.Inside.Networks) {
		return c
	}
	names, strict := []string{wish}, false
	if wish == "" {
		names = []string{r.cfg.Balance.Default}
		if c.Rule = r.Match(f, s); c.Rule >= 0 {
			rule := &r.cfg.Balance.Rules[c.Rule]
			names, strict = rule.Links, rule.Strict
		}
	}
	for _, name := range names {
		c.Name = name
		if name == config.LinkBlackhole {
			c.Action = Blackhole
			return c
		}
		if r.pick(&c, f, s, name, false) {
			c.Others = r.others(f, s, c.Link, names, strict)
			return c
		}
	}
	c.Name = names[0]
	if strict {
		c.Action = Reject
		return c
	}
	if r.pick(&c, f, s, config.LinkBalanced, false) {
		c.Fallback = true
		c.Others = r.others(f, s, c.Link, nil, false)
		return c
	}
	return r.lastResort(c, f, s, names)
}

// lastResort decides when no link is up.
func (r *Rules) lastResort(c Choice, f *Flow, s *State, names []string) Choice {
	switch r.cfg.Balance.LastResort {
	case config.LastResortMain:
		c.Action = Main
		return c
	case config.LastResortReject:
		c.Action = Reject
		return c
	}
	c.Assumed = true
	for _, name := range append(slices.Clone(names), config.LinkBalanced) {
		if r.pick(&c, f, s, name, true) {
			return c
		}
	}
	c.Action, c.Assumed = Main, false // none has a way at all in this family
	return c
}

// pick takes one of the links that a name stands for. all says that those that are down will do, too.
func (r *Rules) pick(c *Choice, f *Flow, s *State, name string, all bool) bool {
	fit := r.fit(f, s, name, all)
	if len(fit) == 0 {
		return false
	}
	c.Action, c.Link, c.Among = Send, fit[0], fit
	if len(fit) > 1 {
		c.Link = r.spread(f, s, fit, r.Spread(name))
	}
	return true
}

// fit returns the links that a name stands for and that the flow may take now. Metered ones are left out while there are others, unless
// the name is that of the link.
func (r *Rules) fit(f *Flow, s *State, name string, all bool) (fit []int) {
	var metered []int
	for _, n := range r.groups[name] {
		if !usable(f, s, n, all) {
			continue
		}
		if r.cfg.Links[n-1].Metered {
			metered = append(metered, n)
		} else {
			fit = append(fit, n)
		}
	}
	if len(fit) == 0 {
		return metered
	}
	return fit
}

func usable(f *Flow, s *State, number int, all bool) bool {
	if number < 1 || number > len(s.Links) {
		return false
	}
	l := &s.Links[number-1]
	way := l.IPv6
	if f.To.Addr().Is4() {
		way = l.IPv4
	}
	return way && (l.Up || all)
}

// others returns the links that may be tried when one fails: the rest of what is named, then all that are up, unless the rule is strict.
func (r *Rules) others(f *Flow, s *State, taken int, names []string, strict bool) (others []int) {
	if !strict {
		names = append(slices.Clone(names), config.LinkBalanced)
	}
	for _, name := range names {
		for _, n := range r.groups[name] {
			if n != taken && !slices.Contains(others, n) && usable(f, s, n, false) {
				others = append(others, n)
			}
		}
	}
	return others
}

// Spread says which flows to what a name stands for are kept together.
func (r *Rules) Spread(name string) config.Spread {
	if g := r.cfg.LinkGroup(name); g != nil {
		return g.Spread
	}
	return r.cfg.Balance.Spread
}

// spread chooses one of several links by weight. By what is to stay together each link gets a number that is drawn from it, stretched by its
// weight, and the highest wins, so that a link which goes moves only its own (weighted rendezvous hashing).
func (r *Rules) spread(f *Flow, s *State, fit []int, by config.Spread) int {
	var key uint64
	client, to := number(f.Client), number(f.To.Addr())
	switch by {
	case config.SpreadFlow:
		key = rand.Uint64()
	case config.SpreadClient:
		key = mix(client)
	case config.SpreadDestination:
		key = mix(to ^ 0x9e3779b97f4a7c15)
	default:
		key = mix(mix(client) + to)
	}
	best, most := fit[0], math.Inf(-1)
	for _, n := range fit {
		drawn := (float64(mix(key+uint64(n)*0xbf58476d1ce4e5b9)>>11) + 1) / (1 << 53) // above 0, up to 1
		if score := math.Log(drawn) / float64(max(s.Links[n-1].Weight, 1)); score > most {
			best, most = n, score
		}
	}
	return best
}

// number folds an address.
func number(a netip.Addr) uint64 {
	if !a.IsValid() {
		return 0
	}
	b := a.As16()
	var high, low uint64
	for i := range 8 {
		high, low = high<<8|uint64(b[i]), low<<8|uint64(b[i+8])
	}
	return mix(high) ^ low
}

// mix is the finalizer of MurmurHash3: every bit of x moves every bit of the result. It needs no secret: who picks addresses picks the link,
// and may have it.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

func within(a netip.Addr, all []netip.Prefix) bool {
	return slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(a) })
}
