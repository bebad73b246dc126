package config

import "fmt"

// balance checks what a pool says of the choice of its servers against itself.
func (c *checker) balance(p *Pool) {
	at := Path{"pools", p.Name}
	if p.Overload > 0 && p.Balance != BalanceSource && !c.refused[at.with("balance").id()] {
		c.fault(at.with("overload"), "overload needs balance: source; the other ways spread connections evenly by themselves", "remove the key")
	}
	if c.refused[at.with("servers").id()] || len(p.Servers) == 0 {
		return
	}
	bounded, fit, regular := false, false, false
	for _, s := range p.Servers {
		if s == (Server{}) {
			return // its own mistakes have been reported
		}
		bounded = bounded || s.MaxConnections > 0
		fit = fit || s.Weight > 0
		regular = regular || !s.Backup
	}
	switch {
	case !regular:
		c.fault(at.with("servers"), fmt.Sprintf("all servers of pool %s are backups, and there is nothing that they back up", p.Name), "remove  backup  from those that are to be used")
	case !fit:
		c.fault(at.with("servers"), fmt.Sprintf("all servers of pool %s have weight 0, so that none gets a connection", p.Name), "give a weight to those that are to be used")
	}
	if bounded {
		return
	}
	if p.Balance == BalanceFirst && !c.kernelOnly(p) {
		c.fault(at.with("balance"), "balance: first fills one server after the other, and no server has a max_connections that would fill it",
			"add  max_connections  to the servers, or choose another balance")
	}
	if c.has(at.with("queue")) {
		c.fault(at.with("queue"), "queue needs max_connections: without a bound no connection waits", "add  max_connections  to the servers, or remove the key")
	}
}

// proxyProtocol checks who a listener believes.
func (c *checker) proxyProtocol(l *Listener, at Path) {
	if l.ProxyProtocol == nil {
		return
	}
	for i, p := range l.ProxyProtocol.From {
		if p.IsValid() && p.Bits() == 0 {
			c.fault(at.with("proxy_protocol").with("from").with(i), fmt.Sprintf("%s is everybody: any client could say that it is another", p), "name the proxies in front of Salp")
		}
	}
}

// kernelOnly says whether all who use the pool are carried by the kernel, which fills no server: first is then the first that is up.
func (c *checker) kernelOnly(p *Pool) bool {
	used := false
	for _, l := range c.cfg.Listeners {
		if l.Pool == p.Name && l.Via != ViaKernel {
			return false
		}
		used = used || l.Pool == p.Name
	}
	return used
}
