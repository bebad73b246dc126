// Package plan computes, from a configuration and facts about the host, everything Salp wants in the kernel, as one value that prints itself.
package plan

import (
	"fmt"
	"net/netip"
)

// Plan is everything Salp wants in the kernel. The zero Plan wants nothing.
type Plan struct {
	Tables    []Table  `json:"tables"`
	Rules     []Rule   `json:"rules"`
	Routes    []Route  `json:"routes"`
	Sysctls   []Sysctl `json:"sysctls"`              // in the order to be set
	Marks     uint32   `json:"marks"`                // the bits of packet, socket and conntrack marks that are Salp's, when any is used
	LinkMarks uint32   `json:"link_marks,omitempty"` // the bits of packet and conntrack marks that hold the number of a flow's link, when there are links
}

// Empty tells whether the plan wants nothing.
func (p Plan) Empty() bool { return len(p.Tables)+len(p.Rules)+len(p.Routes)+len(p.Sysctls) == 0 }

// Family is an address family of rules and routes.
type Family int

const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func (f Family) String() string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// MarshalText writes ipv4 or ipv6, as nft does.
func (f Family) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (f *Family) UnmarshalText(text []byte) error {
	switch string(text) {
	case IPv4.String():
		*f = IPv4
	case IPv6.String():
		*f = IPv6
	default:
		return fmt.Errorf("an address family is ipv4 or ipv6, not %q", text)
	}
	return nil
}

// Sysctl is a value to set, named as below /proc/sys with slashes ("net/ipv4/ip_forward"). Former values are kept by package kernel.
type Sysctl struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Why   string `json:"why"`
}

// Facts is what a plan needs to know about the host. Package kernel gathers it; tests write it by hand.
type Facts struct {
	Interfaces []Interface               `json:"interfaces"`
	Listening  []netip.AddrPort          `json:"listening"`       // TCP sockets that listen now, those of this Salp left out; one that serves both families is there twice
	Ports      map[string]uint16         `json:"ports"`           // local port of each intercepting listener that already has one, by listener name
	IPv6       bool                      `json:"ipv6"`            // the kernel has IPv6
	TProxy     Support                   `json:"tproxy"`          // nft tproxy and socket expressions work
	Servers    []ServerFact              `json:"servers"`         // of pools, as far as the keeper knows more than the file
	KernelPath Support                   `json:"kernel_path"`     // nft can translate addresses and choose by hash and by number
	Flowtable  Support                   `json:"flowtable"`       // nft can let established flows pass without rules
	Links      []LinkFacts               `json:"links"`           // of each link of the configuration, in the order of the file
	Names      map[string][]netip.Addr   `json:"names,omitempty"` // what the host names in the rules of links resolve to
	Lists      map[string][]netip.Prefix `json:"lists,omitempty"` // what the lists in the rules of links hold
}

// ServerFact is one address of one server of a pool, and whether it takes new connections.
type ServerFact struct {
	Pool    string         `json:"pool"`
	Server  string         `json:"server"` // as the configuration names it
	Address netip.AddrPort `json:"address"`
	Up      bool           `json:"up"`
}

// Interface is a network interface of the host.
type Interface struct {
	Name       string         `json:"name"`
	Loopback   bool           `json:"loopback,omitempty"`
	Up         bool           `json:"up"`
	Carrier    bool           `json:"carrier,omitempty"`        // the network is there: a cable is plugged in, a peer answers (RFC 2863)
	Peer       bool           `json:"point_to_point,omitempty"` // it has one peer, so that routes need no gateway
	Enslaved   bool           `json:"enslaved,omitempty"`       // a bridge port or bond member: packets arrive on its master
	Master     string         `json:"master,omitempty"`         // the bridge or bond it is enslaved to; "" when that is not known
	Addresses  []netip.Prefix `json:"addresses"`                // address with prefix length
	AcceptsRA  bool           `json:"accepts_ra,omitempty"`     // has an IPv6 route learned from router advertisements, which forwarding=1 would lose
	StrictPath bool           `json:"strict_path,omitempty"`    // its IPv4 reverse-path check is strict (rp_filter 1)
}

// Support is the answer of a feature probe.
type Support int

const (
	Unknown Support = iota // could not tell
	Yes
	No
)

func (s Support) String() string {
	switch s {
	case Yes:
		return "yes"
	case No:
		return "no"
	}
	return "unknown"
}

// MarshalText writes yes, no or unknown.
func (s Support) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (s *Support) UnmarshalText(text []byte) error {
	switch string(text) {
	case "yes":
		*s = Yes
	case "no":
		*s = No
	case "unknown", "":
		*s = Unknown
	default:
		return fmt.Errorf("support is yes, no or unknown, not %q", text)
	}
	return nil
}
