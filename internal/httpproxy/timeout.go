package httpproxy

import (
	"time"

	"salp/internal/engine"
	"salp/internal/errorpage"
	"salp/internal/listen"
)

const (
	// lingerFor is how long a client may go on sending after the last answer.
	lingerFor = 2 * time.Second
	// sniffFor is how long a client may take to show that it speaks HTTP, where it may be something else. Where rules read requests it has the time of a
	// head, and gets 408: one that writes slowly must not pass them by.
	sniffFor = 3 * time.Second
	// askFor bounds what goroutines are asked for. They have bounds of their own; this one is for what nobody thought of.
	askFor = time.Minute
)

// bound is the bound of time that the state has; 0: none.
func (c *conn) bound() time.Duration {
	t := &c.proxy.Config.HTTP.Timeouts
	switch c.state {
	case waitingForHead:
		return t.Keepalive
	case readingHead:
		if c.undecided() && (t.Head == 0 || t.Head > sniffFor) {
			return sniffFor
		}
		return t.Head
	case asking:
		return askFor
	case exchanging:
		if c.ex.req.over && !c.ex.headed {
			return t.Response
		}
		return t.Body
	case lingering:
		return lingerFor
	}
	return 0
}

// undecided says that the connection becomes a tunnel if its client says no more.
func (c *conn) undecided() bool { return !c.sniffed && c.up != nil && !c.proxy.guarded }

// setTimer sees to it that the timer comes no later than the state's bound. It is left alone where it comes earlier: then it looks.
func (c *conn) setTimer(l *engine.Loop) {
	bound := c.bound()
	if bound <= 0 {
		return
	}
	due := c.since + int64(bound)
	if c.due == 0 || due < c.due {
		c.due = due
		l.SetTimer(c.slot, time.Duration(due-l.Now()))
	}
}

func (c *conn) timer(l *engine.Loop) {
	c.due = 0
	if bound := c.bound(); bound > 0 && time.Duration(l.Now()-c.since) >= bound {
		c.expired(l)
		return
	}
	c.setTimer(l)
}

// expired ends what has taken too long.
func (c *conn) expired(l *engine.Loop) {
	n := c.proxy.Counters
	switch c.state {
	case waitingForHead:
		c.close(l)
	case readingHead:
		if c.undecided() {
			c.becomeOpaque(l, c.in)
			return
		}
		n.Errors[listen.HeadTimeout]++
		c.begun(l).close = true
		c.answer(l, errorpage.Timeout, 408)
	case asking:
		n.Errors[listen.Internal]++
		c.answer(l, errorpage.Internal, 500)
	case exchanging:
		switch {
		case c.ex.headed:
			n.Errors[listen.BodyTimeout]++
			c.reset(l)
		case c.ex.req.over:
			n.Errors[listen.ResponseTimeout]++
			c.up.place.Counters().TimedOut++
			if c.proxy.Config.ResetsOnServerFailure() {
				c.reset(l)
				return
			}
			c.answer(l, errorpage.ServerTimeout, 504)
		case c.ex.req.blocked: // it is the server that does not take it
			n.Errors[listen.BodyTimeout]++
			c.answer(l, errorpage.ServerTimeout, 504)
		default:
			n.Errors[listen.BodyTimeout]++
			c.ex.close = true
			c.answer(l, errorpage.Timeout, 408)
		}
	case lingering:
		c.close(l)
	}
}
