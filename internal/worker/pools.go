package worker

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/engine"
	"salp/internal/pool"
	"salp/internal/sock"
)

// memory are the tables of stickiness that the keeper holds, by pool.
type memory map[string]*pool.Table

// open maps what came with a Table message. A table that cannot be mapped is a warning: the pool does without.
func (m memory) open(t *control.Table, fds []int, log *slog.Logger) {
	defer closeFDs(fds)
	table, err := mapTable(fds[0])
	if err != nil {
		log.Warn("the memory of which client has which server cannot be used", "pool", t.Pool, "error", err)
		return
	}
	m[t.Pool] = table
	if len(fds) < 2 {
		return
	}
	former, err := mapTable(fds[1])
	if err != nil {
		log.Warn("the memory of which client had which server cannot be used", "pool", t.Pool, "error", err)
		return
	}
	table.Copy(former)
}

// mapTable maps a file in memory for as long as the process lives.
func mapTable(fd int) (*pool.Table, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("fstat: %w", err)
	}
	if stat.Size < int64(pool.TableWords(1)*8) || stat.Size%8 != 0 {
		return nil, fmt.Errorf("a file of %d bytes", stat.Size)
	}
	b, err := syscall.Mmap(fd, 0, int(stat.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	return pool.OpenTable(unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)), nil
}

// makePools makes the pools of a configuration, by name.
func makePools(cfg *config.Config, loops int, m memory) map[string]*pool.Pool {
	pools := make(map[string]*pool.Pool)
	for _, p := range cfg.Pools {
		pools[p.Name] = pool.New(p, loops, m[p.Name])
	}
	return pools
}

var states = map[control.ServerState]pool.State{
	control.ServerUp: pool.Up, control.ServerDown: pool.Down, control.ServerDrain: pool.Drain, control.ServerMaint: pool.Maint,
}

// setPools takes in what the keeper knows of the servers.
func (w *wiring) setPools(m *control.Pools, now time.Time) {
	members := make(map[string][]pool.Member)
	for _, s := range m.Servers {
		members[s.Pool] = append(members[s.Pool], pool.Member{Server: s.Server, Address: s.Address, State: states[s.State], Since: s.Since, Recovered: s.Recovered})
	}
	for name, p := range w.pools {
		p.Set(members[name], now)
	}
}

// setElsewhere takes in how many connections the other workers have.
func (w *wiring) setElsewhere(m *control.Elsewhere) {
	active := make(map[string]map[netip.AddrPort]int64)
	for _, s := range m.Servers {
		if active[s.Pool] == nil {
			active[s.Pool] = make(map[netip.AddrPort]int64)
		}
		active[s.Pool][s.Address] = int64(s.Active)
	}
	for name, p := range w.pools {
		p.Elsewhere(active[name])
	}
	for _, n := range w.listeners {
		clients := map[netip.Addr]int32{}
		for _, c := range m.Clients {
			if c.Listener == n.Name {
				clients[c.Client] += c.Active
			}
		}
		n.Elsewhere(int64(m.Listeners[n.Name]), clients)
	}
}

// busiest tells who has the most connections on listeners that bound each client's.
func (w *wiring) busiest() (all []control.ClientCount) {
	for _, n := range w.listeners {
		n.EachClient(func(client netip.Addr, active int32) {
			all = append(all, control.ClientCount{Listener: n.Name, Client: client, Active: active})
		})
	}
	slices.SortFunc(all, func(a, b control.ClientCount) int { return int(b.Active - a.Active) })
	return all[:min(len(all), control.MostClients)]
}

// tick gives servers in slow start their share.
func (w *wiring) tick(now time.Time) {
	for _, p := range w.pools {
		p.Tick(now)
	}
}

// poolStats are the counters of all servers and pools in the keeper's words.
func (w *wiring) poolStats(done <-chan struct{}) (servers []control.ServerStats, pools []control.PoolStats, err error) {
	var endpoints []*pool.Endpoint
	var of []string
	for _, c := range w.cfg.Pools {
		p := w.pools[c.Name]
		for _, e := range p.Endpoints() {
			endpoints, of = append(endpoints, e), append(of, c.Name)
		}
		n := p.Counts()
		pools = append(pools, control.PoolStats{Pool: c.Name, Queued: n.Queued, QueueTimeouts: n.QueueTimeouts, QueueFull: n.QueueFull, NoServer: n.NoServer})
	}
	if len(endpoints) == 0 {
		return nil, pools, nil
	}
	byLoop := make([][]pool.Counters, len(w.loops))
	err = w.engine.Collect(done, func(l *engine.Loop) {
		counts := make([]pool.Counters, len(endpoints))
		for i, e := range endpoints {
			counts[i] = *e.Counters(l.Number())
		}
		byLoop[l.Number()] = counts
	})
	if err != nil {
		return nil, nil, err
	}
	for i, e := range endpoints {
		var sum pool.Counters
		for _, counts := range byLoop {
			sum.Add(&counts[i])
		}
		servers = append(servers, toldServer(of[i], e, &sum))
	}
	return servers, pools, nil
}

func toldServer(name string, e *pool.Endpoint, c *pool.Counters) control.ServerStats {
	s := control.ServerStats{
		Pool: name, Server: e.Server(), Address: e.Address(), Connections: c.Connections, Active: c.Active, Retries: c.Retries,
		BytesIn: c.BytesIn, BytesOut: c.BytesOut, SameNetwork: c.SameNetwork,
	}
	for _, kind := range []struct {
		name  string
		count uint64
	}{
		{control.ErrorConnectRefused, c.Refused}, {control.ErrorConnectTimeout, c.TimedOut}, {control.ErrorConnectOther, c.Unreachable},
		{control.ErrorServerReset, c.Resets}, {control.ErrorServerLost, c.Lost},
	} {
		if kind.count > 0 {
			if s.Errors == nil {
				s.Errors = make(map[string]uint64)
			}
			s.Errors[kind.name] = kind.count
		}
	}
	return s
}

// queues tells what waits to be accepted, by listener.
func (w *wiring) queues() []control.AcceptQueue {
	all := make([]control.AcceptQueue, len(w.listeners))
	for i, n := range w.listeners {
		all[i].Listener = n.Name
	}
	for _, s := range w.watched {
		waiting, bound, dropped, err := sock.AcceptQueue(s.fd)
		if err != nil {
			continue // it has been closed: the worker drains
		}
		q := &all[s.listener]
		q.Waiting += uint64(waiting)
		q.Bound += uint64(bound)
		q.Dropped += uint64(dropped)
	}
	return all
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		sock.Close(fd)
	}
}
