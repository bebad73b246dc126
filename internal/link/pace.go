package link

import (
	"math"
	"time"

	"salp/internal/config"
	"salp/internal/health"
)

const (
	// adaptScale is how much finer weights become when some adapt, so that a share of one can be told.
	adaptScale = 16
	// adaptLeast bounds how far a measured weight goes down.
	adaptLeast = 0.25
	// adaptEvery is how often a weight moves at most, and adaptStep by how much at least: a plan that changes all the time helps nobody.
	adaptEvery = 10 * time.Second
	adaptStep  = 0.15
	// quiet is how much longer a probe may take without counting for anything.
	quiet = 5 * time.Millisecond
	// baseDrift is the share by which the latency of a quiet day moves towards what is measured, with each probe: within some hours.
	baseDrift = 1.0 / 4096
	// loadShare is the weight of one measurement in the mean of the load.
	loadShare = 0.3
)

// pace is what is measured of a link, to correct its weight by.
type pace struct {
	base, now time.Duration // latency on a quiet day, and of the last probes

	at       time.Time // of the last count of bytes
	in, out  uint64
	load     float64 // bits a second, the busier direction, smoothed
	measured bool

	factor float64 // in force; 0: none yet, which is 1
	moved  time.Time
}

// latency takes in the mean of the last probes.
func (p *pace) latency(mean time.Duration, s health.Sample) {
	if s.Error != "" || mean <= 0 {
		return
	}
	p.now = mean
	if p.base == 0 || mean < p.base {
		p.base = mean
	} else {
		p.base += time.Duration(float64(mean-p.base) * baseDrift)
	}
}

// Traffic is what an interface has carried since it was made, in bytes.
type Traffic struct{ In, Out uint64 }

// Measure takes in what the links' interfaces have carried, by interface, and tells whether a weight has changed by what is measured.
func (s *Set) Measure(traffic map[string]Traffic, now time.Time) (changed bool) {
	for _, l := range s.links {
		if t, ok := traffic[l.Config.Interface]; ok {
			l.pace.traffic(t, now)
		}
		changed = l.adapt(now) || changed
	}
	return changed
}

func (p *pace) traffic(t Traffic, now time.Time) {
	took := now.Sub(p.at).Seconds()
	if p.at.IsZero() || took <= 0 || t.In < p.in || t.Out < p.out { // the interface is another one
		p.at, p.in, p.out = now, t.In, t.Out
		return
	}
	rate := 8 * float64(max(t.In-p.in, t.Out-p.out)) / took
	if !p.measured {
		p.load = rate
	}
	p.load += (rate - p.load) * loadShare
	p.at, p.in, p.out, p.measured = now, t.In, t.Out, true
}

// adapt moves the link's factor towards what is measured, and tells whether it has.
func (l *Link) adapt(now time.Time) bool {
	p, want := &l.pace, 1.0
	switch l.Config.Adapt {
	case config.AdaptLatency:
		if p.base > 0 && p.now > p.base+quiet {
			want = float64(p.base) / float64(p.now)
		}
	case config.AdaptLoad:
		if p.measured {
			want = 1 - p.load/float64(l.Config.Bandwidth)
		}
	default:
		return false
	}
	want = min(max(want, adaptLeast), 1)
	have := p.factor
	if have == 0 {
		have = 1
	}
	if now.Sub(p.moved) < adaptEvery || math.Abs(want-have) < adaptStep*have {
		return false
	}
	p.factor, p.moved = want, now
	return true
}

// weight is the link's weight now, in units of one scale'th.
func (l *Link) weight(scale int) int {
	factor := l.pace.factor
	if factor == 0 {
		factor = 1
	}
	return max(1, int(math.Round(float64(l.Config.Weight*scale)*factor)))
}

// Weight returns the share that the link has now, measured by its configured weight.
func (l *Link) Weight() float64 { return float64(l.weight(adaptScale)) / adaptScale }

// Load returns the bits a second that the interface carries now in its busier direction, once that has been measured.
func (l *Link) Load() float64 { return l.pace.load }
