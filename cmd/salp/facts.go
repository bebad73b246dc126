package main

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"salp/internal/admin"
	"salp/internal/kernel"
	"salp/internal/plan"
)

// hostFacts gathers what a plan needs to know about this machine. The addresses that the gateway with this run directory listens on
// are not in the way of its next configuration.
func hostFacts(host *kernel.Host, runDir string) (plan.Facts, error) {
	facts, err := host.Facts()
	if err != nil {
		return facts, err
	}
	own := gatewayListens(runDir)
	facts.Listening = slices.DeleteFunc(facts.Listening, func(a netip.AddrPort) bool { return own[a] })
	return facts, nil
}

// gatewayListens returns the addresses that clients of a running gateway dial; none when no gateway runs or it does not answer us.
func gatewayListens(runDir string) map[netip.AddrPort]bool {
	client, err := admin.Dial(runDir)
	if err != nil {
		return nil
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	status, err := client.Status(ctx)
	if err != nil {
		return nil
	}
	own := map[netip.AddrPort]bool{}
	for _, l := range status.Listeners {
		for _, text := range l.Addresses {
			if a, err := netip.ParseAddrPort(text); err == nil {
				own[a] = true
			}
		}
	}
	return own
}
