package plan

import (
	"math/bits"
	"slices"
)

// share is a link's part in spreading.
type share struct {
	link   int // its number, counted from 1
	weight int
	up     bool
}

// span is an inclusive range of a hash's values and the link that has it.
type span struct {
	first, last uint32
	link        int
}

// hashValues is how many values the hash has that clients and destinations are spread by.
const hashValues = 1 << 16

// dealt divides as many numbers as the weights of the links that are up have together, for drawing one at random.
func dealt(shares []share) []span {
	var out []span
	next := uint32(0)
	for _, s := range shares {
		if s.up {
			out = append(out, span{next, next + uint32(s.weight) - 1, s.link})
			next += uint32(s.weight)
		}
	}
	return out
}

// hashed divides the values of the hash by weight, among the links that are up, so that a link which goes down or comes back moves
// only values of its own. Each value has, as it were, a list of links by which it is to be served, drawn by weight without putting back;
// the first that is up has it. Values that begin their lists with the same links are divided anew by the weights of those that remain, so
// that the weights hold whatever links are down.
func hashed(shares []share) []span {
	var down uint64
	for i, s := range shares {
		if !s.up {
			down |= 1 << i
		}
	}
	if bits.OnesCount64(down) == len(shares) {
		return nil
	}
	var out []span
	waiting := map[uint64][]span{0: {{first: 0, last: hashValues - 1}}} // by the links that their lists begin with
	for _, gone := range subsets(down) {
		for _, s := range divide(waiting[gone], shares, gone) {
			if i := s.link; shares[i].up {
				out = append(out, span{s.first, s.last, shares[i].link})
			} else {
				waiting[gone|1<<i] = append(waiting[gone|1<<i], s)
			}
		}
	}
	return tidy(out)
}

// subsets are all sets of the bits of a set, the smaller ones before the larger.
func subsets(of uint64) []uint64 {
	var all []uint64
	for s := of; ; s = (s - 1) & of {
		all = append(all, s)
		if s == 0 {
			break
		}
	}
	slices.SortFunc(all, func(a, b uint64) int {
		if d := bits.OnesCount64(a) - bits.OnesCount64(b); d != 0 {
			return d
		}
		if a < b {
			return -1
		}
		return 1
	})
	return all
}

// divide cuts values into one piece for each link that is not gone, as large as its weight says. The link of a piece is an index of shares.
func divide(values []span, shares []share, gone uint64) []span {
	values = tidy(values)
	total, weights := uint64(0), uint64(0)
	for _, v := range values {
		total += uint64(v.last-v.first) + 1
	}
	for i, s := range shares {
		if gone&(1<<i) == 0 {
			weights += uint64(s.weight)
		}
	}
	var out []span
	at, sum := uint64(0), uint64(0) // values given away, weights seen
	for i, s := range shares {
		if gone&(1<<i) != 0 {
			continue
		}
		sum += uint64(s.weight)
		end := (total*sum + weights/2) / weights
		for at < end {
			v := &values[0]
			take := min(end-at, uint64(v.last-v.first)+1)
			out = append(out, span{v.first, v.first + uint32(take) - 1, i})
			if at += take; v.first+uint32(take)-1 == v.last {
				values = values[1:]
			} else {
				v.first += uint32(take)
			}
		}
	}
	return out
}

// tidy sorts spans and makes those one that touch and have the same link.
func tidy(spans []span) []span {
	sorted := slices.SortedFunc(slices.Values(spans), func(a, b span) int { return int(int64(a.first) - int64(b.first)) })
	var out []span
	for _, s := range sorted {
		if n := len(out); n > 0 && out[n-1].last+1 == s.first && out[n-1].link == s.link {
			out[n-1].last = s.last
			continue
		}
		out = append(out, s)
	}
	return out
}
