package httpproxy

import (
	"strings"

	"salp/internal/engine"
	"salp/internal/errorpage"
	"salp/internal/htpasswd"
	"salp/internal/http1"
	"salp/internal/listen"
)

// authenticate wants to know who the client is.
func (c *conn) authenticate(l *engine.Loop, r *http1.Request, data []byte) verdict {
	p := c.proxy
	field, status := "authorization", 401
	if p.Config.IsProxy() {
		field, status = "proxy-authorization", 407
	}
	name, password, ok := htpasswd.Parse(view(r.Get(field)))
	if !ok || p.Shared.Users == nil {
		c.user = ""
		return c.refuse(l, data, errorpage.Auth, status)
	}
	answer := c.answered
	if !c.asked {
		var known bool
		if answer, known = c.check(l, strings.Clone(name), password); !known {
			c.wait(l, data, asking)
			return later
		}
	}
	switch answer {
	case htpasswd.Right:
		if c.user != name {
			c.user = strings.Clone(name)
		}
		return forward
	case htpasswd.Busy:
		return c.refuse(l, data, errorpage.Unavailable, 503)
	}
	c.user = ""
	p.Counters.Errors[listen.Denied]++
	return c.refuse(l, data, errorpage.Auth, status)
}

// check checks a password; when the answer is not known yet the request goes on when it is.
func (c *conn) check(l *engine.Loop, name, password string) (htpasswd.Answer, bool) {
	slot := c.slot
	return c.proxy.Shared.Users.Check(name, strings.Clone(password), func(a htpasswd.Answer) {
		l.Post(func() {
			if l.Handler(slot) == engine.Handler(c) && c.state == asking {
				c.asked, c.answered = true, a
				c.resume(l)
			}
		})
	})
}
