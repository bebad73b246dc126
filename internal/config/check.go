package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// checker looks for values that do not go together. Each value by itself has been checked before.
type checker struct {
	cfg       *Config
	byAddress map[netip.AddrPort]string // names of listeners by what they listen on
	byPort    map[uint16]string         // and by their interception port
	refused   map[string]bool           // paths of values that were refused by themselves
	errs      Errors
}

// check returns every contradiction in cfg. It judges by what the file holds, so that a value that was refused by itself is not
// also called missing.
func check(cfg *Config, refused map[string]bool) Errors {
	c := &checker{cfg: cfg, refused: refused, byAddress: map[netip.AddrPort]string{}, byPort: map[uint16]string{}}
	for _, o := range c.own() {
		c.byAddress[o.addr] = o.name
	}
	for _, l := range cfg.Listeners {
		if l.Intercept != nil && l.Intercept.Port > 0 {
			c.byPort[l.Intercept.Port] = l.Name
		}
	}
	for _, l := range cfg.Listeners {
		c.listener(l)
	}
	for _, p := range cfg.Pools {
		c.servers(p)
		c.check(p)
		c.balance(p)
	}
	if r := cfg.Resolvers; r.MinTTL > r.MaxTTL {
		c.fault(Path{"resolvers", "min_ttl"}, "min_ttl is more than max_ttl", "make it smaller")
	}
	c.access()
	c.links()
	c.listenCollisions(c.ownBy(false))
	c.listenCollisions(c.ownBy(true))
	c.metrics()
	c.interceptCollisions()
	c.portCollisions()
	return c.errs
}

func (c *checker) fault(path Path, message, hint string) {
	c.errs = append(c.errs, c.cfg.Fault(path, message, hint))
}

func (c *checker) has(path Path) bool { return c.cfg.places.has(path) }

// listener checks what one listener says against itself.
func (c *checker) listener(l *Listener) {
	at := Path{"listeners", l.Name}
	listen, intercept, pool := c.has(at.with("listen")), c.has(at.with("intercept")), c.has(at.with("pool"))
	switch {
	case listen && intercept:
		c.fault(at.with("intercept"), "a listener has listen or intercept, not both", "make two listeners of it")
	case !listen && !intercept:
		c.fault(at, l.Name+" has neither listen nor intercept",
			"add  listen: [ADDRESS:PORT]  if clients dial this machine, or  intercept: {interfaces: [eth0], ports: [80]}  if they dial the servers")
	case listen && !pool && l.Protocol != ProtocolHTTP && !c.has(at.with("routes")) && !c.refused[at.with("protocol").id()]:
		c.fault(at, l.Name+" has no pool, and clients who dial Salp name no other server", "add  pool: NAME")
	case listen && c.has(at.with("on_failure")):
		c.fault(at.with("on_failure"), "on_failure needs intercept: who dials Salp cannot reach the server without it", "remove the key")
	}
	c.poolThere(l.Pool, at.with("pool"))
	if l.Source != SourceClient && !c.refused[at.with("source").id()] && c.has(at.with("source_port")) {
		c.fault(at.with("source_port"), "source_port needs source: client; the proxy's own connections have the proxy's ports", "add  source: client, or remove the key")
	}
	if l.Limits.Connections > 0 && l.Limits.PerClient > l.Limits.Connections {
		c.fault(at.with("limits").with("per_client"), "per_client is more than connections, so it can never be reached", "make it smaller, or remove it")
	}
	if l.Limits.Rate > 0 && l.Limits.ClientRate > l.Limits.Rate {
		c.fault(at.with("limits").with("client_rate"), "client_rate is more than rate, so it can never be reached", "make it smaller, or remove it")
	}
	c.clientSource(l, at)
	c.proxyProtocol(l, at)
	c.via(l, at)
	c.http(l, at)
}

// poolThere reports a pool that the file does not have.
func (c *checker) poolThere(name string, at Path) {
	unread := len(c.cfg.Pools) == 0 && c.has(Path{"pools"}) // its own mistakes have been reported
	if name != "" && !c.has(Path{"pools", name}) && !unread {
		c.fault(at, fmt.Sprintf("there is no pool %q", name), c.poolHint(name))
	}
}

func (c *checker) poolHint(name string) string {
	if len(c.cfg.Pools) == 0 {
		return "add it under pools:, or remove the key"
	}
	var entries []entry
	var names []string
	for _, p := range c.cfg.Pools {
		entries, names = append(entries, entry{key: p.Name}), append(names, p.Name)
	}
	if best := nearest(name, entries); best != "" {
		return "did you mean " + best + "?"
	}
	return clip("the pools are " + choice(names))
}

// clientSource looks for servers that cannot be shown a client's address: those on a loopback address, from where the kernel sends no
// answer elsewhere, and those of the other address family.
func (c *checker) clientSource(l *Listener, at Path) {
	p := c.cfg.Pool(l.Pool)
	if l.Source != SourceClient || p == nil || c.refused[Path{"pools", p.Name, "servers"}.id()] {
		return
	}
	has4, has6 := false, false
	for _, s := range p.Servers {
		ip := s.Address.Addr()
		if !ip.IsValid() {
			return // a name may have addresses of both families
		}
		has4, has6 = has4 || ip.Is4(), has6 || ip.Is6()
		if ip.IsLoopback() {
			c.fault(at.with("source"), fmt.Sprintf("source: client cannot work with the server %s of pool %s: it would answer the client past Salp", s.Address, p.Name),
				"use  source: proxy, or an address of the server that is not a loopback one")
			return
		}
	}
	for i, a := range l.Listen {
		family, has := "IPv6", has6
		if a.Addr().Is4() {
			family, has = "IPv4", has4
		}
		if a.IsValid() && !has && len(p.Servers) > 0 {
			c.fault(at.with("listen").with(i), fmt.Sprintf("clients of %s have %s addresses, and pool %s has no %s server that could be shown them", a, family, p.Name, family),
				"add such a server to the pool, remove this address, or use  source: proxy")
		}
	}
}

// servers looks for a server that is there twice or is Salp itself.
func (c *checker) servers(p *Pool) {
	seen := map[string]bool{}
	for i, s := range p.Servers {
		if !s.Address.IsValid() && s.Host == "" {
			continue
		}
		at := Path{"pools", p.Name, "servers", i}
		if seen[s.String()] {
			c.fault(at, fmt.Sprintf("server %s is in pool %s twice", s, p.Name), "remove one of them")
		}
		seen[s.String()] = true
		if l := c.listenerReachedBy(s.Address); l != "" {
			c.fault(at, fmt.Sprintf("server %s is listener %s of this file: connections would go round in a loop", s.Address, l), "name the server's own address")
		}
	}
}

// check looks for a check that asks two questions at once.
func (c *checker) check(p *Pool) {
	at := Path{"pools", p.Name, "check"}
	if p.Check == nil || p.Check.HTTP == nil {
		return
	}
	if p.Check.HTTP.Method == "HEAD" && p.Check.HTTP.Body != "" {
		c.fault(at.with("http").with("body"), "an answer to HEAD has no body", "use  method: GET, or remove the key")
	}
	for _, key := range []string{"send", "expect"} {
		if c.has(at.with(key)) {
			c.fault(at.with(key), key+" and http do not go together: http says what is sent and expected", "remove one of the two; http has the keys status and body")
		}
	}
}

// ownAddress is an address a listener of this file listens on.
type ownAddress struct {
	addr netip.AddrPort
	name string
	at   Path
}

// own returns every TCP address of listen keys, in the order of the file.
func (c *checker) own() []ownAddress { return c.ownBy(false) }

func (c *checker) ownBy(udp bool) []ownAddress {
	var all []ownAddress
	for _, l := range c.cfg.Listeners {
		if (l.Transport == TransportUDP) != udp {
			continue
		}
		for i, a := range l.Listen {
			if a.IsValid() {
				all = append(all, ownAddress{a, l.Name, Path{"listeners", l.Name, "listen", i}})
			}
		}
	}
	return all
}

// listenerReachedBy returns the name of the listener that a connection to the address would arrive at, or "".
func (c *checker) listenerReachedBy(to netip.AddrPort) string {
	if name, ok := c.byAddress[to]; ok {
		return name
	}
	if !to.Addr().IsLoopback() {
		return ""
	}
	if name, ok := c.byPort[to.Port()]; ok {
		return name
	}
	return c.byAddress[netip.AddrPortFrom(wildcardOf(to.Addr()), to.Port())]
}

// listenCollisions looks for addresses that two listeners, or one twice, would listen on.
func (c *checker) listenCollisions(all []ownAddress) {
	ports := map[netip.AddrPort]ownAddress{} // wildcard addresses
	for _, o := range all {
		if o.addr.Addr().IsUnspecified() {
			if _, ok := ports[o.addr]; !ok {
				ports[o.addr] = o
			}
		}
	}
	seen := map[netip.AddrPort]ownAddress{}
	for _, o := range all {
		if first, ok := seen[o.addr]; ok {
			c.fault(o.at, fmt.Sprintf("%s is the address of listener %s already", o.addr, first.name), "each address can be listened on once")
			continue
		}
		seen[o.addr] = o
		if w, ok := ports[netip.AddrPortFrom(wildcardOf(o.addr.Addr()), o.addr.Port())]; ok && w.addr != o.addr {
			c.fault(o.at, fmt.Sprintf("%s is part of %s, the address of listener %s", o.addr, w.addr, w.name), "name the single addresses in both, or use another port")
		}
	}
}

// wildcardOf returns the address that stands for every address of ip's family.
func wildcardOf(ip netip.Addr) netip.Addr {
	if ip.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// interceptCollisions looks for connections that two listeners, or one twice, would take in.
func (c *checker) interceptCollisions() {
	byInterface := map[string][]*Listener{}
	for _, l := range c.cfg.Listeners {
		if l.Intercept == nil {
			continue
		}
		mine := map[string]bool{}
		for i, name := range l.Intercept.Interfaces {
			if mine[name] && name != "" {
				c.fault(Path{"listeners", l.Name, "intercept", "interfaces", i}, "interface "+name+" is here twice", "remove one of them")
			}
			if !mine[name] {
				byInterface[name] = append(byInterface[name], l)
			}
			mine[name] = true
		}
	}
	told := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(byInterface)) {
		c.overlaps(name, byInterface[name], told)
	}
}

// taking is a range of ports that a listener takes in.
type taking struct {
	PortRange
	listener *Listener
	index    int
}

func (t taking) at() Path { return Path{"listeners", t.listener.Name, "intercept", "ports", t.index} }

// overlaps reports the ranges that listeners take in on one interface and that share ports; each range once.
func (c *checker) overlaps(name string, listeners []*Listener, told map[string]bool) {
	var all []taking
	for _, l := range listeners {
		for i, p := range l.Intercept.Ports {
			if p.First > 0 {
				all = append(all, taking{p, l, i})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b taking) int { return int(a.First) - int(b.First) })
	furthest := 0 // of those before, the one that reaches furthest
	for i := 1; i < len(all); i++ {
		first, second := all[furthest], all[i]
		if second.Last > first.Last {
			furthest = i
		}
		if second.First > first.Last {
			continue
		}
		if c.before(second.at(), first.at()) {
			first, second = second, first // the later one in the file is the one to mend
		}
		if told[second.at().id()] {
			continue
		}
		told[second.at().id()] = true
		if first.listener == second.listener {
			c.fault(second.at(), fmt.Sprintf("%s and %s overlap", second.PortRange, first.PortRange), "remove one, or join them to one range")
			continue
		}
		c.fault(second.at(), fmt.Sprintf("listener %s takes in %s on %s already", first.listener.Name, first.PortRange, name),
			"give each connection to one listener: use other ports or interfaces")
	}
}

// before says that the value at a stands before the one at b in the file.
func (c *checker) before(a, b Path) bool {
	lineA, columnA := c.cfg.places.find(a)
	lineB, columnB := c.cfg.places.find(b)
	return lineA < lineB || lineA == lineB && columnA < columnB
}

// String writes a range as the file does.
func (p PortRange) String() string {
	if p.First == p.Last {
		return fmt.Sprintf("port %d", p.First)
	}
	return fmt.Sprintf("ports %d-%d", p.First, p.Last)
}

// portCollisions looks for local ports of interception that something else in the file has.
func (c *checker) portCollisions() {
	seen := map[uint16]string{}
	for _, l := range c.cfg.Listeners {
		if l.Intercept == nil || l.Intercept.Port == 0 {
			continue
		}
		at, port := Path{"listeners", l.Name, "intercept", "port"}, l.Intercept.Port
		if first, ok := seen[port]; ok {
			c.fault(at, fmt.Sprintf("port %d is the interception port of listener %s already", port, first), "choose another, or remove the key")
			continue
		}
		seen[port] = l.Name
		for _, o := range c.own() {
			here := o.addr.Addr().IsUnspecified() || o.addr.Addr().IsLoopback() || l.Intercept.Method == MethodRedirect
			if o.addr.Port() == port && here {
				c.fault(at, fmt.Sprintf("port %d is taken by %s of listener %s", port, o.addr, o.name), "choose another, or remove the key")
				break
			}
		}
	}
}
