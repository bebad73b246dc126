package plan

import (
	"fmt"
	"net/netip"
	"testing"
)

func poolOf(weights ...int) []poolServer {
	var all []poolServer
	for i, w := range weights {
		all = append(all, poolServer{ServerFact: ServerFact{Up: true, Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(i + 2)}), 80)}, label: fmt.Sprint(i + 1), weight: w})
	}
	return all
}

// Buckets are shared by weight, and only those of a server that goes find another.
func TestWinner(t *testing.T) {
	for _, weights := range [][]int{{1, 1}, {1, 1, 1}, {3, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {256, 1, 128}} {
		all := poolOf(weights...)
		total := 0
		for _, w := range weights {
			total += w
		}
		before, counts := make([]int, hashBuckets), make([]int, len(all))
		for b := range before {
			before[b] = winner(uint64(b), all)
			counts[before[b]]++
		}
		for i, n := range counts {
			want := hashBuckets * weights[i] / total
			if spread := want/6 + 20; n < want-spread || n > want+spread {
				t.Errorf("%v: server %d has %d buckets, want about %d", weights, i, n, want)
			}
		}
		rest, moved := all[1:], 0
		for b, w := range before {
			now := winner(uint64(b), rest) + 1
			if w != 0 && now != w {
				t.Fatalf("%v: bucket %d moved from server %d, which is still there", weights, b, w)
			}
			if w == 0 {
				moved++
			}
		}
		if most := float64(hashBuckets) * 1.2 * float64(weights[0]) / float64(total); float64(moved) > most {
			t.Errorf("%v: %d buckets moved, at most %.0f should", weights, moved, most)
		}
	}
}

func TestInTurn(t *testing.T) {
	counts, last, row := map[int]int{}, -1, 0
	for _, s := range inTurn(poolOf(3, 1)) {
		counts[s]++
		if s != last {
			last, row = s, 0
		}
		if row++; row > 3 {
			t.Fatal("the turns are not spread")
		}
	}
	if counts[0] != 192 || counts[1] != 64 {
		t.Errorf("%v", counts)
	}
	if turns := inTurn(nil); turns != nil {
		t.Errorf("without servers: %v", turns)
	}
}
