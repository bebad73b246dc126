package keeper

import (
	"net/netip"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/kernel"
	"salp/internal/plan"
)

// The kernel path: what servers are fit for becomes elements of the kernel's maps.

// facts returns the servers for a plan.
func (s *servers) facts() []plan.ServerFact {
	var all []plan.ServerFact
	for _, one := range s.all {
		all = append(all, plan.ServerFact{Pool: one.pool, Server: one.server, Address: one.address, Up: one.state == control.ServerUp})
	}
	return all
}

// down returns the servers that are down, not those that an operator has taken out.
func (s *servers) down() map[serverKey]bool {
	all := map[serverKey]bool{}
	for _, one := range s.all {
		if one.state == control.ServerDown {
			all[one.serverKey] = true
		}
	}
	return all
}

// followServers brings the kernel path to what servers are fit for: by elements alone, or when servers have other addresses by a repair.
func (k *keeper) followServers(now time.Time) {
	if k.cfg == nil || k.stopping || !k.cfg.KernelPath() {
		return
	}
	before := k.lost
	k.lost = k.servers.down()
	facts, err := k.facts(k.links)
	if err != nil {
		k.agenda.atLatest(taskRepair, now.Add(repairDelay))
		return
	}
	want, err := plan.Make(k.cfg, facts)
	if err != nil {
		k.agenda.atLatest(taskRepair, now.Add(repairDelay)) // it tells what does not fit
		return
	}
	name := plan.PoolsTable(k.cfg.Kernel)
	old, next := tableOf(k.plan, name), tableOf(want, name)
	sets, ok := elementsAlone(old, next)
	switch {
	case !ok:
		k.agenda.atLatest(taskRepair, now)
	case len(sets) > 0:
		if err := k.kernel.SetElements(name, sets); err != nil {
			k.log.Warn("the kernel path cannot follow its servers by elements alone", "error", err)
			k.agenda.atLatest(taskRepair, now)
			break
		}
		k.plan.Tables = slices.Clone(k.plan.Tables)
		for i := range k.plan.Tables {
			if k.plan.Tables[i].Name == name {
				k.plan.Tables[i] = *next
			}
		}
	}
	k.forget(before)
}

func tableOf(p plan.Plan, name string) *plan.Table {
	for i := range p.Tables {
		if p.Tables[i].Name == name {
			return &p.Tables[i]
		}
	}
	return nil
}

// elementsAlone returns the sets whose elements differ, when nothing else does.
func elementsAlone(old, next *plan.Table) (changed []plan.Set, ok bool) {
	if old == nil || next == nil || len(old.Sets) != len(next.Sets) {
		return nil, false
	}
	a, b := *old, *next
	a.Sets, b.Sets = slices.Clone(old.Sets), slices.Clone(next.Sets)
	for i := range a.Sets {
		if !slices.Equal(a.Sets[i].Elements, b.Sets[i].Elements) {
			changed = append(changed, next.Sets[i])
		}
		a.Sets[i].Elements, b.Sets[i].Elements = nil, nil
	}
	return changed, reflect.DeepEqual(a, b)
}

// flows are some of the connections that the kernel carries to servers.
type flows struct {
	proto      byte
	unanswered bool // only those that the server has sent nothing on
}

// forget has connection tracking forget the flows of servers that are newly down, where they would hang: all of UDP, of TCP those that the server has not
// answered, whose clients' next SYN then goes to another one, and all where the listener wants it. Before are the servers that were down already.
func (k *keeper) forget(before map[serverKey]bool) {
	gone := map[flows][]netip.AddrPort{}
	for key := range k.lost {
		if before[key] {
			continue
		}
		for _, l := range k.cfg.Listeners {
			if l.Via != config.ViaKernel || l.Pool != key.pool {
				continue
			}
			which := flows{unix.IPPROTO_TCP, l.OnDown != config.OnDownReset}
			if l.Transport == config.TransportUDP {
				which = flows{proto: unix.IPPROTO_UDP}
			}
			gone[which] = append(gone[which], key.address)
		}
	}
	for which, servers := range gone {
		go func() { // the table of all connections may be long
			n, err := k.kernel.ForgetForwarded(which.proto, servers, which.unanswered)
			if err != nil {
				k.log.Warn("connections to servers that are down cannot be forgotten", "error", err)
			} else if n > 0 {
				k.log.Info("connections to servers that are down are forgotten", "servers", servers, "connections", n)
			}
		}()
	}
}

// kernelCounts are the kernel's counters of the tables that have any.
func (k *keeper) kernelCounts() map[string]kernel.Count {
	all := map[string]kernel.Count{}
	for _, t := range k.plan.Tables {
		if len(t.Counters) == 0 {
			continue
		}
		counts, err := k.kernel.Counters(t.Name)
		if err != nil {
			k.log.Debug("counters cannot be read", "table", t.Name, "error", err)
			continue
		}
		for name, c := range counts {
			all[name] = c
		}
	}
	return all
}

// addKernelCounts adds to the counters of pools and listeners what the kernel has counted since their table was made.
func (k *keeper) addKernelCounts(s *admin.Status) {
	counts := k.kernelCounts()
	if len(counts) == 0 {
		return
	}
	byServer := map[serverKey]plan.ServerCounters{}
	table := tableOf(k.plan, plan.PoolsTable(k.cfg.Kernel))
	for _, c := range plan.CountersOf(k.cfg, k.servers.facts(), table != nil && len(table.Flowtables) > 0) {
		byServer[serverKey{c.Pool, c.Server, c.Address}] = c
	}
	for i := range s.Pools {
		for j := range s.Pools[i].Servers {
			d := &s.Pools[i].Servers[j]
			address, err := netip.ParseAddrPort(d.Address)
			c, there := byServer[serverKey{s.Pools[i].Name, d.Name, address}]
			if err != nil || !there {
				continue
			}
			s.Pools[i].Via, d.Offloaded = string(config.ViaKernel), c.Offloaded
			for _, name := range c.Connections {
				d.Connections += counts[name].Packets
			}
			d.BytesIn += counts[c.In].Bytes
			d.BytesOut += counts[c.Out].Bytes
			if d.Offloaded { // those of a worker would pass for all
				d.BytesIn, d.BytesOut = 0, 0
			}
		}
	}
	for i := range s.Listeners {
		k.addListenerCounts(&s.Listeners[i], byServer, counts)
	}
}

func (k *keeper) addListenerCounts(d *admin.Listener, byServer map[serverKey]plan.ServerCounters, counts map[string]kernel.Count) {
	l := k.cfg.Listener(d.Name)
	rate, clients := plan.LimitCounters(l.Name)
	for kind, name := range map[string]string{control.ErrorRate: rate, control.ErrorClientRate: clients} {
		if n := counts[name].Packets; n > 0 {
			if d.Counters.Errors == nil {
				d.Counters.Errors = map[string]uint64{}
			}
			d.Counters.Errors[kind] += n
		}
	}
	if l.Via != config.ViaKernel {
		return
	}
	for key, c := range byServer {
		if key.pool != l.Pool {
			continue
		}
		d.Counters.Accepted += counts[c.Connections[l.Name]].Packets
		d.Offloaded = d.Offloaded || c.Offloaded
		d.Counters.BytesIn += counts[c.In].Bytes
		d.Counters.BytesOut += counts[c.Out].Bytes
	}
	if d.Offloaded { // those of some servers would pass for all
		d.Counters.BytesIn, d.Counters.BytesOut = 0, 0
	}
}
