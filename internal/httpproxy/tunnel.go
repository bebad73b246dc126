package httpproxy

import (
	"time"

	"salp/internal/accesslog"
	"salp/internal/config"
	"salp/internal/engine"
	"salp/internal/errorpage"
	"salp/internal/http1"
	"salp/internal/listen"
	"salp/internal/relay"
	"salp/internal/sock"
)

// becomeOpaque handles a connection that is not HTTP: it is carried to its server as it is, or closed. data is what has come in.
// It is false when the connection is over, or not ours any more.
func (c *conn) becomeOpaque(l *engine.Loop, data []byte) bool {
	p := c.proxy
	if c.opaque {
		c.keep(l, data)
		return true
	}
	c.opaque = true
	if p.Config.NotHTTP != config.NotHTTPTunnel || p.Config.Pool == "" && p.Config.DestinationOf() == config.DestinationHost {
		p.Counters.Errors[listen.NotHTTP]++
		c.recordOpaque(accesslog.Denied, "not_http", "")
		c.close(l)
		return false
	}
	v := c.judgeOpaque()
	d, kind, ok := p.Rule.Decide(&c.flow)
	if ok && !v.Allow {
		kind, ok = listen.Denied, false
	}
	if !ok {
		p.Counters.Errors[kind]++
		c.recordOpaque(accesslog.Denied, string(errorpage.Denied), v.Place())
		c.reset(l)
		return false
	}
	p.Rule.Mark(&d, v.Marking)
	p.work.target = target{decision: d}
	if c.up != nil && c.up.key != p.work.target.key() { // it was begun before the rule was known, without its marks
		c.letGo(l, false)
	}
	if c.up == nil {
		c.keep(l, data)
		if !c.reach(l, &p.work.target, true) {
			return false
		}
		data = c.in
	}
	if c.up.attempt != nil {
		c.keep(l, data)
		c.state = dialing
		return true
	}
	return c.tunnel(l, data)
}

// tunnel hands the connection over to the relay. data is what the client has sent, and what it still may lie in c.in.
func (c *conn) tunnel(l *engine.Loop, data []byte) bool {
	c.keep(l, data)
	c.handOver(l, nil, c.opaqueEntry())
	return false
}

// connectDone tells the client that the connection it asked for is there.
func (c *conn) connectDone(l *engine.Loop, rest []byte) bool {
	ex := c.ex
	c.keep(l, rest)
	const established = "HTTP/1.1 200 Connection established\r\n\r\n"
	ex.status, ex.answered = 200, 0
	c.proxy.Counters.Statuses[2]++
	ex.sent += int64(len(established))
	c.handOver(l, append(l.Buffer(len(established)), established...), c.entry(l, accesslog.Tunnel))
	return false
}

// switched passes the response on that ends HTTP on this connection: 101, or the answer to a CONNECT that a server has to grant.
func (c *conn) switched(l *engine.Loop, r *http1.Response, data []byte, n int) bool {
	p, ex := c.proxy, c.ex
	if r.Status == 101 && !ex.upgrade || !ex.req.over || ex.resp.rest != nil {
		return c.badResponse(l)
	}
	if ex.judge && !c.judged(l, r) {
		return false
	}
	e := &p.work.edits
	e.Reset()
	r.Forward(e, http1.ToClient{Switching: r.Status == 101})
	out := append(lend(l, e.Size(r.Raw)+len(data)-n), p.assemble(l, e, r.Raw, data, false)...)
	ex.answered, ex.status = int16(r.Status), int16(r.Status)
	p.Counters.Statuses[min(r.Status/100, 5)]++
	ex.sent += int64(len(out))
	c.handOver(l, out, c.entry(l, accesslog.Tunnel))
	return false
}

// handOver gives both sockets to the relay, which carries what comes as it is. toClient is to be sent first, what c.in holds to the server.
func (c *conn) handOver(l *engine.Loop, toClient []byte, e *accesslog.Entry) {
	p, up := c.proxy, c.up
	p.Counters.Tunnels++
	t := relay.Tunnel{Client: int(c.fd), Server: int(up.fd), Place: up.place, Lease: c.flow.Lease, ToServer: c.in, ToClient: toClient}
	if (c.flow.TLS != nil || up.secure != nil) && e == nil {
		t.Note = &relay.Note{Done: func(*relay.Note) {}}
	}
	if e != nil {
		t.Note = &relay.Note{Server: up.key.server, Done: func(n *relay.Note) {
			e.BytesIn += int64(n.In)
			e.BytesOut += int64(n.Out)
			e.End = time.Now()
			p.log.Write(e)
		}}
	}
	if c.flow.TLS != nil {
		t.Note.Broken = &c.flow.TLS.Broken
	}
	if up.secure != nil {
		t.Note.Secure = up.secure
	}
	if up.uses == 0 && up.owing && c.in == nil {
		sock.Ack(int(up.fd))
	}
	if !up.plain {
		sock.SetNoDelay(int(up.fd))
	}
	l.Unwatch(int(c.fd))
	l.Unwatch(int(up.fd))
	l.Remove(c.slot)
	p.idle.forget(up)
	l.Remove(up.slot)
	c.in = nil
	if c.ex != nil {
		c.ex.tunnel = true
		c.done(l)
	}
	p.give(c)
	p.Relay.Adopt(l, &t)
}
