package config

import (
	"net/netip"

	"go.yaml.in/yaml/v4"
)

var poolKeys = mapping(nil,
	prop(entry{key: "balance", def: string(BalanceRoundRobin),
		doc:     "How a server is chosen for each connection: `round-robin` takes them in turn, beginning with the first.",
		example: "balance: round-robin",
		aka:     []string{"algorithm", "lb", "policy"},
	}, enum(BalanceRoundRobin), func(p *Pool) *Balance { return &p.Balance }),
	prop(entry{key: "servers", required: true,
		doc:     "The servers, each as an address with a port, or as a mapping with the key `address`. A server can be in several pools.",
		watch:   "Names are not looked up. A server that is a listener of the same file is refused, for its connections would go round in a loop.",
		example: "servers: [\"10.0.2.2:80\", \"10.0.2.3:80\"]",
		aka:     []string{"server", "backends", "members", "targets", "upstreams"},
	}, list("addresses with ports, or mappings", server(), maxServers), func(p *Pool) *[]Server { return &p.Servers }),
)

var serverKeys = mapping(nil,
	prop(entry{key: "address", required: true,
		doc:     "The server's address and port, when the server is written as a mapping: `servers: [{address: \"10.0.2.2:80\"}]`.",
		example: "address: \"[fd00:2::2]:80\"",
		aka:     []string{"host", "addr", "ip"},
	}, address(false), func(s *Server) *netip.AddrPort { return &s.Address }),
)

// server is an address with a port alone, or a mapping that says more.
func server() kind[Server] {
	short := address(false)
	s := serverKeys.shape
	s.words, s.short = "address with port or mapping", &short.shape
	return kind[Server]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (Server, bool) {
		if n.Kind == yaml.MappingNode && !bareIPv6(n) {
			return serverKeys.read(r, n, at)
		}
		a, ok := short.read(r, n, at)
		return Server{Address: a}, ok
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
