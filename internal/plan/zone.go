package plan

import (
	"net/netip"
)

var linkLocal = netip.MustParsePrefix("fe80::/10")

// When an intercepting listener has the client's address on both sides, the halves of a connection are alike: client to server, with
// the same ports when the client's is kept, and by chance when it is not. (Where clients dial the proxy, the client half has the
// proxy's address.) In one conntrack entry their sequence numbers would contradict each other, and a firewall that drops invalid
// packets would stall every bulk transfer; and a masquerade would find nothing to do.
//
// So what this host itself sends is kept apart: it goes by a conntrack zone of our own, and what comes in by the usual one. Of the
// client half that is the answers' direction, of the upstream half the first sender's:
//
//	client half     client → server  usual zone    server → client  ours
//	upstream half   client → server  ours          server → client  usual zone, or server → this host when it masquerades
//
// A zone is chosen before conntrack looks, hence priority raw. A packet that comes in needs none, so that it is found whatever
// address NAT has made of the client's, and an ICMP error too. (nf_conntrack_core.c, resolve_normal_ct)
//
// Of the ways to do this, only the zone leaves the host's firewall as it is: notrack takes away its established state, and
// nf_conntrack_tcp_be_liberal weakens it for everybody.
const (
	zoneIn  = "zone-in"
	zoneOut = "zone-out"
)

func (r *recipe) zoneChains() []Chain {
	if !r.keeps {
		return nil
	}
	var into []Chain
	for _, t := range r.tproxied {
		if t.client {
			into = append(into, r.zoneOf(t))
		}
	}
	if len(into) == 0 { // NAT tells the halves' answers apart
		return []Chain{r.zoneOut()}
	}
	return append([]Chain{r.zoneIn(), r.zoneOut()}, into...)
}

// zoneIn sees to the connections that will be taken in. Only their first packet chooses: the entry that it makes keeps the zone.
func (r *recipe) zoneIn() Chain {
	c := Chain{Name: zoneIn, Type: "filter", Hook: "prerouting", Priority: -300, Rules: []NFTRule{r.ownTraffic()}}
	for _, t := range r.tproxied {
		if t.client {
			c.Rules = append(c.Rules, rule("listener "+t.name, append(t.arrives(), bareSYN, Jump{Chain: zoneChain(t)})...))
		}
	}
	return c
}

func zoneChain(t taken) string { return "zone-" + t.name }

// zoneOf decides as intercept does.
func (r *recipe) zoneOf(t taken) Chain {
	return Chain{Name: zoneChain(t), Rules: append(r.hostsOwn(),
		rule("no worker: let it pass by", InSet{Set: AliveSet, Not: true}, back),
		rule("will be taken in: our answers go by a zone of our own", SetDirZone{Reply: true, Zone: r.kernel.Zone}))}
}

// zoneOut needs no socket: a packet we send has its socket's mark, and one from TIME_WAIT the mark that its socket had.
func (r *recipe) zoneOut() Chain {
	zone, both := r.marks.Zone, r.marks.Zone|r.marks.Upstream
	return Chain{Name: zoneOut, Type: "filter", Hook: "output", Priority: -300, Rules: []NFTRule{
		rule("upstream half with the client's address", Mark{both, both}, SetDirZone{Zone: r.kernel.Zone}, back),
		rule("answers of a client half", Mark{both, zone}, SetDirZone{Reply: true, Zone: r.kernel.Zone}),
	}}
}
