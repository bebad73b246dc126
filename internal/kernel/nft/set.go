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

// setType is a data type of set keys: nft's number for it, the length in bytes and the byte order.
type setType struct {
	number uint32
	length int
	order  uint32
}

var setTypes = map[string]setType{
	"ipv4_addr":    {7, 4, networkOrder},
	"ipv6_addr":    {8, 16, networkOrder},
	"inet_proto":   {12, 1, hostOrder},
	"inet_service": {13, 2, networkOrder},
	"ifname":       {41, unix.IFNAMSIZ, hostOrder},
}

var protocols = map[string]byte{"icmp": unix.IPPROTO_ICMP, "tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "ipv6-icmp": unix.IPPROTO_ICMPV6}

// element is one member of a set; in interval sets the first one of a range, or (end) the first one after it.
type element struct {
	key  []byte
	end  bool
	open bool // the range goes on to the greatest key; nft marks this for itself
}

// span is a range of keys, both included.
type span struct{ first, last []byte }

// parseElement reads a set element as nft spells it.
func parseElement(kind, text string) (span, error) {
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
		return span{a, a}, err
	}
	b, err := parseKey(kind, last)
	if err == nil && bytes.Compare(a, b) > 0 {
		err = fmt.Errorf("range %s runs backwards", text)
	}
	return span{a, b}, err
}

func prefixSpan(p netip.Prefix) span {
	first := p.Masked().Addr().AsSlice()
	last := bytes.Clone(first)
	for i := p.Bits(); i < 8*len(last); i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	return span{first, last}
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

// elements are a named set's wanted members in the kernel's form.
func elements(s plan.Set) ([]element, error) {
	var spans []span
	for _, text := range s.Elements {
		sp, err := parseElement(s.Type, text)
		if err != nil {
			return nil, fmt.Errorf("nft set %s: element %q: %w", s.Name, text, err)
		}
		if !s.Interval && !bytes.Equal(sp.first, sp.last) {
			return nil, fmt.Errorf("nft set %s: element %q is a range, and the set has no intervals", s.Name, text)
		}
		spans = append(spans, sp)
	}
	if s.Interval {
		return intervals(spans), nil
	}
	var out []element
	for _, sp := range spans {
		out = append(out, element{key: sp.first})
	}
	return out, nil
}

// intervals turns ranges into the kernel's form: sorted, joined where they touch, and each an element for its start and one
// for its end. As nft does, it begins with an end when the smallest key is in no range.
func intervals(spans []span) []element {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return bytes.Compare(a.first, b.first) })
	var out []element
	for i := 0; i < len(spans); {
		first, last := spans[i].first, spans[i].last
		after, more := successor(last)
		for i++; i < len(spans) && (!more || bytes.Compare(spans[i].first, after) <= 0); i++ {
			if bytes.Compare(spans[i].last, last) > 0 {
				last = spans[i].last
				after, more = successor(last)
			}
		}
		zero := make([]byte, len(first))
		if len(out) == 0 && !bytes.Equal(first, zero) {
			out = append(out, element{key: zero, end: true})
		}
		out = append(out, element{key: first, open: !more})
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

// setUserdata is what nft notes about a set for its own listing: byte order of the key, and that ranges were joined.
func setUserdata(order uint32, joined bool) []byte {
	u := binary.NativeEndian.AppendUint32([]byte{0, 4}, order)
	if joined {
		u = binary.NativeEndian.AppendUint32(append(u, 2, 4), 1)
	}
	return u
}
