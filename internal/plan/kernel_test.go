package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// host is a small kernel: it takes a packet through the chains, the ip rules and the routes of a plan and says what becomes of it.
type host struct {
	plan      Plan
	alive     bool                    // the alive set holds tcp
	listening map[netip.AddrPort]bool // transparent listeners
	types     map[netip.Addr]string   // fib daddr type of addresses; unicast when it is not there

	matched map[string]bool // the role of every rule that has ever matched
	trace   []string        // the rules that the present packet matched
	numbers uint32          // of a NumGen
}

// packet is one packet. Its fields change on the way.
type packet struct {
	from   string // ingress interface; "" when this host sends it
	out    string // egress interface
	src    netip.AddrPort
	state  string // of its connection
	reply  bool   // sent by the peer of the connection's first sender
	dscp   byte
	proto  byte
	flags  byte
	to     netip.AddrPort
	mark   uint32
	socket *socket // what a lookup by the packet's addresses finds (of an ICMP error: by those inside it)
	entry  *entry  // what conntrack finds or makes; nil when it does not track the packet

	zone    string         // the direction and the number, "" for the usual zone
	tproxy  netip.AddrPort // assigned by a tproxy statement
	tracked bool           // conntrack has seen it
}

// socket is a local socket. One that is not full is in TIME_WAIT or SYN_RECV: its mark and address cannot be read.
type socket struct {
	transparent, wildcard, full bool
	mark                        uint32
}

// entry is a conntrack entry.
type entry struct {
	mark    uint32
	decided bool           // the nat chains have seen its first packet
	dnat    uint16         // redirected to this port
	to      netip.AddrPort // destination-NATed to this address
	snat    string         // source-NATed to this
}

type verdict int

const (
	goOn  verdict = iota // to the next rule
	broke                // the rule does not match
	accepted
	returned
	dropped
	refused
)

// receive says what becomes of a packet that comes in: forwarded, socket, listener ADDRESS, local (this host's own affair),
// redirected PORT, reset, dropped or lost; and after that its conntrack zone
// and whether its connection is marked as an upstream half's or as taken in.
func (h *host) receive(p packet) string {
	h.trace = nil
	if v := h.hook("prerouting", &p); v != accepted {
		return h.outcome(&p, map[verdict]string{refused: "reset", dropped: "dropped"}[v])
	}
	marked := h.routedHere(&p)
	ownAddress := h.types[p.to.Addr()] == "local" || p.entry != nil && p.entry.dnat != 0
	if !marked && !ownAddress {
		v := h.hook("forward", &p)
		return h.outcome(&p, map[verdict]string{accepted: "forwarded", refused: "reset", dropped: "dropped"}[v])
	}
	if v := h.hook("input", &p); v != accepted {
		return h.outcome(&p, map[verdict]string{refused: "reset", dropped: "dropped"}[v])
	}
	switch {
	case p.tproxy.IsValid():
		return h.outcome(&p, "listener "+p.tproxy.String())
	case p.entry != nil && p.entry.dnat != 0:
		return h.outcome(&p, fmt.Sprintf("redirected %d", p.entry.dnat))
	case ownAddress:
		return h.outcome(&p, "local")
	case p.socket != nil:
		return h.outcome(&p, "socket")
	}
	return h.outcome(&p, "lost")
}

// send says what zone a packet of this host gets.
func (h *host) send(p packet) string {
	h.trace = nil
	if v := h.hook("output", &p); v != accepted {
		return "not sent"
	}
	return h.outcome(&p, "sent")
}

func (h *host) outcome(p *packet, what string) string {
	if p.zone != "" {
		what += ", " + p.zone
	}
	if p.entry != nil && p.entry.mark&markZ != 0 {
		what += ", upstream"
	}
	if p.entry != nil && p.entry.mark&markI != 0 {
		what += ", taken"
	}
	return what
}

// routedHere says whether an ip rule sends the packet to a table with the local route.
func (h *host) routedHere(p *packet) bool {
	family := IPv6
	if p.to.Addr().Is4() {
		family = IPv4
	}
	for _, r := range h.plan.Rules {
		if r.Family == family && r.IIF == p.from && p.mark&r.Mask == r.Mark {
			return slices.Contains(h.plan.Routes, localDefault(family, r.Table))
		}
	}
	return false
}

// hook runs the base chains of a hook in order of priority, conntrack at -200 and what NAT decided before among them.
func (h *host) hook(name string, p *packet) verdict {
	type base struct {
		table Table
		chain Chain
	}
	var all []base
	for _, t := range h.plan.Tables {
		for _, c := range t.Chains {
			if c.Hook == name {
				all = append(all, base{t, c})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b base) int { return cmp.Compare(a.chain.Priority, b.chain.Priority) })
	for _, b := range all {
		p.tracked = p.tracked || b.chain.Priority > -200
		if b.chain.Type == "nat" {
			if p.entry == nil || p.entry.decided {
				continue
			}
			p.entry.decided = true
		}
		if v := h.chain(b.table, b.chain, p); v == dropped || v == refused {
			return v
		}
	}
	p.tracked = true
	if name == "prerouting" && p.entry != nil {
		p.entry.decided = true
		if p.entry.dnat != 0 {
			p.to = netip.AddrPortFrom(p.to.Addr(), p.entry.dnat)
		}
		if p.entry.to.IsValid() {
			p.to = p.entry.to
		}
	}
	return accepted
}

func (h *host) chain(t Table, c Chain, p *packet) verdict {
	for _, r := range c.Rules {
		v := h.rule(t, r, p)
		if v == broke {
			continue
		}
		h.matched[role(t, c, r)] = true
		h.trace = append(h.trace, c.Name+": "+r.Text())
		if v == returned {
			return goOn
		}
		if v != goOn {
			return v
		}
	}
	return goOn
}

// role is what is the same of a rule in every listener's chain: the chain's kind, the comment and the family.
func role(t Table, c Chain, r NFTRule) string {
	kind, _, _ := strings.Cut(c.Name, "-")
	if c.Hook != "" {
		kind = c.Name
	}
	family := ""
	for _, e := range r.Exprs {
		if f, ok := e.(NFProto); ok {
			family = f.Text()
		}
	}
	return strings.Join([]string{t.Name, kind, r.Comment, family}, "; ")
}

// rule evaluates expressions from left to right; what was changed before one that breaks the rule stays changed.
func (h *host) rule(t Table, r NFTRule, p *packet) verdict {
	for _, e := range r.Exprs {
		if j, ok := e.(Jump); ok {
			n := slices.IndexFunc(t.Chains, func(c Chain) bool { return c.Name == j.Chain })
			h.trace = append(h.trace, "jump: "+r.Text())
			if v := h.chain(t, t.Chains[n], p); v != goOn {
				return v
			}
			continue
		}
		if v, ok := h.more(t, e, p); ok {
			if v != goOn {
				return v
			}
			continue
		}
		if v := h.expr(e, p); v != goOn {
			return v
		}
	}
	return goOn
}

func (h *host) expr(e Expr, p *packet) verdict {
	switch e := e.(type) {
	case SocketTransparent:
		return match(p.socket != nil && p.socket.transparent)
	case SocketWildcard:
		return match(p.socket != nil && p.socket.full && p.socket.wildcard)
	case SocketMark:
		return match(p.socket != nil && p.socket.full && p.socket.mark&e.Mask == e.Value)
	case CTMark:
		return match(p.conntrack() != nil && p.entry.mark&e.Mask == e.Value)
	case CTDNAT:
		return match(p.conntrack() != nil && (p.entry.dnat != 0) != e.Not)
	case InSet:
		return match((h.alive && e.Set == AliveSet && p.proto == TCP) != e.Not)
	case DaddrType:
		kind := cmp.Or(h.types[p.to.Addr()], "unicast")
		return match(slices.Contains(e.Types, kind) != e.Not)
	case TProxy:
		if !h.listening[e.To] || e.To.Addr().Is4() != p.to.Addr().Is4() {
			return broke
		}
		p.tproxy = e.To
		return goOn
	case RejectReset:
		return refused
	case Verdict:
		return map[string]verdict{"accept": accepted, "return": returned, "drop": dropped}[e.Word]
	}
	if v, ok := header(e, p); ok {
		return v
	}
	return change(e, p)
}

// header evaluates a match of what is in the packet itself.
func header(e Expr, p *packet) (verdict, bool) {
	switch e := e.(type) {
	case IIFName:
		return match(slices.Contains(e.Names, p.from) != e.Not), true
	case L4Proto:
		return match(slices.Contains(e.Protos, p.proto)), true
	case NFProto:
		return match(p.to.Addr().Is4() == (e.Family == IPv4)), true
	case DPort:
		return match(p.proto == protoOf(e.Proto) && within(e.Ranges, p.to.Port())), true
	case TCPFlags:
		return match(p.proto == TCP && (p.flags&e.Mask == e.Value) != e.Not), true
	case Mark:
		return match(p.mark&e.Mask == e.Value), true
	case Daddr:
		return match(p.to.Addr().Is4() == e.Prefix.Addr().Is4() && e.Prefix.Contains(p.to.Addr()) != e.Not), true
	}
	return headerMore(e, p)
}

func change(e Expr, p *packet) verdict {
	switch e := e.(type) {
	case SetMark:
		p.mark |= e.Bits
	case SetCTMark:
		if p.conntrack() == nil {
			return goOn
		}
		p.entry.mark &^= e.Bits
		if !e.Clear {
			p.entry.mark |= e.Bits
		}
	case SetDirZone:
		if p.tracked {
			panic("the zone is set after conntrack has looked")
		}
		p.zone = fmt.Sprintf("%s zone %d", direction(e.Reply), e.Zone)
	case Redirect:
		p.entry.dnat = e.Port
		return accepted
	default:
		v, ok := changeMore(e, p)
		if !ok {
			panic("the test's kernel does not know " + e.Text())
		}
		return v
	}
	return goOn
}

func (p *packet) conntrack() *entry {
	if !p.tracked {
		return nil
	}
	return p.entry
}

func match(ok bool) verdict {
	if ok {
		return goOn
	}
	return broke
}

func (h *host) explain() string { return "rules that matched:\n  " + strings.Join(h.trace, "\n  ") }
