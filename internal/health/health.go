// Package health turns single observations of a server or a link into a verdict, up or down. It is pure: time comes in with each observation.
//
// What is observed may have several targets (a link is probed through several hosts beyond it). A round is complete when every target has
// been observed since the last one; a round is good when enough targets answered, and neither loss nor latency is above its bound. Rise
// good rounds in a row make up, Fall bad ones make down. The very first round decides alone, for until then nothing is known.
package health

import (
	"fmt"
	"time"
)

// Policy says what it takes to be up. The zero value of a bound is none.
type Policy struct {
	Rise, Fall int // rounds in a row; less than 1 counts as 1
	Targets    int // how many are observed; less than 1 counts as 1
	Quorum     int // how many of them must answer; less than 1 counts as 1

	Window  int           // over how many of the last observations of all targets Loss and Latency are taken; less than 1 counts as 20
	Loss    float64       // a round is bad while a greater share than this was lost, 0 to 1; 0: no bound
	Latency time.Duration // a round is bad while those that answered took longer than this on average

	Damping Damping
}

// Damping holds down what goes up and down too often.
type Damping struct {
	Changes int           // going down more often than this within Window is flapping; 0: no damping
	Window  time.Duration //
	Hold    time.Duration // what flaps must have been good for so long, without a bad round, to be up again
}

// Sample is one observation of one target.
type Sample struct {
	At    time.Time // when it ended
	Error string    // "" when the target answered as it should
	RTT   time.Duration
}

// Verdict is what is believed.
type Verdict struct {
	Up     bool
	Known  bool      // there was a round; else Up is only assumed
	Since  time.Time // of Up
	Reason string    // why it is down or was last; "" when nothing was ever wrong
}

// Machine holds the verdict of one thing. It belongs to one goroutine.
type Machine struct {
	policy  Policy
	verdict Verdict
	fresh   []bool   // by target: observed since the last round
	latest  []Sample // by target
	recent  []Sample // a ring of the last Window samples
	next    int      // place in the ring

	good, bad int         // rounds in a row
	goodSince time.Time   // of the first of the good rounds
	downs     []time.Time // when it went down, as far as damping looks back
}

// defaultWindow is the number of samples that loss and latency are taken over.
const defaultWindow = 20

// New makes a machine that begins with a verdict, which the first round alone may turn when it is not Known.
func New(p Policy, first Verdict) *Machine {
	m := &Machine{verdict: first}
	m.SetPolicy(p)
	return m
}

// SetPolicy changes what it takes. The verdict stays; samples are forgotten when the number of targets or the window changes.
func (m *Machine) SetPolicy(p Policy) {
	p.Rise, p.Fall, p.Targets, p.Quorum = max(p.Rise, 1), max(p.Fall, 1), max(p.Targets, 1), max(p.Quorum, 1)
	p.Quorum = min(p.Quorum, p.Targets)
	if p.Window < 1 {
		p.Window = defaultWindow
	}
	if p.Targets != m.policy.Targets || p.Window != m.policy.Window {
		m.fresh, m.latest = make([]bool, p.Targets), make([]Sample, p.Targets)
		m.recent, m.next = make([]Sample, 0, p.Window), 0
	}
	m.policy = p
}

// Verdict returns what is believed now.
func (m *Machine) Verdict() Verdict { return m.verdict }

// Target returns the last sample of a target; its At is zero when there was none.
func (m *Machine) Target(i int) Sample { return m.latest[i] }

// Loss returns the share of the last samples that were lost, 0 to 1.
func (m *Machine) Loss() float64 {
	lost := 0
	for _, s := range m.recent {
		if s.Error != "" {
			lost++
		}
	}
	return float64(lost) / float64(max(len(m.recent), 1))
}

// Latency returns how long those of the last samples took on average that were answered; 0 when none was.
func (m *Machine) Latency() time.Duration {
	var sum time.Duration
	n := 0
	for _, s := range m.recent {
		if s.Error == "" {
			sum += s.RTT
			n++
		}
	}
	return sum / time.Duration(max(n, 1))
}

// Observe takes in a sample of a target and tells whether the verdict has changed. Targets that there are none of are ignored.
func (m *Machine) Observe(target int, s Sample) (changed bool) {
	if target < 0 || target >= len(m.latest) {
		return false
	}
	m.latest[target], m.fresh[target] = s, true
	if len(m.recent) < cap(m.recent) {
		m.recent = append(m.recent, s)
	} else {
		m.recent[m.next] = s
		m.next = (m.next + 1) % len(m.recent)
	}
	for _, fresh := range m.fresh {
		if !fresh {
			return false
		}
	}
	clear(m.fresh)
	return m.round(s.At)
}

// Force sets the verdict from outside, as when a link has lost its carrier, and tells whether it has changed. What it takes to come back
// counts from here.
func (m *Machine) Force(at time.Time, up bool, reason string) (changed bool) {
	m.good, m.bad = 0, 0
	clear(m.fresh)
	m.verdict.Known = true
	return m.set(at, up, reason)
}

// round judges the latest samples of all targets.
func (m *Machine) round(at time.Time) bool {
	reason := m.fault()
	first := !m.verdict.Known
	m.verdict.Known = true
	if reason != "" {
		m.good, m.bad = 0, m.bad+1
		if !m.verdict.Up {
			m.verdict.Reason = reason
		}
		return m.verdict.Up && (first || m.bad >= m.policy.Fall) && m.set(at, false, reason)
	}
	if m.good++; m.good == 1 {
		m.goodSince = at
	}
	m.bad = 0
	return !m.verdict.Up && (first || m.good >= m.policy.Rise) && !m.held(at) && m.set(at, true, m.verdict.Reason)
}

// fault says what is wrong with a round, "" when nothing is.
func (m *Machine) fault() string {
	answered, last := 0, ""
	for _, s := range m.latest {
		if s.Error == "" {
			answered++
		} else {
			last = s.Error
		}
	}
	p := &m.policy
	switch {
	case answered < p.Quorum && p.Targets == 1:
		return last
	case answered < p.Quorum:
		return fmt.Sprintf("%d of %d targets answer, %d must: %s", answered, p.Targets, p.Quorum, last)
	case p.Loss > 0 && m.Loss() > p.Loss:
		return fmt.Sprintf("%.0f %% of the last %d probes were lost, more than %.0f %%", 100*m.Loss(), len(m.recent), 100*p.Loss)
	case p.Latency > 0 && m.Latency() > p.Latency:
		return fmt.Sprintf("probes take %v on average, more than %v", m.Latency().Round(time.Millisecond/10), p.Latency)
	}
	return ""
}

// held tells whether something that flaps must go on being good before it is up.
func (m *Machine) held(at time.Time) bool {
	return m.Flapping(at) && at.Sub(m.goodSince) < m.policy.Damping.Hold
}

// Flapping tells whether it went down too often lately.
func (m *Machine) Flapping(at time.Time) bool {
	d := m.policy.Damping
	if d.Changes < 1 {
		return false
	}
	n := 0
	for _, t := range m.downs {
		if at.Sub(t) < d.Window {
			n++
		}
	}
	return n > d.Changes
}

func (m *Machine) set(at time.Time, up bool, reason string) bool {
	m.verdict.Reason = reason
	if m.verdict.Up == up {
		return false
	}
	m.verdict.Up, m.verdict.Since = up, at
	if !up && m.policy.Damping.Changes > 0 {
		m.downs = append(m.downs, at)
		if extra := len(m.downs) - m.policy.Damping.Changes - 1; extra > 0 {
			m.downs = m.downs[extra:]
		}
	}
	return true
}

// Jittered returns d, longer or shorter by up to share of it: random is from 0 to 1.
func Jittered(d time.Duration, share, random float64) time.Duration {
	return d + time.Duration(float64(d)*share*(2*random-1))
}
