// Package link knows how the Internet links are: what the kernel holds of them, what probes say, what the operator wants, and what follows.
//
// It is pure: what is observed comes in, with the time, and its output is input to plan. A link is up when its interface has a carrier, an
// address and a gateway (given, or learned from others' default routes), its probes are good, and no operator has taken it out.
package link

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"salp/internal/config"
	"salp/internal/health"
	"salp/internal/plan"
)

// State is what a link is fit for.
type State string

const (
	Up    State = "up"
	Down  State = "down"  // no flow can use it
	Drain State = "drain" // takes no new flows by an operator's wish; those it has go on
)

// Wish is what an operator wants of a link.
type Wish string

const (
	WishReady Wish = "ready" // what its checks say counts
	WishDrain Wish = "drain"
	WishDown  Wish = "down"
)

// Change is one change of a link's state.
type Change struct {
	At     time.Time `json:"at"`
	Link   string    `json:"link"`
	Was    State     `json:"was"`
	State  State     `json:"state"`
	Reason string    `json:"reason,omitempty"`
}

// historyKept is how many changes of one link are remembered.
const historyKept = 32

// Link is one link and what is known of it. It belongs to one goroutine, as its Set does.
type Link struct {
	Config  *config.Link
	Number  int // from 1, in the order of the file
	State   State
	Since   time.Time // of State
	Reason  string    // why it is not up, or was not before
	Wish    Wish
	History []Change // the last ones, oldest first
	Downs   uint64   // how often it went down, as long as its state has been kept

	fault   string // what the kernel lacks for the link, "" when nothing
	ways    [2]plan.LinkRoute
	machine *health.Machine // nil: no probes
	targets []target
	pace    pace
}

// Set is all links of a configuration.
type Set struct {
	links []*Link
	cfg   *config.Config
	names map[string][]netip.Addr
}

// New begins to look after the links of a configuration. What is known of links from before, of this process or of the one before it, goes on:
// by name, as long as the interface is the same. A link that nothing is known of counts as up until it is found not to be.
func New(cfg *config.Config, known []Saved, names map[string][]netip.Addr, now time.Time) *Set {
	s := &Set{cfg: cfg, names: names}
	for i, c := range cfg.Links {
		l := &Link{Config: c, Number: i + 1, State: Up, Since: now, Wish: WishReady}
		verdict := health.Verdict{Up: true, Since: now}
		if j := slices.IndexFunc(known, func(k Saved) bool { return k.Name == c.Name && k.Interface == c.Interface }); j >= 0 {
			k := known[j]
			l.State, l.Since, l.Reason, l.Wish, l.History, l.Downs = k.State, k.Since, k.Reason, k.Wish, k.History, k.Downs
			verdict = health.Verdict{Up: k.Good, Known: k.Known, Since: k.Since, Reason: k.Reason}
		}
		if c.Check != nil {
			l.machine = health.New(l.policy(), verdict)
		}
		s.links = append(s.links, l)
	}
	s.aim()
	return s
}

// Saved is what outlives the process that knew it.
type Saved struct {
	Name      string    `json:"name"`
	Interface string    `json:"interface"`
	State     State     `json:"state"`
	Since     time.Time `json:"since"`
	Reason    string    `json:"reason,omitempty"`
	Wish      Wish      `json:"wish"`
	Good      bool      `json:"good"`  // what probes said last
	Known     bool      `json:"known"` // that they said it
	History   []Change  `json:"history,omitempty"`
	Downs     uint64    `json:"downs"`
}

// Saved returns what is to be kept.
func (s *Set) Saved() []Saved {
	var all []Saved
	for _, l := range s.links {
		k := Saved{Name: l.Config.Name, Interface: l.Config.Interface, State: l.State, Since: l.Since, Reason: l.Reason, Wish: l.Wish, History: l.History, Downs: l.Downs}
		if l.machine != nil {
			v := l.machine.Verdict()
			k.Good, k.Known = v.Up, v.Known
		}
		all = append(all, k)
	}
	return all
}

// Links returns the links, in the order of the file. They are only to be read.
func (s *Set) Links() []*Link { return s.links }

// Link returns the link with that name, or nil.
func (s *Set) Link(name string) *Link {
	if i := slices.IndexFunc(s.links, func(l *Link) bool { return l.Config.Name == name }); i >= 0 {
		return s.links[i]
	}
	return nil
}

// policy is what it takes for a link with probes to be up.
func (l *Link) policy() health.Policy {
	c := l.Config.Check
	p := health.Policy{Rise: c.Rise, Fall: c.Fall, Targets: len(l.targets), Quorum: c.Quorum,
		Window: c.Window * max(len(l.targets), 1), Loss: float64(c.Loss) / 100, Latency: c.Latency}
	if c.Damping > 0 {
		p.Damping = health.Damping{Changes: flapsAfter, Window: c.Damping, Hold: c.Damping / flapHold}
	}
	return p
}

const (
	flapsAfter = 3 // going down more often than this within the time of damping is flapping
	flapHold   = 5 // what flaps must be good for this part of the time
)

// Sample takes in how a probe of a link's target ended, and returns the change that follows from it, if any.
func (s *Set) Sample(name string, number int, sample health.Sample) []Change {
	l := s.Link(name)
	if l == nil || l.machine == nil || l.fault != "" { // what a probe says of a link without carrier is known
		return nil
	}
	l.machine.Observe(number, sample)
	l.pace.latency(l.machine.Latency(), sample)
	return l.settle(sample.At)
}

// Order takes in what an operator wants of a link.
func (s *Set) Order(name string, wish Wish, now time.Time) ([]Change, error) {
	l := s.Link(name)
	if l == nil {
		var names []string
		for _, l := range s.links {
			names = append(names, l.Config.Name)
		}
		return nil, fmt.Errorf("there is no link %q: the links are %s", name, strings.Join(names, ", "))
	}
	l.Wish = wish
	return l.settle(now), nil
}

// settle makes the state what follows from all that is known, and returns the change.
func (l *Link) settle(now time.Time) []Change {
	state, reason := Up, ""
	switch {
	case l.fault != "":
		state, reason = Down, l.fault
	case l.Wish == WishDown:
		state, reason = Down, "an operator has taken it down"
	case l.machine != nil && !l.machine.Verdict().Up:
		state, reason = Down, l.machine.Verdict().Reason
	case l.Wish == WishDrain:
		state, reason = Drain, "an operator drains it"
	}
	if reason != "" {
		l.Reason = reason
	}
	if state == l.State {
		return nil
	}
	c := Change{At: now, Link: l.Config.Name, Was: l.State, State: state, Reason: reason}
	if state == Down {
		l.Downs++
	}
	l.State, l.Since = state, now
	l.History = append(l.History, c)
	if extra := len(l.History) - historyKept; extra > 0 {
		l.History = slices.Clone(l.History[extra:])
	}
	return []Change{c}
}

// Facts returns what a plan is to know of the links.
func (s *Set) Facts() []plan.LinkFacts {
	scale := 1
	for _, l := range s.links {
		if l.Config.Adapt != config.AdaptNot {
			scale = adaptScale
		}
	}
	all := make([]plan.LinkFacts, len(s.links))
	for i, l := range s.links {
		all[i] = plan.LinkFacts{
			Name: l.Config.Name, Up: l.State == Up, Reset: l.State == Down && l.Config.OnDown == config.LinkDownReset,
			Weight: l.weight(scale), IPv4: l.ways[0], IPv6: l.ways[1],
		}
	}
	return all
}

// Way returns the way out by the link in a family.
func (l *Link) Way(f plan.Family) plan.LinkRoute {
	if f == plan.IPv6 {
		return l.ways[1]
	}
	return l.ways[0]
}

// Loss and Latency are those of the last probes. known is false when the link has no probes, or none has ended yet.
func (l *Link) Loss() (share float64, latency time.Duration, known bool) {
	if l.machine == nil || !l.machine.Verdict().Known {
		return 0, 0, false
	}
	return l.machine.Loss(), l.machine.Latency(), true
}

// Flapping says that damping holds the link down.
func (l *Link) Flapping(now time.Time) bool {
	return l.machine != nil && l.State == Down && l.machine.Flapping(now)
}
