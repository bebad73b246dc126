package httpproxy

import (
	"net/http"
	"strconv"
	"time"

	"salp/internal/engine"
	"salp/internal/errorpage"
	"salp/internal/htpasswd"
	"salp/internal/http1"
	"salp/internal/listen"
)

// malformed refuses a request. What follows it cannot be told apart from it, so the connection ends.
func (c *conn) malformed(l *engine.Loop, data []byte, err *http1.Error) bool {
	ex := c.begun(l)
	if !ex.counted {
		ex.counted = true
		c.requests++
		c.proxy.Counters.Requests++
		ex.in = int64(len(data))
	}
	c.proxy.Counters.Errors[listen.BadRequest]++
	if c.up != nil && ex.sending {
		c.up.conn = nil
		c.up.reset(l) // the server must not take what it has for a whole request
		c.up = nil
	}
	ex.close = true
	cause := errorpage.BadRequest
	switch err.Status {
	case 413, 414, 431:
		cause = errorpage.TooLong
	case 501, 505:
		cause = errorpage.NotImplemented
	}
	return c.answer(l, cause, err.Status)
}

// answer answers a request in the server's place, where nothing of a response was sent yet. It is false when the connection is over.
func (c *conn) answer(l *engine.Loop, cause errorpage.Cause, status int) bool {
	p, ex := c.proxy, c.begun(l)
	c.letGo(l, false)
	ex.cause = cause
	if ex.headed || ex.sent > 0 && ex.resp.rest != nil {
		c.reset(l)
		return false
	}
	switch {
	case ex.sending:
		ex.close = ex.close || !ex.req.over
	case ex.parsed && !ex.close && ex.req.body.Done() && len(c.in) >= len(ex.head):
		ex.req.over = true
		c.keep(l, c.in[len(ex.head):]) // the request lies at its beginning
	default:
		ex.close = true
	}
	ex.req.drop(l)
	ex.resp.drop(l)
	ex.close = ex.close || !ex.persistent || c.eof && c.in == nil || p.draining || p.last(c.requests)
	if ex.close {
		c.drop(l)
	}
	out := p.page(c, cause, status)
	ex.status = int16(status)
	p.Counters.Statuses[min(status/100, 5)]++
	ex.headed, ex.resp.body, ex.resp.over = true, http1.Body{}, false
	ex.sent += int64(len(out))
	c.state, c.since = exchanging, l.Now()
	c.setTimer(l)
	p.Counters.BytesOut += uint64(len(out))
	if e := ex.resp.send(l, c.fd, out); e != 0 {
		c.clientBroken(l, e)
		return false
	}
	return c.pumpBody(l)
}

// page makes the answer: an error page in the client's language.
func (p *Proxy) page(c *conn, cause errorpage.Cause, status int) []byte {
	ex, w := c.ex, p.work
	a := errorpage.Asked{Cause: cause, Status: status, Client: c.flow.Client.Addr().String(), Rule: ex.rule}
	if ex.parsed {
		r := &w.logged
		if r.Parse(ex.head, &p.limits) == nil {
			a.Accept, a.AcceptLanguage = string(r.Get("accept")), string(r.Get("accept-language"))
			a.URL = string(p.url(r, c))
		}
	}
	page := p.Shared.Pages.Page(&a)
	b := append(w.head[:0], "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	b = append(b, "\r\nDate: "...)
	b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
	b = append(b, "\r\nCache-Control: no-store\r\nContent-Type: "...)
	b = append(b, page.ContentType...)
	if page.Language != "" {
		b = append(b, "\r\nContent-Language: "...)
		b = append(b, page.Language...)
	}
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(page.Body)), 10)
	if p.Config.Auth != nil && (status == 407 || status == 401) {
		b = p.challenge(b, status)
	}
	if cause == errorpage.TooMany {
		b = append(b, "\r\nRetry-After: 1"...) // a rate is so many a second
	}
	switch {
	case ex.close:
		b = append(b, "\r\nConnection: close"...)
	case ex.minor == 0:
		b = append(b, "\r\nConnection: keep-alive"...)
	}
	b = append(b, "\r\n\r\n"...)
	if !ex.headOnly {
		b = append(b, page.Body...)
	}
	w.head = b
	return b
}

// challenge asks for a name and a password (RFC 7617).
func (p *Proxy) challenge(b []byte, status int) []byte {
	name := "\r\nWWW-Authenticate: "
	if status == 407 {
		name = "\r\nProxy-Authenticate: "
	}
	b = append(b, name...)
	return append(b, htpasswd.Challenge(p.Config.Auth.Basic.Realm)...)
}
