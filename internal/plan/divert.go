package plan

import (
	"net/netip"
	"slices"
)

// The TPROXY way. Packets of transparent halves are marked, and an ip rule per ingress interface sends what is marked to a table
// whose only route makes it local. The rule names the interface so that the reverse-path check, which looks up with iif lo, does
// not see it: with src_valid_mark=1 or tcp_fwmark_accept=1 a rule by mark alone stops all traffic.
const (
	divert       = "divert"
	divertSocket = "divert-socket"
	upstreamOut  = "upstream-out"
)

func (r *recipe) divertChains() []Chain {
	if !r.transparent() {
		return nil
	}
	chains := []Chain{r.divert(), r.divertSocket()}
	if r.borrows {
		chains = append(chains, r.upstreamOut())
	}
	for _, t := range r.tproxied {
		chains = append(chains, r.intercept(t))
	}
	return chains
}

// divert runs after conntrack, whose mark it needs, and before routing.
//
// A bare SYN never goes by socket: a client that uses its port again while our side is in TIME_WAIT would hit the old socket,
// and the tproxy statement has its own handling of that. UDP never goes by socket: unconnected reply sockets would catch queries.
func (r *recipe) divert() Chain {
	c := Chain{Name: divert, Type: "filter", Hook: "prerouting", Priority: -150, Rules: []NFTRule{
		rule("a packet of a transparent connection", notBareSYN, SocketTransparent{}, Jump{Chain: divertSocket}),
		// Without this, fragmentation-needed about an upstream half goes to the client and uploads stall.
		rule("an error about a transparent connection", r.icmp(), SocketTransparent{}, Jump{Chain: divertSocket}),
	}}
	if r.borrows {
		// Of NAT's answers the IPv6 lookup does not know the client's address (nf_socket_ipv6.c).
		c.Rules = slices.Insert(c.Rules, 0, rule("an answer to a client's address, whatever NAT has made of it", CTMark{r.marks.Zone, r.marks.Zone},
			CTDirection{Reply: true}, SetMark{r.marks.Divert}, accept))
	}
	if len(r.tproxied) > 0 {
		c.Rules = append(c.Rules, r.ownTraffic())
	}
	for _, t := range r.tproxied {
		c.Rules = append(c.Rules, rule("listener "+t.name, append(t.arrives(), Jump{Chain: interceptChain(t)})...))
	}
	return c
}

// upstreamOut marks the entries of upstream halves that have the client's address, so that what belongs to them is known.
func (r *recipe) upstreamOut() Chain {
	both := r.marks.Upstream | r.marks.Zone
	return Chain{Name: upstreamOut, Type: "filter", Hook: "output", Priority: -150, Rules: []NFTRule{
		rule("an upstream half with the client's address", Mark{both, both}, CTMark{r.marks.Zone, 0}, SetCTMark{Bits: r.marks.Zone}),
	}}
}

// divertSocket makes packets local whose transparent socket is ours. Another program's transparent listener on the wildcard address
// matches everything that is forwarded to its port, so it must not count; our own sockets always have an address. TIME_WAIT and
// SYN_RECV sockets break the wildcard match (nft_socket.c) and so go on to be accepted, as they should: lost to forwarding, a
// server's repeated FIN would never be answered.
func (r *recipe) divertSocket() Chain {
	return Chain{Name: divertSocket, Rules: []NFTRule{
		rule("another program's listener, which catches what is not meant for it", SocketWildcard{}, back),
		rule("deliver to the socket", SetMark{r.marks.Divert}, accept),
	}}
}

func interceptChain(t taken) string { return "intercept-" + t.name }

// intercept decides about a connection at its SYN and remembers the decision in the conntrack mark. To take in SYNs alone would
// lose connections under SYN cookies, whose last ACK finds no socket; to take in every packet would reset the connections
// that were there before us.
func (r *recipe) intercept(t taken) Chain {
	rules := r.hostsOwn(bareSYN)
	rules = append(rules,
		rule("no worker: let it pass by", bareSYN, InSet{Set: AliveSet, Not: true}, SetCTMark{Bits: r.marks.Intercepted, Clear: true}, back))
	if t.limits != "" {
		rules = append(rules, rule("its rates", bareSYN, Jump{Chain: t.limits}))
	}
	rules = append(rules, rule("take this connection in", bareSYN, SetCTMark{Bits: r.marks.Intercepted}))
	for _, f := range r.families {
		rules = append(rules, r.tproxy(f, t.port))
	}
	return Chain{Name: interceptChain(t), Rules: rules}
}

// tproxy hands the packet to the listener. It sets the mark after the tproxy statement: when nobody listens, that one ends the
// rule, the packet stays unmarked and is forwarded. The other way round it would be made local and be lost.
//
// The listener is on a loopback address, where nobody can reach it directly, which would be an open proxy and a loop.
func (r *recipe) tproxy(f Family, port uint16) NFTRule {
	return rule("hand it to the listener, if it is there", NFProto{Family: f}, L4Proto{Protos: []byte{TCP}},
		CTMark{r.marks.Intercepted, r.marks.Intercepted}, TProxy{To: netip.AddrPortFrom(loopback(f), port)}, SetMark{r.marks.Divert}, accept)
}

func loopback(f Family) netip.Addr {
	if f == IPv6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
