package config

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// What one file may hold at most, so that a hostile or runaway one is refused and not worked on.
const (
	maxListeners = 256
	maxPools     = 256
	maxServers   = 1024
	maxAddresses = 64
	maxPorts     = 256
	maxWorkers   = 256
)

// root is the table of keys. Reading, the JSON Schema and the reference page all come from it.
var root = mapping(nil,
	prop(entry{key: "listeners", required: true,
		doc:     "The ways in, each under a name of your choice.",
		example: "listeners: {web: {listen: [\"10.0.1.1:80\"], pool: web}}",
		aka:     []string{"listener", "frontends", "frontend"},
	}, named(listenerKeys, maxListeners, func(l *Listener, name string) { l.Name = name }), func(c *Config) *[]*Listener { return &c.Listeners }),
	prop(entry{key: "pools",
		doc:     "Groups of servers, each under a name of your choice.",
		example: "pools: {web: {servers: [\"10.0.2.2:80\"]}}",
		aka:     []string{"backends", "backend", "upstreams", "upstream"},
	}, named(poolKeys, maxPools, func(p *Pool, name string) { p.Name = name }), func(c *Config) *[]*Pool { return &c.Pools }),
	prop(entry{key: "workers", def: "auto",
		doc:     "How many event loops carry traffic.",
		example: "workers: 4",
		aka:     []string{"threads", "nbthread", "worker_processes"},
	}, autoNumber(maxWorkers), func(c *Config) *int { return &c.Workers }),
	prop(entry{key: "user", absent: "`salp` if there is such a user, else `nobody`",
		doc:     "The unprivileged user the worker runs as.",
		example: "user: salp",
	}, userName(), func(c *Config) *string { return &c.User }),
	prop(entry{key: "drain", def: "30s",
		doc:     "How long running connections may go on after a stop or a reload.",
		example: "drain: 2m",
		aka:     []string{"shutdown_timeout", "grace", "hard_stop_after"},
	}, span(time.Millisecond, 24*time.Hour, "connections are reset at once"), func(c *Config) *time.Duration { return &c.Drain }),
	prop(entry{key: "logs",
		doc:     "How Salp itself logs.",
		example: "logs: {format: json, level: info}",
		aka:     []string{"logging"},
	}, logsKeys, func(c *Config) *Logs { return &c.Logs }),
	prop(entry{key: "kernel",
		doc:     "The shared numbers and names that Salp takes in the kernel.",
		example: "kernel: {table: 8110}",
	}, kernelKeys, func(c *Config) *Kernel { return &c.Kernel }),
)

var logsKeys = mapping(nil,
	prop(entry{key: "format", def: "text", doc: "How a line looks.", example: "format: json"},
		enum(LogText, LogJSON), func(l *Logs) *LogFormat { return &l.Format }),
	prop(entry{key: "level", def: "info", doc: "The least important lines that are written.", example: "level: warn"},
		enum("debug", "info", "warn", "error"), func(l *Logs) *string { return &l.Level }),
)

var kernelKeys = mapping(nil,
	prop(entry{key: "marks", def: "0xf0000000", doc: "Four bits of the packet mark and the conntrack mark.", example: "marks: 0x0f000000"},
		mask(), func(k *Kernel) *uint32 { return &k.Marks }),
	prop(entry{key: "table", def: "8110", doc: "The routing table.", example: "table: 200"},
		routingTable(), func(k *Kernel) *uint32 { return &k.Table }),
	prop(entry{key: "priority", def: "810", doc: "The priority of the ip rules.", example: "priority: 100"},
		number[uint32](1, 32765), func(k *Kernel) *uint32 { return &k.Priority }),
	prop(entry{key: "zone", def: "8110", doc: "The conntrack zone of upstream halves.", example: "zone: 7"},
		number[uint16](1, 65535), func(k *Kernel) *uint16 { return &k.Zone }),
	prop(entry{key: "nft_table", def: "salp", doc: "The nft table.", example: "nft_table: salp2"},
		tableName(), func(k *Kernel) *string { return &k.NFTable }),
)

var userForm = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.-]{0,31}$`)

// userName is the name of a user who is not root.
func userName() kind[string] {
	return word("user name", map[string]any{"pattern": userForm.String(), "not": map[string]any{"const": "root"}}, func(s string) (problem, hint string) {
		switch {
		case s == "root":
			return "would give the worker every privilege", "name an unprivileged user, or remove the key"
		case !userForm.MatchString(s):
			return "cannot be the name of a user", "a name is up to 32 letters, digits, _ . and -, and begins with a letter or _"
		}
		return "", ""
	})
}

// nftWords are words of the nft language that cannot be table names where its text is read back. (nft(8))
var nftWords = []string{"accept", "add", "arp", "bridge", "chain", "comment", "counter", "create", "delete", "destroy", "drop", "element", "ether",
	"flags", "flush", "handle", "hook", "icmp", "icmpv6", "import", "inet", "insert", "ip", "ip6", "jump", "list", "map", "mark", "meta", "monitor",
	"netdev", "policy", "position", "priority", "queue", "redirect", "reject", "rename", "replace", "reset", "return", "rule", "ruleset", "set",
	"socket", "table", "tcp", "tproxy", "type", "udp", "vlan"}

// tableName is the name of an nft table.
func tableName() kind[string] {
	return word("table name", map[string]any{"pattern": namePattern}, func(s string) (problem, hint string) {
		switch {
		case !nameForm.MatchString(s):
			return "cannot be the name of an nft table here", "a name is a letter, then up to 31 letters, digits, _ and -"
		case slices.Contains(nftWords, strings.ToLower(s)):
			return "is a word of the nft language", "choose another name"
		}
		return "", ""
	})
}
