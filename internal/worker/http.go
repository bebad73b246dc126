package worker

import (
	"salp/internal/config"
	"salp/internal/engine"
	"salp/internal/httpproxy"
)

// sharedHTTP is what the loops share of each listener that speaks HTTP, by the listener's name.
func (w *wiring) sharedHTTP(s *services) map[string]*httpproxy.Shared {
	all := make(map[string]*httpproxy.Shared)
	for _, n := range w.cfg.Listeners {
		if !speaksHTTP(n) {
			continue
		}
		shared := &httpproxy.Shared{
			Access: s.rules.List(n.Access), Routes: s.rules.Routes(n.Name), Pools: w.pools, Pages: s.pages[n.Errors.Pages], Resolver: s.resolver, Log: s.lines,
		}
		if n.Auth != nil {
			shared.Users = s.users[n.Auth.Basic.File]
		}
		shared.Prepare(n)
		all[n.Name] = shared
	}
	return all
}

// speaksHTTP says that a listener's connections are HTTP without TLS.
func speaksHTTP(n *config.Listener) bool { return n.Protocol == config.ProtocolHTTP && n.TLS == nil }

// drainHTTP has the loop's HTTP connections end: at once where they wait for a request, else after the response.
func (lw *loopWiring) drainHTTP(l *engine.Loop) {
	draining := false
	for _, s := range lw.servers {
		if p, ok := s.(*httpproxy.Proxy); ok {
			p.Drain(l)
			draining = true
		}
	}
	if draining {
		l.Each(func(h engine.Handler) { httpproxy.DrainConn(l, h) })
	}
}
