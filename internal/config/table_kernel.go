package config

var viaKey = prop(entry{key: "via", def: string(ViaProxy),
	doc: "Who carries the connections. `proxy`: a process of Salp's, which can look at every byte. `kernel`: the kernel sends each connection to a server of the pool as it forwards packets " +
		"(nf_tables, connection tracking), and Salp only watches the servers: nothing is faster, and connections go on when Salp is stopped by force. The address of `listen` need not be on this machine; " +
		"clients' packets must only pass it.",
	watch: "With `kernel` no byte is looked at, so HTTP, access rules, PROXY headers, queues, `max_connections` and `least-connections` are not to be had, and a connection to a dead server goes elsewhere only with the next try of the client's TCP, a second or more later. " +
		"Turns IP forwarding on, and needs the servers' answers to come back through this machine.",
	example: "via: kernel",
}, enum(ViaProxy, ViaKernel), func(l *Listener) *Via { return &l.Via })

var transportKey = prop(entry{key: "transport", def: string(TransportTCP),
	doc: "Whether clients come by TCP or UDP. With `udp` all packets of one client address and port go to the same server, until none has come for as long as connection tracking remembers " +
		"(net.netfilter.nf_conntrack_udp_timeout and _stream).",
	watch:   "`udp` needs `via: kernel`. A server that is down is left by UDP clients at once, whatever `on_down` says: they would never notice.",
	example: "transport: udp",
}, enum(TransportTCP, TransportUDP), func(l *Listener) *Transport { return &l.Transport })

var onDownKey = prop(entry{key: "on_down", def: string(OnDownKeep),
	doc: "With `via: kernel`: what becomes of the connections of a server that goes down. `keep`: they stay there, and go on if it was only its check that failed. `reset`: connection tracking forgets them, " +
		"so that the next packet of a TCP client is answered with a reset by another server, and it connects anew. Connections that the server has not answered yet are forgotten either way, and go to another.",
	example: "on_down: reset",
}, enum(OnDownKeep, OnDownReset), func(l *Listener) *OnDown { return &l.OnDown })

var rateKeys = []field[Limits]{
	prop(entry{key: "rate", absent: "no bound",
		doc: "The most new connections a second that this listener lets begin; as many may come at once. The kernel drops further SYNs before anything is made for them, and their clients try again after a second. " +
			"`salp status` counts the drops.",
		example: "rate: 5000",
		aka:     []string{"rate_limit", "syn_rate", "max_rate"},
	}, number[int](1, 10_000_000), func(l *Limits) *int { return &l.Rate }),
	prop(entry{key: "client_rate", absent: "no bound",
		doc: "As `rate`, of each single client address. The kernel remembers 65535 addresses of each family for a minute. Behind `proxy_protocol` the rate is that of each client that the proxy tells; " +
			"what is over it is reset, as only the worker reads what is told.",
		watch:   "Clients behind one NAT address count as one client.",
		example: "client_rate: 50",
		aka:     []string{"per_client_rate", "rate_per_client"},
	}, number[int](1, 10_000_000), func(l *Limits) *int { return &l.ClientRate }),
}

var offloadKey = prop(entry{key: "offload", def: "false",
	doc: "With `via: kernel`, lets the kernel carry established flows past all rules (a flowtable), which costs it less for each packet: TCP from the end of the handshake on, UDP when a flow " +
		"has lived for two seconds. First packets pass the rules as ever, and what becomes of flows when a server is drained or goes down is as ever. " +
		"Where the kernel has no flowtables (`salp features` tells), it changes nothing.",
	watch: "No rule sees these packets, so the bytes of such a listener's servers cannot be counted: `salp status` shows `-`, and metrics leave them out, also for other listeners with the same servers. " +
		"Connections are counted. Where a listener without `offload` has an address and a server in common with one that has it, their flows cannot be told apart and none is offloaded. Rules of other programs that block or count flows that live already do not see them either.",
	example: "offload: true",
	aka:     []string{"flow_offload", "flow_offloading", "flowtable", "fast_path", "fasttrack"},
}, boolean(), func(l *Listener) *bool { return &l.Offload })
