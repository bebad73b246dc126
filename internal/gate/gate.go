// Package gate stands before the relay of a listener whose bytes are not HTTP: it asks the access rules, reads the name that a TLS client asks
// for, chooses the route, gives the connection its marks, and logs it when it has ended.
//
// The first bytes are peeked and stay in the client's socket, so the relay carries all of them, and splices as ever. A gate belongs to
// one loop. A listener that asks for none of this has no gate, and costs what it did.
package gate

import (
	"context"
	"net/netip"
	"strconv"
	"time"

	"salp/internal/access"
	"salp/internal/accesslog"
	"salp/internal/config"
	"salp/internal/engine"
	"salp/internal/listen"
	"salp/internal/policy"
	"salp/internal/pool"
	"salp/internal/relay"
	"salp/internal/resolve"
	"salp/internal/sniff"
	"salp/internal/sock"
)

// Options are what a gate works with.
type Options struct {
	Config   *config.Listener
	Listener *listen.Listener
	Counters *listen.Counters
	Relay    *relay.Relay
	Rule     *policy.Rule
	Pools    map[string]*pool.Pool
	Access   *access.List             // nil: everything is allowed
	Routes   *access.Routes           // nil: there are none
	Log      *accesslog.Log           // nil: nothing is logged
	Resolver *resolve.Resolver        // for names that a rule or a route asks about
	Cause    func(listen.Kind) string // what the log calls a reason
}

// Gate serves one listener on one loop. It implements listen.Server.
type Gate struct {
	Options
	lines *accesslog.Writer
}

// New makes a gate.
func New(o Options) *Gate {
	g := &Gate{Options: o}
	if o.Log != nil {
		g.lines = o.Log.Writer()
	}
	return g
}

// Wanted says whether a listener needs a gate.
func Wanted(c *config.Config, l *config.Listener) bool {
	return l.Protocol == config.ProtocolTLS || l.Protocol == config.ProtocolTCP && (l.Access != "" || c.Logs.Access != nil)
}

const (
	// helloWithin is how long a TLS client may take for its first message. One that says nothing until then waits for the server.
	helloWithin = 3 * time.Second
	// resolveWithin bounds how long a client waits for a name that a rule or route asks about.
	resolveWithin = 5 * time.Second
	client        = 0 // the tag of the client's descriptor
)

// Serve implements listen.Server.
func (g *Gate) Serve(l *engine.Loop, fd int, f *listen.Flow) {
	w := &waiting{gate: g, fd: fd, flow: *f, start: time.Now()}
	if g.Config.Protocol != config.ProtocolTLS {
		w.decide(l)
		return
	}
	w.slot = l.Add(w)
	l.SetTimer(w.slot, helloWithin)
	if e := l.Watch(w.slot, client, fd); e != 0 {
		w.refuse(l, listen.Internal, "internal")
	}
}

// Abort resets a handler that waits at a gate, and does nothing to any other. It says whether it was one.
func Abort(l *engine.Loop, h engine.Handler) bool {
	w, ok := h.(*waiting)
	if ok {
		w.refuse(l, listen.Internal, "aborted")
	}
	return ok
}

// waiting is a connection that nothing is decided about yet.
type waiting struct {
	gate  *Gate
	flow  listen.Flow
	start time.Time
	hello sniff.Hello
	rule  string
	fd    int
	slot  engine.Slot // 0: it is not watched
	need  int         // bytes that there must be before it is worth to look again

	asked    bool         // the name has been looked up
	resolved []netip.Addr // to these
}

// Handle implements engine.Handler.
func (w *waiting) Handle(l *engine.Loop, ev engine.Event) {
	switch {
	case w.asked:
		if ev&engine.Error != 0 && ev&engine.Timer == 0 {
			w.refuse(l, listen.ClientReset, "client_reset")
		}
	case ev&engine.Timer != 0:
		w.strange(l)
	case ev&(engine.Error|engine.Hangup) != 0:
		w.refuse(l, listen.ClientReset, "client_reset")
	default:
		w.look(l, ev&engine.PeerClosed != 0)
	}
}

// look reads what has arrived, without taking it. ended says that no more will.
func (w *waiting) look(l *engine.Loop, ended bool) {
	b := l.Scratch()
	n, e := sock.Peek(w.fd, b)
	if e != 0 {
		return // nothing there, or an error that comes as an event
	}
	b = b[:n]
	if n < w.need && !ended {
		return
	}
	kind, need := sniff.Look(b)
	if kind == sniff.TLS {
		var err error
		if w.hello, need, err = sniff.ReadHello(b); err != nil {
			kind = sniff.Other
		}
	}
	switch {
	case need == 0 && kind == sniff.TLS:
		w.decide(l)
	case need == 0, ended, n == len(l.Scratch()):
		w.strange(l)
	default:
		w.need = need
	}
}

// strange is for a connection that does not begin as TLS does, or whose client says nothing: perhaps the server speaks first.
func (w *waiting) strange(l *engine.Loop) {
	if w.gate.Config.NotHTTP == config.NotHTTPClose {
		w.refuse(l, listen.Denied, "not_tls")
		return
	}
	w.decide(l)
}

// decide asks the rules and the routes, and hands over to the relay.
func (w *waiting) decide(l *engine.Loop) {
	g := w.gate
	facts := w.facts()
	marking := &g.Config.Marking
	if g.Access != nil && !w.allowed(l, &facts, &marking) {
		return
	}
	d, kind, ok := g.Rule.Decide(&w.flow)
	if !ok {
		w.refuse(l, kind, "refused")
		return
	}
	name := g.Config.Pool
	if g.Routes != nil {
		route, needs := g.Routes.Choose(&facts)
		if needs != 0 {
			w.resolve(l)
			return
		}
		if route != access.NoRule {
			r := &g.Config.Routes[route]
			d.Pool, name = g.Pools[r.Pool], r.Pool
			if r.Pool == "" && r.Destination == config.DestinationHost && !w.toHost(l, &d, &facts, &marking) {
				return
			}
		}
	}
	if d.Pool == nil && g.Config.Intercept == nil && d.Server == w.flow.Original {
		w.refuse(l, listen.NoDestination, "no_destination") // who dials Salp names no server but by a route
		return
	}
	g.Rule.Mark(&d, marking)
	w.carry(l, &d, name)
}

// allowed asks the rules. It is false when a name must be looked up first, or the connection has been refused.
func (w *waiting) allowed(l *engine.Loop, facts *access.Facts, marking **config.Marking) bool {
	v := w.gate.Access.Decide(facts)
	if v.Needs&(access.Address|access.Verification) != 0 {
		w.resolve(l)
		return false
	}
	w.rule = v.Place()
	if !v.Allow {
		w.refuse(l, listen.Denied, "denied")
		return false
	}
	if v.Marking != nil {
		*marking = v.Marking
	}
	return true
}

// facts are what is known of the connection.
func (w *waiting) facts() access.Facts {
	g := w.gate
	f := access.Facts{Client: w.flow.Client.Addr(), SNI: w.hello.ServerName, ALPN: w.hello.ALPN, Listener: g.Config.Name, Time: w.start}
	if g.Config.Intercept != nil {
		f.Server, f.Port = w.flow.Original.Addr(), w.flow.Original.Port()
	}
	switch {
	case w.asked:
		for _, a := range w.resolved {
			f.HostVerified = f.HostVerified || a == f.Server.Unmap()
		}
		if !f.Server.IsValid() && len(w.resolved) > 0 {
			f.Server = w.resolved[0]
		}
	case f.SNI != "":
		f.Missing = access.Verification
		if !f.Server.IsValid() {
			f.Missing |= access.Address
		}
	}
	return f
}

// toHost sends the connection to the host that the client names, if the rules allow its address too. It is false when the name must be looked up
// first, has no address, or the connection has been refused.
func (w *waiting) toHost(l *engine.Loop, d *policy.Decision, facts *access.Facts, marking **config.Marking) bool {
	switch {
	case w.hello.ServerName == "":
		w.refuse(l, listen.NoDestination, "no_name")
	case !w.asked:
		w.resolve(l)
	default:
		for _, a := range w.resolved {
			if !d.Source.IsValid() || a.Is4() == d.Source.Addr().Unmap().Is4() {
				d.Pool, d.Server = nil, netip.AddrPortFrom(a, w.flow.Original.Port())
				if w.gate.Access == nil || facts.Server == a {
					return true
				}
				facts.Server, facts.Port = a, d.Server.Port()
				return w.allowed(l, facts, marking)
			}
		}
		w.refuse(l, listen.NoDestination, "name")
	}
	return false
}

// resolve looks the name up, and decides again.
func (w *waiting) resolve(l *engine.Loop) {
	w.asked = true
	if w.slot == 0 { // a name is only there when the client was waited for
		w.decide(l)
		return
	}
	l.SetTimer(w.slot, resolveWithin+time.Second)
	slot, name, resolver := w.slot, w.hello.ServerName, w.gate.Resolver
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), resolveWithin)
		defer cancel()
		answer, err := resolver.Lookup(ctx, name)
		if err != nil {
			answer.Addrs = nil
		}
		l.Post(func() {
			if h := l.Handler(slot); h == engine.Handler(w) {
				w.resolved = answer.Addrs
				w.decide(l)
			}
		})
	}()
}

// leave ends the watch of the client's descriptor.
func (w *waiting) leave(l *engine.Loop) {
	if w.slot != 0 {
		l.Unwatch(w.fd)
		l.Remove(w.slot)
		w.slot = 0
	}
}

// carry hands the connection to the relay.
func (w *waiting) carry(l *engine.Loop, d *policy.Decision, pool string) {
	w.leave(l)
	var note *relay.Note
	if w.gate.lines != nil {
		note = &relay.Note{Done: func(n *relay.Note) { w.log(n, pool) }}
	}
	w.gate.Relay.Carry(l, w.fd, &w.flow, d, note)
}

// alert is TLS's access_denied (RFC 8446 6.2), which tells a client more than a reset does.
var alert = []byte{0x15, 3, 3, 0, 2, 2, 49}

// refuse ends a connection that goes nowhere.
func (w *waiting) refuse(l *engine.Loop, kind listen.Kind, cause string) {
	g := w.gate
	w.leave(l)
	g.Counters.Errors[kind]++
	if kind == listen.Denied && g.Config.Protocol == config.ProtocolTLS && cause == "denied" {
		sock.Recv(w.fd, l.Scratch()) // closing with bytes unread would reset, and the alert be lost
		sock.Send(w.fd, alert, false)
		sock.Close(w.fd)
	} else {
		sock.Reset(w.fd)
	}
	g.Listener.End(g.Counters, w.flow.Lease)
	if g.lines == nil {
		return
	}
	action := accesslog.None
	if kind == listen.Denied {
		action = accesslog.Denied
	}
	g.lines.Write(w.entry(action, cause))
}

// log logs a connection that has been carried.
func (w *waiting) log(n *relay.Note, pool string) {
	e := w.entry(accesslog.Tunnel, "")
	if n.Failed {
		e.Cause = w.gate.Cause(n.Kind)
	}
	e.Server, e.Pool, e.BytesIn, e.BytesOut = n.Server, pool, int64(n.In), int64(n.Out)
	e.Aborted = n.Failed && (n.Kind == listen.ClientReset || n.Kind == listen.ClientLost)
	w.gate.lines.Write(e)
}

func (w *waiting) entry(action accesslog.Action, cause string) *accesslog.Entry {
	e := &accesslog.Entry{Start: w.start, End: time.Now(), Client: w.flow.Client, Dialled: w.flow.Original, Listener: w.gate.Config.Name, SNI: w.hello.ServerName,
		Rule: w.rule, Action: action, Cause: cause, URL: w.flow.Original.String()}
	if e.SNI != "" {
		e.URL = e.SNI + ":" + portOf(w.flow.Original)
	}
	return e
}

func portOf(a netip.AddrPort) string { return strconv.Itoa(int(a.Port())) }
