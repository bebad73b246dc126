package dial

import (
	"net/netip"
	"syscall"

	"salp/internal/engine"
	"salp/internal/listen"
	"salp/internal/policy"
)

// LinkUser is a handler that has, or is making, a connection to a server by an Internet link.
type LinkUser interface {
	// LinkLost is called on the loop when some link has gone down: links.Down and links.Dead tell of a mark whether it was that one.
	LinkLost(l *engine.Loop, links *policy.Links)
}

// reachFirst makes the first try on the server that was chosen, over the link that the rules choose for it.
func (a *Attempt) reachFirst(l *engine.Loop) Progress {
	d := &a.decision
	if d.Links != nil {
		source := d.Source
		if a.around {
			source = netip.AddrPort{}
		}
		origin := d.Comes()
		w, ok := d.Links.Choose(&origin, a.client.Addr(), source, a.dial.Server)
		if !ok {
			return a.fail(listen.NoLink)
		}
		if !a.routed {
			a.tries += len(w.Others)
			a.routed = true
		}
		d.Link, d.Alternatives, a.link = w.Mark, w.Others, 0
	}
	return a.reach(l, d.Link)
}

// nextLink returns the next of the other links that is not known to be down.
func (a *Attempt) nextLink() (mark uint32, ok bool) {
	d := &a.decision
	for a.link < len(d.Alternatives) {
		mark = d.Alternatives[a.link]
		a.link++
		if d.Links == nil || !d.Links.Down(mark) {
			return mark, true
		}
	}
	return 0, false
}

// LinkLost makes the next try at once when the one under way is by a link that has gone down.
func (a *Attempt) LinkLost(l *engine.Loop) Progress {
	d := &a.decision
	if a.stage != connecting || a.fd < 0 || d.Links == nil || !d.Links.Down(a.place.link) {
		return Waiting
	}
	return a.failed(l, syscall.ENETDOWN)
}
