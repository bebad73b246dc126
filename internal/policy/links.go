package policy

import (
	"math/bits"
	"net/netip"
	"sync/atomic"

	"salp/internal/access"
	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/egress"
)

// Links chooses the Internet links of connections to servers, and knows which of them are down. It is shared by all loops and listeners, and
// safe for concurrent use.
//
// When a link goes down, the worker calls LinkLost of every handler on every loop that is a dial.LinkUser. What is connected, or
// is being connected, says by which mark; Dead tells of a mark whether nothing will come by it any more, Down whether nothing new may
// be sent by it. A handler that keeps idle connections to servers drops those whose mark is Down. One that waits for the first byte of an
// answer to a request of a safe method (RFC 9110 9.2.1) makes the request again, by a new connection, when the mark of the old one is Dead;
// what cannot be repeated is reset.
type Links struct {
	rules *egress.Rules
	mask  uint32
	shift int
	state atomic.Pointer[linkState]
}

// linkState is what is known at one time. It is immutable.
type linkState struct {
	egress.State
	dead []bool // by number, from 0
	hold []bool // what is on a dead link stays there
}

// mostAlternatives bounds how many other links are tried for one connection.
const mostAlternatives = 3

// NewLinks makes the links of a configuration, nil when it has none. first is what the keeper knows of them before traffic begins; without it
// all of them count as up.
func NewLinks(c *config.Config, first *control.Links) *Links {
	if len(c.Links) == 0 {
		return nil
	}
	lists := make(map[string]*access.AddressSet)
	if first != nil {
		for name, prefixes := range first.Lists {
			lists[name] = access.NewAddressSet(prefixes)
		}
	}
	k := &Links{rules: egress.New(c, lists), mask: c.Kernel.LinkMarks, shift: bits.TrailingZeros32(c.Kernel.LinkMarks)}
	hold := make([]bool, len(c.Links))
	s := &linkState{dead: make([]bool, len(c.Links)), hold: hold}
	for i, l := range c.Links {
		hold[i] = l.OnDown == config.LinkDownKeep
		s.Links = append(s.Links, egress.Link{Up: true, Weight: l.Weight, IPv4: l.IPv4, IPv6: l.IPv6})
	}
	k.state.Store(s)
	if first != nil {
		k.Set(first)
	}
	return k
}

// Set takes in how the links are now, and tells whether one went down.
func (k *Links) Set(m *control.Links) (lost bool) {
	old := k.state.Load()
	if len(m.Links) != len(old.Links) {
		return false // of another configuration
	}
	s := &linkState{hold: old.hold}
	s.Local, s.Names = m.Local, m.Names
	for i, l := range m.Links {
		s.Links = append(s.Links, egress.Link{Up: l.Up, Weight: l.Weight, IPv4: l.IPv4, IPv6: l.IPv6})
		s.dead = append(s.dead, l.Dead)
		lost = lost || old.Links[i].Up && !l.Up || l.Dead && !old.dead[i]
	}
	k.state.Store(s)
	return lost
}

// AskArrival says that rules ask by which interface or with which DSCP a client's packets come in. nil answers for no links.
func (k *Links) AskArrival() bool { return k != nil && k.rules.AskArrival() }

// Kept returns the mark of the link that every connection like this one takes while links are as they are, since flows are kept together by client or
// destination, or there is but one to take; 0: none, or each takes its own.
func (k *Links) Kept(o *Origin, client netip.Addr, source, server netip.AddrPort) uint32 {
	f := o.flow(client, source, server)
	c := k.rules.Choose(&f, &k.state.Load().State, o.Wish)
	name := c.Name
	if c.Fallback {
		name = config.LinkBalanced
	}
	if c.Action != egress.Send || len(c.Among) > 1 && k.rules.Spread(name) == config.SpreadFlow {
		return 0
	}
	return k.mark(c.Link)
}

func (o *Origin) flow(client netip.Addr, source, server netip.AddrPort) egress.Flow {
	return egress.Flow{From: source.Addr(), Client: client, To: server, Protocol: config.TransportTCP, DSCP: o.DSCP, Interface: o.Interface, Listener: o.Listener}
}

// Way is the answer for one connection: the mark bits of the link to take, and those of others to try after it. 0 leaves it to the routing.
type Way struct {
	Mark   uint32
	Others []uint32
}

// Choose chooses the way of a connection to a server, for the flow's listener and client. When it is false there is none, or the rules forbid it.
func (k *Links) Choose(o *Origin, client netip.Addr, source netip.AddrPort, server netip.AddrPort) (w Way, ok bool) {
	f := o.flow(client, source, server)
	c := k.rules.Choose(&f, &k.state.Load().State, o.Wish)
	switch c.Action {
	case egress.Local, egress.Main:
		return w, true
	case egress.Send:
	default:
		return w, false
	}
	w.Mark = k.mark(c.Link)
	for _, n := range c.Others[:min(len(c.Others), mostAlternatives)] {
		w.Others = append(w.Others, k.mark(n))
	}
	return w, true
}

func (k *Links) mark(number int) uint32 { return uint32(number) << k.shift & k.mask }

// Down says that a link takes no new flows: it is dead, or drained. 0 is no link, and never down.
func (k *Links) Down(mark uint32) bool {
	s := k.state.Load()
	n := int(mark&k.mask>>k.shift) - 1
	return n >= 0 && n < len(s.Links) && !s.Links[n].Up
}

// Dead says that what is connected over a link is to be given up: it is down, and on_link_down does not keep what is on it.
func (k *Links) Dead(mark uint32) bool {
	s := k.state.Load()
	n := int(mark&k.mask>>k.shift) - 1
	return n >= 0 && n < len(s.dead) && s.dead[n] && !s.hold[n]
}

// Origin is what the rules of links may ask of a connection beside its addresses.
type Origin struct {
	Listener  string
	Interface string // that the client's packets come in by; "": not known
	DSCP      uint8  // of the client's packets where Interface is known, or what the connection is given instead
	Wish      string // the link or group that the listener or a rule of access names; "": the rules of balance decide
}
