package plan

import (
	"net/netip"
)

var linkLocal = netip.MustParsePrefix("fe80::/10")

// When an intercepting listener keeps the client's port, both halves of a connection have the same addresses and ports: client to
// server. (Where clients dial the proxy, the client half has the proxy's address, and no zone is needed.) In one
// conntrack entry their sequence numbers would contradict each other, and a firewall that drops invalid packets would stall every
// bulk transfer. So the upstream half has a conntrack zone of its own. A zone is chosen before conntrack looks, hence priority raw.
//
// A known limit: when the host also translates the source address of what it sends to the servers (masquerade), their answers come
// to an address of the host, where no transparent socket is found and so no zone is chosen, and no connection is made.
//
// Of the ways to do this, only the zone leaves the host's firewall as it is: notrack takes away its established state, and
// nf_conntrack_tcp_be_liberal weakens it for everybody.
const (
	zoneIn     = "zone-in"
	zoneSocket = "zone-socket"
	zoneOut    = "zone-out"
)

func (r *recipe) zoneChains() []Chain {
	if !r.keeps {
		return nil
	}
	return []Chain{r.zoneIn(), r.zoneSocket(), r.zoneOut()}
}

// zoneIn finds the packets that belong to transparent sockets, as divert does. ICMP counts: an error about an upstream half must
// find its entry.
func (r *recipe) zoneIn() Chain {
	return Chain{Name: zoneIn, Type: "filter", Hook: "prerouting", Priority: -300, Rules: []NFTRule{
		rule("a packet of a transparent connection: of which half", notBareSYN, SocketTransparent{}, Jump{Chain: zoneSocket}),
		rule("an error about a transparent connection: of which half", r.icmp(), SocketTransparent{}, Jump{Chain: zoneSocket}),
	}}
}

// zoneSocket tells upstream halves from client halves by the socket's mark. A TIME_WAIT or SYN_RECV socket is not a full one: its
// mark cannot be read and the match breaks the rule (nft_socket.c, NFT_SOCKET_MARK). Of these, what came where clients' connections
// are taken in belongs to a client half; the rest is upstream.
func (r *recipe) zoneSocket() Chain {
	zone := r.marks.Zone
	rules := []NFTRule{
		rule("upstream half that keeps the client's port", SocketMark{zone, zone}, SetZone{r.kernel.Zone}, back),
		rule("any other full socket", SocketMark{zone, 0}, back),
	}
	var ingress []string
	for _, t := range r.tproxied {
		rules = append(rules, rule("TIME_WAIT or SYN_RECV of a client half", append(t.arrives(), back)...))
		ingress = append(ingress, t.interfaces...)
	}
	if len(ingress) > 0 {
		rules = append(rules, rule("an error about such a one", r.icmp(), IIFName{Names: ifnames(ingress)}, back))
	}
	rules = append(rules, rule("TIME_WAIT of an upstream half", SetZone{r.kernel.Zone}))
	return Chain{Name: zoneSocket, Rules: rules}
}

// zoneOut needs no socket: a packet we send has its socket's mark, and one from TIME_WAIT the mark that its socket had.
func (r *recipe) zoneOut() Chain {
	zone := r.marks.Zone
	return Chain{Name: zoneOut, Type: "filter", Hook: "output", Priority: -300, Rules: []NFTRule{
		rule("upstream half that keeps the client's port", Mark{zone, zone}, SetZone{r.kernel.Zone}),
	}}
}
