package httpproxy

import (
	"salp/internal/engine"
	"salp/internal/errorpage"
	"salp/internal/listen"
	"salp/internal/policy"
)

// LinkLost implements dial.LinkUser. Connections by a link that takes no new flows serve no further request. On a dead one an
// answer will not come: a request that may be repeated, and of whose answer nothing has come, is sent again by another link.
func (u *upstream) LinkLost(l *engine.Loop, links *policy.Links) {
	if u.attempt != nil {
		u.reached(l, u.attempt.LinkLost(l), 0)
		return
	}
	link := u.place.Link()
	if !links.Down(link) {
		return
	}
	u.stale = true
	switch {
	case u.conn == nil:
		u.proxy.idle.remove(u)
		u.close(l)
	case links.Dead(link):
		u.conn.linkDead(l)
	}
}

// linkDead gives up what is under way on a connection whose link is dead.
func (c *conn) linkDead(l *engine.Loop) {
	p, ex := c.proxy, c.ex
	switch {
	case ex == nil || !ex.sending:
		c.letGo(l, false)
		if !c.sniffed && c.requests == 0 { // its server was to speak first
			p.Counters.Errors[listen.LinkDown]++
			c.reset(l)
		}
	case ex.repeatable && !ex.headed && ex.out == nil && ex.sent == 0:
		c.repeat(l)
	default:
		p.Counters.Errors[listen.LinkDown]++
		c.letGo(l, false)
		if ex.headed || ex.sent > 0 || p.Config.ResetsOnServerFailure() {
			c.reset(l)
			return
		}
		c.answer(l, errorpage.Reset, 502)
	}
}
