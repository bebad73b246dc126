package keeper

import (
	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/control"
)

// elsewhere returns how many connections workers other than w have to servers that have a bound; nil when nobody needs to know.
func (k *keeper) elsewhere(w *worker, cfg *config.Config) *control.Elsewhere {
	bounded := map[serverKey]bool{}
	for _, p := range cfg.Pools {
		for i := range p.Servers {
			if p.Servers[i].MaxConnections > 0 {
				bounded[serverKey{pool: p.Name, server: p.Servers[i].String()}] = true
			}
		}
	}
	if len(bounded) == 0 {
		return nil
	}
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
	}
	m := &control.Elsewhere{}
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
	w.shares = len(m.Servers) > 0
	if err := w.child.conn.Send(control.Message{Elsewhere: m}); err != nil {
		w.log.Debug("worker does not take Elsewhere", "error", err)
	}
}
