package httpproxy

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"salp/internal/engine"
	"salp/internal/resolve"
)

// Resolver looks names up. It is called on goroutines of its own, and may wait.
type Resolver interface {
	Lookup(ctx context.Context, name string) (resolve.Answer, error)
}

// lookupFor bounds one lookup.
const lookupFor = 10 * time.Second

const (
	maxNames   = 1024 // that a loop remembers
	nameAtMost = time.Minute
	failedFor  = time.Second
)

// name is what was found out about a host's name.
type name struct {
	host  string
	addrs []netip.Addr // none: it could not be looked up
	until int64        // on the loop's clock
}

func (n *name) has(a netip.Addr) bool { return slices.Contains(n.addrs, a) }

// pick returns the first address, of the family of a where that is one.
func (n *name) pick(family netip.Addr) (netip.Addr, bool) {
	for _, a := range n.addrs {
		if !family.IsValid() || a.Is4() == family.Is4() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// names are those that a loop remembers, so that its requests need not ask the resolver, which all loops share.
type names map[string]*name

// find returns what is known about a name; nil: it must be asked for. An address is its own name.
func (c *conn) find(l *engine.Loop, host string) *name {
	w := c.proxy.work
	if n := c.lookup; n != nil && n.host == host && (c.asked || l.Now() < n.until) {
		return n
	}
	n := w.names[host]
	if n == nil {
		a, err := netip.ParseAddr(host)
		if err != nil {
			return nil
		}
		n = &name{host: strings.Clone(host), addrs: []netip.Addr{a.WithZone("").Unmap()}, until: 1<<63 - 1}
	} else if l.Now() >= n.until {
		return nil
	}
	c.lookup = n
	return n
}

// ask has a goroutine look a name up. The request waits.
func (c *conn) ask(l *engine.Loop, data []byte, host string) {
	host = strings.Clone(host) // a view of data, which moves
	c.keep(l, data)
	c.state, c.since = asking, l.Now()
	c.setTimer(l)
	slot, resolver, w := c.slot, c.proxy.Shared.Resolver, c.proxy.work
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), lookupFor)
		defer cancel()
		answer, err := resolver.Lookup(ctx, host)
		l.Post(func() {
			n := &name{host: host, until: l.Now() + int64(failedFor)}
			if err == nil {
				n.addrs = answer.Addrs
				n.until = l.Now() + int64(min(max(time.Until(answer.Until), 0), nameAtMost))
			}
			w.names.keep(l, n)
			if l.Handler(slot) == engine.Handler(c) && c.state == asking {
				c.lookup, c.asked = n, true
				c.resume(l)
			}
		})
	}()
}

func (m *names) keep(l *engine.Loop, n *name) {
	if *m == nil {
		*m = make(names)
	}
	if len(*m) >= maxNames {
		for host, old := range *m {
			if l.Now() >= old.until || len(*m) >= maxNames {
				delete(*m, host)
			}
		}
	}
	(*m)[n.host] = n
}
