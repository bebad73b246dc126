package health

import (
	"strings"
	"testing"
	"time"
)

var start = time.Unix(1_000_000, 0)

// play feeds a machine with one target a round a second, "." good and "x" bad, and returns the verdict after each, "U" and "d".
func play(m *Machine, rounds string) string {
	var b strings.Builder
	for i, r := range rounds {
		s := Sample{At: start.Add(time.Duration(i) * time.Second), RTT: time.Millisecond}
		if r == 'x' {
			s.Error = "no answer"
		}
		before := m.Verdict().Up
		changed := m.Observe(0, s)
		if after := m.Verdict().Up; changed != (before != after) {
			b.WriteString("!")
		}
		b.WriteByte(map[bool]byte{true: 'U', false: 'd'}[m.Verdict().Up])
	}
	return b.String()
}

func TestRiseAndFall(t *testing.T) {
	known := Verdict{Up: true, Known: true}
	for _, c := range []struct {
		name         string
		policy       Policy
		first        Verdict
		rounds, want string
	}{
		{"falls after three", Policy{Rise: 2, Fall: 3}, known, "..xx.xxx.x..", "UUUUUUUdddd" + "U"},
		{"one bad round while unknown", Policy{Rise: 2, Fall: 3}, Verdict{Up: true}, "x..", "ddU"},
		{"one good round while unknown", Policy{Rise: 2, Fall: 3}, Verdict{}, ".xx.", "UUUU"},
		{"good while unknown and up", Policy{Rise: 5, Fall: 1}, Verdict{Up: true}, ".x.....", "Udddd" + "dU"},
		{"nothing said", Policy{}, known, "x.x", "dUd"},
		{"damped", Policy{Rise: 1, Fall: 1, Damping: Damping{Changes: 2, Window: time.Minute, Hold: 3 * time.Second}}, known,
			"x.x.x.x....", "dUdUd" + "ddddd" + "U"},
		{"damping forgets", Policy{Rise: 1, Fall: 1, Damping: Damping{Changes: 1, Window: 4 * time.Second, Hold: time.Minute}}, known,
			"x.x....", "dUddU" + "UU"},
	} {
		if got := play(New(c.policy, c.first), c.rounds); got != c.want {
			t.Errorf("%s: %s gave %s, want %s", c.name, c.rounds, got, c.want)
		}
	}
}

func TestQuorum(t *testing.T) {
	m := New(Policy{Rise: 1, Fall: 2, Targets: 3, Quorum: 2}, Verdict{Up: true, Known: true})
	round := func(pattern string) bool {
		for i, r := range pattern {
			s := Sample{At: start}
			if r == 'x' {
				s.Error = "no answer within 1s"
			}
			m.Observe(i, s)
		}
		return m.Verdict().Up
	}
	for _, c := range []struct {
		pattern string
		up      bool
	}{{"..x", true}, {"xx.", true}, {"x..", true}, {"xx.", true}, {"xxx", false}, {"x.x", false}, {".x.", true}} {
		if round(c.pattern) != c.up {
			t.Errorf("%s: up is not %v", c.pattern, c.up)
		}
	}
	round("xxx")
	round("x.x")
	if want := "1 of 3 targets answer, 2 must: no answer within 1s"; m.Verdict().Reason != want {
		t.Errorf("reason %q", m.Verdict().Reason)
	}
	// A target that is observed twice makes no round of its own.
	m = New(Policy{Targets: 2, Quorum: 2}, Verdict{Up: true, Known: true})
	for range 5 {
		if m.Observe(0, Sample{At: start, Error: "x"}) {
			t.Error("one of two targets made a round")
		}
	}
	if m.Observe(7, Sample{}) || m.Observe(-1, Sample{}) {
		t.Error("a target that is not there counted")
	}
}

func TestLossAndLatency(t *testing.T) {
	m := New(Policy{Rise: 1, Fall: 1, Window: 10, Loss: 0.3}, Verdict{Up: true, Known: true})
	m.policy.Fall = 2 // single losses are not yet a bad verdict
	if got := play(m, ".......x.x.x.x.."); got != "UUUUUUUUUUUUUUdd" {
		t.Errorf("loss: %s", got)
	}
	m = New(Policy{Window: 4, Latency: 50 * time.Millisecond}, Verdict{Up: true, Known: true})
	for i, c := range []struct {
		rtt time.Duration
		up  bool
	}{{40, true}, {40, true}, {90, false}, {20, true}, {20, true}, {20, true}} {
		m.Observe(0, Sample{At: start, RTT: c.rtt * time.Millisecond})
		if m.Verdict().Up != c.up {
			t.Errorf("latency, sample %d: average %v, up %v", i, m.Latency(), m.Verdict().Up)
		}
	}
}

func TestForceAndPolicy(t *testing.T) {
	m := New(Policy{Rise: 3, Fall: 3}, Verdict{Up: true, Known: true, Since: start})
	if !m.Force(start.Add(time.Second), false, "no carrier") || m.Verdict().Reason != "no carrier" || m.Force(start, false, "no carrier") {
		t.Errorf("%+v", m.Verdict())
	}
	if got := play(m, ".."); got != "dd" {
		t.Errorf("up too soon: %s", got)
	}
	m.SetPolicy(Policy{Rise: 2, Fall: 1})
	if got := play(m, ".x"); got != "Ud" || m.Loss() != 0.25 {
		t.Errorf("after the change of policy: %s, loss %v", got, m.Loss())
	}
}

func TestPassive(t *testing.T) {
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	p := NewPassive(PassivePolicy{Errors: 5, Window: 10 * time.Second, For: 30 * time.Second})
	for _, c := range []struct {
		at    float64
		n     uint64
		trips bool
	}{{0, 2, false}, {1, 0, false}, {5, 2, false}, {10.1, 2, false}, {12, 1, true}, {13, 9, false}, {41.9, 9, false}, {42, 4, false}, {42.1, 1, true}} {
		if got := p.Count(at(c.at), c.n); got != c.trips {
			t.Errorf("at %v: %v, %d within the window", c.at, got, p.Recent(at(c.at)))
		}
	}
	if !p.Down(at(72)) || p.Down(at(72.1)) {
		t.Errorf("down until %v", p.Until())
	}
	p.Pardon()
	if p.Down(at(43)) {
		t.Error("pardoned, and down")
	}
	for i := range 10000 { // a flood of single errors keeps few buckets
		p.Count(at(100+float64(i)/10000), 0)
		p.forget(at(100))
	}
	p.SetPolicy(PassivePolicy{Errors: 1 << 30, Window: 10 * time.Second})
	for i := range 10000 {
		p.Count(at(200+float64(i)/100), 1)
	}
	if len(p.buckets) > parts+1 {
		t.Errorf("%d buckets", len(p.buckets))
	}
}

func TestJitter(t *testing.T) {
	for _, c := range []struct {
		share, random float64
		want          time.Duration
	}{{0, 0.3, 1000}, {0.1, 0, 900}, {0.1, 1, 1100}, {0.5, 0.5, 1000}} {
		if got := Jittered(1000*time.Millisecond, c.share, c.random); got != c.want*time.Millisecond {
			t.Errorf("share %v, random %v: %v", c.share, c.random, got)
		}
	}
}
