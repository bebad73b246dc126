package config

import "fmt"

// via checks that the kernel can do all that a listener asks of it.
func (c *checker) via(l *Listener, at Path) {
	if l.Via != ViaKernel {
		switch {
		case c.refused[at.with("via").id()]:
		case l.Transport == TransportUDP:
			c.fault(at.with("transport"), "transport: udp needs via: kernel; a worker carries TCP alone", "add  via: kernel")
		case c.has(at.with("on_down")):
			c.fault(at.with("on_down"), "on_down needs via: kernel; a worker resets the connections of a server that is gone by itself", "remove the key")
		}
		if c.has(at.with("offload")) && !c.refused[at.with("via").id()] {
			c.fault(at.with("offload"), "offload needs via: kernel; a worker's connections begin and end in this host, and are not forwarded", "add  via: kernel,  or remove the key")
		}
		return
	}
	if c.has(at.with("intercept")) {
		c.fault(at.with("via"), "via: kernel needs listen: it sends what clients dial to the servers of a pool", "use  listen, or remove  via")
		return
	}
	for _, k := range []struct{ key, why string }{
		{"protocol", "the kernel looks at no byte, so there is no protocol to it"},
		{"not_http", "the kernel looks at no byte"}, {"access", "the kernel looks at no request"}, {"routes", "the kernel looks at no request"},
		{"http", "the kernel looks at no request"}, {"errors", "the kernel answers nothing itself"}, {"auth", "the kernel looks at no request"},
		{"tls", "the kernel path ends no TLS"}, {"upstream_tls", "the kernel path speaks no TLS"},
		{"proxy_protocol", "a PROXY header is bytes, and the kernel looks at none"},
		{"source_port", "the kernel keeps the client's port by itself, unless two connections would be the same"},
		{"timeouts", "connection tracking has its own timeouts (net.netfilter.nf_conntrack_*)"},
		{"keepalive", "the connection is between client and server alone, and so is its keepalive"},
		{"mark", "a worker sets marks on connections of its own, and here there are none"},
		{"dscp", "a worker sets DSCP on connections of its own, and here there are none"},
		{"link", "a worker chooses the link of connections of its own, and here there are none"},
	} {
		if c.has(at.with(k.key)) {
			c.fault(at.with(k.key), fmt.Sprintf("%s does not go with via: kernel: %s", k.key, k.why), "remove the key, or  via: kernel")
		}
	}
	for _, key := range []string{"connections", "per_client", "backlog"} {
		if c.has(at.with("limits").with(key)) {
			c.fault(at.with("limits").with(key), key+" does not go with via: kernel: the kernel counts no connections of a listener", "use  rate  and  client_rate, or remove the key")
		}
	}
	if p := c.cfg.Pool(l.Pool); p != nil {
		c.kernelPool(l, p)
	}
}

// kernelPool checks that the kernel can choose from a pool.
func (c *checker) kernelPool(l *Listener, p *Pool) {
	at, of := Path{"pools", p.Name}, fmt.Sprintf("listener %s of the pool has via: kernel", l.Name)
	fault := func(where Path, why, hint string) { c.fault(where, why+", and "+of, hint) }
	if p.Balance == BalanceLeastConnections {
		fault(at.with("balance"), "least-connections needs the number of connections that each server has, which the kernel does not know", "use  round-robin,  source  or  random")
	}
	for _, k := range []struct{ key, why string }{
		{"queue", "queue holds connections back, and the kernel cannot"}, {"slow_start", "slow_start changes a server's share all the time, and the kernel's maps are changed by events"},
		{"stick", "stick needs a memory of clients; balance: source does nearly the same"}, {"overload", "overload needs the number of connections that each server has"},
		{"proxy_protocol", "proxy_protocol is bytes before the client's, and the kernel adds none"}, {"retries", "retries needs somebody who tries: the client's SYN goes to one server"},
		{"passive", "passive looks at how connections end, and the kernel does not tell"},
	} {
		if c.has(at.with(k.key)) && !(k.key == "proxy_protocol" && p.ProxyProtocol == ProxyHeaderNone) {
			fault(at.with(k.key), k.why, "remove the key, or  via: kernel")
		}
	}
	if p.SameNetwork != SameNetworkProxy && l.Source == SourceClient {
		fault(at.with("same_network"), "same_network: "+string(p.SameNetwork)+" needs a worker", "remove the key")
	}
	c.families(l, p)
	for i, s := range p.Servers {
		if s.MaxConnections > 0 {
			fault(at.with("servers").with(i).with("max_connections"), "max_connections needs the number of connections that the server has", "remove the key")
		}
		if s.ProxyProtocol != "" && s.ProxyProtocol != ProxyHeaderNone {
			fault(at.with("servers").with(i).with("proxy_protocol"), "proxy_protocol is bytes before the client's, and the kernel adds none", "remove the key")
		}
		if s.Address.Addr().IsLoopback() {
			fault(at.with("servers").with(i), "the kernel sends no packet from outside to a loopback address", "use another address of the server")
		}
	}
}

// families looks for addresses whose clients have no server of their family: the kernel translates no family into the other.
func (c *checker) families(l *Listener, p *Pool) {
	if l.Source == SourceClient {
		return // clientSource says the same
	}
	has4, has6 := false, false
	for _, s := range p.Servers {
		ip := s.Address.Addr()
		if !ip.IsValid() {
			return // a name may have addresses of both families
		}
		has4, has6 = has4 || ip.Is4(), has6 || ip.Is6()
	}
	for i, a := range l.Listen {
		if a.IsValid() && len(p.Servers) > 0 && (a.Addr().Is4() && !has4 || a.Addr().Is6() && !has6) {
			c.fault(Path{"listeners", l.Name, "listen", i}, fmt.Sprintf("pool %s has no server of the family of %s, and the kernel does not translate one into the other", p.Name, a),
				"add such a server to the pool, or remove this address")
		}
	}
}
