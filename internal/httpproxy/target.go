package httpproxy

import (
	"bytes"
	"net/netip"
	"strconv"
	"time"
	"unsafe"

	"salp/internal/access"
	"salp/internal/config"
	"salp/internal/engine"
	"salp/internal/errorpage"
	"salp/internal/http1"
	"salp/internal/listen"
	"salp/internal/policy"
)

// target is where a request goes.
type target struct {
	decision policy.Decision
	rewrite  *rewrite // nil: as it came
	tls      string   // the name that the server is asked for by TLS; "": without it
	facts    access.Facts
}

// verdict is what became of a request that was decided on.
type verdict uint8

const (
	forward verdict = iota // to work.target
	later                  // it waits, or was answered
	gone                   // the connection is over
)

// view is a string of bytes that do not change while it is used.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// decide decides what becomes of a request.
func (c *conn) decide(l *engine.Loop, r *http1.Request, data []byte) verdict {
	p, ex := c.proxy, c.ex
	t := &p.work.target
	*t = target{}
	if p.Shared.rate != nil && !ex.fresh && !c.allowance(l) {
		p.Counters.Errors[listen.RateLimit]++
		return c.refuse(l, data, errorpage.TooMany, 429)
	}
	switch {
	case r.Form == http1.Absolute && string(bytes.ToLower(r.Scheme.Of(r.Raw))) != c.scheme():
		return c.refuse(l, data, errorpage.NotImplemented, 501)
	case p.Config.Connects() && (r.Form == http1.Origin || r.Form == http1.Asterisk):
		p.Counters.Errors[listen.BadRequest]++ // a browser that takes the proxy for a web server
		return c.refuse(l, data, errorpage.BadRequest, 400)
	}
	var kind listen.Kind
	var ok bool
	if t.decision, kind, ok = p.Rule.Decide(&c.flow); !ok {
		p.Counters.Errors[kind]++
		cause, status := causeOf(kind)
		return c.refuse(l, data, cause, status)
	}
	host := access.Host(view(r.Host))
	port := c.port(r)
	if p.Config.Auth != nil {
		if v := c.authenticate(l, r, data); v != forward {
			return v
		}
	}
	if p.Shared.Access != nil || p.Shared.Routes != nil {
		if v := c.judge(l, r, data, host, port); v != forward {
			return v
		}
	}
	destination := p.Config.DestinationOf()
	route := int(ex.route) - 1
	if p.Shared.Upstream != nil && !(r.Connect && p.Config.Connects()) {
		if t.tls = host; host == "" {
			t.tls = c.flow.Original.Addr().String()
		}
		if port == 80 {
			port = 443
		}
	}
	if route >= 0 {
		rt := &p.Config.Routes[route]
		t.rewrite = p.Shared.rewrites[route]
		if t.tls != "" && t.rewrite != nil && t.rewrite.host != "" {
			t.tls = access.Host(t.rewrite.host)
		}
		t.decision.Pool = nil
		if rt.Pool != "" {
			t.decision.Pool = p.Shared.Pools[rt.Pool]
			return forward
		}
		destination = rt.Destination
	} else if t.decision.Pool != nil {
		return forward
	}
	if destination == config.DestinationHost {
		if t.rewrite != nil && t.rewrite.host != "" {
			host, port = access.Host(t.rewrite.host), portIn(t.rewrite.host, t.tls != "")
		}
		return c.byName(l, data, host, port)
	}
	return forward
}

// refuse answers the request in data.
func (c *conn) refuse(l *engine.Loop, data []byte, cause errorpage.Cause, status int) verdict {
	c.keep(l, data)
	if c.answer(l, cause, status) {
		return later
	}
	return gone
}

// port is the port that the request names, or else means.
func (c *conn) port(r *http1.Request) uint16 {
	if _, port := http1.SplitHost(r.Host); len(port) > 0 {
		n, err := strconv.ParseUint(view(port), 10, 16)
		if err == nil {
			return uint16(n)
		}
	}
	if c.proxy.Config.Intercept != nil && r.Form != http1.Absolute {
		return c.flow.Original.Port()
	}
	return portIn("", c.secure())
}

// secure says that the client asks for something by https. A proxy that is spoken to by TLS is asked for tunnels then, and itself for http alone.
func (c *conn) secure() bool { return c.flow.TLS != nil && !c.proxy.Config.IsProxy() }

// scheme is that of what the client asks for.
func (c *conn) scheme() string {
	if c.secure() {
		return "https"
	}
	return "http"
}

func portIn(host string, secure bool) uint16 {
	if _, port := http1.SplitHost([]byte(host)); len(port) > 0 {
		n, err := strconv.ParseUint(string(port), 10, 16)
		if err == nil {
			return uint16(n)
		}
	}
	if secure {
		return 443
	}
	return 80
}

// header shows the fields of a request to the rules.
type header http1.Request

// Value implements access.Header.
func (h *header) Value(name string, n int) (string, bool) {
	for i := range h.Fields {
		f := &h.Fields[i]
		if !sameName(f.Name.Of(h.Raw), name) {
			continue
		}
		if n == 0 {
			return view(f.Value.Of(h.Raw)), true
		}
		n--
	}
	return "", false
}

// sameName compares field names, ASCII letters without regard to case.
func sameName(b []byte, name string) bool {
	if len(b) != len(name) {
		return false
	}
	for i, x := range b {
		y := name[i]
		if x >= 'A' && x <= 'Z' {
			x |= 0x20
		}
		if y >= 'A' && y <= 'Z' {
			y |= 0x20
		}
		if x != y {
			return false
		}
	}
	return true
}

// byName says whether a request goes to the host that it names: then that is the server that rules ask about. route is -1 for none; one that leads to a place that
// the configuration names changes nothing.
func (p *Proxy) byName(route int) bool {
	if route >= 0 {
		if rt := &p.Config.Routes[route]; rt.Pool == "" && (rt.Rewrite == nil || rt.Rewrite.Host == "") {
			return rt.Destination == config.DestinationHost
		}
	}
	return p.Config.Pool == "" && p.Config.DestinationOf() == config.DestinationHost
}

// gather gathers the facts that are known of the request, which goes to the host that it names or not.
func (c *conn) gather(r *http1.Request, host string, port uint16, byName bool) {
	p := c.proxy
	path := r.Path.Of(r.Raw)
	if i := bytes.IndexByte(path, '?'); i >= 0 {
		path = path[:i]
	}
	f := &p.work.target.facts
	*f = access.Facts{
		Client: c.flow.Client.Addr(), Port: port, Method: view(r.Method.Of(r.Raw)), Host: host, Path: view(path), Header: (*header)(r),
		Listener: p.name, Time: time.Now(), User: c.user,
	}
	if c.flow.TLS != nil {
		f.SNI, f.ALPN = c.flow.TLS.ServerName, c.flow.TLS.ALPN
	}
	if !(r.Connect && p.Config.Connects()) { // a tunnel of our own has no response that could be judged
		f.Missing = access.Response
	}
	if p.Config.Intercept != nil {
		f.Missing |= access.Verification
	} else {
		f.HostVerified = true // a host that we look up ourselves is the one that is connected to
	}
	switch {
	case byName:
		f.Missing |= access.Address
	case p.Config.Intercept != nil:
		f.Server, f.Port = c.flow.Original.Addr(), c.flow.Original.Port()
	}
}

// judge asks the access rules and the routes, and finds out what they want to know. Where a route leads to another server than the rules were asked about,
// they are asked again.
func (c *conn) judge(l *engine.Loop, r *http1.Request, data []byte, host string, port uint16) verdict {
	p, ex := c.proxy, c.ex
	byName := p.byName(-1)
	c.gather(r, host, port, byName)
	if v := c.allowed(l, data, host); v != forward {
		return v
	}
	for p.Shared.Routes != nil {
		route, needs := p.Shared.Routes.Choose(&p.work.target.facts)
		if needs == 0 {
			ex.route = int16(route) + 1
			break
		}
		if answer := c.findOut(l, data, host, needs); answer != forward {
			return answer
		}
	}
	if p.Shared.Access != nil && p.byName(int(ex.route)-1) != byName {
		c.gather(r, host, port, !byName)
		return c.allowed(l, data, host)
	}
	return forward
}

// allowed asks the access rules.
func (c *conn) allowed(l *engine.Loop, data []byte, host string) verdict {
	p, ex := c.proxy, c.ex
	t := &p.work.target
	for p.Shared.Access != nil {
		v := p.Shared.Access.Decide(&t.facts)
		if more := v.Needs &^ access.Response; more != 0 {
			if answer := c.findOut(l, data, host, more); answer != forward {
				return answer
			}
			continue
		}
		if p.log != nil || !v.Allow {
			ex.rule = v.Place()
		}
		if !v.Allow {
			p.Counters.Errors[listen.Denied]++
			return c.refuse(l, data, errorpage.Denied, 403)
		}
		ex.judge = v.Needs&access.Response != 0
		if v.Marking != nil {
			p.Rule.Mark(&t.decision, v.Marking)
		}
		break
	}
	return forward
}

// findOut finds out what a rule asks about. forward: it is among the facts now.
func (c *conn) findOut(l *engine.Loop, data []byte, host string, needs access.Need) verdict {
	f := &c.proxy.work.target.facts
	if needs&access.User != 0 { // without auth there are no users
		f.Missing &^= access.User
		return forward
	}
	if c.proxy.Shared.Resolver == nil {
		f.Missing &^= access.Address | access.Verification
		return forward
	}
	n := c.find(l, host)
	if n == nil {
		c.ask(l, data, host)
		return later
	}
	if f.Missing&access.Verification != 0 {
		f.HostVerified = n.has(c.flow.Original.Addr())
	}
	if f.Missing&access.Address != 0 {
		f.Server, _ = n.pick(c.family())
	}
	f.Missing &^= access.Address | access.Verification
	return forward
}

// judged asks the rules again when the response's head is there. It is false when the connection is over, or the response was another.
func (c *conn) judged(l *engine.Loop, response *http1.Response) bool {
	p, ex := c.proxy, c.ex
	r := &p.work.logged
	if err := r.Parse(ex.head, &p.limits); err != nil {
		return c.badResponse(l)
	}
	t := &p.work.target
	byName := p.byName(int(ex.route) - 1)
	c.gather(r, access.Host(view(r.Host)), c.port(r), byName)
	t.facts.Missing = 0
	if n := c.lookup; n != nil {
		if p.Config.Intercept != nil {
			t.facts.HostVerified = n.has(c.flow.Original.Addr())
		}
	}
	if p.Config.Intercept == nil || byName {
		t.facts.Server = c.up.key.server.Addr()
	}
	t.facts.ContentType = access.MediaType(view(response.Known(http1.ContentType)))
	v := p.Shared.Access.Decide(&t.facts)
	if v.Allow {
		return true
	}
	ex.rule = v.Place()
	p.Counters.Errors[listen.Denied]++
	ex.judge = false
	c.letGo(l, false)
	c.answer(l, errorpage.ResponseDenied, 403)
	return false
}

// judgeOpaque asks the rules about a connection that is not HTTP.
func (c *conn) judgeOpaque() access.Verdict {
	p := c.proxy
	if p.Shared.Access == nil {
		return access.Verdict{Allow: true, Rule: access.NoRule}
	}
	f := &p.work.target.facts
	*f = access.Facts{Client: c.flow.Client.Addr(), Server: c.flow.Original.Addr(), Port: c.flow.Original.Port(), Listener: p.name, Time: time.Now()}
	return p.Shared.Access.Decide(f)
}

// family is what a server must have to be reached with the client's address.
func (c *conn) family() netip.Addr {
	if c.proxy.work.target.decision.Source.IsValid() {
		return c.flow.Client.Addr()
	}
	return netip.Addr{}
}

// byName has the request go to a host that is looked up.
func (c *conn) byName(l *engine.Loop, data []byte, host string, port uint16) verdict {
	p := c.proxy
	if host == "" || port == 0 {
		return c.refuse(l, data, errorpage.BadRequest, 400)
	}
	n := c.find(l, host)
	if n == nil {
		if p.Shared.Resolver == nil {
			p.Counters.Errors[listen.NoName]++
			return c.refuse(l, data, errorpage.Name, 502)
		}
		c.ask(l, data, host)
		return later
	}
	a, ok := n.pick(c.family())
	if !ok {
		p.Counters.Errors[listen.NoName]++
		return c.refuse(l, data, errorpage.Name, 502)
	}
	t := &p.work.target
	t.decision.Server = netip.AddrPortFrom(a, port)
	t.decision.Pool = nil
	return forward
}

// allowance takes the request off what the client may send; once for each request.
func (c *conn) allowance(l *engine.Loop) bool {
	if c.ex.allowed {
		return true
	}
	c.ex.allowed = true
	return c.proxy.Shared.rate.Take(c.flow.Client.Addr(), time.Now())
}
