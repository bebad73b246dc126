package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

const maxTries = 8 // of a list that another program's change interrupted

// whole lists objects, and asks again when a change interrupted the kernel's answer. A Handle that is closed would open a socket
// in whatever namespace the thread is in: so it is not asked any more.
func whole[T any](c *Conn, what string, list func(*netlink.Handle) ([]T, error)) ([]T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list == nil {
		return nil, fmt.Errorf("list %s: %w", what, os.ErrClosed)
	}
	for range maxTries {
		out, err := list(c.list)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", what, err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("list %s: other programs change them faster than they can be read", what)
}

// Interfaces returns the interfaces with their addresses. AcceptsRA says only that an interface has a route learned from
// router advertisements; the caller knows whether the kernel or a program listens to them.
func (c *Conn) Interfaces() ([]plan.Interface, error) {
	links, err := whole(c, "interfaces", (*netlink.Handle).LinkList)
	if err != nil {
		return nil, err
	}
	addresses, err := whole(c, "addresses", func(h *netlink.Handle) ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	advertised, err := whole(c, "IPv6 routes", func(h *netlink.Handle) ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Protocol: unix.RTPROT_RA}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE) // of any table
	})
	if err != nil && !wire.Is(err, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.ENOENT) {
		return nil, err
	}
	out := make([]plan.Interface, len(links))
	place := map[int]*plan.Interface{}
	for i, l := range links {
		a := l.Attrs()
		out[i] = plan.Interface{Name: a.Name, Loopback: a.Flags&net.FlagLoopback != 0, Up: a.Flags&net.FlagUp != 0,
			Carrier: a.RawFlags&unix.IFF_RUNNING != 0, Peer: a.RawFlags&unix.IFF_POINTOPOINT != 0, Enslaved: enslaved(a)}
		place[a.Index] = &out[i]
	}
	for _, a := range addresses {
		addr, ok := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		if i := place[a.LinkIndex]; ok && i != nil {
			i.Addresses = append(i.Addresses, netip.PrefixFrom(addr, bits))
		}
	}
	for _, r := range advertised {
		if i := place[r.LinkIndex]; i != nil {
			i.AcceptsRA = true
		}
	}
	return out, nil
}

// enslaved says whether packets arrive on the interface's master. A VRF is a master too, but prerouting sees its ports.
func enslaved(a *netlink.LinkAttrs) bool {
	return a.MasterIndex != 0 && (a.Slave == nil || a.Slave.SlaveType() != "vrf")
}
