package main

import (
	"math"
	"slices"
)

// median returns the middle value, the mean of the two middle ones of an even number, and NaN of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}

// ratio compares two peers by the rounds in which both were measured.
type ratio struct {
	Median, Min, Max float64
}

// ratioOf divides the values of each round, and is NaN when there are none to divide.
func ratioOf(values, by []float64) ratio {
	var all []float64
	for i := range min(len(values), len(by)) {
		if q := values[i] / by[i]; !math.IsNaN(q) && !math.IsInf(q, 0) {
			all = append(all, q)
		}
	}
	if len(all) == 0 {
		return ratio{math.NaN(), math.NaN(), math.NaN()}
	}
	return ratio{median(all), slices.Min(all), slices.Max(all)}
}
