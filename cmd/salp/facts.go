package main

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/kernel"
	"salp/internal/plan"
)

// hostFacts gathers what a plan needs to know about this machine. The addresses that the gateway with this run directory listens on
// are not in the way of its next configuration, and its servers are as it has them.
func hostFacts(host *kernel.Host, runDir string) (plan.Facts, error) {
	facts, err := host.Facts()
	if err != nil {
		return facts, err
	}
	if status := running(runDir); status != nil {
		own := listens(status)
		facts.Listening = slices.DeleteFunc(facts.Listening, func(a netip.AddrPort) bool { return own[a] })
		facts.Servers = servers(status)
	}
	return facts, nil
}

// running returns the status of a running gateway; nil when none runs or it does not answer us.
func running(runDir string) *admin.Status {
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
	return status
}

// fileOf returns the file that was named, or that of the running gateway, or the usual one.
func fileOf(named, runDir string) string {
	if named != "" {
		return named
	}
	if status := running(runDir); status != nil {
		return status.ConfigFile
	}
	return defaultFile
}

// listens returns the addresses that clients of a gateway dial.
func listens(status *admin.Status) map[netip.AddrPort]bool {
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

// servers returns the servers of a gateway's pools, as its kernel path has them.
func servers(status *admin.Status) (all []plan.ServerFact) {
	for _, p := range status.Pools {
		for _, s := range p.Servers {
			if a, err := netip.ParseAddrPort(s.Address); err == nil {
				all = append(all, plan.ServerFact{Pool: p.Name, Server: s.Name, Address: a, Up: s.State == control.ServerUp})
			}
		}
	}
	return all
}
