package route

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Teachers are the protocols of default routes that a host is given by its network or its administrator. Those of routing daemons are left
// out: they may have a million routes, and a table that is asked for by protocol comes filtered from the kernel.
var Teachers = []int{unix.RTPROT_UNSPEC, unix.RTPROT_KERNEL, unix.RTPROT_BOOT, unix.RTPROT_STATIC, unix.RTPROT_RA, unix.RTPROT_DHCP}

// Gateways returns the default routes of every table that lead out by an interface, one for each next hop.
func (c *Conn) Gateways() ([]plan.Gateway, error) {
	names, err := c.names()
	if err != nil {
		return nil, err
	}
	var all []plan.Gateway
	for family, f := range map[int]plan.Family{netlink.FAMILY_V4: plan.IPv4, netlink.FAMILY_V6: plan.IPv6} {
		for _, protocol := range Teachers {
			routes, err := whole(c, "default routes", func(h *netlink.Handle) ([]netlink.Route, error) {
				return h.RouteListFiltered(family, &netlink.Route{Protocol: netlink.RouteProtocol(protocol), Type: unix.RTN_UNICAST}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
			})
			if err != nil && !wire.Is(err, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.ENOENT) {
				return nil, err
			}
			for _, r := range routes {
				all = appendGateways(all, f, r, names)
			}
		}
	}
	return all, nil
}

// appendGateways adds the next hops of a route if it is a default route.
func appendGateways(all []plan.Gateway, f plan.Family, r netlink.Route, names map[int]string) []plan.Gateway {
	if r.Dst != nil {
		if ones, _ := r.Dst.Mask.Size(); ones != 0 {
			return all
		}
	}
	g := plan.Gateway{Family: f, Table: uint32(r.Table), Metric: uint32(r.Priority), Protocol: int(r.Protocol)}
	g.Src = unmapped(r.Src)
	hops := []netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via}}
	for _, h := range r.MultiPath {
		hops = append(hops, *h)
	}
	for _, h := range hops {
		one := g
		one.Dev = names[h.LinkIndex]
		one.Via = unmapped(h.Gw)
		if via, ok := h.Via.(*netlink.Via); ok && !one.Via.IsValid() { // IPv4 by an IPv6 router (RFC 5549)
			one.Via = unmapped(via.Addr)
		}
		if one.Dev != "" {
			all = append(all, one)
		}
	}
	return all
}

// names returns the names of the interfaces by their numbers.
func (c *Conn) names() (map[int]string, error) {
	links, err := whole(c, "interfaces", (*netlink.Handle).LinkList)
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
}

// unmapped returns an address as netip has it: the library gives IPv4 in four bytes or in sixteen.
func unmapped(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
