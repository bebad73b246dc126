package worker

import (
	"log/slog"
	"time"

	"salp/internal/config"
	"salp/internal/dial"
	"salp/internal/engine"
	"salp/internal/httpproxy"
	"salp/internal/listen"
	"salp/internal/tlsproxy"
)

// tlsServers makes what ends TLS for the listeners that ask for it, by their names.
func (s *services) tlsServers(listeners []*listen.Listener, log *slog.Logger) (map[string]*tlsproxy.Server, error) {
	all := make(map[string]*tlsproxy.Server)
	var certificates []*tlsproxy.Certificates
	for i, n := range s.cfg.Listeners {
		if n.TLS == nil {
			continue
		}
		at := config.Path{"listeners", n.Name, "tls"}
		c, err := tlsproxy.NewCertificates(n.TLS, s.files)
		if err != nil {
			return nil, s.cfg.Fault(at, err.Error(), "mend the files")
		}
		warnInvalid(c, log)
		o := tlsproxy.Options{Config: n, Listener: listeners[i], Certificates: c, Logger: log}
		if a := n.TLS.ACME; a != nil && a.Authority != "" {
			o.Authority = s.files[a.Authority]
		}
		server, err := tlsproxy.New(o)
		if err != nil {
			return nil, s.cfg.Fault(at, err.Error(), "mend it")
		}
		certificates = append(certificates, c)
		all[n.Name] = server
	}
	s.changed = append(s.changed, func(name string) error {
		var failed error
		for _, c := range certificates {
			if err := c.Set(name, s.files[name]); err != nil {
				failed = err
			}
			warnInvalid(c, log)
		}
		return failed
	})
	return all, nil
}

// warnInvalid logs certificates that no client will take. They are used all the same: the clock may be what is wrong.
func warnInvalid(c *tlsproxy.Certificates, log *slog.Logger) {
	for _, why := range c.Invalid(time.Now()) {
		log.Warn(why)
	}
}

// upstream returns what puts TLS between a listener and its servers; nil: nothing does.
func (s *services) upstream(n *config.Listener, log *slog.Logger) (func(int, string) (int, *dial.Secure, error), error) {
	if n.UpstreamTLS == nil {
		return nil, nil
	}
	u, err := tlsproxy.NewUpstream(n.UpstreamTLS, s.files, n.Timeouts.Connect, log)
	if err != nil {
		return nil, s.cfg.Fault(config.Path{"listeners", n.Name, "upstream_tls"}, err.Error(), "mend the files")
	}
	s.changed = append(s.changed, func(name string) error { return u.Set(name, s.files[name]) })
	return u.Wrap, nil
}

// proxies makes who speaks HTTP on a listener and a loop: a proxy, behind the end of TLS where there is one. The streams of HTTP/2 are connections of
// a listener without limits, and a second proxy's.
func (lw *loopWiring) proxies(t *tlsproxy.Server, l *engine.Loop, o httpproxy.Options) listen.Server {
	proxy := func(n *listen.Listener) listen.Server {
		o.Listener, o.Dialer = n, dial.New(o.Dialer.Options) // a dialer is one proxy's
		p := httpproxy.New(o)
		lw.http = append(lw.http, p)
		return p
	}
	if t == nil {
		return proxy(o.Listener)
	}
	return t.Port(l, o.Counters, proxy)
}
