package plan

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

func (s Set) text() string {
	var b strings.Builder
	kind, as, data := "set", "type", ""
	if s.Data != "" {
		kind, data = "map", " : "+s.Data
	}
	if s.Numbered() {
		as = "typeof"
	}
	fmt.Fprintf(&b, "\t%s %s {\n\t\t%s %s%s\n", kind, s.Name, as, s.Type, data)
	if s.Size > 0 {
		fmt.Fprintf(&b, "\t\tsize %d\n", s.Size)
	}
	var flags []string
	for _, f := range []struct {
		name string
		has  bool
	}{{"interval", s.Interval}, {"dynamic", s.Dynamic}, {"timeout", s.Timeout}} {
		if f.has {
			flags = append(flags, f.name)
		}
	}
	if len(flags) > 0 {
		fmt.Fprintf(&b, "\t\tflags %s\n", strings.Join(flags, ","))
	}
	if s.Lapse > 0 {
		fmt.Fprintf(&b, "\t\ttimeout %s\n", nftDuration(s.Lapse))
	}
	if len(s.Elements) > 0 && !s.Runtime {
		fmt.Fprintf(&b, "\t\telements = { %s }\n", s.elementsText())
	}
	b.WriteString("\t}\n")
	return b.String()
}

// Numbered says whether the keys are numbers of a NumGen or a JHash.
func (s Set) Numbered() bool { return strings.HasPrefix(s.Type, "numgen ") }

// elementsText is the elements in nft's order and on its lines, whose length depends on the type. Those of concatenations keep their
// own order, for the kernel returns them in any.
func (s Set) elementsText() string {
	perLine := 5
	switch {
	case s.Type == "ipv4_addr":
		perLine = 2
	case s.Type == "ipv6_addr" || s.Type == "ifname" || strings.Contains(s.Type, " . "):
		perLine = 1
	}
	elements := sortedElements(s.Type, s.Elements)
	var lines []string
	for line := range slices.Chunk(elements, perLine) {
		lines = append(lines, strings.Join(line, ", "))
	}
	return strings.Join(lines, ",\n\t\t\t     ")
}

// sortedElements sorts by the first key of an element as nft does. What cannot be read stays where it was, more or less; package
// kernel refuses it.
func sortedElements(kind string, elements []string) []string {
	if strings.Contains(kind, " . ") || len(elements) < 2 {
		return elements
	}
	type keyed struct {
		key  []byte
		text string
	}
	all := make([]keyed, len(elements))
	for i, text := range elements {
		key, _, _ := strings.Cut(text, " : ")
		all[i] = keyed{sortKey(kind, key), text}
	}
	slices.SortStableFunc(all, func(a, b keyed) int {
		return cmp.Or(cmp.Compare(len(a.key), len(b.key)), bytes.Compare(a.key, b.key))
	})
	out := make([]string, len(all))
	for i, k := range all {
		out[i] = k.text
	}
	return out
}

// sortKey is a key as a big-endian number.
func sortKey(kind, text string) []byte {
	switch kind {
	case "ipv4_addr", "ipv6_addr":
		text = text[:cmp.Or(max(strings.IndexAny(text, "-/"), 0), len(text))]
		a, _ := netip.ParseAddr(text)
		return a.AsSlice()
	case "ifname":
		name := []byte(strings.Trim(text, `"`))
		slices.Reverse(name)
		return name
	case "inet_proto":
		for _, p := range []byte{ICMP, TCP, UDP, ICMPv6} {
			if protoText(p) == text {
				return binary.BigEndian.AppendUint64(nil, uint64(p))
			}
		}
	}
	first, _, _ := strings.Cut(text, "-")
	n, _ := strconv.ParseUint(first, 0, 64)
	return binary.BigEndian.AppendUint64(nil, n)
}

// IntervalElements are the elements of an interval set of one family that holds the prefixes: sorted, with those that touch or overlap
// joined, as nft lists them.
func IntervalElements(prefixes []netip.Prefix) []string {
	sorted := slices.SortedFunc(slices.Values(prefixes), func(a, b netip.Prefix) int {
		return cmp.Or(a.Masked().Addr().Compare(b.Masked().Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []string
	for i := 0; i < len(sorted); {
		first, last := sorted[i].Masked().Addr(), lastOf(sorted[i])
		for i++; i < len(sorted); i++ {
			next := sorted[i].Masked().Addr()
			if after := last.Next(); after.IsValid() && next.Compare(after) > 0 {
				break
			}
			if end := lastOf(sorted[i]); end.Compare(last) > 0 {
				last = end
			}
		}
		out = append(out, spanText(first, last))
	}
	return out
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// spanText spells addresses from first to last: one bare, a prefix as that, and else the two ends.
func spanText(first, last netip.Addr) string {
	for bits := first.BitLen(); bits >= 0; bits-- {
		p := netip.PrefixFrom(first, bits)
		if p != p.Masked() {
			break
		}
		if lastOf(p) != last {
			continue
		}
		if p.IsSingleIP() {
			return first.String()
		}
		return p.String()
	}
	return first.String() + "-" + last.String()
}
