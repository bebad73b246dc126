package pool

import "slices"

const (
	// longestSchedule bounds the turns of a schedule; shares that would take more are rounded.
	longestSchedule = 1 << 15
	// mostWork bounds what the exact way to make a schedule may cost, in additions.
	mostWork = 1 << 22
)

// plan makes the schedule from the weights, which are all above 0.
func (g *group) plan() {
	if len(g.choices) == 0 {
		return
	}
	weights := make([]int64, len(g.choices))
	var common int64
	g.even = true
	for i := range g.choices {
		weights[i] = g.choices[i].weight
		g.total += weights[i]
		common = gcd(common, weights[i])
		g.even = g.even && weights[i] == weights[0]
	}
	turns := int64(0)
	for i := range weights {
		weights[i] /= common
		turns += weights[i]
	}
	if turns > longestSchedule {
		scale := turns
		turns = 0
		for i := range weights {
			weights[i] = max(1, weights[i]*longestSchedule/scale)
			turns += weights[i]
		}
	}
	if turns*int64(len(weights)) <= mostWork {
		g.schedule = smooth(weights, turns)
	} else {
		g.schedule = spread(weights, turns)
	}
}

// smooth is nginx's smooth weighted round robin: at each turn everybody gains its weight, and who has most pays the total and is chosen.
// (ngx_http_upstream_get_peer, src/http/ngx_http_upstream_round_robin.c)
func smooth(weights []int64, turns int64) []uint16 {
	order := make([]uint16, 0, turns)
	has := make([]int64, len(weights))
	for range turns {
		best := 0
		for i, w := range weights {
			has[i] += w
			if has[i] > has[best] {
				best = i
			}
		}
		has[best] -= turns
		order = append(order, uint16(best))
	}
	return order
}

// spread puts the turns of each at even distances, which is nearly as smooth and takes no time for every pair of turn and server.
func spread(weights []int64, turns int64) []uint16 {
	type place struct {
		at    int64
		index uint16
	}
	places := make([]place, 0, turns)
	for i, w := range weights {
		for k := range w {
			places = append(places, place{(2*k + 1) * turns * 1024 / (2 * w), uint16(i)})
		}
	}
	slices.SortStableFunc(places, func(a, b place) int { return int(a.at - b.at) })
	order := make([]uint16, len(places))
	for i, p := range places {
		order[i] = p.index
	}
	return order
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
