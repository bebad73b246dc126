package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/dial"
	"salp/internal/engine"
	"salp/internal/gate"
	"salp/internal/httpproxy"
	"salp/internal/listen"
	"salp/internal/policy"
	"salp/internal/pool"
	"salp/internal/relay"
	"salp/internal/sock"
	"salp/internal/tlsproxy"
)

// wiring is the byte path: for every loop and listener a relay with its counters, and an acceptor for each listening socket.
type wiring struct {
	cfg       *config.Config
	engine    *engine.Engine
	own       *listen.Own
	networks  *dial.Networks
	routes    routeReader
	clients   bool // some server is shown the client's address
	pools     map[string]*pool.Pool
	links     *policy.Links               // nil: there are none
	tls       map[string]*tlsproxy.Server // by listener
	listeners []*listen.Listener
	loops     []*loopWiring // by loop number
	watched   []listening   // every listening socket once, until stopAccepting
}

// loopWiring is what one loop has. It is touched only on the loop once that turns.
type loopWiring struct {
	counters  []*listen.Counters // by index of wiring.listeners
	relays    []*relay.Relay
	http      []*httpproxy.Proxy
	servers   []listen.Server // who takes accepted connections: a relay, or what stands before it
	sockets   []listening
	acceptors []*listen.Acceptor
}

// listening is a socket that a loop accepts on.
type listening struct {
	fd       int
	address  netip.AddrPort
	listener int // index of wiring.listeners
}

func wire(cfg *config.Config, e *engine.Engine, groups []socketGroup, m memory, links *control.Links, destroy dial.Destroy, s *services, log *slog.Logger) (*wiring, error) {
	w := &wiring{cfg: cfg, engine: e, networks: &dial.Networks{}, pools: makePools(cfg, len(e.Loops()), m), links: policy.NewLinks(cfg, links)}
	w.networks.Learned = func(client netip.Prefix, server netip.Addr) {
		log.Warn("a server does not answer clients through this machine; for a minute its connections for them have same_network's address", "clients", client, "server", server)
	}
	for _, n := range cfg.Listeners {
		w.clients = w.clients || n.Source == config.SourceClient
	}
	var addresses []netip.AddrPort
	for _, g := range groups {
		addresses = append(addresses, g.Address)
	}
	w.own = listen.NewOwn(addresses)
	w.setLocal(log)
	rules := policy.New(cfg, w.pools, w.links)
	for _, n := range cfg.Listeners {
		ln := listen.NewListener(n)
		ln.Arrival = n.Intercept != nil && w.links.AskArrival()
		w.listeners = append(w.listeners, ln)
	}
	shared, err := w.sharedHTTP(s, log)
	if err != nil {
		return nil, err
	}
	if w.tls, err = s.tlsServers(w.listeners, log); err != nil {
		return nil, err
	}
	for _, l := range e.Loops() {
		lw, loop := &loopWiring{}, &httpproxy.Loop{}
		for i, n := range cfg.Listeners {
			c := &listen.Counters{}
			lw.counters = append(lw.counters, c)
			d := dial.New(dial.Options{Counters: c, Own: w.own, Networks: w.networks, Destroy: destroy, Connect: n.Timeouts.Connect})
			r := relay.New(n, w.listeners[i], c, rules[n.Name], d)
			lw.relays = append(lw.relays, r)
			if h := shared[n.Name]; h != nil {
				lw.servers = append(lw.servers, lw.proxies(w.tls[n.Name], l, httpproxy.Options{Config: n, Listener: w.listeners[i], Counters: c, Rule: rules[n.Name], Dialer: d, Relay: r, Loop: loop, Shared: h}))
				continue
			}
			lw.servers = append(lw.servers, w.before(n, gate.Options{Config: n, Listener: w.listeners[i], Counters: c, Relay: r, Rule: rules[n.Name], Pools: w.pools}, s))
		}
		w.loops = append(w.loops, lw)
	}
	for _, g := range groups {
		w.share(cfg, g, log)
	}
	return w, nil
}

// before returns who takes a listener's connections: the relay itself where nothing is asked about them.
func (w *wiring) before(n *config.Listener, o gate.Options, s *services) listen.Server {
	if !gate.Wanted(w.cfg, n) {
		return o.Relay
	}
	o.Access, o.Routes, o.Log, o.Resolver = s.rules.List(n.Access), s.rules.Routes(n.Name), s.lines, s.resolver
	o.Cause = func(k listen.Kind) string { return kinds[k] }
	return gate.New(o)
}

// share gives the sockets of a group to the loops in turn. Where there are fewer of the one than of the other, after a change
// of the number of loops, loops watch several, or several loops the same: every socket must be watched, for the kernel goes on
// to spread connections over all of them.
func (w *wiring) share(cfg *config.Config, g socketGroup, log *slog.Logger) {
	index := -1
	for i, n := range cfg.Listeners {
		if n.Name == g.Listener {
			index = i
		}
	}
	if index < 0 || len(g.fds) == 0 {
		log.Warn("the keeper sent sockets that no listener wants", "listener", g.Listener, "address", g.Address)
		closeFDs(g.fds)
		return
	}
	for _, fd := range g.fds {
		w.watched = append(w.watched, listening{fd, g.Address, index})
		if err := sock.Tune(fd, cfg.Listeners[index].Keepalive); err != nil {
			log.Warn("listening socket", "listener", g.Listener, "address", g.Address, "error", err)
		}
		if err := sock.SetBacklog(fd, cfg.Listeners[index].Limits.Backlog); err != nil {
			log.Warn("listening socket", "listener", g.Listener, "address", g.Address, "error", err)
		}
	}
	for i := range max(len(g.fds), len(w.loops)) {
		lw := w.loops[i%len(w.loops)]
		lw.sockets = append(lw.sockets, listening{g.fds[i%len(g.fds)], g.Address, index})
	}
}

// accept has every loop accept on its sockets.
func (w *wiring) accept(done <-chan struct{}) error {
	errs := make([]error, len(w.loops))
	err := w.engine.Collect(done, func(l *engine.Loop) {
		lw := w.loops[l.Number()]
		for _, s := range lw.sockets {
			a, err := listen.Accept(l, s.fd, s.address, w.listeners[s.listener], lw.counters[s.listener], lw.servers[s.listener])
			if err != nil {
				errs[l.Number()] = fmt.Errorf("worker: accept on %s: %w", s.address, err)
				return
			}
			lw.acceptors = append(lw.acceptors, a)
		}
	})
	if err != nil {
		return err
	}
	return errors.Join(errs...)
}

// stopAccepting leaves the sockets to whoever else holds them. Connections that wait in them are theirs.
func (w *wiring) stopAccepting(done <-chan struct{}) error {
	err := w.engine.Collect(done, func(l *engine.Loop) {
		lw := w.loops[l.Number()]
		for _, a := range lw.acceptors {
			a.Stop(l)
		}
		lw.acceptors = nil
		lw.drainHTTP(l)
	})
	if err != nil {
		return err
	}
	for _, t := range w.tls {
		t.Drain()
		t.Close()
	}
	w.watched = nil
	closed := make(map[int]bool)
	for _, lw := range w.loops {
		for _, s := range lw.sockets {
			if !closed[s.fd] {
				closed[s.fd] = true
				sock.Close(s.fd)
			}
		}
		lw.sockets = nil
	}
	return nil
}

// collect adds the counters of all loops up, by index of listeners.
func (w *wiring) collect(done <-chan struct{}) ([]listen.Counters, error) {
	var mutex sync.Mutex
	sums := make([]listen.Counters, len(w.listeners))
	err := w.engine.Collect(done, func(l *engine.Loop) {
		mutex.Lock()
		defer mutex.Unlock()
		for i, c := range w.loops[l.Number()].counters {
			sums[i].Add(c)
		}
	})
	return sums, err
}

func (w *wiring) active(done <-chan struct{}) (active uint64, err error) {
	sums, err := w.collect(done)
	for i := range sums {
		active += sums[i].Active
	}
	return active, err
}

// abort resets every connection and says how many these were.
func (w *wiring) abort(done <-chan struct{}) (int, error) {
	cut := make([]int, len(w.loops))
	err := w.engine.Collect(done, func(l *engine.Loop) {
		l.Each(func(h engine.Handler) {
			if relay.Abort(l, h) || httpproxy.Abort(l, h) || gate.Abort(l, h) || listen.Abort(l, h) {
				cut[l.Number()]++
			}
		})
	})
	if err != nil {
		return 0, err
	}
	total := 0
	for _, n := range cut {
		total += n
	}
	return total, nil
}
