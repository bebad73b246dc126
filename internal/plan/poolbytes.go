package plan

import "net/netip"

// Every packet that is forwarded passes the chain that counts the servers' bytes, whether it is of a server or not. So it asks each question
// once, the one that most packets fail first, and a packet that is counted leaves.
const (
	bytesChain   = "accounting"
	answersChain = "from-servers"
	refusedChain = "refused"
)

// comparedServers is up to how many servers of a family are compared one after the other: a look-up of address, protocol and port costs as
// much as some dozen plain comparisons.
const comparedServers = 4

// countedServer is an address whose bytes are counted.
type countedServer struct {
	to    netip.AddrPort
	proto byte
	name  string // pool and label
}

func (s countedServer) in() string  { return "in-" + s.name }
func (s countedServer) out() string { return "out-" + s.name }

// element is the server as a key of sets.
func (s countedServer) element() string { return serviceKey(s.to, s.proto) }

// account counts a server's bytes. One address can be counted once: of a server in two pools, the first pool has it.
func (t *poolsTable) account(s poolServer, f Family, proto byte) {
	c := countedServer{s.Address, proto, s.Pool + "-" + s.label}
	if t.accounted[c.element()] || len(t.Flowtables) > 0 && t.uncounted[c.element()] {
		return
	}
	t.accounted[c.element()] = true
	t.counter(c.in())
	t.counter(c.out())
	if t.counted == nil {
		t.counted = map[Family][]countedServer{}
	}
	t.counted[f] = append(t.counted[f], c)
}

// accounting are the chains that see all packets to and from servers: the client's in the first, the servers' answers in the second.
func (t *poolsTable) accounting() []Chain {
	to := Chain{Name: bytesChain, Type: "filter", Hook: "forward", Priority: afterFilters, Rules: []NFTRule{
		rule("not for a server", CTStatus{Bits: []string{"dnat"}, Not: true}, back),
		rule("what servers answer", CTDirection{Reply: true}, Goto{Chain: answersChain})}}
	from, refused := Chain{Name: answersChain}, Chain{Name: refusedChain}
	for _, f := range t.families {
		to.Rules = append(to.Rules, t.bytesTo(f)...)
		from.Rules = append(from.Rules, t.bytesFrom(f)...)
		if t.checked[f] {
			refused.Rules = append(refused.Rules, t.unheard(f))
		}
	}
	for _, f := range t.families { // whose bytes are counted has left by now
		from.Rules = append(from.Rules, t.passOn(f)...)
	}
	switch {
	case len(from.Rules) == 0:
		return nil
	case len(refused.Rules) == 0:
		return []Chain{to, from}
	}
	from.Rules = append([]NFTRule{rule("connection tracking forgets it with this packet", CTStatus{Bits: []string{"dying"}}, Jump{Chain: refusedChain})}, from.Rules...)
	return []Chain{to, from, refused}
}

func (t *poolsTable) bytesTo(f Family) []NFTRule {
	const comment = "bytes to servers"
	return t.bytes(f, comment, "in", Fields{DaddrOf(f), L4ProtoKey, THDPort}, countedServer.in, func(s countedServer) []Expr {
		return []Expr{Daddr{Prefix: single(s.to.Addr())}, DPort{Ranges: onePort(s.to), Proto: s.proto}}
	})
}

func (t *poolsTable) bytesFrom(f Family) []NFTRule {
	const comment = "bytes from servers"
	return t.bytes(f, comment, "out", Fields{SaddrOf(f), L4ProtoKey, THSPort}, countedServer.out, func(s countedServer) []Expr {
		return []Expr{Saddr{Prefix: single(s.to.Addr())}, SPort{Ranges: onePort(s.to), Proto: s.proto}}
	})
}

// bytes are the rules that count in one direction: those of compare, or, for many servers, a look-up in a map that begins with that name.
func (t *poolsTable) bytes(f Family, comment, name string, key Fields, counter func(countedServer) string, compare func(countedServer) []Expr) []NFTRule {
	servers := t.counted[f]
	if len(servers) > comparedServers {
		counters := Set{Name: name + f.digit(), Type: key.SetType(), Data: "counter"}
		for _, s := range servers {
			counters.Elements = append(counters.Elements, s.element()+` : "`+counter(s)+`"`)
		}
		t.Sets = append(t.Sets, counters)
		return []NFTRule{rule(comment, CounterFrom{Key: key, Map: counters.Name}, back)}
	}
	var rules []NFTRule
	for _, s := range servers {
		rules = append(rules, rule(comment, append(compare(s), Counter{Name: counter(s)}, back)...))
	}
	return rules
}

// unheard keeps a server's refusal from the client, whose TCP then sends its SYN again, and has another server chosen for it: connection tracking
// has just forgotten the connection, as it does when a reset is the only answer, and is "dying" only for this packet. (nf_conntrack_tcp_packet in
// net/netfilter/nf_conntrack_proto_tcp.c)
func (t *poolsTable) unheard(f Family) NFTRule {
	key := Fields{SaddrOf(f), L4ProtoKey, THSPort}
	set := Set{Name: "retried" + f.digit(), Type: key.SetType(), Elements: t.retried[f]} // there also when it is empty, so that it can change by elements alone
	t.Sets = append(t.Sets, set)
	return rule("a refused client tries another server", In{Key: key, Set: set.Name}, TCPFlags{Mask: SYN | RST, Value: RST}, Verdict{Word: "drop"})
}
