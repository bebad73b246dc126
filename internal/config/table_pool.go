package config

import (
	"go.yaml.in/yaml/v4"
)

var poolKeys = mapping(nil, append([]field[Pool]{
	prop(entry{key: "servers", required: true,
		doc: "The servers, each as an address or a name with a port, or as a mapping with the key `address`. A server can be in several pools. " +
			"A name is looked up by the `resolvers` when Salp starts and again whenever its time to live is over, and stands for all addresses it has: each of them is a server, checked for itself.",
		watch:   "While a name cannot be looked up, the addresses it had stay in use. A server that is a listener of the same file is refused, for its connections would go round in a loop.",
		example: "servers: [\"10.0.2.2:80\", \"10.0.2.3:80\"]",
		aka:     []string{"server", "backends", "members", "targets", "upstreams"},
	}, list("addresses or names with ports, or mappings", server(), maxServers), func(p *Pool) *[]Server { return &p.Servers }),
	prop(entry{key: "check", absent: "none; a server is up unless `passive` takes it down",
		doc: "How each server is asked whether it works. One that fails gets no new connections until it answers again; those it has go on. The checks come from the gateway's " +
			"own address. Until its first check has ended a server counts as up; over a reload its state is kept.",
		example: `check: {every: 1s, timeout: 500ms, rise: 2, fall: 2, expect: "220 "}`,
		aka:     []string{"health", "health_check", "healthcheck", "checks"},
	}, optional(checkMapping()), func(p *Pool) **Check { return &p.Check }),
	prop(entry{key: "passive", absent: "none",
		doc:     "Takes a server down for a while by the errors of the connections that are carried, without asking it. Works beside `check` or alone.",
		watch:   "The last server of a pool that is up is not taken down by this: a bad server is better than none.",
		example: "passive: {errors: 5, window: 10s, for: 30s}",
		aka:     []string{"observe", "outlier_detection"},
	}, optional(passiveKeys), func(p *Pool) **Passive { return &p.Passive }),
}, balanceKeys...)...)

var serverKeys = mapping(nil, append([]field[Server]{
	serverAddressKey(entry{key: "address", required: true,
		doc:     "The server's address or name, and port, when the server is written as a mapping: `servers: [{address: \"10.0.2.2:80\"}]`.",
		example: "address: \"[fd00:2::2]:80\"",
		aka:     []string{"host", "addr", "ip"},
	}),
}, shareKeys...)...)

// server is an address or a name with a port alone, or a mapping that says more.
func server() kind[Server] {
	short := serverAddress()
	s := serverKeys.shape
	s.words, s.short = "address or name with port, or mapping", &short.shape
	return kind[Server]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (Server, bool) {
		if n.Kind == yaml.MappingNode && !bareIPv6(n) {
			return serverKeys.read(r, n, at)
		}
		v := serverKeys.fresh()
		e, ok := short.read(r, n, at)
		v.set(e)
		return v, ok
	}}
}

// poolName is the name of a pool; check sees to it that there is such a pool.
func poolName() kind[string] {
	return word("name of a pool", map[string]any{"pattern": namePattern}, func(s string) (problem, hint string) {
		if !nameForm.MatchString(s) {
			return "cannot be the name of a pool", "a name is a letter, then up to 31 letters, digits, _ and -"
		}
		return "", ""
	})
}

// routingTable is the number of a routing table that is not one of the kernel's own. (ip-route(8))
func routingTable() kind[uint32] {
	k := number[uint32](1, 4294967295)
	read := k.read
	k.shape.schema["not"] = map[string]any{"enum": []int{253, 254, 255}}
	k.shape.words += ", not 253 to 255"
	k.read = func(r *reader, n *yaml.Node, at Path) (uint32, bool) {
		v, ok := read(r, n, at)
		if ok && v >= 253 && v <= 255 {
			r.bad(n, at, "is one of the kernel's own tables (default, main, local)", "choose a number that no one else uses")
			return 0, false
		}
		return v, ok
	}
	return k
}
