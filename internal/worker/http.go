package worker

import (
	"log/slog"

	"salp/internal/config"
	"salp/internal/engine"
	"salp/internal/httpproxy"
)

// sharedHTTP is what the loops share of each listener that speaks HTTP, by the listener's name.
func (w *wiring) sharedHTTP(s *services, log *slog.Logger) (map[string]*httpproxy.Shared, error) {
	all := make(map[string]*httpproxy.Shared)
	for _, n := range w.cfg.Listeners {
		if n.Protocol != config.ProtocolHTTP {
			continue
		}
		shared := &httpproxy.Shared{
			Access: s.rules.List(n.Access), Routes: s.rules.Routes(n.Name), Pools: w.pools, Pages: s.pages[n.Errors.Pages], Resolver: s.resolver, Log: s.lines,
		}
		upstream, err := s.upstream(n, log)
		if err != nil {
			return nil, err
		}
		shared.Upstream = upstream
		if n.Auth != nil {
			shared.Users = s.users[n.Auth.Basic.File]
		}
		shared.Prepare(n)
		all[n.Name] = shared
	}
	return all, nil
}

// drainHTTP has the loop's HTTP connections end: at once where they wait for a request, else after the response.
func (lw *loopWiring) drainHTTP(l *engine.Loop) {
	for _, p := range lw.http {
		p.Drain(l)
	}
	if lw.http != nil {
		l.Each(func(h engine.Handler) { httpproxy.DrainConn(l, h) })
	}
}
