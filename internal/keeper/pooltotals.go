package keeper

import (
	"maps"
	"net/netip"
	"slices"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/control"
)

// poolTotals are the counters of pools and their servers, of workers that have ended.
type poolTotals struct {
	servers map[serverKey]control.ServerStats
	pools   map[string]control.PoolStats
}

// serverKey is one address of one server of one pool.
type serverKey struct {
	pool, server string
	address      netip.AddrPort
}

func newPoolTotals() poolTotals {
	return poolTotals{servers: map[serverKey]control.ServerStats{}, pools: map[string]control.PoolStats{}}
}

// maxServerTotals bounds how many addresses of servers are counted: names may have others every day, and a worker's word is not taken for more.
const maxServerTotals = 16 << 10

// serverErrors are the kinds that a worker may count for a server.
var serverErrors = []string{
	control.ErrorConnectRefused, control.ErrorConnectTimeout, control.ErrorConnectOther, control.ErrorServerReset, control.ErrorServerLost,
}

// add takes in the last counters of a worker that has ended.
func (t poolTotals) add(w *worker) {
	has := serversOf(w.cfg)
	for _, s := range w.servers {
		s.Active = 0
		t.server(has, s)
	}
	for _, p := range w.pools {
		p.Queued = 0
		t.pool(w.cfg, p)
	}
}

// serversOf returns the servers that a configuration has, without addresses.
func serversOf(cfg *config.Config) map[serverKey]bool {
	has := map[serverKey]bool{}
	for _, p := range cfg.Pools {
		for _, s := range p.Servers {
			has[serverKey{pool: p.Name, server: s.String()}] = true
		}
	}
	return has
}

func (t poolTotals) server(has map[serverKey]bool, s control.ServerStats) {
	key := serverKey{s.Pool, s.Server, s.Address}
	have, counted := t.servers[key]
	if !has[serverKey{pool: s.Pool, server: s.Server}] || !counted && len(t.servers) >= maxServerTotals {
		return
	}
	have.Pool, have.Server, have.Address = s.Pool, s.Server, s.Address
	t.servers[key] = sumServer(have, s)
}

func (t poolTotals) pool(cfg *config.Config, p control.PoolStats) {
	if cfg.Pool(p.Pool) == nil {
		return
	}
	have := t.pools[p.Pool]
	have.Pool = p.Pool
	have.Queued += p.Queued
	have.QueueTimeouts += p.QueueTimeouts
	have.QueueFull += p.QueueFull
	have.NoServer += p.NoServer
	t.pools[p.Pool] = have
}

// sumServer returns a with the counters of b added; neither is changed.
func sumServer(a, b control.ServerStats) control.ServerStats {
	errors := map[string]uint64{}
	for _, kind := range serverErrors {
		if n := a.Errors[kind] + b.Errors[kind]; n > 0 {
			errors[kind] = n
		}
	}
	a.Connections += b.Connections
	a.Active += b.Active
	a.Retries += b.Retries
	a.BytesIn += b.BytesIn
	a.BytesOut += b.BytesOut
	a.SameNetwork += b.SameNetwork
	a.Errors = errors
	return a
}

// forget drops pools and servers that cfg does not have any more.
func (t poolTotals) forget(cfg *config.Config) {
	has := serversOf(cfg)
	maps.DeleteFunc(t.servers, func(key serverKey, _ control.ServerStats) bool {
		return !has[serverKey{pool: key.pool, server: key.server}]
	})
	maps.DeleteFunc(t.pools, func(name string, _ control.PoolStats) bool { return cfg.Pool(name) == nil })
}

// all returns the counters over all workers, ended and living.
func (t poolTotals) all(living []*worker) poolTotals {
	sum := poolTotals{maps.Clone(t.servers), maps.Clone(t.pools)}
	for _, w := range living {
		has := serversOf(w.cfg)
		for _, s := range w.servers {
			sum.server(has, s)
		}
		for _, p := range w.pools {
			sum.pool(w.cfg, p)
		}
	}
	return sum
}

// of returns the counters of a server, by the order of its addresses.
func (t poolTotals) of(pool, server string) []control.ServerStats {
	var all []control.ServerStats
	for key, s := range t.servers {
		if key.pool == pool && key.server == server {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b control.ServerStats) int { return a.Address.Compare(b.Address) })
	return all
}

// poolStatus describes the pools of the configuration in force.
func (k *keeper) poolStatus() []admin.Pool {
	counted := k.poolTotals.all(k.workers)
	var all []admin.Pool
	for _, p := range k.cfg.Pools {
		d := admin.Pool{Name: p.Name, Balance: string(p.Balance), Servers: []admin.PoolServer{}}
		c := counted.pools[p.Name]
		d.Queued, d.QueueTimeouts, d.QueueFull, d.NoServer = c.Queued, c.QueueTimeouts, c.QueueFull, c.NoServer
		for i := range p.Servers {
			d.Servers = append(d.Servers, k.serverStatus(p, &p.Servers[i], counted.of(p.Name, p.Servers[i].String()))...)
		}
		all = append(all, d)
	}
	return all
}

// serverStatus describes a server: once for each address that it has, or had and still has connections to.
func (k *keeper) serverStatus(p *config.Pool, s *config.Server, counted []control.ServerStats) []admin.PoolServer {
	one := admin.PoolServer{Name: s.String(), State: control.ServerDown, Since: k.since, Weight: s.Weight, Backup: s.Backup, MaxConnections: s.MaxConnections}
	if header := p.ProxyHeaderOf(s); header != config.ProxyHeaderNone {
		one.ProxyProtocol = string(header)
	}
	var all []admin.PoolServer
	describe := func(a netip.AddrPort) *admin.PoolServer {
		d := one
		d.Address = a.String()
		if i := slices.IndexFunc(counted, func(c control.ServerStats) bool { return c.Address == a }); i >= 0 {
			c := counted[i]
			d.Connections, d.Active, d.Retries = c.Connections, c.Active, c.Retries
			d.BytesIn, d.BytesOut, d.Errors = c.BytesIn, c.BytesOut, c.Errors
			if d.SameNetwork = c.SameNetwork; c.SameNetwork > 0 {
				d.Fallback = string(p.SameNetwork)
			}
		}
		all = append(all, d)
		return &all[len(all)-1]
	}
	for _, known := range k.servers.all {
		if known.pool == p.Name && known.server == one.Name {
			d := describe(known.address)
			d.State, d.Since, d.Reason, d.Downs = known.state, known.since, known.reason, known.downs
			if r := known.last; r != nil {
				d.Checked = &admin.Checked{At: r.At, Took: r.RTT.Seconds(), Error: r.Error}
			}
		}
	}
	if len(all) == 0 && s.Host != "" {
		one.Reason = k.servers.nameless(s.Host)
		all = append(all, one)
	}
	for _, c := range counted {
		if c.Active > 0 && k.servers.byKey[serverKey{p.Name, one.Name, c.Address}] == nil {
			describe(c.Address).Reason = "the name has this address no more"
		}
	}
	return all
}
