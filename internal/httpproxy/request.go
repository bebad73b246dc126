package httpproxy

import (
	"syscall"

	"salp/internal/engine"
	"salp/internal/errorpage"
	"salp/internal/http1"
	"salp/internal/listen"
	"salp/internal/sock"
)

const errAgain = syscall.EAGAIN

// request takes a request whose head is the first n bytes of data. It comes here again when what it had to wait for is there.
// It is false when the connection is over, or not ours any more.
func (c *conn) request(l *engine.Loop, data []byte, n int) bool {
	p := c.proxy
	r := &p.work.request
	if err := r.Parse(data[:n:n], &p.limits); err != nil {
		return c.malformed(l, data, err)
	}
	ex := c.begun(l)
	if !ex.counted {
		ex.counted = true
		c.requests++
		p.Counters.Requests++
		ex.headIn = int32(n)
		ex.in = int64(n)
	}
	ex.note(l, r)
	c.since = l.Now()
	if answer := c.decide(l, r, data); answer != forward {
		return answer == later
	}
	t := &p.work.target
	tunnel := r.Connect && p.Config.Connects()
	if tunnel && c.up != nil && c.up.uses > 0 { // a tunnel has a connection that nothing was asked on
		c.letGo(l, false)
	}
	if up := c.up; up != nil {
		if up.attempt != nil { // connecting since the client was accepted
			if up.key == t.key() {
				c.wait(l, data, dialing)
				return true
			}
			c.letGo(l, false)
		} else if !up.fits(t) {
			c.letGo(l, false)
		}
	}
	if c.up == nil {
		if !c.reach(l, t, ex.fresh || tunnel) {
			return false
		}
		if c.up == nil || c.up.attempt != nil {
			if c.up != nil {
				c.wait(l, data, dialing)
			}
			return true
		}
	}
	if tunnel {
		return c.connectDone(l, data[n:])
	}
	return c.forward(l, r, data, n)
}

// fits says whether the connection's upstream may have the request.
func (up *upstream) fits(t *target) bool {
	k := t.key()
	if k.pool != nil {
		if e := up.place.Endpoint(); e == nil || !e.Usable() {
			return false
		}
		k.server = up.key.server
	}
	k.way = up.key.way // the client is the same
	return up.key == k && !up.stale && !up.closing && !up.eof
}

// wait holds the request until something has happened.
func (c *conn) wait(l *engine.Loop, data []byte, s state) {
	c.keep(l, data)
	c.begin(l, s)
}

// resume goes on with a request that was held.
func (c *conn) resume(l *engine.Loop) {
	c.state, c.since = readingHead, l.Now()
	if c.in == nil { // cannot be: who waits holds a request
		c.reset(l)
		return
	}
	if c.use(l, c.in) {
		c.advance(l)
	}
}

// connected goes on when the server is connected.
func (c *conn) connected(l *engine.Loop) {
	switch {
	case c.opaque:
		c.tunnel(l, c.in)
	case c.state == dialing:
		c.resume(l)
	case c.state == waitingForHead || c.state == readingHead:
		c.since = l.Now()
		if c.up.readable || c.up.closing { // it speaks first
			c.uncalled(l)
			return
		}
		c.readHead(l)
	}
}

// note takes down of a request what is needed when its bytes are gone.
func (ex *exchange) note(l *engine.Loop, r *http1.Request) {
	if ex.head == nil {
		ex.keep(l, r.Raw)
	}
	ex.parsed = true
	ex.minor = r.Minor
	ex.persistent = r.Persistent()
	ex.headOnly = r.HeadOnly
	ex.connect = r.Connect
	ex.req.body = r.Body()
}

// keep holds the request's head.
func (ex *exchange) keep(l *engine.Loop, head []byte) {
	if len(head) > usualHead {
		ex.head = append(lend(l, len(head)), head...)
		return
	}
	ex.room = append(ex.room[:0], head...)
	ex.head = ex.room
}

// forward sends the request to the server, with as much of its body as is there.
func (c *conn) forward(l *engine.Loop, r *http1.Request, data []byte, n int) bool {
	p, ex, up := c.proxy, c.ex, c.up
	ex.repeatable = ex.req.body.Done() && idempotent(r.Method.Of(r.Raw))
	if up.uses > 0 && !ex.repeatable && !up.quiet() {
		c.letGo(l, false)
		return c.request(l, data, n)
	}
	taken, err := ex.req.body.Next(data[n:], &p.limits, nil)
	if err != nil {
		return c.malformed(l, data, err)
	}
	e := &p.work.edits
	e.Reset()
	ex.upgrade = r.Tunnels()
	r.Forward(e, http1.ToServer{Upgrade: true, Consume: p.Config.IsProxy(), Host: c.hostFor(r)})
	p.edit(e, r, c, &p.work.target)
	fromScratch := c.in == nil
	out := p.assemble(l, e, r.Raw, data[:n+taken], fromScratch)
	ex.sending = true
	c.noteServer()
	ex.in += int64(taken)
	c.state, c.since = exchanging, l.Now()
	if up.uses++; up.uses > 1 {
		p.Counters.Reused++
		if !up.plain {
			sock.SetNoDelay(int(up.fd))
			up.plain = true
		}
	}
	failed := ex.req.send(l, up.fd, out)
	c.keep(l, data[n+taken:])
	ex.req.over = ex.req.body.Done() && ex.req.rest == nil
	c.setTimer(l)
	if failed != 0 {
		ex.deaf = true
		return c.serverBroken(l, failed)
	}
	if !ex.req.over && !c.pumpRequest(l) {
		return false
	}
	if c.state == exchanging && c.up == up && up.readable {
		return c.pumpResponse(l)
	}
	return true
}

// assemble returns whole with its head changed: the very bytes when nothing is. In the scratch buffer, of which
// whole must be a part with all of its capacity, there is room before it for a head that has grown.
func (p *Proxy) assemble(l *engine.Loop, e *http1.Edits, head, whole []byte, fromScratch bool) []byte {
	if e.Empty() {
		return whole
	}
	w := p.work
	w.head = e.Append(w.head[:0], head)
	body := whole[len(head):]
	at := cap(l.Scratch()) - cap(whole) // where whole is in the scratch buffer
	if grown := len(w.head) - len(head); fromScratch && grown <= at && len(body) > 0 {
		start := at - grown
		copy(l.Scratch()[start:], w.head)
		return l.Scratch()[start : at+len(whole)]
	}
	w.head = append(w.head, body...)
	return w.head
}

// pumpRequest moves the request's body on. It is false when the connection is over, or not ours any more.
func (c *conn) pumpRequest(l *engine.Loop) bool {
	ex, up := c.ex, c.up
	if ex.req.over || ex.deaf || !ex.sending || up == nil {
		return true
	}
	o := c.proxy.carry(l, &ex.req, &c.inlet, c.fd, up.fd)
	m := &c.proxy.work.moved
	if m.bytes > 0 {
		ex.in += m.bytes - int64(len(m.extra))
		c.proxy.Counters.BytesIn += uint64(m.bytes)
		c.since = l.Now()
		ex.repeatable = false
	}
	if len(m.extra) > 0 {
		c.keep(l, m.extra)
	}
	switch o {
	case turns:
		l.Again(c.slot)
	case over:
		ex.req.over = true
		c.since = l.Now()
		c.setTimer(l)
	case cut:
		c.proxy.Counters.Errors[listen.ClientReset]++
		ex.aborted = true
		c.reset(l)
		return false
	case lost:
		c.clientBroken(l, m.errno)
		return false
	case bad:
		return c.malformed(l, nil, m.err)
	case unsent:
		ex.deaf = true
		ex.req.drop(l)
		return c.serverBroken(l, m.errno)
	}
	return true
}

// idempotent says whether a request may be repeated when it is not known whether it was carried out (RFC 9110 9.2.2).
func idempotent(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH":
		return true
	}
	return false
}

// unreachable handles a server that could not be connected to.
func (c *conn) unreachable(l *engine.Loop) bool {
	p := c.proxy
	kind := c.up.attempt.Kind
	c.letGo(l, false)
	p.Counters.Errors[kind]++
	if c.opaque {
		cause, _ := causeOf(kind)
		c.recordLost(cause)
	}
	if c.opaque || p.Config.ResetsOnServerFailure() && kind != listen.Loop {
		c.reset(l)
		return false
	}
	if c.state != dialing && (c.ex == nil || c.ex.head == nil) {
		return true // nobody has asked yet: the request will try again, and get the answer
	}
	cause, status := causeOf(kind)
	return c.answer(l, cause, status)
}

// causeOf is what a client is told when a server could not be connected to.
func causeOf(kind listen.Kind) (errorpage.Cause, int) {
	switch kind {
	case listen.ConnectTimeout:
		return errorpage.ServerTimeout, 504
	case listen.NoServer, listen.NoLink, listen.QueueFull, listen.QueueTimeout:
		return errorpage.Unavailable, 503
	case listen.Loop:
		return errorpage.Loop, 508
	case listen.Descriptors, listen.NoPort:
		return errorpage.Unavailable, 503
	case listen.Internal:
		return errorpage.Internal, 500
	}
	return errorpage.Connect, 502
}

// brokenAtOnce handles a server that has accepted the connection and reset it before it was asked anything.
func (c *conn) brokenAtOnce(l *engine.Loop) {
	c.proxy.Counters.Errors[listen.ServerReset]++
	c.up.place.Counters().Resets++
	c.letGo(l, false)
	if c.opaque {
		c.recordLost(errorpage.Reset)
	}
	switch {
	case c.opaque || c.proxy.Config.ResetsOnServerFailure():
		c.reset(l)
	case c.state == dialing:
		c.answer(l, errorpage.Reset, 502)
	}
}
