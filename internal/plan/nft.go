package plan

import (
	"encoding/json"
	"net/netip"
	"time"
)

// Table is an nft table of family inet.
type Table struct {
	Name     string   `json:"name"`
	Owner    bool     `json:"owner"`              // the kernel removes it with the socket that made it (NFT_TABLE_F_OWNER)
	Counters []string `json:"counters,omitempty"` // named counters, whose values can be read
	Sets     []Set    `json:"sets,omitempty"`
	Chains   []Chain  `json:"chains"`

	Flowtables []Flowtable `json:"flowtables,omitempty"`
}

// Set is a named nft set, or with Data a map.
type Set struct {
	Name     string        `json:"name"`
	Type     string        `json:"type"`               // as nft spells it: inet_proto, inet_service, ifname, ipv4_addr, ipv6_addr, mark, several with " . " between, or a NumberType
	Data     string        `json:"data,omitempty"`     // of a map: mark, verdict, counter, ipv4_addr, ipv4_addr . inet_service, ...; with a NumberType as fields: ip daddr . tcp dport
	Timeout  bool          `json:"timeout,omitempty"`  // elements may expire
	Lapse    time.Duration `json:"lapse,omitempty"`    // and do after this time, when they have none of their own; nanoseconds
	Interval bool          `json:"interval,omitempty"` // elements may be ranges
	Dynamic  bool          `json:"dynamic,omitempty"`  // rules add elements (a Meter); then it is run-time state as well
	Size     uint32        `json:"size,omitempty"`     // the greatest number of elements; 0: no bound
	Runtime  bool          `json:"runtime,omitempty"`  // elements are run-time state: written by kernel.Alive and the like, neither printed nor compared
	Elements []string      `json:"elements,omitempty"` // as nft spells them; of a map "key : data". IntervalElements makes those of prefixes
}

// Chain is an nft chain; a base chain when Hook is set.
type Chain struct {
	Name     string    `json:"name"`
	Type     string    `json:"type,omitempty"` // filter, nat or (hook output) route; base chains only
	Hook     string    `json:"hook,omitempty"` // prerouting, input, forward, output, postrouting; "" for a regular chain
	Priority int       `json:"priority"`       // base chains only; lower is earlier
	Rules    []NFTRule `json:"rules"`
}

// NFTRule is one rule: matches and statements in order, and a comment that says why it is there.
type NFTRule struct {
	Exprs   []Expr
	Comment string
}

// MarshalJSON writes the matches and statements as their nft text.
func (r NFTRule) MarshalJSON() ([]byte, error) {
	texts := make([]string, len(r.Exprs))
	for i, e := range r.Exprs {
		texts[i] = e.Text()
	}
	return json.Marshal(struct {
		Exprs   []string `json:"exprs"`
		Comment string   `json:"comment,omitempty"`
	}{texts, r.Comment})
}

// Expr is one match or statement. Text is its nft spelling as `nft list ruleset` would print it back.
//
// nft leaves a match out of its listing when a later one implies it, and so does this package: a rule that has a DPort or TCPFlags
// has no L4Proto, and one that has a Daddr has no NFProto. Who writes a rule to the kernel puts the implied match (meta l4proto tcp,
// meta nfproto) before the first of them.
type Expr interface{ Text() string }

// Matches.
type (
	// IIFName matches the ingress interface. One name prints bare, several as an anonymous set.
	IIFName struct {
		Names []string
		Not   bool
	}
	// L4Proto matches the transport protocol: numbers of /etc/protocols (tcp 6, icmp 1, ipv6-icmp 58).
	L4Proto struct{ Protos []byte }
	// NFProto matches the address family.
	NFProto struct{ Family Family }
	// DPort matches the destination port.
	DPort struct {
		Ranges []PortRange
		Proto  byte // TCP (also when 0) or UDP, which it implies
	}
	// TCPFlags matches tcp flags & Mask == (or != with Not) Value, and implies TCP.
	TCPFlags struct {
		Mask, Value byte
		Not         bool
	}
	// SocketTransparent matches packets whose local socket is transparent. (nft(8), SOCKET EXPRESSION)
	SocketTransparent struct{}
	// SocketWildcard matches packets whose local full socket is bound to no address; it breaks the rule for TIME_WAIT and SYN_RECV sockets.
	SocketWildcard struct{}
	// SocketMark matches the mark of the packet's local full socket: mark & Mask == Value; it breaks the rule for TIME_WAIT and SYN_RECV sockets.
	SocketMark struct{ Mask, Value uint32 }
	// Mark matches the packet mark: mark & Mask == Value.
	Mark struct{ Mask, Value uint32 }
	// CTMark matches the conntrack mark: mark & Mask == Value.
	CTMark struct{ Mask, Value uint32 }
	// CTDNAT matches packets whose connection was (Not: was not) destination-NATed.
	CTDNAT struct{ Not bool }
	// InSet looks the transport protocol up in a named set of type inet_proto of the same table (the alive set).
	InSet struct {
		Set string
		Not bool
	}
	// DaddrType matches the destination's route type: local, broadcast, anycast, multicast. (fib daddr type)
	DaddrType struct {
		Types []string
		Not   bool
	}
	// Daddr matches the destination address, and implies its family.
	Daddr struct {
		Prefix netip.Prefix
		Not    bool
	}
)

// Statements.
type (
	// SetMark sets bits of the packet mark and leaves the others.
	SetMark struct{ Bits uint32 }
	// SetCTMark sets bits of the conntrack mark and leaves the others; Clear clears them instead.
	SetCTMark struct {
		Bits  uint32
		Clear bool
	}
	// SetZone puts the packet into a conntrack zone.
	SetZone struct{ Zone uint16 }
	// TProxy diverts to a local listener; the rule ends there when none listens. The rule must also match the family and TCP.
	TProxy struct{ To netip.AddrPort }
	// Redirect is NAT to a local port of the ingress interface's address. The rule must also match TCP.
	Redirect struct{ Port uint16 }
	// RejectReset answers with a TCP reset. The rule must also match TCP.
	RejectReset struct{}
	// Counter counts packets and bytes, with a name in a counter of the table; its values are neither printed nor compared.
	Counter struct{ Name string }
	// Jump goes to a regular chain and comes back.
	Jump struct{ Chain string }
	// Verdict is accept, drop or return.
	Verdict struct{ Word string }
)

// PortRange is an inclusive range of ports.
type PortRange struct{ First, Last uint16 }

func onePort(a netip.AddrPort) []PortRange { return []PortRange{{a.Port(), a.Port()}} }

// single is the prefix of one address alone.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Bits of the TCP flags. (RFC 9293, 3.1)
const (
	FIN byte = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// Numbers of /etc/protocols.
const (
	ICMP   byte = 1
	TCP    byte = 6
	UDP    byte = 17
	ICMPv6 byte = 58
)
