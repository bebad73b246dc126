package config

import (
	"net/netip"
	"time"
)

var listenerKeys = mapping(listenerRules,
	prop(entry{key: "listen", absent: "none; the listener has `intercept` instead",
		doc: "The addresses of this machine that clients dial, each with a port. `0.0.0.0` is every IPv4 address of the machine and `[::]` every IPv6 one; " +
			"for both write both. A listener with `listen` needs a `pool`, for the clients name no server; only those of `protocol: http` may, to whom it is a proxy then.",
		watch: "Put the addresses in quotes: in YAML a `[` begins a list. The address must be on the machine when Salp starts. While a worker is " +
			"replaced the socket stays open and connections wait in it; when Salp is stopped they are refused.",
		example: `listen: ["10.0.1.1:80", "[fd00:1::1]:80"]`,
		aka:     []string{"bind", "address", "addresses"},
	}, list("addresses with ports", address(true), maxAddresses), func(l *Listener) *[]netip.AddrPort { return &l.Listen }),
	prop(entry{key: "intercept", absent: "none; the listener has `listen` instead",
		doc: "Takes in connections that pass through this machine on their way to a server. Nothing needs to be set on the clients. The machine must be in the path: " +
			"their router, or a hop that routes their packets. What the machine itself sends, and what is addressed to it, is never taken in.",
		watch: "Turns IP forwarding on (net.ipv4.ip_forward and net.ipv6.conf.all.forwarding) while Salp runs, since packets that are not taken in must pass. " +
			"Connections that were running before Salp started go on as they were. Only TCP is taken in.",
		example: "intercept: {interfaces: [eth0], ports: [80, 8000-8099]}",
		aka:     []string{"divert", "capture", "transparent", "tproxy"},
	}, optional(interceptKeys), func(l *Listener) **Intercept { return &l.Intercept }),
	prop(entry{key: "source", def: string(SourceProxy),
		doc: "Whose address the servers see: the gateway's own (`proxy`), or that of the client the connection is for (`client`). " +
			"With `client` their logs, block lists and limits work as if nothing were between.",
		watch: "With `client` the servers' answers are addressed to the clients and must come back through this machine: it has to be the servers' " +
			"default gateway or lie on their only way to the clients. A server in the same network as a client answers it directly, and the connection fails. " +
			"A client is sent to the servers of a pool that have its own address family, IPv4 or IPv6. " +
			"Not with servers on a loopback address.",
		example: "source: client",
	}, enum(SourceProxy, SourceClient), func(l *Listener) *Source { return &l.Source }),
	prop(entry{key: "source_port", def: string(SourcePortAny),
		doc: "Whose port the servers see, beside the client's address. `any`: one the kernel chooses. `keep`: the client's own; when that is taken, " +
			"another one, and `salp status` counts it. `require`: the client's own, or the connection is refused.",
		watch:   "Only with `source: client`. Few servers look at the port: choose `keep` where logs must match, and `require` where a protocol depends on it.",
		example: "source_port: keep",
	}, enum(SourcePortAny, SourcePortKeep, SourcePortRequire), func(l *Listener) *SourcePort { return &l.SourcePort }),
	prop(entry{key: "pool", absent: "the server that the client dialled",
		doc: "The pool whose servers the connections go to. Needed with `listen`, unless `protocol` is `http`. With `intercept` it may be left out, and each connection goes to the server " +
			"that its client dialled; when it is there, connections go to the pool whatever address the client dialled.",
		example: "pool: web",
		aka:     []string{"backend", "upstream", "default_backend", "proxy_pass"},
	}, poolName(), func(l *Listener) *string { return &l.Pool }),
	prop(entry{key: "on_failure", def: string(OnFailureOpen),
		doc: "What becomes of new connections while no worker answers, because it crashed or hangs or Salp was killed. `open`: they pass by and go to the servers " +
			"directly, as if Salp were not there. `closed`: they are refused with a reset, also after Salp is killed, until it runs again or `salp down` is called.",
		watch: "Choose `closed` where traffic without the proxy is worse than none. Connections that the dead worker carried are lost either way. " +
			"Only with `intercept`.",
		example: "on_failure: closed",
	}, enum(OnFailureOpen, OnFailureClosed), func(l *Listener) *OnFailure { return &l.OnFailure }),
	prop(entry{key: "timeouts",
		doc:     "How long each phase of a connection may last. Both halves of a connection that runs out of time are reset.",
		example: "timeouts: {connect: 5s, half_closed: 1m}",
		aka:     []string{"timeout"},
	}, timeoutsKeys, func(l *Listener) *Timeouts { return &l.Timeouts }),
	prop(entry{key: "limits",
		doc:     "How many connections are carried at once, and how many may begin in a second. One that is over a number is reset at once, one that is over a rate has its SYN dropped; `salp status` counts both.",
		example: "limits: {connections: 10000, per_client: 100}",
		aka:     []string{"limit"},
	}, limitsKeys, func(l *Listener) *Limits { return &l.Limits }),
	prop(entry{key: "proxy_protocol", absent: "connections begin with the client's own bytes",
		doc: "Another proxy in front of this listener tells who the client is, in a header at the beginning of each connection (PROXY protocol, versions 1 and 2). Limits, access rules, logs and " +
			"`source: client` then go by the client that it tells.",
		example: "proxy_protocol: {from: [10.0.9.1]}",
		aka:     []string{"accept_proxy", "accept_proxy_protocol"},
	}, optional(proxyProtocolKeys), func(l *Listener) **ProxyProtocol { return &l.ProxyProtocol }),
	prop(entry{key: "keepalive", def: "60s",
		doc: "When a connection has been silent this long, the kernel asks the client and the server whether they are still there, and then again at the same interval " +
			"(TCP keepalive). A side that does not answer is given up, so what it held is free long before the idle timeout.",
		watch:   "`0` leaves dead peers to the idle timeout. Keepalive is between Salp and each side: it does not count as traffic for `timeouts.idle`.",
		example: "keepalive: 30s",
		aka:     []string{"tcp_keepalive", "so_keepalive"},
	}, wholeSeconds(span(time.Second, 32767*time.Second, "off")), func(l *Listener) *time.Duration { return &l.Keepalive }),
	viaKey, transportKey, onDownKey, offloadKey,
	protocolKey, notHTTPKey, accessKey, markKey(markingOf), dscpKey(markingOf), linkKey(markingOf), routesKey, httpKey, errorsKey, authKey, tlsKey, upstreamTLSKey,
)

var interceptKeys = mapping(nil,
	prop(entry{key: "interfaces", required: true,
		doc: "The interfaces by which the clients' packets come in. Name the bridge or the bond, not its members. Each interface must exist when Salp starts.",
		watch: "Do not name the interface towards the servers unless connections from there are to be taken in too. " +
			"`eth*` is not understood: name each one.",
		example: "interfaces: [eth0, vlan20]",
		aka:     []string{"interface", "iface", "ifaces", "device", "devices", "iif", "in"},
	}, list("names of interfaces", interfaceName(), maxInterface), func(i *Intercept) *[]string { return &i.Interfaces }),
	prop(entry{key: "ports", required: true,
		doc:     "The TCP ports of servers whose connections are taken in: single ports and ranges.",
		watch:   "Two listeners cannot take in the same port on the same interface. `1-65535` takes in everything, also SSH through the gateway; SSH to it is left alone.",
		example: "ports: [80, 443, 8000-8099]",
		aka:     []string{"dport", "dports"},
	}, list("ports and ranges of ports", ports(), maxPorts), func(i *Intercept) *[]PortRange { return &i.Ports }),
	prop(entry{key: "method", def: string(MethodTProxy),
		doc: "The kernel's way of diverting. `tproxy` leaves packets as they are. `redirect` rewrites their destination (NAT): it needs less of " +
			"the kernel, for where TPROXY is not to be had. With `source: client` the servers' answers still need the kernel's socket match (nft_socket).",
		watch: "With `redirect` the server that the client dialled is known from connection tracking alone: a flushed conntrack table loses it. " +
			"Rules of yours for the intercepted port see another port after it was rewritten.",
		example: "method: redirect",
	}, enum(MethodTProxy, MethodRedirect), func(i *Intercept) *Method { return &i.Method }),
	prop(entry{key: "port", absent: "a free one from 61440 up",
		doc:     "The local port at which the diverted connections arrive. It only matters when something must know it beforehand, such as a firewall rule for `method: redirect`.",
		watch:   "Clients cannot use this port: connections that they make to it directly are refused.",
		example: "port: 61500",
		aka:     []string{"local_port", "to_port"},
	}, number[uint16](1, 65535), func(i *Intercept) *uint16 { return &i.Port }),
)

// The defaults of the timeouts. connect: a SYN that is lost is sent again after 1, 3 and 7 s (RFC 6298), so 10 s allow for three losses.
// idle: what RFC 5382 (REQ-5) asks of every box between hosts, so that peers with the customary keepalive of two hours are not cut;
// dead peers are found by our own keepalive, far sooner. half_closed: more than Linux connection tracking on the way allows such
// a connection (1 and 2 minutes in close_wait and fin_wait), so that Salp is not the first to cut one, and bounded all the same.
var timeoutsKeys = mapping(nil,
	prop(entry{key: "connect", def: "10s",
		doc:     "How long a server may take to accept the connection. When the time is over, the client's half is reset.",
		watch:   "A packet that is lost is sent again after 1, 3 and 7 seconds: much less than `3s` makes a single loss an error.",
		example: "connect: 3s",
	}, span(100*time.Millisecond, 10*time.Minute, "as long as the kernel tries"), func(t *Timeouts) *time.Duration { return &t.Connect }),
	prop(entry{key: "idle", def: "2h4m",
		doc: "How long a connection may stay without a byte in either direction. The default is what RFC 5382 asks of a box between hosts: " +
			"just above the two hours after which most systems send a keepalive of their own.",
		watch:   "Mail, databases and remote shells keep connections silent for hours. Connections whose client or server is gone are found by `keepalive`, far sooner.",
		example: "idle: 30m",
	}, span(time.Second, 30*24*time.Hour, "no bound"), func(t *Timeouts) *time.Duration { return &t.Idle }),
	prop(entry{key: "half_closed", def: "5m",
		doc: "How long a connection may stay silent after one side has ended its half and the other has not: for example a client that has sent all of its request " +
			"and waits for the answer. Bytes that still flow start the time anew.",
		watch:   "Must be longer than the slowest server takes to begin an answer.",
		example: "half_closed: 1m",
	}, span(time.Second, 30*24*time.Hour, "no bound"), func(t *Timeouts) *time.Duration { return &t.HalfClosed }),
)

var limitsKeys = mapping(nil, append([]field[Limits]{
	prop(entry{key: "connections", absent: "no bound but the machine's",
		doc:     "The most connections this listener carries at once.",
		watch:   "Each connection takes two file descriptors of the worker.",
		example: "connections: 10000", aka: []string{"maxconn", "max_connections"},
	}, number[int](1, 10_000_000), func(l *Limits) *int { return &l.Connections }),
	prop(entry{key: "per_client", absent: "no bound but the machine's",
		doc:     "The most connections this listener carries at once for one client address, so that one client cannot take all of `connections`.",
		watch:   "Clients behind one NAT address count as one client.",
		example: "per_client: 100",
	}, number[int](1, 10_000_000), func(l *Limits) *int { return &l.PerClient }),
	prop(entry{key: "backlog", absent: "as many as the kernel allows (net.core.somaxconn)",
		doc: "How many connections may wait to be accepted, for each event loop. When that many do, the kernel drops further SYNs and the client sends them again after a second. " +
			"`salp status` counts the drops of the whole listener.",
		watch: "The kernel cuts it to net.core.somaxconn. Connections wait here while a worker is replaced, so a small number makes them fail then. When very many come at once the kernel may drop " +
			"a connection's last packet instead (SYN cookies): a client that waits for the server to speak first, as with SMTP, then waits in vain.",
		example: "backlog: 1024",
		aka:     []string{"somaxconn", "accept_queue"},
	}, number[int](1, 65535), func(l *Limits) *int { return &l.Backlog }),
}, rateKeys...)...)
