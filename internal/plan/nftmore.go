package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Matches for routing and NAT.
type (
	// OIFName matches the egress interface, as IIFName does the ingress one.
	OIFName struct {
		Names []string
		Not   bool
	}
	// Saddr matches the source address, and implies its family.
	Saddr struct {
		Prefix netip.Prefix
		Not    bool
	}
	// SPort matches the source port, as DPort does the destination one.
	SPort struct {
		Ranges []PortRange
		Proto  byte // TCP (also when 0) or UDP, which it implies
	}
	// DSCP matches the six bits of the class of service, and implies the family. (RFC 2474)
	DSCP struct {
		Family Family
		Value  byte
	}
	// CTState matches the state of the packet's connection: invalid, established, related, new, untracked.
	CTState struct {
		States []string
		Not    bool // with one state only
	}
	// CTDirection matches packets of the connection's first sender, or with Reply those of its peer.
	CTDirection struct{ Reply bool }
	// CTStatus matches connections any of whose status bits is set (Not: none is): expected, seen-reply, assured, confirmed, snat, dnat, dying.
	CTStatus struct {
		Bits []string
		Not  bool
	}
	// SaddrType matches the route type that the source address has on the egress interface. (fib saddr . oif type)
	SaddrType struct {
		Types []string
		Not   bool
	}
)

// Statements for routing and NAT.
type (
	// SetMarkBits gives the bits Mask of the packet mark, or with CT of the conntrack mark, the value Value and leaves the others.
	SetMarkBits struct {
		CT          bool
		Mask, Value uint32
	}
	// SetDirZone puts one direction of the connection into a conntrack zone: replies with Reply, else what the first sender sends.
	SetDirZone struct {
		Reply bool
		Zone  uint16
	}
	// DNAT sends the connection to another address, and when To has a port (or the map's data one) to another port; then the rule must
	// match TCP or UDP before. With Map, the address is what the map has for Key, and without an entry the rule ends.
	DNAT struct {
		Family Family
		To     netip.AddrPort // port 0: keeps the port
		Key    Key
		Map    string
		Port   bool // the map's data are address and port
	}
	// SNAT gives the connection another source address.
	SNAT struct{ To netip.Addr }
	// SNATPrefix exchanges the prefix of the source address and keeps the rest. (as RFC 6296 does, with state)
	SNATPrefix struct{ Pairs []PrefixPair }
	// Masquerade gives the connection the egress interface's address as its source.
	Masquerade struct{}
	// ClampMSS lowers the segment size that a SYN announces to Size bytes, or (0) to what the route's MTU holds. The rule must match TCP.
	ClampMSS struct{ Size uint16 }
	// NoTrack keeps the packet from connection tracking; at a priority before it. (nft(8): notrack)
	NoTrack struct{}
	// Reject answers with ICMP or ICMPv6 port unreachable.
	Reject struct{}
	// Goto goes to a regular chain and does not come back.
	Goto struct{ Chain string }
	// RateOver matches (and RateUnder passes) packets by the rate at which the rule sees them, as a token bucket.
	RateOver struct{ Rate Rate }
	// RateUnder matches while packets come no faster than the rate.
	RateUnder struct{ Rate Rate }
	// Meter keeps an element for the key in a dynamic set, and matches when that element's rate, or its number of connections, is
	// exceeded. One of Rate and Connections is set. A set that is full matches nothing new.
	Meter struct {
		Set         string
		Key         Fields
		Update      bool          // the element's timeout begins anew with each packet
		Timeout     time.Duration // of the element; 0: the set's
		Rate        Rate
		Connections uint32
	}
)

// Rate is packets per unit of time, and how many may come at once.
type Rate struct {
	Count uint64
	Per   string // second, minute, hour, day, week
	Burst uint32 // packets, above 0
}

// PrefixPair is a prefix and what is put in its place, of the same family and length.
type PrefixPair struct{ From, To netip.Prefix }

// Text spells interface names in nft's order.
func (e OIFName) Text() string {
	return "o" + strings.TrimPrefix(IIFName(e).Text(), "i")
}

// Text spells a prefix, or a single address bare.
func (e Saddr) Text() string { return strings.Replace(Daddr(e).Text(), "daddr", "saddr", 1) }

// Text spells the ports in ascending order.
func (e SPort) Text() string { return strings.Replace(DPort(e).Text(), "dport", "sport", 1) }

// dscpNames are nft's names of code points.
var dscpNames = map[byte]string{0x00: "cs0", 0x08: "cs1", 0x10: "cs2", 0x18: "cs3", 0x20: "cs4", 0x28: "cs5", 0x30: "cs6", 0x38: "cs7",
	0x01: "lephb", 0x0a: "af11", 0x0c: "af12", 0x0e: "af13", 0x12: "af21", 0x14: "af22", 0x16: "af23", 0x1a: "af31", 0x1c: "af32", 0x1e: "af33",
	0x22: "af41", 0x24: "af42", 0x26: "af43", 0x2c: "va", 0x2e: "ef"}

// Text spells a code point by its name if it has one.
func (e DSCP) Text() string {
	word := dscpNames[e.Value]
	if word == "" {
		word = fmt.Sprintf("0x%02x", e.Value)
	}
	if e.Family == IPv6 {
		return "ip6 dscp " + word
	}
	return "ip dscp " + word
}

// CTStates are the names of connection states and their bits. (nft(8), CONNTRACK TYPES)
var CTStates = map[string]uint32{"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}

// CTStatusBits are the names of status bits and the bits. (enum ip_conntrack_status)
var CTStatusBits = map[string]uint32{"expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32, "dying": 512}

// byBit sorts names by their bits.
func byBit(names []string, bits map[string]uint32) string {
	return strings.Join(slices.SortedFunc(slices.Values(names), func(a, b string) int { return int(bits[a]) - int(bits[b]) }), ",")
}

// Text spells the states in the order of their bits.
func (e CTState) Text() string { return "ct state " + unless(e.Not) + byBit(e.States, CTStates) }

// Text is ct direction original or reply.
func (e CTDirection) Text() string { return "ct direction " + direction(e.Reply) }

func direction(reply bool) string {
	if reply {
		return "reply"
	}
	return "original"
}

// Text spells the bits in their order.
func (e CTStatus) Text() string {
	words := byBit(e.Bits, CTStatusBits)
	if e.Not {
		return "ct status ! " + words
	}
	return "ct status " + words
}

// Text spells route types in the order of their numbers.
func (e SaddrType) Text() string {
	return strings.Replace(DaddrType(e).Text(), "fib daddr type", "fib saddr . oif type", 1)
}

// Text spells what stays, then what is set.
func (e SetMarkBits) Text() string {
	field := markField(e.CT)
	switch e.Value {
	case 0:
		return fmt.Sprintf("%s set %s & 0x%08x", field, field, ^e.Mask)
	case e.Mask:
		return fmt.Sprintf("%s set %s | 0x%08x", field, field, e.Value)
	}
	return fmt.Sprintf("%s set %s & 0x%08x | 0x%08x", field, field, ^e.Mask|e.Value, e.Value)
}

// Text spells the direction and the zone.
func (e SetDirZone) Text() string {
	return fmt.Sprintf("ct %s zone set %d", direction(e.Reply), e.Zone)
}

// Text spells the address, or the key and the map.
func (e DNAT) Text() string {
	to := "dnat ip to "
	if e.Family == IPv6 {
		to = "dnat ip6 to "
	}
	switch {
	case e.Map != "":
		return to + e.Key.Text() + " map @" + e.Map
	case e.To.Port() == 0:
		return to + e.To.Addr().String()
	}
	return to + e.To.String()
}

// Text spells the address.
func (e SNAT) Text() string {
	if e.To.Is4() {
		return "snat ip to " + e.To.String()
	}
	return "snat ip6 to " + e.To.String()
}

// Text spells the prefixes in ascending order.
func (e SNATPrefix) Text() string {
	pairs := slices.SortedFunc(slices.Values(e.Pairs), func(a, b PrefixPair) int { return a.From.Addr().Compare(b.From.Addr()) })
	words := make([]string, len(pairs))
	for i, p := range pairs {
		words[i] = p.From.String() + " : " + p.To.String()
	}
	family := "ip6"
	if len(pairs) > 0 && pairs[0].From.Addr().Is4() {
		family = "ip"
	}
	return "snat " + family + " prefix to " + family + " saddr map { " + strings.Join(words, ", ") + " }"
}

// Text is the statement.
func (Masquerade) Text() string { return "masquerade" }

// Text is the statement.
func (e ClampMSS) Text() string {
	if e.Size > 0 {
		return fmt.Sprintf("tcp option maxseg size set %d", e.Size)
	}
	return "tcp option maxseg size set rt mtu"
}

// Text is the statement.
func (NoTrack) Text() string { return "notrack" }

// Text is the statement.
func (Reject) Text() string { return "reject" }

// Text is the statement.
func (e Goto) Text() string { return "goto " + e.Chain }

// Text spells the rate.
func (e RateOver) Text() string { return "limit rate over " + e.Rate.text() }

// Text spells the rate.
func (e RateUnder) Text() string { return "limit rate " + e.Rate.text() }

// text leaves out a burst of 5, which is nft's own.
func (r Rate) text() string {
	t := fmt.Sprintf("%d/%s", r.Count, r.Per)
	if r.Burst != 5 {
		t += fmt.Sprintf(" burst %d packets", r.Burst)
	}
	return t
}

// Text spells the set, the key and the limit.
func (e Meter) Text() string {
	t := "add @" + e.Set + " { " + e.Key.Text()
	if e.Update {
		t = "update @" + e.Set + " { " + e.Key.Text()
	}
	if e.Timeout > 0 {
		t += " timeout " + nftDuration(e.Timeout)
	}
	if e.Connections > 0 {
		return t + fmt.Sprintf(" ct count over %d }", e.Connections)
	}
	return t + " limit rate over " + e.Rate.text() + " }"
}

// nftDuration spells a time as nft does: 1d2h3m4s5ms without the parts that are 0.
func nftDuration(d time.Duration) string {
	var b strings.Builder
	for _, unit := range []struct {
		name string
		of   time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}} {
		if n := d / unit.of; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, unit.name)
			d -= n * unit.of
		}
	}
	return b.String()
}
