package httpproxy

import (
	"time"

	"salp/internal/accesslog"
	"salp/internal/engine"
	"salp/internal/errorpage"
	"salp/internal/http1"
)

// record logs an exchange that has ended, whatever became of it.
func (c *conn) record(l *engine.Loop) {
	ex := c.ex
	if ex == nil || !ex.counted || ex.tunnel || ex.logged {
		return
	}
	ex.logged = true
	if ex.status == 0 {
		c.proxy.Counters.Statuses[0]++
	}
	if c.proxy.log == nil {
		return
	}
	action := accesslog.Miss
	switch {
	case ex.cause == errorpage.Denied || ex.cause == errorpage.ResponseDenied || ex.cause == errorpage.Auth:
		action = accesslog.Denied
	case ex.answered == 0:
		action = accesslog.None
	}
	w := c.proxy.work
	c.fill(&w.entry, action)
	c.proxy.log.Write(&w.entry)
}

// fill says what there is to say of the exchange. The strings are views of its buffers.
func (c *conn) fill(e *accesslog.Entry, action accesslog.Action) {
	p, ex := c.proxy, c.ex
	w := p.work
	*e = accesslog.Entry{
		Start: ex.start, End: time.Now(), Client: c.flow.Client, Dialled: c.flow.Original, Listener: p.name, User: c.user, Rule: ex.rule, Cause: string(ex.cause),
		Action: action, Aborted: ex.aborted, Status: int(ex.status), ServerStatus: int(ex.answered), Pool: ex.pool, Server: ex.server, MediaType: ex.media,
		BytesIn: ex.in, BytesOut: ex.sent, HeadIn: int64(ex.headIn), HeadOut: int64(ex.headOut),
	}
	if !ex.parsed {
		return
	}
	r := &w.logged
	if r.Parse(ex.head, &p.limits) != nil {
		return
	}
	e.Method, e.URL, e.Version = view(r.Method.Of(r.Raw)), view(p.url(r, c)), "1.1"
	if r.Minor == 0 {
		e.Version = "1.0"
	}
	w.fields = w.fields[:0]
	for _, name := range p.logged[0] {
		w.fields = append(w.fields, view(r.Get(name)))
	}
	e.Request, e.Response = w.fields, ex.fields
	if c.flow.TLS != nil {
		e.SNI = c.flow.TLS.ServerName
	}
}

// entry is what is logged when a tunnel ends. It is a copy of all it says.
func (c *conn) entry(l *engine.Loop, action accesslog.Action) *accesslog.Entry {
	if c.proxy.log == nil {
		return nil
	}
	c.noteServer()
	e := &accesslog.Entry{}
	c.fill(e, action)
	for _, s := range [...]*string{&e.Method, &e.URL, &e.User, &e.Rule} {
		*s = string(append([]byte(nil), *s...))
	}
	request := make([]string, len(e.Request))
	for i, s := range e.Request {
		request[i] = string(append([]byte(nil), s...))
	}
	e.Request = request
	return e
}

// opaqueEntry is the same of a connection that is not HTTP.
func (c *conn) opaqueEntry() *accesslog.Entry {
	p := c.proxy
	if p.log == nil {
		return nil
	}
	e := c.bare(accesslog.Tunnel)
	e.BytesIn, e.Rule = int64(len(c.in)), c.judgeOpaque().Place()
	if up := c.up; up != nil {
		e.Server = up.key.server
		if point := up.place.Endpoint(); point != nil {
			e.Pool = p.Config.Pool
		}
	}
	return e
}

// bare is what there is to say of a connection without a request.
func (c *conn) bare(action accesslog.Action) *accesslog.Entry {
	now := time.Now()
	return &accesslog.Entry{Start: now, End: now, Client: c.flow.Client, Dialled: c.flow.Original, Listener: c.proxy.name, URL: c.flow.Original.String(), Action: action}
}

// recordLost logs a connection that is not HTTP, and was allowed, whose server could not be had.
func (c *conn) recordLost(cause errorpage.Cause) {
	if c.proxy.log != nil { // or nobody asks which rule it was
		c.recordOpaque(accesslog.Tunnel, string(cause), c.judgeOpaque().Place())
	}
}

// recordOpaque logs a connection that is not HTTP and went nowhere.
func (c *conn) recordOpaque(action accesslog.Action, cause, rule string) {
	if c.proxy.log != nil {
		e := c.bare(action)
		e.Cause, e.Rule = cause, rule
		c.proxy.log.Write(e)
	}
}

// noteServer takes down whom the request was sent to.
func (c *conn) noteServer() {
	ex, up := c.ex, c.up
	ex.server = up.key.server
	if up.key.pool != nil {
		ex.pool = c.proxy.Config.Pool
		if ex.route > 0 {
			ex.pool = c.proxy.Config.Routes[ex.route-1].Pool
		}
	}
}

// noteResponse takes down of a response what the log wants.
func (p *Proxy) noteResponse(c *conn, r *http1.Response) {
	ex := c.ex
	if p.log == nil {
		return
	}
	ex.media = p.mediaType(r.Known(http1.ContentType))
	for _, name := range p.logged[1] {
		ex.fields = append(ex.fields, string(r.Get(name)))
	}
}

// maxMedia bounds the media types whose text a loop remembers.
const maxMedia = 256

// mediaType returns the text of a media type, without its parameters. Few are in use, so that they are remembered and not made anew.
func (p *Proxy) mediaType(b []byte) string {
	for i, x := range b {
		if x == ';' || x == ' ' {
			b = b[:i]
			break
		}
	}
	w := p.work
	if s, ok := w.media[string(b)]; ok {
		return s
	}
	if w.media == nil || len(w.media) >= maxMedia {
		w.media = make(map[string]string)
	}
	s := string(b)
	w.media[s] = s
	return s
}

// url is the URL of a request as the client means it.
func (p *Proxy) url(r *http1.Request, c *conn) []byte {
	switch r.Form {
	case http1.Absolute, http1.Authority:
		return r.Target.Of(r.Raw)
	}
	w := p.work
	w.text = append(append(w.text[:0], c.scheme()...), "://"...)
	if len(r.Host) > 0 {
		w.text = append(w.text, r.Host...)
	} else {
		w.text = c.flow.Original.AppendTo(w.text)
	}
	w.text = append(w.text, r.Target.Of(r.Raw)...)
	return w.text
}
