package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
)

// In the mode links nobody ends connections: the gateway forwards, and has two ways to the server.

// masquerader is what a gateway has without Salp: forwarding by one way, and a masquerade.
const masquerader = "masquerade"

// linkGoals are those of the mode links, in the whole machine's processor time: there is no process to compare.
var linkGoals = []goal{{masquerader, 1.1}}

// Both ends of the second way; the first is that of the standard network.
const (
	secondGateway = "10.0.3.1"
	secondServer  = "10.0.3.2"
	farServer     = "203.0.113.2" // on the server, beyond both ways
)

// suit gives the network what a mode takes more than others.
func (n *network) suit(m mode) error {
	switch m {
	case links:
		return n.twoWays()
	case pools:
		return n.severalServers()
	}
	return nil
}

// twoWays gives the gateway a second way to the server, and the server an address that both lead to.
func (n *network) twoWays() error {
	if err := n.Join(n.Gateway, "g2", n.Server(), "e2"); err != nil {
		return err
	}
	n.server = netip.AddrPortFrom(netip.MustParseAddr(farServer), n.server.Port())
	n.ways = []netip.Addr{n.outside, netip.MustParseAddr(secondGateway)}
	return errors.Join(n.Gateway.Addr("g2", secondGateway+"/24"), n.Server().Addr("e2", secondServer+"/24"), n.Server().Addr("lo", farServer+"/32"),
		n.Gateway.Default("10.0.2.2"))
}

// masquerade is a kernel that forwards by one way and masquerades.
type masquerade struct{ direct }

const masqueradeRules = `table inet bench {
	chain post {
		type nat hook postrouting priority srcnat
		oifname { "g1", "g2" } masquerade
	}
}
`

func (*masquerade) start(ctx context.Context, n *network, _ mode) error {
	path, err := n.file("masquerade.nft", masqueradeRules)
	if err != nil {
		return err
	}
	return n.gateway(ctx, []string{"nft", "-f", path})
}

func (*masquerade) prove(e evidence) error { return e.routed(e.ways[0]) }

// salpLinks is Salp's file in the mode links: each flow for itself, half of them by each way.
const salpLinks = `links:
  one: {interface: g1, gateway: 10.0.2.2}
  two: {interface: g2, gateway: ` + secondServer + `}
balance:
  inside: {interfaces: [%s], networks: [10.0.1.0/24]}
  spread: flow
  offload: %t
`

// flowtables makes a check that the kernel has them, which salp tells.
func flowtables(salp string) func() error {
	return func() error {
		if err := needs(salp)(); err != nil {
			return err
		}
		out, _ := exec.Command(salp, "features").Output() // it fails when anything is missing
		if !regexp.MustCompile(`(?m)^nft flowtable +yes`).Match(out) {
			return errors.New("this kernel has no flowtables")
		}
		return nil
	}
}

// many is how many connections are surely not given to one of two links alone: less than a quarter of 40 falls to a half once in 2,000 times.
const many = 40

// routed says why this is not the evidence of forwarding by all these ways, each with its own address.
func (e evidence) routed(ways ...netip.Addr) error {
	if err := e.noProxy(); err != nil {
		return err
	}
	for _, a := range ways {
		if n := e.seen.Addresses[a.String()]; e.answered >= many && (n == 0 || n*4 < e.answered) {
			return fmt.Errorf("%d of %d connections came by %s", n, e.answered, a)
		}
	}
	return e.sawOnly(ways...)
}
