package plan

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The test's kernel for routing and NAT: what a packet of a table's rules is looked up, marked and sent to.

// more evaluates an expression that needs the table; handled says whether it was one.
func (h *host) more(t Table, e Expr, p *packet) (v verdict, handled bool) {
	switch e := e.(type) {
	case In:
		_, found := t.find(e.Set, h.row(e.Key, p))
		return match(found != e.Not), true
	case VMap:
		return h.vmap(t, e, p), true
	case Goto:
		n := slices.IndexFunc(t.Chains, func(c Chain) bool { return c.Name == e.Chain })
		if v := h.chain(t, t.Chains[n], p); v != goOn {
			return v, true
		}
		return returned, true
	case SetMarkFrom:
		data, found := t.find(e.Map, h.value(e.Key, p))
		if !found {
			return broke, true
		}
		n, _ := strconv.ParseUint(data, 0, 32)
		p.setMark(e.CT, ^uint32(0), uint32(n))
		return goOn, true
	case CounterFrom:
		_, found := t.find(e.Map, h.row(e.Key, p))
		return match(found), true
	case DNAT:
		to := e.To
		if e.Map != "" {
			data, found := t.find(e.Map, h.value(e.Key, p))
			if !found {
				return broke, true
			}
			to = target(data)
		}
		if to.Port() == 0 {
			to = netip.AddrPortFrom(to.Addr(), p.to.Port())
		}
		if p.entry != nil {
			p.entry.to = to
		}
		return accepted, true
	}
	return goOn, false
}

// target reads the datum of a map of addresses, with or without ports.
func target(data string) netip.AddrPort {
	addr, port, _ := strings.Cut(data, " . ")
	n, _ := strconv.ParseUint(port, 10, 16)
	return netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(n))
}

func (h *host) vmap(t Table, e VMap, p *packet) verdict {
	value := h.value(e.Key, p)
	var do Expr
	if e.Map != "" {
		data, found := t.find(e.Map, value)
		if !found {
			return broke
		}
		word, chain, _ := strings.Cut(data, " ")
		do = map[string]Expr{"jump": Jump{chain}, "goto": Goto{chain}}[word]
		if do == nil {
			do = Verdict{word}
		}
	} else {
		n, _ := strconv.ParseUint(value, 0, 32)
		at := slices.IndexFunc(e.Entries, func(r VerdictRange) bool { return r.First <= uint32(n) && uint32(n) <= r.Last })
		if at < 0 {
			return broke
		}
		do = e.Entries[at].Do
	}
	return h.rule(t, NFTRule{Exprs: []Expr{do}}, p)
}

// find looks a key up in a named set or map, ranges and prefixes too.
func (t Table) find(set, key string) (data string, found bool) {
	n := slices.IndexFunc(t.Sets, func(s Set) bool { return s.Name == set })
	for _, e := range t.Sets[n].Elements {
		k, data, _ := strings.Cut(e, " : ")
		wants, has := strings.Split(k, " . "), strings.Split(key, " . ")
		all := len(wants) == len(has)
		for i := range wants {
			all = all && holds(wants[i], has[i])
		}
		if all {
			return data, true
		}
	}
	return "", false
}

// holds says whether a part of an element covers a part of a key.
func holds(element, key string) bool {
	if prefix, err := netip.ParsePrefix(element); err == nil {
		a, err := netip.ParseAddr(key)
		return err == nil && prefix.Contains(a)
	}
	first, last, isRange := strings.Cut(element, "-")
	if a, err := netip.ParseAddr(key); err == nil && isRange {
		return netip.MustParseAddr(first).Compare(a) <= 0 && a.Compare(netip.MustParseAddr(last)) <= 0
	}
	n, err := strconv.ParseUint(key, 0, 32)
	low, err1 := strconv.ParseUint(first, 0, 32)
	if err == nil && err1 == nil {
		high := low
		if isRange {
			high, _ = strconv.ParseUint(last, 0, 32)
		}
		return low <= n && n <= high
	}
	return element == key
}

// value is a key as text: a number, a mark, or fields.
func (h *host) value(k Key, p *packet) string {
	switch k := k.(type) {
	case NumGen:
		h.numbers++
		return fmt.Sprint(h.numbers % k.Mod)
	case JHash:
		sum := fnv.New32a()
		fmt.Fprint(sum, h.row(k.Fields, p), k.Seed)
		return fmt.Sprint(sum.Sum32() % k.Mod)
	case MaskedMark:
		return fmt.Sprintf("0x%08x", p.markOf(k.CT)&k.Mask)
	}
	return h.row(k.(Fields), p)
}

func (h *host) row(fields Fields, p *packet) string {
	words := make([]string, len(fields))
	for i, f := range fields {
		switch f {
		case IPSaddr, IP6Saddr:
			words[i] = p.src.Addr().String()
		case IPDaddr, IP6Daddr:
			words[i] = p.to.Addr().String()
		case TCPSPort, UDPSPort, THSPort:
			words[i] = fmt.Sprint(p.src.Port())
		case TCPDPort, UDPDPort, THDPort:
			words[i] = fmt.Sprint(p.to.Port())
		case L4ProtoKey:
			words[i] = protoText(p.proto)
		case MarkKey, CTMarkKey:
			words[i] = fmt.Sprintf("0x%08x", p.markOf(f == CTMarkKey))
		case IIFNameKey:
			words[i] = `"` + p.from + `"`
		case OIFNameKey:
			words[i] = `"` + p.out + `"`
		}
	}
	return strings.Join(words, " . ")
}

func (p *packet) markOf(ct bool) uint32 {
	if !ct {
		return p.mark
	}
	if p.conntrack() == nil {
		return 0
	}
	return p.entry.mark
}

func (p *packet) setMark(ct bool, mask, value uint32) {
	switch {
	case !ct:
		p.mark = p.mark&^mask | value
	case p.conntrack() != nil:
		p.entry.mark = p.entry.mark&^mask | value
	}
}

// headerMore evaluates the matches for routing and NAT that need no table.
func headerMore(e Expr, p *packet) (verdict, bool) {
	family := IPv6
	if p.to.Addr().Is4() {
		family = IPv4
	}
	switch e := e.(type) {
	case OIFName:
		return match(slices.Contains(e.Names, p.out) != e.Not), true
	case Saddr:
		return match(p.src.Addr().Is4() == e.Prefix.Addr().Is4() && e.Prefix.Contains(p.src.Addr()) != e.Not), true
	case SPort:
		return match(p.proto == protoOf(e.Proto) && within(e.Ranges, p.src.Port())), true
	case DSCP:
		return match(family == e.Family && p.dscp == e.Value), true
	case CTState:
		return match(slices.Contains(e.States, p.state) != e.Not), true
	case CTDirection:
		return match(p.reply == e.Reply), true
	case CTStatus:
		return match((p.entry != nil && slices.ContainsFunc(e.Bits, func(b string) bool {
			return b == "dnat" && (p.entry.dnat != 0 || p.entry.to.IsValid()) || b == "snat" && p.entry.snat != "" || b == "seen-reply" && p.state == "established"
		})) != e.Not), true
	}
	return goOn, false
}

// changeMore does what a statement for routing and NAT does; false when it is none.
func changeMore(e Expr, p *packet) (verdict, bool) {
	switch e := e.(type) {
	case SetMarkBits:
		p.setMark(e.CT, e.Mask, e.Value)
	case NoTrack:
		p.entry = nil
	case ClampMSS, Counter:
	case RateOver, Meter:
		return broke, true // the test's packets come slowly
	case RateUnder:
	case Reject:
		return refused, true
	case Masquerade:
		p.entry.snat = "masquerade"
		return accepted, true
	case SNAT:
		p.entry.snat = e.To.String()
		return accepted, true
	case SNATPrefix:
		for _, pair := range e.Pairs {
			if pair.From.Contains(p.src.Addr()) {
				p.entry.snat = pair.To.String()
				return accepted, true
			}
		}
		return broke, true
	default:
		return goOn, false
	}
	return goOn, true
}

func protoOf(p byte) byte {
	if p == 0 {
		return TCP
	}
	return p
}

func within(ranges []PortRange, port uint16) bool {
	return slices.ContainsFunc(ranges, func(r PortRange) bool { return r.First <= port && port <= r.Last })
}
