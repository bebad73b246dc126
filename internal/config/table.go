package config

import "time"

// What one file may hold at most, so that a hostile or runaway one is refused and not worked on.
const (
	maxListeners = 256
	maxPools     = 256
	maxServers   = 1024
	maxAddresses = 64
	maxPorts     = 256
	maxInterface = 64
	maxWorkers   = 256
)

// root is the table of keys. Reading, the JSON Schema and the reference page all come from it.
var root = mapping(rootRules,
	prop(entry{key: "listeners",
		absent: "none; there are `links` instead",
		doc: "The ways in. Each has a name of your choice (a letter, then up to 31 letters, digits, `_` and `-`), which appears in logs, in `salp status` " +
			"and in the nft chains. A listener answers two questions. How do connections get here: clients dial the gateway (`listen`), or they dial " +
			"servers and pass by (`intercept`); exactly one of the two. Whose address do the servers see: the gateway's (`source: proxy`) or the " +
			"client's own (`source: client`).",
		example: `listeners: {web: {intercept: {interfaces: [eth0], ports: [80]}}}`,
		aka:     []string{"listener", "frontends", "frontend"},
	}, named(listenerKeys, maxListeners, func(l *Listener, name string) { l.Name = name }), func(c *Config) *[]*Listener { return &c.Listeners }),
	prop(entry{key: "pools",
		doc: "Groups of servers, each under a name of your choice, for the listeners to send connections to. A pool that no listener names does no harm: " +
			"it can wait there for its listener.",
		example: `pools: {web: {servers: ["10.0.2.2:80", "10.0.2.3:80"]}}`,
		aka:     []string{"backends", "backend", "upstreams", "upstream"},
	}, named(poolKeys, maxPools, func(p *Pool, name string) { p.Name = name }), func(c *Config) *[]*Pool { return &c.Pools }),
	prop(entry{key: "access",
		doc: "Lists of access rules, each under a name of your choice, for listeners to name as their `access`. The rules of a list are asked in order and the first that " +
			"matches decides. What no rule matches is denied: end a list with `- allow: {}` for the opposite. All conditions of a rule must hold, and of the items of a " +
			"condition one. `salp explain --client A --url U` tells which rule decides.",
		watch:   "A condition about something that a connection does not have is not met: an opaque TCP connection has no host, no path and no method.",
		example: `access: {office: [{deny: {host: [".ads.example"]}}, {allow: {from: [10.0.1.0/24]}}]}`,
		aka:     []string{"acl", "acls", "http_access", "rules"},
	}, named(accessKeys, maxAccessLists, func(a *AccessList, name string) { a.Name = name }), func(c *Config) *[]*AccessList { return &c.Access }),
	prop(entry{key: "lists",
		doc:     "Lists of host names or addresses in files of their own, each under a name of your choice, for conditions to name as `list:NAME`. They may have millions of lines.",
		example: `lists: {ads: {names: /etc/salp/ads.txt}}`,
	}, named(listKeys, maxLists, func(l *List, name string) { l.Name = name }), func(c *Config) *[]*List { return &c.Lists }),
	prop(entry{key: "resolvers",
		doc:     "How the names of servers are looked up. Names in /etc/hosts go before DNS. A name is always taken as complete: no search domains are tried.",
		example: "resolvers: {servers: [10.0.0.53], max_ttl: 5m}",
		aka:     []string{"resolver", "dns", "nameservers"},
	}, resolverKeys, func(c *Config) *Resolvers { return &c.Resolvers }),
	linksField, balanceField, forwardField,
	prop(entry{key: "workers", def: "auto",
		doc: "How many event loops carry the traffic, each on a thread of its own. `auto` is one for each processor. Connections are spread " +
			"over them by the kernel when they arrive and stay where they are.",
		watch:   "More loops than processors make nothing faster. Fewer leave room for other programs on the machine.",
		example: "workers: 4",
		aka:     []string{"threads", "nbthread", "worker_processes"},
	}, autoNumber(maxWorkers), func(c *Config) *int { return &c.Workers }),
	prop(entry{key: "user", absent: "`salp` if there is such a user, else `nobody`",
		doc: "The user the worker, which touches every byte from the network, runs as. The only privilege it keeps is CAP_NET_RAW, which binding " +
			"to a client's address takes.",
		watch:   "Give Salp a user of its own where you can: processes of the same user can signal one another.",
		example: "user: salp",
	}, userName(), func(c *Config) *string { return &c.User }),
	prop(entry{key: "drain", def: "30s",
		doc: "How long connections that are running may go on after a stop or a reload before they are reset. New ones are not taken in by the worker " +
			"that drains: after a reload the new worker has them, and on a stop those of intercepting listeners go to the servers directly.",
		watch:   "`salp run` does not end before the last connection does or this time is over. A service manager must wait longer than that before it kills.",
		example: "drain: 2m",
		aka:     []string{"shutdown_timeout", "grace", "hard_stop_after"},
	}, span(time.Millisecond, 24*time.Hour, "reset them at once"), func(c *Config) *time.Duration { return &c.Drain }),
	prop(entry{key: "logs",
		doc:     "How Salp itself logs, on standard error, and where it logs the requests that it carries.",
		example: "logs: {format: json, level: info}",
		aka:     []string{"log", "logging"},
	}, logsKeys, func(c *Config) *Logs { return &c.Logs }),
	metricsField,
	prop(entry{key: "kernel",
		doc: "The numbers and names that Salp takes from what the whole machine shares. The defaults keep clear of the programs known to take such " +
			"numbers; change them only when something else on the machine has them. `salp plan` shows where each one is used.",
		example: "kernel: {table: 200, priority: 100}",
	}, kernelKeys, func(c *Config) *Kernel { return &c.Kernel }),
)

var logsKeys = mapping(nil,
	prop(entry{key: "format", def: string(LogText),
		doc:     "How a line looks: `text` is `key=value` for people, `json` is one object a line for programs.",
		example: "format: json",
	}, enum(LogText, LogJSON), func(l *Logs) *LogFormat { return &l.Format }),
	prop(entry{key: "level", def: "info",
		doc: "The least important lines that are written. `warn` leaves what an operator should look at, `error` what Salp could not do; `debug` adds " +
			"what happens inside.",
		watch:   "`debug` on a busy gateway writes a great deal.",
		example: "level: warn",
	}, enum("debug", "info", "warn", "error"), func(l *Logs) *string { return &l.Level }),
	prop(entry{key: "access", absent: "none is written",
		doc: "The access log: a line for each request, and for each connection that is not HTTP, when it has ended. Writing never holds traffic up: " +
			"what a slow disk cannot take is left out and counted.",
		example: "access: {file: /var/log/salp/access.log, format: combined}",
	}, optional(accessLogKeys), func(l *Logs) **AccessLog { return &l.Access }),
)

var kernelKeys = mapping(nil,
	prop(entry{key: "marks", def: "0xf0000000",
		doc: "Four bits of the packet mark and the conntrack mark, as a mask. Lowest first they mean: deliver this packet locally; sent by Salp to a server; " +
			"sent by Salp with a client's address; this connection is taken in. Salp sets and clears these bits and leaves the other 28 as they are.",
		watch: "No other program may use these bits: look for `mark` in `nft list ruleset` and for `fwmark` in `ip rule`. " +
			"Among those known, Cilium has 0xf00, Tailscale 0xff0000 and dae 0x8000000.",
		example: "marks: 0x000000f0",
	}, mask(), func(k *Kernel) *uint32 { return &k.Marks }),
	prop(entry{key: "table", def: "8110",
		doc:     "The routing table that holds the one route which delivers diverted packets to this machine.",
		watch:   "Nothing else may be in this table. A name in /etc/iproute2/rt_tables does not count, a route does: see `ip route show table 8110`.",
		example: "table: 200",
	}, routingTable(), func(k *Kernel) *uint32 { return &k.Table }),
	prop(entry{key: "priority", def: "810",
		doc: "The priority of Salp's ip rules. Lower numbers are asked first. Those of links take the eight numbers after it.",
		watch: "The rules must come before every rule of others that would route these packets elsewhere, as VPN software has them. They apply to nothing " +
			"but packets that carry Salp's own mark, so an early place does no harm.",
		example: "priority: 100",
	}, number[uint32](1, 32765), func(k *Kernel) *uint32 { return &k.Priority }),
	prop(entry{key: "zone", def: "8110",
		doc: "The conntrack zone of what Salp sends in a client's or a server's name. Where servers see the client's address, the two halves of an intercepted " +
			"connection can look the same to connection tracking; the zone keeps them apart, so that a firewall calls neither invalid and a masquerade sees both.",
		watch:   "Only used with `intercept` and `source: client`.",
		example: "zone: 7",
	}, number[uint16](1, 65535), func(k *Kernel) *uint16 { return &k.Zone }),
	prop(entry{key: "nft_table", def: "salp",
		doc: "The name of Salp's nft table, of family inet. While Salp runs the table belongs to its process: no other program can change or flush it, " +
			"and it disappears with the process. With `on_failure: closed` there is a second one, with `-closed` at the end of its name, that stays.",
		watch:   "The name must be free. Salp leaves tables that it has not made alone.",
		example: "nft_table: gateway",
	}, tableName(), func(k *Kernel) *string { return &k.NFTable }),
	linkMarksField, linkTableField,
)
