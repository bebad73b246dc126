// Package httpproxy forwards HTTP/1 between clients and servers, on the engine.
//
// A message goes on as the bytes that came, but for what a proxy must change (package http1). Requests of a client are answered in
// their order, one at a time; what a client sends ahead waits in its socket. A connection that waits for its next request holds its
// struct and nothing else: heads are read into the loop's scratch buffer, and what must be kept meanwhile lies in buffers that the
// loop lends. Bodies go through the scratch buffer, large ones through a pipe (splice(2)).
//
// Connections to servers are kept for further requests, those that carry a client's address for that client alone. One that dies
// before the first byte of a response is replaced by another, once, where the request may be repeated (RFC 9110 9.2.2, RFC 9112 9.3.1).
//
// What is not HTTP, another protocol after 101, and what follows CONNECT is handed to package relay. What takes patience, names and
// passwords, is asked for on goroutines; the connection waits, and goes on when the answer is posted to its loop.
package httpproxy

import (
	"strings"

	"salp/internal/access"
	"salp/internal/accesslog"
	"salp/internal/config"
	"salp/internal/dial"
	"salp/internal/engine"
	"salp/internal/errorpage"
	"salp/internal/htpasswd"
	"salp/internal/http1"
	"salp/internal/listen"
	"salp/internal/policy"
	"salp/internal/pool"
	"salp/internal/relay"
	"salp/internal/sock"
)

// Options are what a proxy works with.
type Options struct {
	Config   *config.Listener
	Listener *listen.Listener
	Counters *listen.Counters // of the listener on this loop
	Rule     *policy.Rule
	Dialer   *dial.Dialer // of the listener on this loop
	Relay    *relay.Relay // the same; it carries on what becomes opaque
	Loop     *Loop        // what the proxies of one loop share
	Shared   *Shared      // what the loops of one listener share
}

// Shared is what all loops of one listener use at once.
type Shared struct {
	Access   *access.List          // nil: everything is allowed
	Routes   *access.Routes        // nil: none
	Pools    map[string]*pool.Pool // that routes may name
	Pages    *errorpage.Pages
	Resolver Resolver        // nil: names cannot be looked up
	Users    *htpasswd.Users // nil: nobody can be authenticated
	Log      *accesslog.Log  // nil: nothing is logged
	// Upstream puts TLS between us and a server: it takes over a connected socket, and returns one in its place. host is the server's name. nil: servers
	// are spoken to without TLS.
	Upstream func(fd int, host string) (int, *dial.Secure, error)
	rate     *listen.Rate
	rewrites []*rewrite // by index of the route; nil: none
}

// Prepare makes what follows from the listener's configuration. It must be called once, before the first New.
func (s *Shared) Prepare(c *config.Listener) {
	if c.HTTP.Limits.Rate > 0 {
		s.rate = listen.NewRate(c.HTTP.Limits.Rate, c.HTTP.Limits.Burst)
	}
	for i := range c.Routes {
		s.rewrites = append(s.rewrites, newRewrite(c.Routes[i].Rewrite))
	}
	if s.Pages == nil {
		s.Pages = &errorpage.Pages{}
	}
}

// Loop is what the proxies of one loop share: room to work in, which holds nothing between two events.
type Loop struct {
	request  http1.Request
	response http1.Response
	logged   http1.Request // of an exchange that has ended
	edits    http1.Edits
	head     []byte // a head with its edits made
	plain    []byte // content without the chunked coding
	text     []byte // what is put into heads
	fields   []string
	target   target
	names    names
	moved    moved
	entry    accesslog.Entry
	media    map[string]string
	free     *exchange // to use again
	spare    int
}

// Proxy serves one listener on one loop. It implements listen.Server.
type Proxy struct {
	Options
	name     string
	limits   http1.Limits
	work     *Loop
	log      *accesslog.Writer
	logged   [2][]string // fields that the log wants, of requests and responses
	idle     idle
	wanted   key              // during a dial: which connection would do
	wanting  *conn            // by whom
	asking   *policy.Decision // of its request
	found    *upstream        // and the one that does
	free     *conn            // structs to use again
	spare    int
	alive    int // keepalive of upstream halves in seconds; 0: off
	draining bool
	guarded  bool // rules read requests: what may become one is not taken for anything else
	early    bool // connect to the server at accept: who speaks first shows whether it is HTTP
}

// New makes a proxy.
func New(o Options) *Proxy {
	l := o.Config.HTTP.Limits
	p := &Proxy{Options: o, name: o.Config.Name, work: o.Loop, alive: sock.Seconds(o.Config.Keepalive)}
	p.limits = http1.Limits{Line: int(l.Line), Head: int(l.Head), Fields: l.Fields}
	p.limits.Line = min(p.limits.Line, p.limits.Head-2)
	if o.Shared.Log != nil {
		p.log = o.Shared.Log.Writer()
		request, response := o.Shared.Log.Fields()
		for i, names := range [...][]string{request, response} {
			for _, name := range names {
				p.logged[i] = append(p.logged[i], strings.ToLower(name)) // as http1 asks for them
			}
		}
	}
	p.idle.init(o.Config.HTTP.Timeouts.ServerKeepalive)
	p.guarded = o.Shared.Access != nil && o.Shared.Access.ReadsRequests()
	c := o.Config
	p.early = o.Shared.Upstream == nil && c.Intercept != nil && c.NotHTTP == config.NotHTTPTunnel && c.Pool == "" && len(c.Routes) == 0 && c.DestinationOf() == config.DestinationOriginal
	o.Dialer.Reuse = p.reuse
	return p
}

// Serve implements listen.Server.
func (p *Proxy) Serve(l *engine.Loop, fd int, f *listen.Flow) {
	c := p.take()
	c.flow, c.fd, c.since = *f, int32(fd), l.Now()
	c.slot = l.Add(c)
	if p.early && !c.reachEarly(l) {
		return
	}
	if e := l.Watch(c.slot, 0, fd); e != 0 {
		p.Counters.Errors[listen.Internal]++
		c.reset(l)
		return
	}
	c.setTimer(l)
}

// Drain has the loop's connections end when the exchanges that are under way have, and closes those to servers that are idle.
func (p *Proxy) Drain(l *engine.Loop) {
	p.draining = true
	p.idle.closeAll(l)
}

// DrainConn closes the connection that waits for another request. It does nothing to any other handler.
func DrainConn(l *engine.Loop, h engine.Handler) {
	if c, ok := h.(*conn); ok && c.state == waitingForHead && c.requests > 0 && c.in == nil && !c.readable {
		c.close(l)
	}
}

// Abort resets a handler that is a connection of a proxy, and does nothing to any other. It says whether it was a client's.
func Abort(l *engine.Loop, h engine.Handler) bool {
	switch c := h.(type) {
	case *conn:
		c.reset(l)
		return true
	case *upstream:
		if c.conn == nil {
			c.proxy.idle.remove(c)
			c.close(l)
		}
	}
	return false
}

// spareConns bounds the structs kept for new connections.
const spareConns = 1024

func (p *Proxy) take() *conn {
	c := p.free
	if c == nil {
		return &conn{proxy: p}
	}
	p.free, c.next = c.next, nil
	p.spare--
	return c
}

func (p *Proxy) give(c *conn) {
	*c = conn{proxy: p}
	if p.spare < spareConns {
		c.next, p.free = p.free, c
		p.spare++
	}
}

var _ listen.Server = (*Proxy)(nil)
