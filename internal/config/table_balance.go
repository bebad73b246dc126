package config

import (
	"net/netip"
	"time"
)

const (
	// MaxWeight is the highest weight of a server.
	MaxWeight = 256
	// MaxRetries is how many further tries a connection can have.
	MaxRetries = 7
)

// balanceKeys are the keys of a pool that say how a server is chosen, and what is done when it cannot be reached.
var balanceKeys = []field[Pool]{
	prop(entry{key: "balance", def: string(BalanceRoundRobin),
		doc: "How a server is chosen for each connection. `round-robin`: in turn, each as often as its weight says, evenly spread. `least-connections`: the one with the fewest " +
			"connections for its weight. `source`: by the client's address, so that a client always gets the same server; when a server is lost or added, only the clients that it had " +
			"or gets move (consistent hashing). `random`: the one with fewer connections for its weight of two that are drawn at random. `first`: the first of the list that has a " +
			"place free, so that the others can be switched off; it needs `max_connections`.",
		watch:   "`least-connections` is for sessions that last, such as mail or databases; for short requests it is no better than `round-robin`. With `source` a few busy clients behind one address load one server.",
		example: "balance: least-connections",
		aka:     []string{"algorithm", "lb", "policy", "method"},
	}, enum(BalanceRoundRobin, BalanceLeastConnections, BalanceSource, BalanceRandom, BalanceFirst), func(p *Pool) *Balance { return &p.Balance }),
	prop(entry{key: "overload", absent: "no bound",
		doc: "With `balance: source`, the most connections that a server may have, in percent of its fair share; clients beyond go to their next server (consistent hashing with bounded " +
			"loads). At 150 a server has at most one and a half times its share.",
		example: "overload: 150",
		aka:     []string{"hash_balance_factor", "bounded_load"},
	}, number[int](101, 1000), func(p *Pool) *int { return &p.Overload }),
	prop(entry{key: "retries", def: "2",
		doc: "How many other servers are tried when one refuses the connection, does not answer or cannot be reached, before the client notices. The time of all tries together is " +
			"`timeouts.connect` of the listener, of which a try that others may follow gets its share, but at least 1.5 seconds. Once a server has accepted, nothing is tried again.",
		example: "retries: 3",
		aka:     []string{"retry", "redispatch", "max_fails"},
	}, number[int](0, MaxRetries), func(p *Pool) *int { return &p.Retries }),
	prop(entry{key: "queue",
		doc:     "The connections that wait while every server has as many as its `max_connections` allows. First come, first served; one that finds the queue full, or waits too long, is reset and counted.",
		example: "queue: {length: 200, timeout: 5s}",
		aka:     []string{"maxqueue", "pending"},
	}, queueKeys, func(p *Pool) *Queue { return &p.Queue }),
	prop(entry{key: "slow_start", def: "0",
		doc:     "How long a server that has come back takes to get its full share: its weight and its `max_connections` grow from a tenth to all of it. Not at Salp's own start.",
		watch:   "A pool with one server that is up gives it everything at once.",
		example: "slow_start: 1m",
		aka:     []string{"slowstart", "warmup"},
	}, span(time.Second, time.Hour, "all at once"), func(p *Pool) *time.Duration { return &p.SlowStart }),
	prop(entry{key: "stick", absent: "none",
		doc: "Sends a client to the server that it had last, whatever `balance` says, as long as that is up or drained. What is remembered outlives reloads, upgrades and crashes of a worker. " +
			"When the server is full or gone, another one is chosen and remembered instead.",
		watch:   "`balance: source` needs no memory and does nearly the same. Choose `stick` when clients must stay where they are also when servers are added.",
		example: "stick: {by: source, for: 30m, size: 100000}",
		aka:     []string{"sticky", "stick_table", "persistence", "affinity", "session_affinity"},
	}, optional(stickKeys), func(p *Pool) **Stick { return &p.Stick }),
	prop(entry{key: "proxy_protocol", def: string(ProxyHeaderNone),
		doc: "Tells the servers the client's address and port, and the address that it dialled, in a header before the first byte (PROXY protocol, version 1 or 2): for servers that cannot " +
			"answer through this machine, with `source: proxy`.",
		watch:   "Every server must expect the header, and should believe it from this machine alone: nginx `listen … proxy_protocol` with `set_real_ip_from`, HAProxy `accept-proxy`, Postfix `smtpd_upstream_proxy_protocol`.",
		example: "proxy_protocol: v2",
		aka:     []string{"send_proxy", "send_proxy_v2"},
	}, enum(ProxyHeaderNone, ProxyHeaderV1, ProxyHeaderV2), func(p *Pool) *ProxyHeader { return &p.ProxyProtocol }),
	prop(entry{key: "same_network", def: string(SameNetworkProxy),
		doc: "What becomes of a connection with `source: client` whose client is in the same network as the server: the server would answer it directly, past Salp, and the connection could not be made. " +
			"`proxy`: the server sees Salp's own address. `proxy-protocol`: the same, and a PROXY header of version 2 tells the client's. `refuse`: it is reset. `salp status` counts them.",
		watch:   "With `proxy` a server's block lists and logs see this machine's address for those clients.",
		example: "same_network: refuse",
	}, enum(SameNetworkProxy, SameNetworkHeader, SameNetworkRefuse), func(p *Pool) *SameNetwork { return &p.SameNetwork }),
}

var queueKeys = mapping(nil,
	prop(entry{key: "length", def: "1000",
		doc:     "How many connections may wait. `0`: none does.",
		example: "length: 200",
	}, number[int](0, 1_000_000), func(q *Queue) *int { return &q.Length }),
	prop(entry{key: "timeout", def: "10s",
		doc:     "How long each may wait. It is not part of `timeouts.connect`.",
		example: "timeout: 5s",
	}, span(100*time.Millisecond, 10*time.Minute, ""), func(q *Queue) *time.Duration { return &q.Timeout }),
)

var stickKeys = mapping(nil,
	prop(entry{key: "by", def: string(StickBySource),
		doc:     "What a client is known by: `source` is its address.",
		example: "by: source",
	}, enum(StickBySource), func(s *Stick) *StickBy { return &s.By }),
	prop(entry{key: "for", def: "30m",
		doc:     "How long it is remembered, from its last connection on.",
		example: "for: 2h",
		aka:     []string{"expire", "ttl"},
	}, wholeSeconds(span(time.Second, 30*24*time.Hour, "")), func(s *Stick) *time.Duration { return &s.For }),
	prop(entry{key: "size", def: "100000",
		doc:     "How many clients are remembered, in 24 bytes each. When there are more, those that were seen longest ago are forgotten.",
		example: "size: 1000000",
	}, number[int](64, 100_000_000), func(s *Stick) *int { return &s.Size }),
)

// shareKeys are the keys of a server that say what it gets.
var shareKeys = []field[Server]{
	prop(entry{key: "weight", def: "1",
		doc:     "The server's share: one with weight 2 gets twice as much as one with weight 1. `0`: nothing but the clients that stick to it.",
		example: "weight: 10",
	}, number[int](0, MaxWeight), func(s *Server) *int { return &s.Weight }),
	prop(entry{key: "backup", def: "false",
		doc:     "The server is used only while none of the others is up. Among several backups `balance` chooses.",
		example: "backup: true",
	}, boolean(), func(s *Server) *bool { return &s.Backup }),
	prop(entry{key: "max_connections", absent: "no bound",
		doc:     "The most connections that Salp has to this server at once. When all servers are full, connections wait in the `queue` of the pool. Of a name, each address has the bound.",
		watch:   "While a reload drains the worker before, its connections are counted too, as the keeper tells them four times a second: for that moment the bound can be passed by what is made meanwhile.",
		example: "max_connections: 200",
		aka:     []string{"maxconn", "max_conns"},
	}, number[int](1, 1_000_000), func(s *Server) *int { return &s.MaxConnections }),
	prop(entry{key: "proxy_protocol", absent: "as the pool says",
		doc:     "As `proxy_protocol` of the pool, for this server alone.",
		example: "proxy_protocol: v1",
		aka:     []string{"send_proxy", "send_proxy_v2"},
	}, enum(ProxyHeaderNone, ProxyHeaderV1, ProxyHeaderV2), func(s *Server) *ProxyHeader { return &s.ProxyProtocol }),
}

var proxyProtocolKeys = mapping(nil,
	prop(entry{key: "from", required: true,
		doc:     "The proxies that begin every connection with a PROXY header, versions 1 and 2, as addresses or prefixes. They are believed; the header counts from nobody else.",
		watch:   "Who is listed can pretend to be any client. A connection from there without a header is reset.",
		example: "from: [10.0.9.1, \"fd00:9::/64\"]",
	}, list("addresses or prefixes", addressPrefix(), maxAddresses), func(p *ProxyProtocol) *[]netip.Prefix { return &p.From }),
	prop(entry{key: "required", def: "true",
		doc:     "Whether everybody else is refused. With `false` others are clients that come directly.",
		example: "required: false",
	}, boolean(), func(p *ProxyProtocol) *bool { return &p.Required }),
	prop(entry{key: "timeout", def: "5s",
		doc:     "How long the header may take to arrive.",
		example: "timeout: 3s",
	}, span(100*time.Millisecond, time.Minute, ""), func(p *ProxyProtocol) *time.Duration { return &p.Timeout }),
)

// addressPrefix is a prefix, or an address as the prefix that holds it alone.
func addressPrefix() kind[netip.Prefix] {
	return scalar("address or prefix", "an address or a prefix", `^[0-9a-fA-F.:]+(/[0-9]+)?$`, parsePrefix)
}
