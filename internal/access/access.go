// Package access decides by the access rules of a configuration what is allowed: facts about a connection or a request in, verdict out.
//
// It is pure: it does no I/O, never waits, and allocates nothing where paths and names come in their usual form. What a rule needs to
// know and is not known yet (the user, the server's address, the response) is asked for by the verdict; the caller finds it out and asks again.
// Everything here may be used by all loops at once.
package access

import (
	"net/netip"
	"strings"
	"time"

	"salp/internal/config"
)

// Need is something that a rule asks about, as a set of bits.
type Need uint8

const (
	User         Need = 1 << iota // who the client is: ask for a name and password
	Address                       // the server's address: look the host up
	Verification                  // whether the host resolves to the address that the client dialled
	Response                      // the response's media type
)

// Facts are what is known. Strings may be views of a buffer: they are not kept. The zero value of a fact means that there is none, unless
// its bit in Missing says that it could still be had.
type Facts struct {
	Client   netip.Addr
	Server   netip.Addr
	Port     uint16 // of the server, as the client named it
	Method   string
	Host     string // as Host returns it
	Path     string // as it came, without the query
	Header   Header // nil: none
	SNI      string // as Host returns it
	ALPN     []string
	User     string
	Listener string
	Time     time.Time

	ContentType  string // of the response, as MediaType returns it
	HostVerified bool
	Missing      Need
}

// Header gives the fields of a request's header.
type Header interface {
	// Value returns the value of the nth field (from 0) with the name, whose case does not matter.
	Value(name string, n int) (value string, ok bool)
}

// Verdict is what the rules say.
type Verdict struct {
	Allow   bool
	Rule    int             // index of the rule that decided; NoRule: none matched, which denies
	Needs   Need            // not 0: what must be found out before it is final; see List.Decide
	Marking *config.Marking // of the connection to the server; nil: the listener's
	list    *List
}

// NoRule is the index when no rule matched.
const NoRule = -1

// List is the compiled form of an access list.
type List struct {
	name  string
	rules []rule
}

// rule is one rule: it matches when every condition is met.
type rule struct {
	allow      bool
	conditions []condition
	marking    *config.Marking
	line       int
}

// condition is met or not. needs are the facts it asks about.
type condition struct {
	key    string // as in the file, with not_
	text   string // its items
	not    bool
	needs  Need
	test   tester
	weight int // how dear the test is; cheap ones come first
}

type tester interface{ holds(f *Facts) bool }

// met says whether the condition holds; when that is not known yet, needs says what is missing.
func (c *condition) met(f *Facts) (met bool, needs Need) {
	if missing := c.needs & f.Missing; missing != 0 {
		return false, missing
	}
	return c.test.holds(f) != c.not, 0
}

// match says whether all conditions are met. One that is surely not met settles it, whatever else is missing.
func (r *rule) match(f *Facts) (met bool, needs Need) {
	for i := range r.conditions {
		met, missing := r.conditions[i].met(f)
		if missing != 0 {
			needs |= missing
		} else if !met {
			return false, 0
		}
	}
	return needs == 0, needs
}

// Decide asks the rules in order. When Needs has User, Address or Verification, the rule at hand cannot be judged: find it out and decide again
// (Allow says nothing yet). When it has Response alone, send the request and decide again when the response's head is there; a
// request that would be denied whatever the response is denied at once.
func (l *List) Decide(f *Facts) Verdict {
	v := Verdict{Rule: NoRule, list: l}
	pendingAllow, pendingDeny := NoRule, NoRule
	for i := range l.rules {
		r := &l.rules[i]
		met, needs := r.match(f)
		switch {
		case needs&^Response != 0:
			v.Rule, v.Needs = i, needs&^Response
			return v
		case needs != 0 && r.allow && pendingAllow == NoRule:
			pendingAllow = i
		case needs != 0 && !r.allow && pendingDeny == NoRule:
			pendingDeny = i
		}
		if met {
			v.Rule, v.Allow, v.Marking = i, r.allow, r.marking
			break
		}
	}
	switch {
	case v.Allow && pendingDeny != NoRule:
		v.Needs = Response
	case !v.Allow && pendingAllow != NoRule:
		v.Rule, v.Allow, v.Needs, v.Marking = pendingAllow, true, Response, l.rules[pendingAllow].marking
	}
	return v
}

// Name returns the name of the list.
func (l *List) Name() string { return l.name }

// Mentions says whether any rule asks about one of the needs, so that a caller can do without finding it out.
func (l *List) Mentions(n Need) bool {
	for i := range l.rules {
		for j := range l.rules[i].conditions {
			if l.rules[i].conditions[j].needs&n != 0 {
				return true
			}
		}
	}
	return false
}

// ofRequests are the conditions that ask about what only a request, or its response, can tell.
var ofRequests = map[string]bool{"method": true, "host": true, "path": true, "header": true, "content_type": true, "user": true, "host_verified": true}

// ReadsRequests says whether any rule asks about what only a request can tell. Then a connection of which it is not known whether it is HTTP
// must not be taken for anything else: the rule would not be asked.
func (l *List) ReadsRequests() bool {
	for i := range l.rules {
		for j := range l.rules[i].conditions {
			if ofRequests[strings.TrimPrefix(l.rules[i].conditions[j].key, "not_")] {
				return true
			}
		}
	}
	return false
}

// Routes are the compiled conditions of a listener's routes.
type Routes struct{ rules []rule }

// Choose returns the index of the first route whose conditions are met, or NoRule. When needs is not 0, the route at hand cannot be judged: find
// that out and choose again.
func (r *Routes) Choose(f *Facts) (route int, needs Need) {
	for i := range r.rules {
		met, needs := r.rules[i].match(f)
		if needs != 0 {
			return NoRule, needs
		}
		if met {
			return i, 0
		}
	}
	return NoRule, 0
}
