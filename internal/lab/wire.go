package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Join connects two hosts by a veth pair, both ends up. The hosts may be the same.
func (l *Lab) Join(a *Host, aName string, b *Host, bName string) error {
	link := &netlink.Veth{
		LinkAttrs:     linkAttrs(aName),
		PeerName:      bName,
		PeerNamespace: netlink.NsFd(int(b.ns.Fd())),
	}
	if err := a.nl.LinkAdd(link); err != nil {
		return a.fault(err, "adding veth %s to %s on %s", aName, bName, b.Name)
	}
	if err := a.Up(aName); err != nil {
		return err
	}
	return b.Up(bName)
}

func linkAttrs(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// Bridge adds an Ethernet bridge, up, with the named interfaces as ports.
func (h *Host) Bridge(name string, ports ...string) error {
	if err := h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: linkAttrs(name)}); err != nil {
		return h.fault(err, "adding bridge %s", name)
	}
	master, err := h.nl.LinkByName(name)
	if err != nil {
		return h.fault(err, "bridge %s", name)
	}
	for _, port := range ports {
		link, err := h.link(port)
		if err != nil {
			return err
		}
		if err := h.nl.LinkSetMaster(link, master); err != nil {
			return h.fault(err, "making %s a port of %s", port, name)
		}
	}
	return h.Up(name)
}

func (h *Host) link(name string) (netlink.Link, error) {
	link, err := h.nl.LinkByName(name)
	return link, h.fault(err, "interface %s", name)
}

// Up sets an interface up.
func (h *Host) Up(name string) error {
	link, err := h.link(name)
	if err != nil {
		return err
	}
	return h.fault(h.nl.LinkSetUp(link), "setting %s up", name)
}

// Down sets an interface down.
func (h *Host) Down(name string) error {
	link, err := h.link(name)
	if err != nil {
		return err
	}
	return h.fault(h.nl.LinkSetDown(link), "setting %s down", name)
}

// Remove removes an interface and, if it is one end of a veth pair, the other end.
func (h *Host) Remove(name string) error {
	link, err := h.link(name)
	if err != nil {
		return err
	}
	return h.fault(h.nl.LinkDel(link), "removing %s", name)
}

// MTU sets the largest packet of an interface, in bytes without the Ethernet header.
func (h *Host) MTU(name string, bytes int) error {
	link, err := h.link(name)
	if err != nil {
		return err
	}
	return h.fault(h.nl.LinkSetMTU(link, bytes), "mtu %d of %s", bytes, name)
}

// MAC returns the hardware address of an interface.
func (h *Host) MAC(name string) (net.HardwareAddr, error) {
	link, err := h.link(name)
	if err != nil {
		return nil, err
	}
	return link.Attrs().HardwareAddr, nil
}

// Addr gives an interface addresses, each with its prefix length ("10.0.1.1/24"). IPv6 addresses work at once: duplicate
// address detection is off.
func (h *Host) Addr(name string, prefixes ...string) error {
	link, err := h.link(name)
	if err != nil {
		return err
	}
	for _, text := range prefixes {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return h.fault(err, "address of %s", name)
		}
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := h.nl.AddrAdd(link, a); err != nil {
			return h.fault(err, "adding %s to %s", p, name)
		}
	}
	return nil
}

// RemoveAddr takes an address from an interface.
func (h *Host) RemoveAddr(name, prefix string) error {
	link, err := h.link(name)
	if err != nil {
		return err
	}
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		return h.fault(err, "address of %s", name)
	}
	return h.fault(h.nl.AddrDel(link, &netlink.Addr{IPNet: ipNet(p)}), "removing %s from %s", p, name)
}

// Route adds a route to a prefix by way of a router's address.
func (h *Host) Route(prefix, via string) error {
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		return h.fault(err, "route")
	}
	gw, err := netip.ParseAddr(via)
	if err != nil {
		return h.fault(err, "route to %s", p)
	}
	return h.fault(h.nl.RouteAdd(&netlink.Route{Dst: ipNet(p), Gw: gw.AsSlice()}), "adding route to %s via %s", p, gw)
}

// Default adds default routes by way of routers' addresses, of one family or both.
func (h *Host) Default(via ...string) error {
	for _, v := range via {
		gw, err := netip.ParseAddr(v)
		if err != nil {
			return h.fault(err, "default route")
		}
		all := "0.0.0.0/0"
		if gw.Is6() {
			all = "::/0"
		}
		if err := h.Route(all, v); err != nil {
			return err
		}
	}
	return nil
}

// Forward makes the host a router for both families.
func (h *Host) Forward() error {
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := h.Sysctl(name, "1"); err != nil {
			return err
		}
	}
	return nil
}

// Namespace returns the namespace's identity as /proc/PID/ns/net spells it ("net:[4026532000]").
func (h *Host) Namespace() (string, error) {
	text, err := namespaceOf(int(h.ns.Fd()))
	return text, h.fault(err, "namespace")
}

func namespaceOf(fd int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("net:[%d]", st.Ino), nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
