package keeper

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/probe"
)

// namesWithin bounds how long a new configuration waits for the names in it that nothing is known of. Without their addresses it would
// have no servers, and the rules of links would not know the flows that they are for.
const namesWithin = 3 * time.Second

// jobs adds the checks of all servers to what the monitor watches, and the names.
func (s *servers) jobs(w *control.Watch) {
	w.Names = withNames(w.Names, s.cfg.Names())
	for _, one := range s.all {
		p := s.cfg.Pool(one.pool)
		c := p.Check
		if c == nil || one.state == control.ServerMaint {
			continue
		}
		job := control.Job{ID: one.job(), Every: c.Every, Jitter: float64(c.Jitter) / 100, Probe: question(c, one.address)}
		if c.Port == 0 {
			job.Probe.Header = headerTo(p, one.server)
		}
		w.Jobs = append(w.Jobs, job)
	}
}

// headerTo is the PROXY header that a server expects on the port that connections go to: a check there without one would fail, or fill its log.
func headerTo(p *config.Pool, server string) probe.Header {
	for i := range p.Servers {
		if s := &p.Servers[i]; s.String() == server {
			switch p.ProxyHeaderOf(s) {
			case config.ProxyHeaderV1:
				return probe.HeaderV1
			case config.ProxyHeaderV2:
				return probe.HeaderV2
			}
		}
	}
	return ""
}

// question returns what a check asks a server. It comes from the gateway's own address, which the kernel chooses.
func question(c *config.Check, server netip.AddrPort) probe.Spec {
	if c.Port != 0 {
		server = netip.AddrPortFrom(server.Addr(), c.Port)
	}
	s := probe.Spec{Target: server, Timeout: c.Timeout, Send: c.Send, Expect: c.Expect}
	if c.TLS != nil {
		s.TLS = &probe.TLS{Name: c.TLS.Name, Verify: c.TLS.Verify, ALPN: c.TLS.ALPN}
	}
	if c.HTTP != nil {
		s.HTTP = &probe.HTTP{Method: c.HTTP.Method, Path: c.HTTP.Path, Host: c.HTTP.Host, Status: c.HTTP.Status, Body: c.HTTP.Body}
	}
	return s
}

// serversChanged tells everybody who chooses servers what they are fit for now, and remembers it.
func (k *keeper) serversChanged(now time.Time) {
	for _, w := range k.workers {
		k.tellServers(w)
	}
	if err := k.servers.remember(k.options.RunDir, now); err != nil {
		k.log.Warn("states of servers cannot be remembered for the next start", "error", err)
	}
	k.followServers(now)
	k.watching.stale = true
}

// tellServers tells a worker about the servers of its configuration. One that hangs is told when it answers again: its socket may be full, and
// the loop never waits.
func (k *keeper) tellServers(w *worker) {
	if w.state == admin.WorkerDraining {
		return // it chooses no server any more
	}
	s := k.servers
	if k.pending != nil && k.pending.worker == w {
		s = k.pending.servers
	}
	w.untold = w.state == admin.WorkerHung || !w.answers(time.Now())
	if w.untold || len(s.cfg.Pools) == 0 {
		return
	}
	m := s.told()
	m.Number = w.told + 1
	if err := w.child.conn.Send(control.Message{Pools: m}); err != nil {
		w.log.Debug("worker cannot be told about servers", "error", err)
		w.untold = true
		return
	}
	w.told++
}

// heedWithin bounds how long a command waits for the workers to go by what it changed.
const heedWithin = time.Second

// heeding is somebody who waits until all workers go by what they were told.
type heeding struct {
	until time.Time
	done  func()
}

// settleHeeded answers who has waited for the workers long enough. One that hangs or drains chooses no server.
func (k *keeper) settleHeeded(now time.Time) {
	if len(k.heedings) == 0 {
		return
	}
	all := !slices.ContainsFunc(k.workers, func(w *worker) bool {
		return w.state == admin.WorkerRunning && !w.untold && w.heeded < w.told
	})
	k.heedings = slices.DeleteFunc(k.heedings, func(h heeding) bool {
		over := all || now.After(h.until)
		if over {
			h.done()
		}
		return over
	})
}

// onName takes in what a name is now.
func (k *keeper) onName(n *control.Name, now time.Time) {
	news, first := k.servers.learn(n)
	changed := false
	if news && k.cfg != nil {
		changed = k.servers.build(now, !first)
	}
	if news && k.pending != nil {
		k.pending.servers.build(now, !first)
		if k.pending.worker != nil {
			k.tellServers(k.pending.worker)
		}
	}
	if changed {
		k.serversChanged(now)
	}
	k.commitWhenNamed(now)
}

// commitWhenNamed puts the pending provision in force when its worker is ready and its names are known, or have not been known for long enough.
func (k *keeper) commitWhenNamed(now time.Time) {
	p := k.pending
	if p == nil || !p.ready || (p.servers.unnamed() || p.links.unnamed()) && now.Sub(p.began) < namesWithin {
		return
	}
	k.commit(now)
}

// setServer has a server drained, in maintenance, or ready.
func (k *keeper) setServer(word string, state control.ServerState, now time.Time) (admin.ServerChange, error) {
	if k.cfg == nil {
		return admin.ServerChange{}, errors.New("the gateway is still starting")
	}
	switch state {
	case control.ServerUp, control.ServerDrain, control.ServerMaint:
	default:
		return admin.ServerChange{}, fmt.Errorf("a server cannot be set to %q", state)
	}
	key, err := k.servers.find(word)
	if err != nil {
		return admin.ServerChange{}, err
	}
	k.servers.wish(key, state, now)
	k.serversChanged(now)
	c := admin.ServerChange{Pool: key.pool, Server: key.server, State: state, Up: k.servers.up(key.pool)}
	for _, one := range k.servers.all {
		if one.pool == key.pool {
			c.Servers++
		}
	}
	return c, nil
}
