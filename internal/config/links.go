package config

import (
	"math/bits"
	"net/netip"
	"time"
)

// Link is one way to the Internet.
type Link struct {
	Name          string
	Interface     string
	Gateway       ByFamily     // an invalid address: learned from the kernel's routes
	Addresses     []netip.Addr // the host's on this link, best first; empty: those of the interface
	IPv4, IPv6    bool         // whether the link is used for the family
	Weight        int          // its share among links; 0: Bandwidth says
	Bandwidth     uint64       // bits a second; 0: not known
	Adapt         Adapt
	Metered       bool // takes part in spreading only while no link that is not metered is up
	MTU           int  // bytes of a packet; 0: the interface's
	MSS           int  // the most bytes of a TCP segment; 0: what the MTU allows
	Masquerade    ByFamily
	MasqueradeOff bool         // this link's flows keep their source
	NPT           netip.Prefix // what the inside IPv6 network of the same length is translated to; invalid: nothing is
	Check         *LinkCheck   // nil: only the interface and its gateway are looked at
	OnDown        LinkDown     // filled in from Balance when the file does not say
	OnChange      *LinkHook    // filled in from Balance when the file does not say; nil: nothing is called

	masquerade masqueradeWish // becomes Masquerade and MasqueradeOff
}

// ByFamily is an address for each address family. An invalid one is not given.
type ByFamily struct{ IPv4, IPv6 netip.Addr }

// Of returns the address of the family that 4 or 6 names.
func (b ByFamily) Of(family int) netip.Addr {
	if family == 6 {
		return b.IPv6
	}
	return b.IPv4
}

// Adapt says by what measure a link's weight is corrected while Salp runs.
type Adapt string

const (
	AdaptNot     Adapt = ""
	AdaptLatency Adapt = "latency" // less for a link whose probes take longer than they usually do
	AdaptLoad    Adapt = "load"    // less for a link that uses more of its bandwidth than the others
)

// LinkDown says what becomes of the flows of a link that goes down.
type LinkDown string

const (
	LinkDownKeep  LinkDown = "keep"  // they stay on it, and go on if it comes back in time
	LinkDownReset LinkDown = "reset" // they are forgotten, so that they begin anew on another link
)

// LinkCheck says how a link is found to be up: probes through it to targets beyond it.
type LinkCheck struct {
	Ping    []netip.Addr
	TCP     []netip.AddrPort
	HTTP    []string // URLs
	DNS     []netip.AddrPort
	DNSName string // what the DNS targets are asked for
	Quorum  int    // so many targets must answer
	Every   time.Duration
	Timeout time.Duration // of one probe; filled in: half of Every when the file does not say
	Fall    int           // so many rounds without a quorum take the link down
	Rise    int           // so many with one bring it up
	Loss    int           // percent of the probes of the last Window that may be lost; 0: no matter
	Latency time.Duration // that those of the last Window may take on average; 0: no matter
	Window  int           // rounds
	Damping time.Duration // within which a link that goes down too often flaps, and is held down; 0: it is not
}

// Targets returns how many targets there are.
func (c *LinkCheck) Targets() int { return len(c.Ping) + len(c.TCP) + len(c.HTTP) + len(c.DNS) }

// LinkHook is what is called when a link changes.
type LinkHook struct {
	Run     []string // a program by its absolute path, and its arguments; no shell
	Webhook string   // a URL that gets a POST
	User    string   // whom Run runs as; "": as Config.User
	Timeout time.Duration
}

// LinkBalance says which flows use which link. Without links it means nothing.
type LinkBalance struct {
	Inside     Inside
	Masquerade bool // sources that are not the link's own become the link's
	Spread     Spread
	OnDown     LinkDown
	LastResort LastResort
	Offload    bool // established flows from the inside pass no rules, where the kernel can
	OnChange   *LinkHook
	Groups     []*LinkGroup
	Rules      []LinkRule
	Default    string // a link, a group, LinkBalanced or LinkBlackhole: for the gateway's own traffic and what no rule names
}

// Names that stand where a link's name does.
const (
	LinkBalanced  = "balanced"  // spread over all links
	LinkBlackhole = "blackhole" // dropped
)

// Inside says whose traffic is spread.
type Inside struct {
	Interfaces []string
	Networks   []netip.Prefix // empty: whatever comes in by Interfaces
}

// Spread says which flows are kept together on one link.
type Spread string

const (
	SpreadFlow        Spread = "flow"                   // none: each for itself
	SpreadClient      Spread = "client"                 // those of a client
	SpreadPair        Spread = "client-and-destination" // those of a client to one destination
	SpreadDestination Spread = "destination"            // those to one destination
)

// LastResort says what becomes of flows while no link is up that they may use.
type LastResort string

const (
	LastResortAll    LastResort = "all"    // the links are used as if they were up
	LastResortMain   LastResort = "main"   // the host's own routing table decides
	LastResortReject LastResort = "reject" // they are refused at once
)

// LinkGroup is some of the links, to be spread over.
type LinkGroup struct {
	Name   string
	Links  []string
	Spread Spread // filled in from Balance when the file does not say
}

// LinkRule sends flows that have all of what is given to links. An empty list is no condition, and of a list one item must fit.
type LinkRule struct {
	From       []Place
	To         []Place
	Ports      []PortRange // of the destination
	Protocol   []Transport
	DSCP       []uint8
	Interfaces []string // that the flow came in by
	Listener   string   // Salp's own connections to servers for this listener
	Links      []string // in the order of preference: links, groups, LinkBalanced or LinkBlackhole; one at least
	Strict     bool     // when none of Links is up: refused, not sent by another
}

// Place is addresses: a prefix, those that a host name has, or those of a list.
type Place struct {
	Prefix netip.Prefix
	Name   string // a host name in lower case without a final dot
	List   string // of Config.Lists
}

// Transport is a protocol above IP, by the name it has in nft.
type Transport string

const (
	TransportTCP  Transport = "tcp"
	TransportUDP  Transport = "udp"
	TransportICMP Transport = "icmp" // of both families
	TransportGRE  Transport = "gre"
	TransportESP  Transport = "esp"
	TransportSCTP Transport = "sctp"
)

// Forward leads what arrives at the addresses of links to a server inside.
type Forward struct {
	Links    []string // empty: all
	Ports    []PortRange
	Protocol []Transport    // tcp, udp
	To       netip.AddrPort // port 0: the port that was dialled
	From     []Place        // empty: anyone
}

// LinkMark is the bits of a mark that name link number n, counted from 1; 0 is none.
func (k Kernel) LinkMark(n int) uint32 {
	return uint32(n) << bits.TrailingZeros32(k.LinkMarks) & k.LinkMarks
}

// Link returns the link with that name and its number, which counts from 1 in the order of the file; nil and 0 when there is none.
func (c *Config) Link(name string) (*Link, int) {
	for i, l := range c.Links {
		if l.Name == name {
			return l, i + 1
		}
	}
	return nil, 0
}

// LinkGroup returns the group of links with that name, or nil.
func (c *Config) LinkGroup(name string) *LinkGroup {
	for _, g := range c.Balance.Groups {
		if g.Name == name {
			return g
		}
	}
	return nil
}

// LinksOf returns the links that a name stands for: a link, those of a group, all for LinkBalanced, none for LinkBlackhole.
func (c *Config) LinksOf(name string) []*Link {
	if name == LinkBalanced {
		return c.Links
	}
	if l, n := c.Link(name); n > 0 {
		return []*Link{l}
	}
	g := c.LinkGroup(name)
	if g == nil {
		return nil
	}
	var all []*Link
	for _, name := range g.Links {
		if l, n := c.Link(name); n > 0 {
			all = append(all, l)
		}
	}
	return all
}
