package plan

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// part is how much of the values a link has.
func part(spans []span, link int) float64 {
	n, all := 0.0, 0.0
	for _, s := range spans {
		all += float64(s.last-s.first) + 1
		if s.link == link {
			n += float64(s.last-s.first) + 1
		}
	}
	return n / all
}

func linkAt(spans []span, value uint32) int {
	for _, s := range spans {
		if s.first <= value && value <= s.last {
			return s.link
		}
	}
	return 0
}

// Whatever links are down, every value has a link that is up, the weights hold within a thousandth, and against any other state only the
// values move whose link went down or came back.
func TestSpreadHoldsWeightsAndMovesOnlyWhatMust(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 2))
	for round := range 400 {
		shares := make([]share, 1+draw.IntN(8))
		for i := range shares {
			shares[i] = share{link: i + 1, weight: 1 + draw.IntN(1000), up: draw.IntN(3) > 0}
		}
		now := hashed(shares)
		checkParts(t, fmt.Sprintf("round %d: %v: hash", round, shares), shares, now)
		checkParts(t, fmt.Sprintf("round %d: %v: random", round, shares), shares, dealt(shares))
		i := draw.IntN(len(shares))
		shares[i].up = !shares[i].up
		then := hashed(shares)
		if len(now) == 0 || len(then) == 0 {
			continue
		}
		for range 2000 {
			value := uint32(draw.IntN(hashValues))
			a, b := linkAt(now, value), linkAt(then, value)
			if a != b && a != i+1 && b != i+1 {
				t.Fatalf("%v: link %d changed, and value %d moved from link %d to link %d", shares, i+1, value, a, b)
			}
		}
	}
}

func checkParts(t *testing.T, what string, shares []share, spans []span) {
	t.Helper()
	weights, up := 0, 0
	for _, s := range shares {
		if s.up {
			weights, up = weights+s.weight, up+1
		}
	}
	if up == 0 {
		if len(spans) != 0 {
			t.Errorf("%s: no link is up, and there is %v", what, spans)
		}
		return
	}
	next := uint32(0)
	for _, s := range spans {
		if s.first != next || s.last < s.first {
			t.Fatalf("%s: %v has a gap or an overlap at %d", what, spans, next)
		}
		next = s.last + 1
	}
	for _, s := range shares {
		want := 0.0
		if s.up {
			want = float64(s.weight) / float64(weights)
		}
		if got := part(spans, s.link); got < want-0.001 || got > want+0.001 {
			t.Errorf("%s: link %d has %.4f, want %.4f", what, s.link, got, want)
		}
	}
}

// With many links down the work is bounded.
func TestSpreadOfManyLinks(t *testing.T) {
	shares := make([]share, 15)
	for i := range shares {
		shares[i] = share{link: i + 1, weight: i + 1, up: i == 7}
	}
	if spans := hashed(shares); len(spans) != 1 || spans[0] != (span{0, hashValues - 1, 8}) {
		t.Errorf("got %v", spans)
	}
}
