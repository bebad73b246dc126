// Package policy decides what becomes of a connection: which server it goes to, and whose address and port the server sees.
package policy

import (
	"net/netip"

	"salp/internal/config"
	"salp/internal/listen"
	"salp/internal/pool"
)

// Decision says how to carry a connection.
type Decision struct {
	Server      netip.AddrPort
	Source      netip.AddrPort // whose address the server sees; the zero value: the host's own
	KeepPort    bool           // the server sees the port of Source too
	RequirePort bool           // rather no connection than another port
	Mark        uint32         // of the upstream socket
}

// Rule decides for one listener. It is immutable and shared by all loops.
type Rule struct {
	pool   *pool.Pool // nil: the original destination
	client bool       // the server sees the client
	keep   bool
	must   bool
	mark   uint32
	own    *listen.Own
}

// New makes the rules of a configuration, by listener name. own are the addresses that this process listens on.
func New(c *config.Config, own *listen.Own) map[string]*Rule {
	pools := make(map[string]*pool.Pool)
	for _, p := range c.Pools {
		pools[p.Name] = pool.New(p)
	}
	intercepting := false
	for _, n := range c.Listeners {
		intercepting = intercepting || n.Intercept != nil
	}
	rules := make(map[string]*Rule)
	for _, n := range c.Listeners {
		r := &Rule{own: own, client: n.Source == config.SourceClient}
		if n.Pool != "" {
			r.pool = pools[n.Pool]
		}
		if r.client {
			r.must = n.SourcePort == config.SourcePortRequire
			r.keep = r.must || n.SourcePort == config.SourcePortKeep
		}
		r.mark = mark(c.Kernel.Marks, r.keep, intercepting || r.client)
		rules[n.Name] = r
	}
	return rules
}

// mark is the socket mark of upstream halves: the second bit of the mask says that a worker sent it, the third that it lives in its own
// conntrack zone (package plan has the same order, and the rules that read them). Nothing in the kernel reads it when no
// listener is transparent, and then the worker may lack the right to set one.
func mark(mask uint32, zone, transparent bool) uint32 {
	if !transparent {
		return 0
	}
	mask &= mask - 1
	upstream := mask & -mask
	if !zone {
		return upstream
	}
	mask &= mask - 1
	return upstream | mask&-mask
}

// Decide decides. When it is false the connection is to be refused, for the reason of the kind.
func (r *Rule) Decide(f *listen.Flow) (Decision, listen.Kind, bool) {
	d := Decision{Server: f.Original, Mark: r.mark}
	if r.pool != nil {
		server, ok := r.pick(f)
		if !ok {
			return d, listen.NoDestination, false
		}
		d.Server = server
	}
	if r.own.Has(d.Server) {
		return d, listen.Loop, false
	}
	if r.client {
		d.Source, d.KeepPort, d.RequirePort = f.Client, r.keep, r.must
	}
	return d, 0, true
}

func (r *Rule) pick(f *listen.Flow) (netip.AddrPort, bool) {
	if r.client {
		return r.pool.PickFor(f.Client.Addr())
	}
	return r.pool.Pick()
}
