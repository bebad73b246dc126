package access

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"net/netip"
	"slices"
)

// AddressSet is a set of IP addresses, as sorted ranges that do not overlap: 8 bytes an entry of IPv4 and 32 of IPv6 at most. It is immutable.
type AddressSet struct {
	v4 []range4
	v6 []range6
}

type range4 struct{ first, last uint32 }

type range6 struct{ first, last wide }

// wide is an IPv6 address as a number.
type wide struct{ high, low uint64 }

func (a wide) compare(b wide) int {
	switch {
	case a.high != b.high && a.high < b.high, a.high == b.high && a.low < b.low:
		return -1
	case a == b:
		return 0
	}
	return 1
}

// NewAddressSet makes the set of all addresses in the prefixes.
func NewAddressSet(prefixes []netip.Prefix) *AddressSet {
	s := &AddressSet{}
	for _, p := range prefixes {
		if p.Addr().Is4() {
			first, host := number4(p.Masked().Addr()), uint32(0xffffffff)
			if p.Bits() > 0 {
				host = 1<<(32-p.Bits()) - 1
			}
			s.v4 = append(s.v4, range4{first, first | host})
			continue
		}
		first, n := number6(p.Masked().Addr()), p.Bits()
		last := first
		if n < 64 {
			last.high, last.low = first.high|^uint64(0)>>n, ^uint64(0)
		} else {
			last.low = first.low | ^uint64(0)>>(n-64)
			if n == 128 {
				last = first
			}
		}
		s.v6 = append(s.v6, range6{first, last})
	}
	s.merge()
	return s
}

// merge sorts the ranges and joins those that overlap, as prefixes only do when one is in the other.
func (s *AddressSet) merge() {
	slices.SortFunc(s.v4, func(a, b range4) int {
		if a.first != b.first {
			return int(int64(a.first) - int64(b.first))
		}
		return int(int64(b.last) - int64(a.last))
	})
	s.v4 = outermost(s.v4, func(a, b range4) bool { return b.last <= a.last })
	slices.SortFunc(s.v6, func(a, b range6) int {
		if c := a.first.compare(b.first); c != 0 {
			return c
		}
		return b.last.compare(a.last)
	})
	s.v6 = outermost(s.v6, func(a, b range6) bool { return b.last.compare(a.last) <= 0 })
}

// outermost leaves of sorted ranges those that lie in no other.
func outermost[R any](all []R, within func(outer, inner R) bool) []R {
	kept := all[:0]
	for _, r := range all {
		if len(kept) == 0 || !within(kept[len(kept)-1], r) {
			kept = append(kept, r)
		}
	}
	return slices.Clip(kept)
}

func number4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func number6(a netip.Addr) wide {
	b := a.As16()
	return wide{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// Len returns how many ranges there are.
func (s *AddressSet) Len() int {
	if s == nil {
		return 0
	}
	return len(s.v4) + len(s.v6)
}

// Has says whether an address is in the set. One of IPv4 that is written as IPv6 must be unmapped before.
func (s *AddressSet) Has(a netip.Addr) bool {
	switch {
	case s == nil || !a.IsValid():
		return false
	case a.Is4():
		n := number4(a)
		i, found := slices.BinarySearchFunc(s.v4, n, func(r range4, n uint32) int {
			if r.first > n {
				return 1
			}
			if r.first == n {
				return 0
			}
			return -1
		})
		return found || i > 0 && n <= s.v4[i-1].last
	}
	n := number6(a)
	i, found := slices.BinarySearchFunc(s.v6, n, func(r range6, n wide) int { return r.first.compare(n) })
	return found || i > 0 && n.compare(s.v6[i-1].last) <= 0
}

// ReadAddresses reads a set: an address or prefix a line, # begins a comment. Its error tells the line.
func ReadAddresses(r io.Reader) (*AddressSet, error) {
	var all []netip.Prefix
	err := eachLine(r, func(line []byte) error {
		text := string(line)
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
			all = append(all, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
			return nil
		}
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			return fmt.Errorf("%.60q is not an address or a prefix", text)
		}
		all = append(all, p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return NewAddressSet(all), nil
}

// Prefixes returns the set as prefixes that do not overlap, IPv4 first, sorted.
func (s *AddressSet) Prefixes() []netip.Prefix {
	all := make([]netip.Prefix, 0, s.Len())
	if s == nil {
		return all
	}
	for _, r := range s.v4 { // each is a prefix, for they were made from some and none was joined with its neighbour
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], r.first)
		all = append(all, netip.PrefixFrom(netip.AddrFrom4(b), bits.LeadingZeros32(r.first^r.last)))
	}
	for _, r := range s.v6 {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:8], r.first.high)
		binary.BigEndian.PutUint64(b[8:], r.first.low)
		n := bits.LeadingZeros64(r.first.high ^ r.last.high)
		if n == 64 {
			n += bits.LeadingZeros64(r.first.low ^ r.last.low)
		}
		all = append(all, netip.PrefixFrom(netip.AddrFrom16(b), n))
	}
	return all
}
