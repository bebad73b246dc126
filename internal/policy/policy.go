// Package policy decides what becomes of a connection: where it may go, and whose address and port the server sees.
package policy

import (
	"net/netip"

	"salp/internal/config"
	"salp/internal/listen"
	"salp/internal/pool"
)

// Decision says how to carry a connection.
type Decision struct {
	Pool         *pool.Pool     // whose servers may be chosen; nil: Server it is
	Server       netip.AddrPort // the original destination
	Source       netip.AddrPort // whose address the server sees; the zero value: the host's own
	KeepPort     bool           // the server sees the port of Source too
	RequirePort  bool           // rather no connection than another port
	Mark         uint32         // of the upstream socket, without the bits of a link
	PlainMark    uint32         // the same of a socket that has the host's own address after all
	DSCP         uint8          // of packets to the server, plus one; 0: the kernel's own
	Links        *Links         // choose the link once the server is known; nil: Link and Alternatives it is
	Origin       Origin         // for Links
	Link         uint32         // the mark bits of the link to take; 0: the routing decides
	Alternatives []uint32       // those of the links to try, in this order, when the server cannot be reached by Link
}

// Rule decides for one listener. It is immutable and shared by all loops.
type Rule struct {
	pool   *pool.Pool // nil: the original destination
	client bool       // the server sees the client
	keep   bool
	must   bool
	mark   uint32
	plain  uint32
	given  *config.Marking
	links  *Links // nil: there are none
	origin Origin
}

// New makes the rules of a configuration, by listener name. pools are its pools by name, links its links if it has any.
func New(c *config.Config, pools map[string]*pool.Pool, links *Links) map[string]*Rule {
	intercepting := false
	for _, n := range c.Listeners {
		intercepting = intercepting || n.Intercept != nil
	}
	rules := make(map[string]*Rule)
	for _, n := range c.Listeners {
		r := &Rule{client: n.Source == config.SourceClient, given: &n.Marking, links: links}
		if links != nil {
			r.origin = originOf(n)
		}
		if n.Pool != "" {
			r.pool = pools[n.Pool]
		}
		if r.client {
			r.must = n.SourcePort == config.SourcePortRequire
			r.keep = r.must || n.SourcePort == config.SourcePortKeep
		}
		r.mark = mark(c.Kernel.Marks, r.client, intercepting || r.client)
		r.plain = mark(c.Kernel.Marks, false, intercepting || r.client)
		rules[n.Name] = r
	}
	return rules
}

func originOf(n *config.Listener) Origin {
	o := Origin{Listener: n.Name, Wish: n.Marking.Link}
	if n.Intercept != nil && len(n.Intercept.Interfaces) == 1 {
		o.Interface = n.Intercept.Interfaces[0]
	}
	return o
}

// mark is the socket mark of upstream halves: the second bit of the mask says that a worker sent it, the third that it has
// the client's address (package plan has the same order, and the rules that read them). Nothing in the kernel reads it when no
// listener is transparent, and then the worker may lack the right to set one.
func mark(mask uint32, client, transparent bool) uint32 {
	if !transparent {
		return 0
	}
	mask &= mask - 1
	upstream := mask & -mask
	if !client {
		return upstream
	}
	mask &= mask - 1
	return upstream | mask&-mask
}

// Decide decides. When it is false the connection is to be refused, for the reason of the kind.
func (r *Rule) Decide(f *listen.Flow) (Decision, listen.Kind, bool) {
	d := Decision{Pool: r.pool, Server: f.Original, Mark: r.mark, PlainMark: r.plain, Links: r.links, Origin: r.origin}
	if f.Interface != "" {
		d.Origin.Interface, d.Origin.DSCP = f.Interface, f.DSCP
	}
	if r.client {
		d.Source, d.KeepPort, d.RequirePort = f.Client, r.keep, r.must
	}
	r.Mark(&d, r.given)
	return d, 0, true
}

// Comes returns what the rules of links may ask of the connection: with the DSCP that it is given, if it is given one.
func (d *Decision) Comes() Origin {
	o := d.Origin
	if d.DSCP > 0 {
		o.DSCP = d.DSCP - 1
	}
	return o
}

// Mark gives a decision the marks of an access rule, in the place of those that the listener gives.
func (r *Rule) Mark(d *Decision, m *config.Marking) {
	if m == nil || *m == (config.Marking{}) {
		return
	}
	d.Mark, d.PlainMark = r.mark|m.Mark, r.plain|m.Mark
	d.DSCP = 0
	if m.DSCP != nil {
		d.DSCP = *m.DSCP + 1
	}
	if m.Link != "" {
		d.Origin.Wish = m.Link
	}
}
