package plan

import "net/netip"

// LinkFacts is how an Internet link is now. Package link makes it, from what the kernel holds, what probes say and what the operator wants.
type LinkFacts struct {
	Name   string    `json:"name"`
	Up     bool      `json:"up"`     // new flows may use it
	Reset  bool      `json:"reset"`  // while it is not Up: its flows are to be forgotten, so that they begin anew elsewhere
	Weight int       `json:"weight"` // its share of new flows among those that are Up, at least 1
	IPv4   LinkRoute `json:"ipv4"`
	IPv6   LinkRoute `json:"ipv6"`
}

// LinkRoute is the way out by a link in one address family. The zero value is none: the link is not used for the family, or lacks an address
// or a gateway. It may be known while the link is not Up.
type LinkRoute struct {
	Dev       string       `json:"dev,omitempty"`       // "" when there is no way
	Gateway   netip.Addr   `json:"gateway,omitzero"`    // none: the interface is point-to-point
	Addresses []netip.Addr `json:"addresses,omitempty"` // the link's own, best first; one at least
}

// Usable says that there is a way.
func (r LinkRoute) Usable() bool { return r.Dev != "" }

// Of returns the way of a family.
func (l *LinkFacts) Of(f Family) LinkRoute {
	if f == IPv6 {
		return l.IPv6
	}
	return l.IPv4
}

// Gateway is a default route of somebody else's: what a link's router is learned from.
type Gateway struct {
	Family   Family     `json:"family"`
	Table    uint32     `json:"table"`
	Dev      string     `json:"dev"`
	Via      netip.Addr `json:"via,omitzero"` // none: the interface is point-to-point
	Src      netip.Addr `json:"src,omitzero"` // the source that it prefers
	Metric   uint32     `json:"metric,omitempty"`
	Protocol int        `json:"protocol"` // who added it (rtnetlink(7), rtm_protocol)
}
