// Package plan computes, from a configuration and facts about the host, everything Salp wants in the kernel, as one value that prints itself.
package plan

import (
	"net/netip"
)

// Plan is everything Salp wants in the kernel. The zero Plan wants nothing.
type Plan struct {
	Tables  []Table
	Rules   []Rule
	Routes  []Route
	Sysctls []Sysctl
}

// Family is an address family of rules and routes.
type Family int

const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Rule is an ip rule: packets from interface IIF whose mark has the bits Mark look into Table. (ip-rule(8))
type Rule struct {
	Family   Family
	Priority uint32
	Mark     uint32
	Mask     uint32
	IIF      string
	Table    uint32
}

// Route is `local default dev lo` in a table of ours, which makes diverted packets ours. (ip-route(8))
type Route struct {
	Family Family
	Table  uint32
}

// Sysctl is a value to set, named as below /proc/sys with slashes ("net/ipv4/ip_forward"). Former values are kept by package kernel.
type Sysctl struct {
	Name  string
	Value string
	Why   string
}

// Facts is what a plan needs to know about the host. Package kernel gathers it; tests write it by hand.
type Facts struct {
	Interfaces []Interface
	Listening  []netip.AddrPort  // TCP sockets that listen now, those of this Salp left out
	Ports      map[string]uint16 // local port of each intercepting listener that already has one, by listener name
	IPv6       bool              // the kernel has IPv6
	TProxy     Support           // nft tproxy and socket expressions work
}

// Interface is a network interface of the host.
type Interface struct {
	Name      string
	Loopback  bool
	Up        bool
	Enslaved  bool           // a bridge port or bond member: packets arrive on its master
	Addresses []netip.Prefix // address with prefix length
	AcceptsRA bool           // has an IPv6 route learned from router advertisements, which forwarding=1 would lose
}

// Support is the answer of a feature probe.
type Support int

const (
	Unknown Support = iota // could not tell
	Yes
	No
)
