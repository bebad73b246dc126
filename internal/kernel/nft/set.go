package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"salp/internal/plan"
)

// Byte orders as nft notes them in a set's user data, so that it can list the keys of intervals. (nftables, include/datatype.h)
const (
	hostOrder    = 1
	networkOrder = 2
)

// element is one member of a set; in interval sets the first one of a range, or (end) the first one after it.
type element struct {
	key  []byte
	last []byte // of a range in a concatenation: the greatest key, and there is no end
	end  bool
	open bool   // the range goes on to the greatest key; nft marks this for itself
	data *datum // of a map
}

// span is a range of keys, both included, and what a map has for them.
type span struct {
	first, last []byte
	data        *datum
}

var protocols = map[string]byte{"icmp": unix.IPPROTO_ICMP, "tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "ipv6-icmp": unix.IPPROTO_ICMPV6}

// parseSpan reads the key of a set element as nft spells it.
func parseSpan(kind, text string) (span, error) {
	first, last, isRange := strings.Cut(text, "-")
	if kind == "ifname" || kind == "inet_proto" {
		isRange = false
		first = text
	}
	if p, err := netip.ParsePrefix(text); err == nil && (kind == "ipv4_addr" || kind == "ipv6_addr") {
		return prefixSpan(p), nil
	}
	a, err := parseKey(kind, first)
	if err != nil || !isRange {
		return span{first: a, last: a}, err
	}
	b, err := parseKey(kind, last)
	if err == nil && bytes.Compare(a, b) > 0 {
		err = fmt.Errorf("range %s runs backwards", text)
	}
	return span{first: a, last: b}, err
}

func prefixSpan(p netip.Prefix) span {
	first := p.Masked().Addr().AsSlice()
	last := bytes.Clone(first)
	for i := p.Bits(); i < 8*len(last); i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	return span{first: first, last: last}
}

func parseKey(kind, text string) ([]byte, error) {
	switch kind {
	case "ifname":
		return ifname(strings.Trim(text, `"`))
	case "inet_proto":
		if n, ok := protocols[text]; ok {
			return []byte{n}, nil
		}
		n, err := strconv.ParseUint(text, 10, 8)
		return []byte{byte(n)}, err
	case "inet_service":
		n, err := strconv.ParseUint(text, 10, 16)
		return port(uint16(n)), err
	case "mark":
		n, err := strconv.ParseUint(text, 0, 32)
		return host32(uint32(n)), err
	case "numgen": // big-endian; elements turns it round where it must
		n, err := strconv.ParseUint(text, 10, 32)
		return binary.BigEndian.AppendUint32(nil, uint32(n)), err
	case "ipv4_addr", "ipv6_addr":
		a, err := netip.ParseAddr(text)
		if err == nil && a.Is4() != (kind == "ipv4_addr") {
			err = fmt.Errorf("%s is not of type %s", text, kind)
		}
		return a.AsSlice(), err
	}
	return nil, fmt.Errorf("no such set type: %q", kind)
}

func ifname(name string) ([]byte, error) {
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("no interface can be named %q", name)
	}
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...), nil
}

// numberKey is a number of a NumGen or a JHash as a key: in the host's order, or where intervals are compared in network order.
func numberKey(n uint32, interval bool) []byte {
	if interval {
		return binary.BigEndian.AppendUint32(nil, n)
	}
	return host32(n)
}

// elements are a named set's wanted members in the kernel's form.
func elements(s plan.Set) ([]element, error) {
	kind, err := typeOf(s.Type)
	if err != nil {
		return nil, fmt.Errorf("nft set %s: %w", s.Name, err)
	}
	spans := make([]span, 0, len(s.Elements))
	for _, text := range s.Elements {
		sp, err := parseElement(s, kind, text)
		if err != nil {
			return nil, fmt.Errorf("nft set %s: element %q: %w", s.Name, text, err)
		}
		spans = append(spans, sp)
	}
	if s.Interval && len(kind.parts) == 0 {
		return intervals(spans), nil
	}
	out := make([]element, 0, len(spans))
	for _, sp := range spans {
		e := element{key: sp.first, data: sp.data}
		if s.Interval {
			e.last = sp.last
		}
		out = append(out, e)
	}
	return out, nil
}

// parseElement reads one element as nft spells it.
func parseElement(s plan.Set, kind setType, text string) (sp span, err error) {
	key, data, isMap := strings.Cut(text, " : ")
	if isMap != (s.Data != "") {
		return span{}, fmt.Errorf("maps have a key and data, sets a key")
	}
	if len(kind.parts) == 0 {
		sp, err = parseSpan(kind.name, key)
	} else {
		sp, err = parseRow(kind, key)
	}
	if err != nil {
		return span{}, err
	}
	if !s.Interval && !bytes.Equal(sp.first, sp.last) {
		return span{}, fmt.Errorf("it is a range, and the set has no intervals")
	}
	if s.Interval && kind.order == hostOrder && kind.name != "numgen" {
		return span{}, fmt.Errorf("the kernel has no intervals of type %s", kind.name)
	}
	if !s.Interval && kind.name == "numgen" {
		sp.first = host32(binary.BigEndian.Uint32(sp.first))
	}
	if isMap {
		sp.data, err = parseDatum(s.Data, data)
	}
	return sp, err
}

// intervals turns ranges into the kernel's form: sorted, joined where they touch, and each an element for its start and one
// for its end. Those of a map, which must not overlap, stay apart. As nft does, it begins with an end when the smallest key is in no range.
func intervals(spans []span) []element {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return bytes.Compare(a.first, b.first) })
	var out []element
	for i := 0; i < len(spans); {
		first, last, data := spans[i].first, spans[i].last, spans[i].data
		after, more := successor(last)
		for i++; i < len(spans) && data == nil && (!more || bytes.Compare(spans[i].first, after) <= 0); i++ {
			if bytes.Compare(spans[i].last, last) > 0 {
				last = spans[i].last
				after, more = successor(last)
			}
		}
		zero := make([]byte, len(first))
		if len(out) == 0 && !bytes.Equal(first, zero) {
			out = append(out, element{key: zero, end: true})
		}
		out = append(out, element{key: first, open: !more, data: data})
		if more {
			out = append(out, element{key: after, end: true})
		}
	}
	return out
}

// successor returns the next key, or false after the greatest.
func successor(key []byte) ([]byte, bool) {
	next := bytes.Clone(key)
	for i := len(next) - 1; i >= 0; i-- {
		next[i]++
		if next[i] != 0 {
			return next, true
		}
	}
	return nil, false
}

// joined sorts port ranges and joins those that touch.
func joined(in []plan.PortRange) []plan.PortRange {
	ranges := slices.Clone(in)
	slices.SortFunc(ranges, func(a, b plan.PortRange) int { return int(a.First) - int(b.First) })
	out := ranges[:1]
	for _, r := range ranges[1:] {
		end := &out[len(out)-1]
		if int(r.First) <= int(end.Last)+1 {
			end.Last = max(end.Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}
