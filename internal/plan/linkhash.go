package plan

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"

	"salp/internal/config"
)

// HashedLink returns the number of the link, counted from 1, that the kernel gives a flow from one address to another by what is to stay
// together, when a rule (or the default) sends it to what is named. It is 0 when the flow is dealt out for itself, or no link can have it.
func HashedLink(cfg *config.Config, f Facts, named []string, strict bool, from, to netip.Addr) int {
	r, family := newLinkRecipe(cfg, f, false), IPv4
	if to.Is6() {
		family = IPv6
	}
	if r == nil || from.Is4() != to.Is4() {
		return 0
	}
	c := r.choose(family, named, strict)
	if u := r.link(c); u != nil {
		return u.number
	}
	if c.kind != toLinks || c.spread == config.SpreadFlow {
		return 0
	}
	var key []byte
	for _, field := range spreadFields(c.spread, family) {
		a := from
		if field == DaddrOf(family) {
			a = to
		}
		key = append(key, a.AsSlice()...)
	}
	value := uint32(uint64(jhash(key, linkSeed)) * hashValues >> 32) // reciprocal_scale
	if i := slices.IndexFunc(c.spans, func(s span) bool { return s.first <= value && value <= s.last }); i >= 0 {
		return c.spans[i].link
	}
	return 0
}

// jhash is the kernel's, as nft's jhash expression uses it on little-endian machines. (include/linux/jhash.h, Bob Jenkins' lookup3)
func jhash(key []byte, seed uint32) uint32 {
	a := 0xdeadbeef + uint32(len(key)) + seed
	b, c := a, a
	for len(key) > 12 {
		a += binary.LittleEndian.Uint32(key)
		b += binary.LittleEndian.Uint32(key[4:])
		c += binary.LittleEndian.Uint32(key[8:])
		a, b, c = jhashMix(a, b, c)
		key = key[12:]
	}
	if len(key) == 0 {
		return c
	}
	var last [12]byte
	copy(last[:], key)
	a += binary.LittleEndian.Uint32(last[:])
	b += binary.LittleEndian.Uint32(last[4:])
	c += binary.LittleEndian.Uint32(last[8:])
	return jhashFinal(a, b, c)
}

func jhashMix(a, b, c uint32) (uint32, uint32, uint32) {
	for _, turn := range [2][3]int{{4, 6, 8}, {16, 19, 4}} {
		a -= c
		a ^= bits.RotateLeft32(c, turn[0])
		c += b
		b -= a
		b ^= bits.RotateLeft32(a, turn[1])
		a += c
		c -= b
		c ^= bits.RotateLeft32(b, turn[2])
		b += a
	}
	return a, b, c
}

func jhashFinal(a, b, c uint32) uint32 {
	c = (c ^ b) - bits.RotateLeft32(b, 14)
	a = (a ^ c) - bits.RotateLeft32(c, 11)
	b = (b ^ a) - bits.RotateLeft32(a, 25)
	c = (c ^ b) - bits.RotateLeft32(b, 16)
	a = (a ^ c) - bits.RotateLeft32(c, 4)
	b = (b ^ a) - bits.RotateLeft32(a, 14)
	return (c ^ b) - bits.RotateLeft32(b, 24)
}
