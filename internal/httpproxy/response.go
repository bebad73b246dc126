package httpproxy

import (
	"syscall"

	"salp/internal/engine"
	"salp/internal/errorpage"
	"salp/internal/http1"
	"salp/internal/listen"
)

// pumpResponse moves the response on: its head, its body, and then the connection to its next request. It is false when the
// connection is over, or not ours any more.
func (c *conn) pumpResponse(l *engine.Loop) bool {
	ex := c.ex
	for !ex.headed {
		if ex.resp.rest != nil && !ex.resp.blocked { // of an interim response
			if e := ex.resp.flush(l, c.fd); e != 0 {
				c.clientBroken(l, e)
				return false
			}
		}
		up := c.up
		if ex.resp.blocked || up == nil || !up.readable && !up.eof {
			return true
		}
		data, e := c.receiveResponse(l)
		switch {
		case e != 0:
			return c.noResponse(l, e)
		case data == nil && up.eof:
			return c.noResponse(l, 0)
		case data == nil:
			return true
		case !c.readResponse(l, data):
			return false
		case c.ex != ex || ex.headed: // the exchange is over, or its body was moved on already
			return true
		}
	}
	return c.pumpBody(l)
}

// receiveResponse reads from the server, behind the part of a head that is there already.
func (c *conn) receiveResponse(l *engine.Loop) ([]byte, syscall.Errno) {
	ex, up := c.ex, c.up
	if ex.out == nil {
		n, e := up.read(up.fd, l.Scratch()[headroom:])
		if n == 0 {
			return nil, e
		}
		c.proxy.Counters.BytesOut += uint64(n)
		return l.Scratch()[headroom : headroom+n], e
	}
	ex.out = grow(l, ex.out)
	n, e := up.read(up.fd, ex.out[len(ex.out):cap(ex.out)])
	if n == 0 {
		return nil, e
	}
	c.proxy.Counters.BytesOut += uint64(n)
	ex.out = ex.out[:len(ex.out)+n]
	return ex.out, e
}

// readResponse takes the heads in data: any number of interim ones, and the final one with what is there of the body.
func (c *conn) readResponse(l *engine.Loop, data []byte) bool {
	p, ex := c.proxy, c.ex
	r := &p.work.response
	for len(data) > 0 {
		n, err := ex.scan.Next(data, &p.limits)
		if err == nil && n == 0 {
			ex.hold(l, data)
			return true
		}
		ex.scan = http1.Scan{}
		if err == nil {
			err = r.Parse(data[:n:n], &p.limits)
		}
		switch {
		case err != nil:
			return c.badResponse(l)
		case r.Status == 101:
			return c.switched(l, r, data, n)
		case r.Status >= 200:
			return c.respond(l, r, data, n)
		case !c.interim(l, r):
			return false
		}
		data = data[n:]
	}
	ex.hold(l, nil)
	return true
}

// hold keeps the part of a response's head that is there.
func (ex *exchange) hold(l *engine.Loop, data []byte) {
	switch {
	case ex.out != nil && len(data) == 0:
		l.Return(ex.out)
		ex.out = nil
	case ex.out != nil:
		ex.out = ex.out[:copy(ex.out[:cap(ex.out)], data)]
	case len(data) > 0:
		ex.out = append(lend(l, len(data)), data...)
	}
}

// interim passes a 1xx on. A client of HTTP/1.0 must not see it (RFC 9110 15.2).
func (c *conn) interim(l *engine.Loop, r *http1.Response) bool {
	c.since = l.Now()
	if c.ex.minor == 0 {
		return true
	}
	e := &c.proxy.work.edits
	e.Reset()
	r.Forward(e, http1.ToClient{})
	out := c.proxy.assemble(l, e, r.Raw, r.Raw, false)
	c.ex.sent += int64(len(out))
	if e := c.ex.resp.send(l, c.fd, out); e != 0 {
		c.clientBroken(l, e)
		return false
	}
	return true
}

// respond passes the head of the final response on, with what is there of the body.
func (c *conn) respond(l *engine.Loop, r *http1.Response, data []byte, n int) bool {
	p, ex, up := c.proxy, c.ex, c.up
	if ex.connect && r.Status < 300 {
		return c.switched(l, r, data, n)
	}
	if ex.judge && !c.judged(l, r) {
		return false
	}
	request := http1.Request{HeadOnly: ex.headOnly, Connect: ex.connect}
	s := &ex.resp
	s.body = r.Body(&request)
	s.dechunk = s.body.Chunked() && ex.minor == 0
	ex.reusable = r.Persistent() && !s.body.UntilClose()
	ex.close = ex.close || !ex.persistent || s.body.UntilClose() || s.dechunk || !ex.req.over || ex.deaf || c.eof && c.in == nil || p.draining || p.last(c.requests)
	ex.answered, ex.status = int16(r.Status), int16(r.Status)
	p.Counters.Statuses[min(r.Status/100, 5)]++
	e := &p.work.edits
	e.Reset()
	r.Forward(e, http1.ToClient{Close: ex.close, KeepAlive: ex.minor == 0, Dechunk: s.dechunk})
	p.editResponse(e, r)
	p.noteResponse(c, r)
	if s.dechunk {
		return c.respondPlain(l, e, r, data, n)
	}
	taken, err := s.body.Next(data[n:], &p.limits, nil)
	if err != nil {
		return c.badResponse(l)
	}
	ex.dirty = n+taken < len(data)
	out := p.assemble(l, e, r.Raw, data[:n+taken], ex.out == nil)
	ex.headOut = int32(len(out) - taken)
	return c.responded(l, up, out)
}

// respondPlain does so for a client that cannot read the chunked coding.
func (c *conn) respondPlain(l *engine.Loop, e *http1.Edits, r *http1.Response, data []byte, n int) bool {
	p, ex := c.proxy, c.ex
	w := p.work
	w.head = e.Append(w.head[:0], r.Raw)
	taken, err := p.follow(&ex.resp, data[n:])
	if err != nil {
		return c.badResponse(l)
	}
	ex.dirty = n+taken < len(data)
	ex.headOut = int32(len(w.head))
	w.head = append(w.head, w.plain...)
	return c.responded(l, c.up, w.head)
}

// responded sends the first bytes of the final response, and goes on with the rest.
func (c *conn) responded(l *engine.Loop, up *upstream, out []byte) bool {
	ex := c.ex
	ex.headed = true
	ex.sent += int64(len(out))
	c.since = l.Now()
	e := ex.resp.send(l, c.fd, out)
	if ex.out != nil {
		ex.hold(l, nil)
	}
	if e != 0 {
		c.clientBroken(l, e)
		return false
	}
	return c.pumpBody(l)
}

// pumpBody moves the response's body on.
func (c *conn) pumpBody(l *engine.Loop) bool {
	p, ex, up := c.proxy, c.ex, c.up
	from, in := int32(-1), &inlet{}
	if up != nil {
		from, in = up.fd, &up.inlet
	}
	o := p.carry(l, &ex.resp, in, from, c.fd)
	m := &p.work.moved
	if m.bytes > 0 {
		ex.sent += m.bytes - int64(len(m.extra))
		p.Counters.BytesOut += uint64(m.bytes)
		c.since = l.Now()
	}
	ex.dirty = ex.dirty || len(m.extra) > 0
	switch o {
	case turns:
		l.Again(c.slot)
	case waits:
		c.setTimer(l)
	case over:
		return c.finish(l)
	case cut:
		p.Counters.Errors[listen.Truncated]++
		up.place.Counters().Resets++
		c.reset(l)
		return false
	case lost:
		p.Counters.Errors[listen.ServerReset]++
		up.place.Counters().Resets++
		c.reset(l)
		return false
	case bad:
		p.Counters.Errors[listen.BadResponse]++
		c.reset(l)
		return false
	case unsent:
		c.clientBroken(l, m.errno)
		return false
	}
	return true
}

// finish ends the exchange: the server's connection is free, and the client's waits for the next request.
func (c *conn) finish(l *engine.Loop) bool {
	ex := c.ex
	ex.close = ex.close || !ex.req.over || c.proxy.draining
	c.letGo(l, ex.reusable && ex.req.over && !ex.dirty && !ex.deaf)
	c.record(l)
	closing, whole := ex.close, ex.req.over
	c.done(l)
	if closing {
		if whole && c.in == nil && !c.readable {
			c.close(l)
			return false
		}
		return c.linger(l)
	}
	if c.eof && c.in == nil {
		c.close(l)
		return false
	}
	c.state, c.since = waitingForHead, l.Now()
	c.setTimer(l)
	if c.in != nil || c.readable {
		l.Again(c.slot) // the next request may be there: it has its own turn
	}
	return true
}

// last says whether this is the last request that a connection may have.
func (p *Proxy) last(requests uint32) bool {
	most := p.Config.HTTP.Limits.Requests
	return most > 0 && int64(requests) >= int64(most)
}

// badResponse handles a response that is not to be passed on.
func (c *conn) badResponse(l *engine.Loop) bool {
	c.proxy.Counters.Errors[listen.BadResponse]++
	c.letGo(l, false)
	return c.answer(l, errorpage.Response, 502)
}

// noResponse handles a server that ends before its response. e is 0 for a FIN.
func (c *conn) noResponse(l *engine.Loop, e syscall.Errno) bool {
	p, ex, up := c.proxy, c.ex, c.up
	if up.uses > 1 && ex.repeatable && ex.out == nil && ex.sent == 0 {
		return c.repeat(l)
	}
	kind, cause := listen.ServerReset, errorpage.Reset
	if up.secure.WasRefused() {
		kind, cause = listen.ServerHandshake, errorpage.ServerTLS
	}
	up.place.Counters().Resets++
	p.Counters.Errors[kind]++
	c.letGo(l, false)
	if p.Config.ResetsOnServerFailure() {
		c.reset(l)
		return false
	}
	return c.answer(l, cause, 502)
}

// repeat sends the request again on a new connection: the server had closed the old one before it came.
func (c *conn) repeat(l *engine.Loop) bool {
	ex := c.ex
	c.letGo(l, false)
	c.proxy.Counters.Retries++
	ex.fresh, ex.sending, ex.deaf = true, false, false
	ex.req.drop(l)
	ex.req, ex.scan = stream{}, http1.Scan{}
	rest := c.in
	c.in = append(lend(l, len(ex.head)+len(rest)), ex.head...)
	c.in = append(c.in, rest...)
	if rest != nil {
		l.Return(rest)
	}
	c.state, c.scan = readingHead, http1.Scan{}
	if !c.use(l, c.in) {
		return false
	}
	c.advance(l)
	return false // whatever became of it, the caller has nothing more to do
}

// serverBroken handles an error of the server's socket. A response that it had sent before is passed on first.
func (c *conn) serverBroken(l *engine.Loop, e syscall.Errno) bool {
	up := c.up
	if c.ex == nil || !c.ex.sending {
		if !c.sniffed && c.requests == 0 {
			c.proxy.Counters.Errors[listen.ServerReset]++
			up.place.Counters().Resets++
			c.reset(l)
			return false
		}
		c.letGo(l, false)
		return true
	}
	up.failed = e
	c.ex.deaf = !c.ex.req.over
	c.ex.req.drop(l)
	up.readable = true
	if !c.pumpResponse(l) {
		return false
	}
	if c.up == up && c.state == exchanging && !c.ex.headed {
		return c.noResponse(l, e)
	}
	return true
}

// uncalled handles what comes from a server that has not been asked anything.
func (c *conn) uncalled(l *engine.Loop) bool {
	up := c.up
	switch {
	case !up.readable && !up.closing && !up.eof:
	case !c.sniffed && c.requests == 0: // it speaks first, or has ended: this is not HTTP
		return c.becomeOpaque(l, c.in)
	default:
		c.letGo(l, false)
	}
	return true
}
