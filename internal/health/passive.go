package health

import "time"

// PassivePolicy says when errors of real traffic take something down: this many within Window, for so long.
type PassivePolicy struct {
	Errors int
	Window time.Duration
	For    time.Duration
}

// Passive counts errors of real traffic. It belongs to one goroutine.
type Passive struct {
	policy  PassivePolicy
	buckets []bucket // oldest first
	until   time.Time
}

// bucket holds the errors of a part of the window.
type bucket struct {
	begin time.Time
	n     uint64
}

// parts is how many buckets a window has: errors leave the count a window after they happened, and at most a part of it later.
const parts = 20

// NewPassive makes one that has counted nothing.
func NewPassive(p PassivePolicy) *Passive { return &Passive{policy: p} }

// SetPolicy changes what it takes; what was counted stays.
func (p *Passive) SetPolicy(policy PassivePolicy) { p.policy = policy }

// Count takes in n errors and tells whether they were the ones too many, so that it is down from now on. While it is down nothing is counted:
// what fails then was under way before.
func (p *Passive) Count(now time.Time, n uint64) (tripped bool) {
	if n == 0 || p.Down(now) {
		return false
	}
	p.forget(now)
	if last := len(p.buckets) - 1; last >= 0 && now.Sub(p.buckets[last].begin) < p.policy.Window/parts {
		p.buckets[last].n += n
	} else {
		p.buckets = append(p.buckets, bucket{now, n})
	}
	if p.Recent(now) < uint64(max(p.policy.Errors, 1)) {
		return false
	}
	p.until, p.buckets = now.Add(p.policy.For), nil
	return true
}

// Recent returns how many errors there were within the window.
func (p *Passive) Recent(now time.Time) (n uint64) {
	p.forget(now)
	for _, b := range p.buckets {
		n += b.n
	}
	return n
}

// Down tells whether the errors keep it down.
func (p *Passive) Down(now time.Time) bool { return now.Before(p.until) }

// Until returns when it is no longer down.
func (p *Passive) Until() time.Time { return p.until }

// Pardon ends being down, and forgets what was counted.
func (p *Passive) Pardon() { p.until, p.buckets = time.Time{}, nil }

func (p *Passive) forget(now time.Time) {
	for len(p.buckets) > 0 && now.Sub(p.buckets[0].begin) >= p.policy.Window {
		p.buckets = p.buckets[1:]
	}
}
