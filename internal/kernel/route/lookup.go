package route

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
)

// Traffic is what an interface has carried since it was made, in bytes.
type Traffic struct{ In, Out uint64 }

// Traffic returns the counters of all interfaces by name.
func (c *Conn) Traffic() (map[string]Traffic, error) {
	links, err := whole(c, "interfaces", (*netlink.Handle).LinkList)
	if err != nil {
		return nil, err
	}
	all := map[string]Traffic{}
	for _, l := range links {
		if s := l.Attrs().Statistics; s != nil {
			all[l.Attrs().Name] = Traffic{In: s.RxBytes, Out: s.TxBytes}
		}
	}
	return all, nil
}

// Way is where the kernel would send a packet.
type Way struct {
	Dev     string     `json:"dev"`
	Gateway netip.Addr `json:"gateway,omitzero"`
	Source  netip.Addr `json:"source,omitzero"` // of a packet of the host's own that has none yet
	Table   uint32     `json:"table"`
}

// Lookup asks the kernel's routing for the way of a packet: one of the host's own, or with iif one that comes in by that interface.
func (c *Conn) Lookup(from, to netip.Addr, mark uint32, iif string) (Way, error) {
	o := &netlink.RouteGetOptions{Mark: mark, Iif: iif}
	if from.IsValid() {
		o.SrcAddr = net.IP(from.AsSlice())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ask == nil {
		return Way{}, fmt.Errorf("look up the way to %s: %w", to, os.ErrClosed)
	}
	routes, err := c.ask.RouteGetWithOptions(net.IP(to.AsSlice()), o)
	if err != nil {
		return Way{}, fmt.Errorf("look up the way to %s: %w", to, err)
	}
	if len(routes) == 0 {
		return Way{}, fmt.Errorf("look up the way to %s: the kernel names none", to)
	}
	r := routes[0]
	w := Way{Table: uint32(r.Table)}
	w.Gateway, w.Source = unmapped(r.Gw), unmapped(r.Src)
	l, err := c.ask.LinkByIndex(r.LinkIndex)
	if err != nil {
		return w, fmt.Errorf("interface %d: %w", r.LinkIndex, err)
	}
	w.Dev = l.Attrs().Name
	return w, nil
}
