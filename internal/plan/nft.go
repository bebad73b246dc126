package plan

import "net/netip"

// Table is an nft table of family inet.
type Table struct {
	Name   string
	Owner  bool // the kernel removes it with the socket that made it (NFT_TABLE_F_OWNER)
	Sets   []Set
	Chains []Chain
}

// Set is a named nft set.
type Set struct {
	Name     string
	Type     string   // as nft spells it: inet_proto, inet_service, ifname, ipv4_addr, ipv6_addr
	Timeout  bool     // elements may expire
	Interval bool     // elements may be ranges
	Runtime  bool     // elements are run-time state: written by kernel.Alive and the like, neither printed nor compared
	Elements []string // as nft spells them
}

// Chain is an nft chain; a base chain when Hook is set.
type Chain struct {
	Name     string
	Type     string // filter or nat; base chains only
	Hook     string // prerouting, input, forward, output; "" for a regular chain
	Priority int    // base chains only; lower is earlier
	Rules    []NFTRule
}

// NFTRule is one rule: matches and statements in order, and a comment that says why it is there.
type NFTRule struct {
	Exprs   []Expr
	Comment string
}

// Expr is one match or statement. Text is its nft spelling as `nft list ruleset` would print it back.
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
	// DPort matches the TCP destination port.
	DPort struct{ Ranges []PortRange }
	// TCPFlags matches tcp flags & Mask == (or != with Not) Value.
	TCPFlags struct {
		Mask, Value byte
		Not         bool
	}
	// SocketTransparent matches packets whose local socket is transparent. (nft(8), SOCKET EXPRESSION)
	SocketTransparent struct{}
	// SocketMark matches the mark of the packet's local full socket: mark & Mask == Value; it breaks the rule for TIME_WAIT sockets.
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
	// DaddrType matches the destination's route type: local, broadcast, multicast. (fib daddr type)
	DaddrType struct {
		Types []string
		Not   bool
	}
	// Daddr matches the destination address.
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
	// TProxy diverts to a local listener; the rule ends there when none listens. The rule must also match the family.
	TProxy struct{ To netip.AddrPort }
	// Redirect is NAT to a local port.
	Redirect struct{ Port uint16 }
	// RejectReset answers with a TCP reset.
	RejectReset struct{}
	// Counter counts packets and bytes; its values are neither printed nor compared.
	Counter struct{}
	// Jump goes to a regular chain and comes back.
	Jump struct{ Chain string }
	// Verdict is accept, drop or return.
	Verdict struct{ Word string }
)

// PortRange is an inclusive range of ports.
type PortRange struct{ First, Last uint16 }
