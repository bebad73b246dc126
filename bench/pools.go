package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// In the mode pools clients dial the gateway, which gives each connection to one of several servers, in turn, and keeps the client's address.

// kernelGoals are those of the kernel path, in the whole machine's processor time: there is no process to compare.
var kernelGoals = []goal{{"direct", 1.1}}

// poolServers is how many servers there are. They are addresses of one host and one process, so that the machine's work is that of one server.
const poolServers = 3

// severalServers gives the server its other addresses.
func (n *network) severalServers() error {
	first := n.server
	n.servers = nil
	for i := range poolServers {
		a := netip.AddrFrom4([4]byte{10, 0, 2, byte(2 + i)})
		n.servers = append(n.servers, netip.AddrPortFrom(a, first.Port()))
		if i > 0 {
			if err := n.Server().Addr("e0", a.String()+"/24"); err != nil {
				return err
			}
		}
	}
	return nil
}

// quoted lists the servers for Salp's file.
func (n *network) quoted() string {
	var words []string
	for _, s := range n.servers {
		words = append(words, fmt.Sprintf("%q", s))
	}
	return strings.Join(words, ", ")
}

const salpPools = `workers: %d
listeners:
  bench:
    listen: ["%s"]
    source: client
    protocol: tcp
    pool: servers
pools:
  servers:
    servers: [%s]
`

const salpKernelPools = `listeners:
  bench:
    listen: ["%s"]
    via: kernel
    source: client
    offload: %t
    pool: servers
pools:
  servers:
    servers: [%s]
`

func (s *salpPeer) poolsConfig(n *network) string {
	if s.kernel {
		return fmt.Sprintf(salpKernelPools, n.inside, s.offload, n.quoted())
	}
	return fmt.Sprintf(salpPools, proxyLoops, n.inside, n.quoted())
}

// serverLines are the servers in HAProxy's words.
func (n *network) serverLines() string {
	var b strings.Builder
	for i, s := range n.servers {
		fmt.Fprintf(&b, "\tserver s%d %s\n", i+1, s)
	}
	return b.String()
}

// answersHere has what servers send to clients' addresses delivered to the gateway's own sockets.
func answersHere(ctx context.Context, n *network) error {
	return deliver(ctx, n, fmt.Sprintf(divert, "", ""))
}

// spread says why this is not the evidence of connections dealt to the servers in turn, from the clients' own addresses.
func (e evidence) spread() error {
	if len(e.seen.Locals) == 0 {
		return errors.New("the server does not tell at which address clients came")
	}
	for _, s := range e.servers {
		if n := e.seen.Locals[s.Addr().String()]; e.answered >= many && n*poolServers*2 < e.answered {
			return fmt.Errorf("%d of %d connections came to server %s", n, e.answered, s.Addr())
		}
	}
	return e.sawOnly(e.clients...)
}
