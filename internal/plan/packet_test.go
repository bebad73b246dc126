package plan

import (
	"net/netip"
	"testing"
)

// everything has each kind of listener. Clients are on g0, servers on g1.
const everything = `
listeners:
  web:    {intercept: {interfaces: [g0], ports: [80, 8000-8099]}, source: client, source_port: keep}
  both:   {intercept: {interfaces: [g0, g1], ports: [21]}, source: client}
  mail:   {intercept: {interfaces: [g0], ports: [25]}, on_failure: closed}
  nat:    {intercept: {interfaces: [g0], ports: [110], method: redirect}}
  natted: {intercept: {interfaces: [g0], ports: [143], method: redirect}, on_failure: closed}
  front:  {listen: ["10.0.1.1:3128"], source: client, pool: web}
pools:
  web: {servers: ["10.0.2.2:80"]}
kernel: {marks: 0xf0000000, zone: 8110}
`

// The bits of the mask above, and the ports that the listeners get, in their order.
const (
	markP, markU, markZ, markI = 0x10000000, 0x20000000, 0x40000000, 0x80000000
	web4, web6                 = "listener 127.0.0.1:61440", "listener [::1]:61440"
)

func newHostOf(t *testing.T, yaml string, f Facts) *host {
	t.Helper()
	cfg := parse(t, yaml)
	h := &host{plan: mustMake(t, cfg, f), alive: true, listening: map[netip.AddrPort]bool{}, matched: map[string]bool{}}
	for _, port := range Ports(cfg, f) {
		h.listening[netip.AddrPortFrom(loopback(IPv4), port)] = true
		h.listening[netip.AddrPortFrom(loopback(IPv6), port)] = true
	}
	h.types = map[netip.Addr]string{}
	for _, i := range f.Interfaces {
		for _, p := range i.Addresses {
			h.types[p.Addr()] = "local"
		}
	}
	for kind, text := range map[string]string{"broadcast": "10.0.1.255", "anycast": "fd00:1::", "multicast": "224.0.0.1"} {
		h.types[netip.MustParseAddr(text)] = kind
	}
	return h
}

func tcp(from string, flags byte, to string) packet {
	return packet{from: from, proto: TCP, flags: flags, to: netip.MustParseAddrPort(to), entry: &entry{}}
}

func (p packet) marked(mark uint32) packet { p.mark |= mark; return p }
func (p packet) taken() packet             { p.entry = &entry{mark: markI, decided: true}; return p }
func (p packet) on(e *entry) packet        { p.entry = e; return p }
func (p packet) at(s socket) packet        { s.transparent = true; p.socket = &s; return p }
func (p packet) running() packet           { p.entry = &entry{decided: true}; return p }
func (p packet) answer() packet {
	p.entry, p.reply = &entry{mark: markZ, decided: true}, true
	return p
}
func (p packet) untracked() packet          { p.entry = nil; return p }
func (p packet) carrying(proto byte) packet { p.proto, p.flags = proto, 0; return p }

// What a lookup finds.
var (
	clientHalf   = socket{full: true}
	fwmarkAccept = socket{full: true, mark: markP} // accepted with tcp_fwmark_accept=1: it has the mark of the SYN
	upstreamKeep = socket{full: true, mark: markU | markZ}
	upstreamAny  = socket{full: true, mark: markU | markZ}
	notFull      = socket{} // TIME_WAIT or SYN_RECV
	foreign      = socket{full: true, wildcard: true}
)

const (
	to4, to6 = "10.0.2.2:80", "[fd00:2::2]:80"
	back4    = "10.0.1.2:40000" // a client's address and port, where a server sends its answers
	back6    = "[fd00:1::2]:40000"
)

// Each case says what becomes of one packet. Where a case is about something that is known to have gone wrong elsewhere, it says what.
var packets = []struct {
	what string
	packet
	alive bool
	want  string
}{
	{"first SYN", tcp("g0", SYN, to4), true, web4 + ", reply zone 8110, taken"},
	{"first SYN, IPv6", tcp("g0", SYN, to6), true, web6 + ", reply zone 8110, taken"},
	{"first SYN with ECN and data flags", tcp("g0", SYN|PSH|0xc0, to4), true, web4 + ", reply zone 8110, taken"},
	{"first SYN, port within a range", tcp("g0", SYN, "10.0.2.2:8050"), true, web4 + ", reply zone 8110, taken"},
	{"SYN to another port", tcp("g0", SYN, "10.0.2.2:81"), true, "forwarded"},
	{"SYN on another interface", tcp("g1", SYN, "10.0.1.2:80"), true, "forwarded"},
	{"SYN, second listener", tcp("g1", SYN, "10.0.1.2:21"), true, "listener 127.0.0.1:61441, reply zone 8110, taken"},
	{"SYN that conntrack does not track", tcp("g0", SYN, to4).untracked(), true, "forwarded, reply zone 8110"},
	{"UDP to the same port", tcp("g0", 0, to4).carrying(17), true, "forwarded"},
	{"UDP, and there is a transparent socket", tcp("g0", 0, to4).carrying(17).at(clientHalf), true, "forwarded"},

	{"SYN to this host", tcp("g0", SYN, "10.0.1.1:80"), true, "local"},
	{"SYN to this host's other address", tcp("g0", SYN, "[fd00:2::1]:80"), true, "local"},
	{"SYN to a broadcast address", tcp("g0", SYN, "10.0.1.255:80"), true, "forwarded"},
	{"SYN to a subnet's anycast address", tcp("g0", SYN, "[fd00:1::]:80"), true, "forwarded"},
	{"SYN to a link-local server", tcp("g0", SYN, "[fe80::99]:80"), true, "forwarded"},
	{"SYN to the interception port from outside", tcp("g0", SYN, "10.0.1.1:61440"), true, "local"}, // nobody listens there
	{"our own SYN, come round", tcp("g0", SYN, to4).marked(markU), true, "forwarded"},
	{"our own SYN, come round to the redirected port", tcp("g0", SYN, "10.0.2.2:110").marked(markU), true, "forwarded"},
	{"our own SYN, come round where the rest is refused", tcp("g0", SYN, "10.0.2.2:25").marked(markU), true, "forwarded"},

	{"no worker: SYN", tcp("g0", SYN, to4), false, "forwarded"},
	{"no worker: SYN again, of a connection that was taken in", tcp("g0", SYN, to4).taken(), false, "forwarded"},
	{"no worker: packet of a carried connection", tcp("g0", ACK, to4).taken().at(clientHalf), false, "socket, taken"},
	{"no worker: last ACK under SYN cookies", tcp("g0", ACK, to4).taken(), false, web4 + ", taken"},
	{"no worker, closed: SYN", tcp("g0", SYN, "10.0.2.2:25"), false, "reset"},
	{"no worker, closed: SYN, IPv6", tcp("g0", SYN, "[fd00:2::2]:25"), false, "reset"},
	{"no worker, closed: SYN to this host", tcp("g0", SYN, "10.0.1.1:25"), false, "local"},
	{"no worker, closed: SYN from the other side", tcp("g1", SYN, "10.0.1.2:25"), false, "forwarded"},
	{"no worker, closed: flow from before", tcp("g0", ACK, "10.0.2.2:25").running(), false, "forwarded"},
	{"worker, closed: SYN", tcp("g0", SYN, "10.0.2.2:25"), true, "listener 127.0.0.1:61442, taken"},

	{"flow from before the start", tcp("g0", ACK, to4).running(), true, "forwarded"},
	{"flow from before the start ends", tcp("g0", FIN|ACK, to4).running(), true, "forwarded"},
	{"flow from before the start, answer", tcp("g1", ACK, back4).running(), true, "forwarded"},
	{"flow that conntrack first sees in its middle", tcp("g0", ACK, to4), true, "forwarded"},
	{"last ACK under SYN cookies: no socket yet", tcp("g0", ACK, to4).taken(), true, web4 + ", taken"},
	{"last ACK under SYN cookies, IPv6", tcp("g0", ACK, to6).taken(), true, web6 + ", taken"},
	{"last ACK of the handshake", tcp("g0", ACK, to4).taken().at(notFull), true, "socket, taken"},
	{"packet of a client half", tcp("g0", ACK, to4).taken().at(clientHalf), true, "socket, taken"},
	{"packet of a client half, tcp_fwmark_accept", tcp("g0", ACK, to4).taken().at(fwmarkAccept), true, "socket, taken"},
	{"packet of a client half after conntrack forgot it", tcp("g0", ACK, to4).at(clientHalf), true, "socket"},
	{"packet of a client half that is not tracked", tcp("g0", ACK, to4).untracked().at(clientHalf), true, "socket"},
	{"reset of a client half", tcp("g0", RST, to4).taken().at(clientHalf), true, "socket, taken"},
	{"FIN to a client half in TIME_WAIT", tcp("g0", FIN|ACK, to4).taken().at(notFull), true, "socket, taken"},
	{"SYN to a client half in TIME_WAIT: a new connection", tcp("g0", SYN, to4).at(notFull), true, web4 + ", reply zone 8110, taken"},

	{"SYN-ACK to an upstream half", tcp("g1", SYN|ACK, back4).at(upstreamKeep), true, "socket"},
	{"packet of an upstream half", tcp("g1", ACK, back4).at(upstreamKeep), true, "socket"},
	{"packet of an upstream half, IPv6", tcp("g1", ACK, back6).at(upstreamKeep), true, "socket"},
	{"packet of an upstream half, on the clients' side", tcp("g0", ACK, back4).at(upstreamKeep), true, "socket"},
	{"packet of an upstream half with a port of its own", tcp("g1", ACK, back4).at(upstreamAny), true, "socket"},
	{"FIN to an upstream half in TIME_WAIT", tcp("g1", FIN|ACK, back4).at(notFull), true, "socket"},
	{"FIN to an upstream half in TIME_WAIT, on the clients' side", tcp("g0", FIN|ACK, back4).at(notFull), true, "socket"},
	{"a server's SYN to a client's port that an upstream half has", tcp("g1", SYN, back4).at(upstreamKeep), true, "forwarded"},

	{"answer that NAT has changed, IPv4", tcp("g1", ACK, "10.0.2.1:40000").answer(), true, "local, upstream"},
	{"answer that NAT has changed: no socket is found by it", tcp("g1", ACK, back6).answer(), true, "lost, upstream"},
	{"answer to an upstream half", tcp("g1", SYN|ACK, back6).answer().at(upstreamKeep), true, "socket, upstream"},
	{"ICMP about an upstream half, known by conntrack", tcp("g1", 0, back6).carrying(ICMPv6).answer().at(upstreamKeep), true, "socket, upstream"},
	{"ICMP about an upstream half", tcp("g1", 0, back4).carrying(ICMP).at(upstreamKeep), true, "socket"},
	{"ICMPv6 about an upstream half", tcp("g1", 0, back6).carrying(ICMPv6).at(upstreamKeep), true, "socket"},
	{"ICMP about a client half", tcp("g0", 0, to4).carrying(ICMP).taken().at(clientHalf), true, "socket, taken"},
	{"ICMP about a client half in TIME_WAIT", tcp("g0", 0, to4).carrying(ICMP).taken().at(notFull), true, "socket, taken"},
	{"ICMP about nothing of ours", tcp("g1", 0, back4).carrying(ICMP), true, "forwarded"},
	{"ping", tcp("g0", 0, "10.0.2.2:0").carrying(ICMP), true, "forwarded"},

	{"another program's transparent listener on the wildcard address", tcp("g0", ACK, "10.0.2.2:3129").at(foreign), true, "forwarded"},
	{"the same, ICMP about a forwarded flow", tcp("g1", 0, back4).carrying(ICMP).at(foreign), true, "forwarded"},
	{"the same on a port that is taken in, SYN cookies", tcp("g0", ACK, to4).taken().at(foreign), true, web4 + ", taken"},

	{"redirect: SYN", tcp("g0", SYN, "10.0.2.2:110"), true, "redirected 61443, taken"},
	{"redirect: SYN, IPv6", tcp("g0", SYN, "[fd00:2::2]:110"), true, "redirected 61443, taken"},
	{"redirect: flow that conntrack first sees in its middle", tcp("g0", ACK, "10.0.2.2:110"), true, "forwarded"},
	{"redirect: flow from before the start", tcp("g0", ACK, "10.0.2.2:110").running(), true, "forwarded"},
	{"redirect: SYN to this host", tcp("g0", SYN, "10.0.1.1:110"), true, "local"},
	{"redirect: SYN to a link-local server", tcp("g0", SYN, "[fe80::99]:110"), true, "forwarded"},
	{"redirect: no worker", tcp("g0", SYN, "10.0.2.2:110"), false, "forwarded"},
	{"redirect: no worker, closed", tcp("g0", SYN, "10.0.2.2:143"), false, "reset"},
	{"redirect: worker, closed", tcp("g0", SYN, "10.0.2.2:143"), true, "redirected 61444, taken"},
	{"redirect: the port dialled directly", tcp("g0", SYN, "10.0.1.1:61443"), true, "reset"},
	{"redirect: the port dialled directly from this host", tcp("lo", SYN, "[::1]:61444"), true, "reset"},
}

func TestWhereAPacketGoes(t *testing.T) {
	h := newHostOf(t, everything, standard())
	for _, c := range packets {
		h.alive = c.alive
		if c.entry != nil {
			fresh := *c.entry
			c.entry = &fresh
		}
		if got := h.receive(c.packet); got != c.want {
			t.Errorf("%s: got %q, want %q; %s", c.what, got, c.want, h.explain())
		}
	}
	what := "closed: the rest of a connection whose keeper is dead"
	for _, port := range []string{"25", "143"} {
		dead := newHostOf(t, everything, standard())
		dead.plan.Tables, dead.plan.Rules = dead.plan.Tables[1:], nil // the table with an owner is gone
		if got := dead.receive(tcp("g0", ACK, "10.0.2.2:"+port).taken()); got != "reset, taken" {
			t.Errorf("%s: got %q; %s", what, got, dead.explain())
		}
		if got := dead.receive(tcp("g0", SYN, "10.0.2.2:"+port)); got != "reset" {
			t.Errorf("closed, keeper dead, SYN: got %q; %s", got, dead.explain())
		}
		for rule := range dead.matched {
			h.matched[rule] = true
		}
	}
	for _, p := range []struct {
		mark uint32
		want string
	}{{markU | markZ, "sent, original zone 8110, upstream"}, {markI | markZ, "sent, reply zone 8110"}, {markI, "sent"}, {markU, "sent"}, {0, "sent"}, {markP, "sent"}} {
		if got := h.send(packet{proto: TCP, to: netip.MustParseAddrPort(to4), mark: p.mark, entry: &entry{}}); got != p.want {
			t.Errorf("sent with mark %#x: got %q, want %q; %s", p.mark, got, p.want, h.explain())
		}
	}
	everyRuleWasNeeded(t, h)
}

// everyRuleWasNeeded finds the rules that no case has matched, neither for this listener nor for another.
func everyRuleWasNeeded(t *testing.T, h *host) {
	t.Helper()
	for _, table := range h.plan.Tables {
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				if !h.matched[role(table, c, r)] {
					t.Errorf("no case has matched %s %s: %s", table.Name, c.Name, r.Text())
				}
			}
		}
	}
}

// Connections in several packets: the entry keeps what was decided at the SYN.
func TestConnections(t *testing.T) {
	type step struct {
		packet
		alive bool
		want  string
	}
	for name, steps := range map[string][]step{
		"taken in, then the worker dies": {
			{tcp("g0", SYN, to4), true, web4 + ", reply zone 8110, taken"},
			{tcp("g0", ACK, to4).at(notFull), true, "socket, taken"},
			{tcp("g0", ACK|PSH, to4).at(clientHalf), true, "socket, taken"},
			{tcp("g0", ACK|PSH, to4), false, web4 + ", taken"}, // its sockets are gone: the listener's kernel answers with a reset
		},
		"passed by, then a worker comes": {
			{tcp("g0", SYN, to4), false, "forwarded"},
			{tcp("g0", ACK, to4), true, "forwarded"},
			{tcp("g0", FIN|ACK, to4), true, "forwarded"},
		},
		"hung worker: the SYN is lost in a full queue and comes again": {
			{tcp("g0", SYN, to4), true, web4 + ", reply zone 8110, taken"},
			{tcp("g0", SYN, to4), false, "forwarded"},
			{tcp("g0", ACK, to4), false, "forwarded"},
			{tcp("g0", ACK, to4), true, "forwarded"},
		},
		"redirected": {
			{tcp("g0", SYN, "10.0.2.2:110"), true, "redirected 61443, taken"},
			{tcp("g0", ACK, "10.0.2.2:110"), true, "redirected 61443, taken"},
			{tcp("g0", ACK, "10.0.2.2:110"), false, "redirected 61443, taken"},
		},
		"not redirected, then a worker comes": {
			{tcp("g0", SYN, "10.0.2.2:110"), false, "forwarded"},
			{tcp("g0", SYN, "10.0.2.2:110"), true, "forwarded"}, // NAT is decided once
			{tcp("g0", ACK, "10.0.2.2:110"), true, "forwarded"},
		},
	} {
		h, e := newHostOf(t, everything, standard()), &entry{}
		for i, s := range steps {
			h.alive = s.alive
			if got := h.receive(s.on(e)); got != s.want {
				t.Errorf("%s: step %d: got %q, want %q; %s", name, i+1, got, s.want, h.explain())
			}
		}
	}
}

// A listener that nobody has open breaks the tproxy rule: the packet must pass by, not be made local and lost.
func TestNobodyListens(t *testing.T) {
	h := newHostOf(t, everything, standard())
	clear(h.listening)
	for _, to := range []string{to4, to6} {
		if got := h.receive(tcp("g0", SYN, to)); got != "forwarded, reply zone 8110, taken" {
			t.Errorf("%s: got %q; %s", to, got, h.explain())
		}
	}
	if got := h.receive(tcp("g0", SYN, "10.0.2.2:25")); got != "reset, taken" {
		t.Errorf("closed: got %q; %s", got, h.explain())
	}
}

// Without a global IPv6 address on the interface the kernel would drop what is redirected.
func TestRedirectNeedsAnAddress(t *testing.T) {
	f := standard()
	f.Interfaces[1].Addresses = prefixes("10.0.1.1/24", "fe80::1/64")
	h := newHostOf(t, everything, f)
	if got := h.receive(tcp("g0", SYN, "[fd00:2::2]:110")); got != "forwarded" {
		t.Errorf("got %q; %s", got, h.explain())
	}
	if got := h.receive(tcp("g0", SYN, "[fd00:2::2]:143")); got != "reset" {
		t.Errorf("closed: got %q; %s", got, h.explain())
	}
	if got := h.receive(tcp("g0", SYN, "10.0.2.2:110")); got != "redirected 61443, taken" {
		t.Errorf("got %q; %s", got, h.explain())
	}
}

// Clients who dial the proxy: no interception and, as the halves differ in their addresses, no zone; but answers to the clients'
// addresses come back to us wherever they come in.
func TestOutbound(t *testing.T) {
	h := newHostOf(t, "listeners: {front: {listen: [\"10.0.1.1:80\"], source: client, source_port: keep, pool: p}}\npools: {p: {servers: [\"10.0.2.2:80\"]}}\n", standard())
	for what, c := range map[string]struct {
		packet
		want string
	}{
		"answer":               {tcp("g1", SYN|ACK, back4).at(upstreamKeep), "socket"},
		"answer, same side":    {tcp("g0", ACK, back6).at(upstreamKeep), "socket"},
		"FIN to TIME_WAIT":     {tcp("g1", FIN|ACK, back4).at(notFull), "socket"},
		"client":               {tcp("g0", SYN, "10.0.1.1:80"), "local"},
		"client to a server":   {tcp("g0", SYN, to4), "forwarded"},
		"ICMP about an answer": {tcp("g1", 0, back4).carrying(ICMP).at(upstreamKeep), "socket"},
	} {
		if got := h.receive(c.packet); got != c.want {
			t.Errorf("%s: got %q, want %q; %s", what, got, c.want, h.explain())
		}
	}
}
