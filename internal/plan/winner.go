package plan

import (
	"hash/fnv"
	"math"
)

// winner is the server that has a bucket, by weighted rendezvous hashing: each server draws a number from the bucket and its own address, and
// the greatest for its weight wins. When a server goes only its buckets find another winner; when one comes, it wins some from each of the
// others. (Thaler and Ravishankar 1998; the weights as in Resch 2015)
func winner(bucket uint64, servers []poolServer) int {
	best, most := 0, math.Inf(-1)
	for i, s := range servers {
		h := fnv.New64a()
		b, _ := s.Address.MarshalBinary()
		_, _ = h.Write(b)
		draw := (float64(mixed(h.Sum64()^mixed(bucket))>>11) + 0.5) / (1 << 53) // between 0 and 1
		if score := -float64(s.weight) / math.Log(draw); score > most {
			best, most = i, score
		}
	}
	return best
}

// mixed spreads every bit of x over the whole number. (the finisher of SplitMix64)
func mixed(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
