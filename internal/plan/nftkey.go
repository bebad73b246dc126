package plan

import (
	"fmt"
	"slices"
	"strings"
)

// Field is a part of a packet or of its connection that is looked up, hashed or kept, as nft spells it. A field of an address implies
// its family, one of TCP or UDP its protocol; th sport and th dport imply nothing and fit both.
type Field string

// The fields there are.
const (
	IPSaddr    Field = "ip saddr"
	IPDaddr    Field = "ip daddr"
	IP6Saddr   Field = "ip6 saddr"
	IP6Daddr   Field = "ip6 daddr"
	TCPSPort   Field = "tcp sport"
	TCPDPort   Field = "tcp dport"
	UDPSPort   Field = "udp sport"
	UDPDPort   Field = "udp dport"
	THSPort    Field = "th sport"
	THDPort    Field = "th dport"
	L4ProtoKey Field = "meta l4proto"
	MarkKey    Field = "meta mark"
	CTMarkKey  Field = "ct mark"
	IIFNameKey Field = "iifname"
	OIFNameKey Field = "oifname"

	IPOriginalDaddr  Field = "ct original ip daddr" // what the connection's first packet was sent to, before translation
	IP6OriginalDaddr Field = "ct original ip6 daddr"
)

// fieldTypes are the types of sets that the fields are looked up in.
var fieldTypes = map[Field]string{
	IPSaddr: "ipv4_addr", IPDaddr: "ipv4_addr", IP6Saddr: "ipv6_addr", IP6Daddr: "ipv6_addr",
	TCPSPort: "inet_service", TCPDPort: "inet_service", UDPSPort: "inet_service", UDPDPort: "inet_service",
	THSPort: "inet_service", THDPort: "inet_service", L4ProtoKey: "inet_proto", MarkKey: "mark", CTMarkKey: "mark",
	IIFNameKey: "ifname", OIFNameKey: "ifname", IPOriginalDaddr: "ipv4_addr", IP6OriginalDaddr: "ipv6_addr",
}

// SaddrOf is the field of the source address of a family.
func SaddrOf(f Family) Field {
	if f == IPv6 {
		return IP6Saddr
	}
	return IPSaddr
}

// DaddrOf is the field of the destination address of a family.
func DaddrOf(f Family) Field {
	if f == IPv6 {
		return IP6Daddr
	}
	return IPDaddr
}

// OriginalDaddrOf is the field of what the first packet of a connection was sent to, of a family.
func OriginalDaddrOf(f Family) Field {
	if f == IPv6 {
		return IP6OriginalDaddr
	}
	return IPOriginalDaddr
}

// Key is what a map is asked with: Fields, NumGen, JHash or MaskedMark.
type Key interface{ Text() string }

type (
	// Fields is one field, or several in a row (a concatenation).
	Fields []Field
	// NumGen counts up (or, with Random, draws) a number below Mod for each packet.
	NumGen struct {
		Random bool
		Mod    uint32
	}
	// JHash is a number below Mod made from fields, the same for the same fields and seed. (Jenkins' hash, include/linux/jhash.h)
	JHash struct {
		Fields Fields
		Mod    uint32
		Seed   uint32 // not 0: the kernel would draw one
	}
	// MaskedMark is some bits of the packet mark, or with CT of the conntrack mark. It can be looked up in a VMap's own entries alone.
	MaskedMark struct {
		CT   bool
		Mask uint32
	}
)

// Text spells the fields with dots between.
func (k Fields) Text() string {
	words := make([]string, len(k))
	for i, f := range k {
		words[i] = string(f)
	}
	return strings.Join(words, " . ")
}

// Text spells the generator.
func (k NumGen) Text() string {
	if k.Random {
		return fmt.Sprintf("numgen random mod %d", k.Mod)
	}
	return fmt.Sprintf("numgen inc mod %d", k.Mod)
}

// Text spells the hash.
func (k JHash) Text() string {
	return fmt.Sprintf("jhash %s mod %d seed 0x%x", k.Fields.Text(), k.Mod, k.Seed)
}

// Text spells the mark and its mask.
func (k MaskedMark) Text() string { return fmt.Sprintf("%s & 0x%08x", markField(k.CT), k.Mask) }

func markField(ct bool) Field {
	if ct {
		return CTMarkKey
	}
	return MarkKey
}

// NumberType is the type of a Set whose keys are numbers below mod, of a NumGen or a JHash. nft has no name for it but this example.
func NumberType(mod uint32) string { return NumGen{Mod: mod}.Text() }

// SetType is the type of a Set that the fields are looked up in.
func (k Fields) SetType() string {
	words := make([]string, len(k))
	for i, f := range k {
		words[i] = fieldTypes[f]
	}
	return strings.Join(words, " . ")
}

// Expressions with keys.
type (
	// In looks fields up in a named set of the same table.
	In struct {
		Key Fields
		Set string
		Not bool
	}
	// VMap ends in the verdict that its key has in a named map, or (Map "") in its own entries. The rule goes on, to the next rule,
	// when the key is in none.
	VMap struct {
		Key     Key
		Map     string
		Entries []VerdictRange
	}
	// SetMarkFrom sets the whole packet mark, or with CT the conntrack mark, to what a named map of type mark has for the key; without
	// an entry the rule ends.
	SetMarkFrom struct {
		CT  bool
		Key Key
		Map string
	}
	// CounterFrom counts in the named counter that a map (Data counter) has for the key; without an entry the rule ends.
	CounterFrom struct {
		Key Fields
		Map string
	}
)

// VerdictRange is an inclusive range of keys (numbers, or masked marks) and what follows: a Jump, Goto or Verdict.
type VerdictRange struct {
	First, Last uint32
	Do          Expr
}

// Text spells the look-up.
func (e In) Text() string { return e.Key.Text() + " " + unless(e.Not) + "@" + e.Set }

// Text spells the map's name, or its entries in ascending order.
func (e VMap) Text() string {
	if e.Map != "" {
		return e.Key.Text() + " vmap @" + e.Map
	}
	_, marks := e.Key.(MaskedMark)
	entries := slices.SortedFunc(slices.Values(e.Entries), func(a, b VerdictRange) int { return int(int64(a.First) - int64(b.First)) })
	words := make([]string, len(entries))
	for i, r := range entries {
		switch {
		case marks:
			words[i] = fmt.Sprintf("0x%08x", r.First)
		case r.First == r.Last:
			words[i] = fmt.Sprint(r.First)
		default:
			words[i] = fmt.Sprintf("%d-%d", r.First, r.Last)
		}
		words[i] += " : " + r.Do.Text()
	}
	return e.Key.Text() + " vmap { " + strings.Join(words, ", ") + " }"
}

// Text spells the statement.
func (e SetMarkFrom) Text() string {
	return fmt.Sprintf("%s set %s map @%s", markField(e.CT), e.Key.Text(), e.Map)
}

// Text spells the statement.
func (e CounterFrom) Text() string {
	return fmt.Sprintf("counter name %s map @%s", e.Key.Text(), e.Map)
}
