package lab

import (
	"fmt"
)

// Net is the standard network, for which the files in examples/ are written:
//
//	clients            gateway             servers
//	10.0.1.2, …   ──   g0    g1     ──     10.0.2.2, …
//	fd00:1::2, …   10.0.1.1  10.0.2.1      fd00:2::2, …
//
// Clients and servers have an interface e0 and the gateway as their default router. The gateway does not forward until
// somebody (Salp) makes it.
type Net struct {
	*Lab
	Gateway *Host
	Clients []*Host
	Servers []*Host
}

// Client returns the first client, 10.0.1.2 and fd00:1::2.
func (n *Net) Client() *Host { return n.Clients[0] }

// Server returns the first server, 10.0.2.2 and fd00:2::2.
func (n *Net) Server() *Host { return n.Servers[0] }

// Standard builds the standard network in l with so many clients and servers. One of a kind is wired to the gateway directly,
// several by an Ethernet switch (a host of its own with a bridge).
func (l *Lab) Standard(clients, servers int) (*Net, error) {
	n := &Net{Lab: l}
	var err error
	if n.Gateway, err = l.Host("gateway"); err != nil {
		return nil, err
	}
	if n.Clients, err = l.side("client", n.Gateway, "g0", 1, clients); err != nil {
		return nil, err
	}
	if n.Servers, err = l.side("server", n.Gateway, "g1", 2, servers); err != nil {
		return nil, err
	}
	for _, h := range append(append([]*Host{n.Gateway}, n.Clients...), n.Servers...) {
		if err := h.settle(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// side builds one side of the gateway: network number net (10.0.net.0/24, fd00:net::/64) with count hosts from .2 on.
func (l *Lab) side(kind string, gateway *Host, gwIface string, net, count int) ([]*Host, error) {
	var hosts []*Host
	for i := range count {
		name := kind
		if count > 1 {
			name = fmt.Sprintf("%s%d", kind, i+1)
		}
		h, err := l.Host(name)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	if err := l.wire(kind, gateway, gwIface, hosts); err != nil {
		return nil, err
	}
	gw4, gw6 := fmt.Sprintf("10.0.%d.1", net), fmt.Sprintf("fd00:%d::1", net)
	if err := gateway.Addr(gwIface, gw4+"/24", gw6+"/64"); err != nil {
		return nil, err
	}
	for i, h := range hosts {
		if err := h.Addr("e0", fmt.Sprintf("10.0.%d.%d/24", net, i+2), fmt.Sprintf("fd00:%d::%x/64", net, i+2)); err != nil {
			return nil, err
		}
		if err := h.Default(gw4, gw6); err != nil {
			return nil, err
		}
	}
	return hosts, nil
}

func (l *Lab) wire(kind string, gateway *Host, gwIface string, hosts []*Host) error {
	if len(hosts) == 1 {
		return l.Join(gateway, gwIface, hosts[0], "e0")
	}
	sw, err := l.Host(kind + " switch")
	if err != nil {
		return err
	}
	if err := l.Join(gateway, gwIface, sw, "p1"); err != nil {
		return err
	}
	ports := []string{"p1"}
	for i, h := range hosts {
		port := fmt.Sprintf("p%d", i+2)
		if err := l.Join(h, "e0", sw, port); err != nil {
			return err
		}
		ports = append(ports, port)
	}
	return sw.Bridge("br0", ports...)
}
