package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"salp/bench/procstat"
	"salp/internal/lab"
)

// network is what one measurement runs in: a client, the gateway and a server, joined by veth. It is new for each, so that
// nothing (TIME_WAIT sockets, conntrack entries, rules) is left of the one before.
type network struct {
	*lab.Net
	clients  []netip.Addr     // addresses of the client
	server   netip.AddrPort   // where the server listens
	servers  []netip.AddrPort // in the mode pools: all of them
	inside   netip.AddrPort   // the gateway, for clients that dial it
	outside  netip.Addr       // the gateway, as the server sees it
	ways     []netip.Addr     // and in the mode links, by each way
	dir      string           // for files, readable by all
	incoming string           // the gateway's interface to the client
	http     bool             // the traffic is HTTP, and peers are to treat it as such
}

// clientAddresses is how many addresses the client has: with few, their ports would run out in the row with a connection for
// each request.
const clientAddresses = 16

// settings hold in all three hosts. Reno: BBR paces, and hides what a proxy costs.
var settings = [...][2]string{
	{"net/ipv4/tcp_congestion_control", "reno"},
	{"net/ipv4/tcp_max_syn_backlog", "65535"},
	{"net/core/somaxconn", "65535"},
}

func newNetwork() (_ *network, err error) {
	l, err := lab.New()
	if err != nil {
		return nil, err
	}
	n := &network{
		server:   netip.MustParseAddrPort("10.0.2.2:80"),
		inside:   netip.MustParseAddrPort("10.0.1.1:80"),
		outside:  netip.MustParseAddr("10.0.2.1"),
		incoming: "g0",
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close(), os.RemoveAll(n.dir))
		}
	}()
	if n.Net, err = l.Standard(1, 1); err != nil {
		return nil, err
	}
	if n.dir, err = openDirectory(); err != nil {
		return nil, err
	}
	return n, n.configure()
}

// openDirectory makes a temporary directory that other users may look into: proxies drop their privileges.
func openDirectory() (string, error) {
	dir, err := os.MkdirTemp("", "salp-bench-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// The clients' ports and those that the gateway chooses do not overlap: with a client's address on both halves of a connection
// and REDIRECT, conntrack would take the two for one when the ports are the same.
const (
	clientPorts  = "32768 65535"
	gatewayPorts = "1024 32767"
)

func (n *network) configure() error {
	ports := map[*lab.Host]string{n.Client(): clientPorts, n.Gateway: gatewayPorts, n.Server(): gatewayPorts}
	for h, ports := range ports {
		for _, s := range append(settings[:], [2]string{"net/ipv4/ip_local_port_range", ports}) {
			if err := h.Sysctl(s[0], s[1]); err != nil {
				return err
			}
		}
	}
	for i := range clientAddresses {
		a := netip.AddrFrom4([4]byte{10, 0, 1, byte(10 + i)})
		if err := n.Client().Addr("e0", a.String()+"/24"); err != nil {
			return err
		}
		n.clients = append(n.clients, a)
	}
	return n.Gateway.Forward()
}

// firewall is what most gateways have, whoever wrote it: it makes the kernel track connections. Drops are left out, so that a
// measurement shows what tracking costs and nothing else.
const firewall = `table inet firewall {
	chain input {
		type filter hook input priority filter
		ct state established,related accept
	}
	chain forward {
		type filter hook forward priority filter
		ct state established,related accept
	}
}
`

// guard puts the firewall on the gateway.
func (n *network) guard(ctx context.Context) error {
	path, err := n.file("firewall.nft", firewall)
	if err != nil {
		return err
	}
	return n.gateway(ctx, []string{"nft", "-f", path})
}

// close ends all processes of the network, and it.
func (n *network) close() error { return errors.Join(n.Lab.Close(), os.RemoveAll(n.dir)) }

// target is what clients dial.
func (n *network) target(p peer, m mode) netip.AddrPort {
	if s, isSalp := p.(*salpPeer); isSalp && s.kernel {
		return n.inside
	}
	if _, isDirect := p.(*direct); isDirect || m != explicit && m != pools {
		return n.server
	}
	return n.inside
}

// file writes a file into the network's directory and returns its path.
func (n *network) file(name, text string) (string, error) {
	path := filepath.Join(n.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// gateway runs commands on the gateway, each given by its words.
func (n *network) gateway(ctx context.Context, commands ...[]string) error {
	for _, c := range commands {
		if _, err := n.Gateway.Run(ctx, c[0], c[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// counters are those of the gateway.
func (n *network) counters() (c procstat.Counters, err error) {
	err = n.Gateway.Do(func() (err error) {
		c, err = procstat.ReadCounters()
		return err
	})
	return c, err
}

// sockets are those of the gateway.
func (n *network) sockets() (s []procstat.Socket, err error) {
	err = n.Gateway.Do(func() (err error) {
		s, err = procstat.Sockets()
		return err
	})
	if err != nil {
		err = fmt.Errorf("sockets of the gateway: %w", err)
	}
	return s, err
}
