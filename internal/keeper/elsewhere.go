package keeper

import (
	"maps"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/control"
)

// elsewhere returns how many connections workers other than w have to servers, and on listeners, that have a bound; nil when nobody needs to know.
func (k *keeper) elsewhere(w *worker, cfg *config.Config) *control.Elsewhere {
	bounded := map[serverKey]bool{}
	for _, p := range cfg.Pools {
		for i := range p.Servers {
			if p.Servers[i].MaxConnections > 0 {
				bounded[serverKey{pool: p.Name, server: p.Servers[i].String()}] = true
			}
		}
	}
	listeners, perClient := map[string]uint64{}, map[string]bool{}
	for _, l := range cfg.Listeners {
		if l.Limits.Connections > 0 {
			listeners[l.Name] = 0
		}
		if l.Limits.PerClient > 0 {
			perClient[l.Name] = true
		}
	}
	if len(bounded)+len(listeners)+len(perClient) == 0 {
		return nil
	}
	m := &control.Elsewhere{}
	sums := map[serverKey]uint64{}
	for _, other := range k.workers {
		if other == w {
			continue
		}
		for _, s := range other.servers {
			if bounded[serverKey{pool: s.Pool, server: s.Server}] && s.Active > 0 {
				sums[serverKey{pool: s.Pool, address: s.Address}] += s.Active
			}
		}
		for name := range listeners {
			listeners[name] += other.stats[name].Active
		}
		for _, c := range other.clients[:min(len(other.clients), control.MostClients)] {
			if perClient[c.Listener] {
				m.Clients = append(m.Clients, c)
			}
		}
	}
	maps.DeleteFunc(listeners, func(_ string, active uint64) bool { return active == 0 })
	m.Listeners = listeners
	for key, active := range sums {
		m.Servers = append(m.Servers, control.Place{Pool: key.pool, Address: key.address, Active: active})
	}
	return m
}

// tellElsewhere tells the worker in use what the others have, as long as there are others, and once more when there are none.
func (k *keeper) tellElsewhere() {
	w := k.current
	if w == nil || w.state != admin.WorkerRunning || len(k.workers) == 1 && !w.shares {
		return
	}
	m := k.elsewhere(w, w.cfg)
	if m == nil {
		return
	}
	w.shares = !m.Empty()
	if err := w.child.conn.Send(control.Message{Elsewhere: m}); err != nil {
		w.log.Debug("worker does not take Elsewhere", "error", err)
	}
}
