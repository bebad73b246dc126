package main

import (
	"fmt"
	"net/netip"
	"slices"

	"salp/bench/procstat"
	"salp/bench/traffic"
)

// evidence is what tells whether a peer was in the path of a measurement.
type evidence struct {
	mode       mode
	answered   int64             // connections of the client that had an answer: all these were carried
	gateway    procstat.Counters // what the gateway's counters grew by
	clientHalf int               // established sockets of the gateway that the peer's processes hold, to clients
	serverHalf int               // and to the server
	http       bool              // connections to the server may be used again, so it is requests that must have arrived
	exchanges  int64             // whole responses that the client had
	steady     bool              // connections were kept, so that the sockets could be counted
	seen       traffic.Seen      // what the server saw
	clients    []netip.Addr
	outside    netip.Addr
	servers    []netip.AddrPort // in the mode pools
	ways       []netip.Addr     // addresses of the gateway, one for each way to the server
}

// stray is how many packets may have been forwarded past a proxy for each connection it carried: resets and the like.
const stray = 0.01

// proxied says why this is not the evidence of a proxy, which ends the clients' connections and makes its own to the server.
func (e evidence) proxied() error {
	switch {
	case e.gateway.PassiveOpens < e.answered:
		return fmt.Errorf("the gateway accepted %d of %d connections: they went past the proxy", e.gateway.PassiveOpens, e.answered)
	case e.http:
		return e.relayed()
	case e.gateway.ActiveOpens < e.answered:
		return fmt.Errorf("the gateway made %d connections for %d of clients", e.gateway.ActiveOpens, e.answered)
	case float64(e.gateway.Forwarded) > 20+stray*float64(e.answered):
		return fmt.Errorf("%d packets were forwarded past the proxy", e.gateway.Forwarded)
	case e.steady && (int64(e.clientHalf) < e.answered || int64(e.serverHalf) < e.answered):
		return fmt.Errorf("the proxy holds %d sockets to clients and %d to the server for %d connections", e.clientHalf, e.serverHalf, e.answered)
	case e.mode == transparent:
		return e.sawOnly(e.clients...)
	case e.mode == pools:
		return e.spread()
	}
	return e.sawOnly(e.outside)
}

// relayed says why this is not the evidence of an HTTP proxy that has got every response from the server.
func (e evidence) relayed() error {
	switch {
	case e.gateway.ActiveOpens == 0:
		return fmt.Errorf("the gateway made no connection to the server")
	case float64(e.gateway.Forwarded) > 20+stray*float64(e.answered):
		return fmt.Errorf("%d packets were forwarded past the proxy", e.gateway.Forwarded)
	case e.seen.Requests < e.exchanges:
		return fmt.Errorf("the server had %d of %d requests: the proxy answered others itself", e.seen.Requests, e.exchanges)
	case e.steady && int64(e.clientHalf) < e.answered:
		return fmt.Errorf("the proxy holds %d sockets to clients for %d connections", e.clientHalf, e.answered)
	}
	want := []netip.Addr{e.outside}
	if e.mode == transparent {
		want = e.clients
	}
	for text := range e.seen.Addresses {
		if a, err := netip.ParseAddr(text); err != nil || !slices.Contains(want, a) {
			return fmt.Errorf("the server saw %s; only %v should come", text, want)
		}
	}
	return nil
}

// forwarded says why this is not the evidence of forwarding without a proxy.
func (e evidence) forwarded() error {
	if err := e.noProxy(); err != nil {
		return err
	}
	return e.sawOnly(e.clients...)
}

// translated says why this is not the evidence of forwarding with addresses translated.
func (e evidence) translated() error {
	if err := e.noProxy(); err != nil {
		return err
	}
	switch e.mode {
	case transparent:
		return e.sawOnly(e.clients...)
	case pools:
		return e.spread()
	}
	return e.sawOnly(e.outside)
}

// noProxy says which connections ended at the gateway, or were not forwarded.
func (e evidence) noProxy() error {
	if e.gateway.PassiveOpens != 0 || e.gateway.ActiveOpens != 0 {
		return fmt.Errorf("the gateway accepted %d and made %d connections", e.gateway.PassiveOpens, e.gateway.ActiveOpens)
	}
	if e.gateway.Forwarded < e.answered {
		return fmt.Errorf("the gateway forwarded %d packets for %d connections", e.gateway.Forwarded, e.answered)
	}
	return nil
}

// sawOnly checks the addresses that the server saw.
func (e evidence) sawOnly(want ...netip.Addr) error {
	var all int64
	for text, n := range e.seen.Addresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}
		if !slices.Contains(want, a) {
			return fmt.Errorf("the server saw %s; only %v should come", a, want)
		}
		all += n
	}
	if all < e.answered {
		return fmt.Errorf("the server saw %d of %d connections", all, e.answered)
	}
	return nil
}

// halves counts the established sockets that the processes hold, by the side they are on.
func (n *network) halves(pids []int) (client, server int, err error) {
	sockets, err := n.sockets()
	if err != nil {
		return 0, 0, err
	}
	open, err := procstat.DescriptorsOf(pids)
	if err != nil {
		return 0, 0, err
	}
	for _, s := range sockets {
		switch {
		case s.Listening || !open.Holds(s):
		case s.Remote == n.server, slices.Contains(n.servers, s.Remote):
			server++
		case slices.Contains(n.clients, s.Remote.Addr()):
			client++
		}
	}
	return client, server, nil
}
