package plan

// The NAT way. The destination becomes an address of the ingress interface, so the listener cannot be on loopback; a second chain
// refuses those who dial it directly.
const (
	redirectIn    = "redirect-in"
	redirectGuard = "redirect-guard"
)

func (r *recipe) redirectChains() []Chain {
	if len(r.redirected) == 0 {
		return nil
	}
	chains := []Chain{r.redirectIn()}
	for _, t := range r.redirected {
		chains = append(chains, r.redirect(t))
	}
	return append(chains, r.redirectGuard())
}

// redirectIn sees the first packet of each conntrack entry. That need not be a SYN: conntrack picks up connections that were there
// before it, and those must go on to their server.
func (r *recipe) redirectIn() Chain {
	c := Chain{Name: redirectIn, Type: "nat", Hook: "prerouting", Priority: -100, Rules: []NFTRule{r.ownTraffic()}}
	for _, t := range r.redirected {
		c.Rules = append(c.Rules, rule("listener "+t.name, append(t.arrives(), bareSYN, Jump{Chain: redirectChain(t)})...))
	}
	return c
}

func redirectChain(t taken) string { return "redirect-" + t.name }

func (r *recipe) redirect(t taken) Chain {
	rules := append(r.hostsOwn(), rule("no worker: let it pass by", InSet{Set: AliveSet, Not: true}, back))
	if t.limits != "" {
		rules = append(rules, rule("its rates", Jump{Chain: t.limits}))
	}
	for _, f := range r.families {
		if names := r.redirectable(f, t.interfaces); len(names) > 0 {
			rules = append(rules, rule("to the listener; the mark says whose entry it is", NFProto{Family: f}, IIFName{Names: names},
				L4Proto{Protos: []byte{TCP}}, SetCTMark{Bits: r.marks.Intercepted}, Redirect{Port: t.port}))
		}
	}
	return Chain{Name: redirectChain(t), Rules: rules}
}

// redirectable returns the interfaces that have an address to redirect to: without one the kernel drops the packet
// (nf_nat_redirect.c), with it passing by. For IPv6 a link-local address is not enough.
func (r *recipe) redirectable(f Family, names []string) []string {
	var out []string
	for _, name := range names {
		for _, i := range r.interfaces {
			if i.Name == name && i.has(f) {
				out = append(out, name)
			}
		}
	}
	return out
}

// has says whether the interface has an address of the family that others than its neighbours can use.
func (i Interface) has(f Family) bool {
	for _, p := range i.Addresses {
		if p.Addr().Is4() == (f == IPv4) && (f == IPv4 || !p.Addr().IsLinkLocalUnicast()) {
			return true
		}
	}
	return false
}

// redirectGuard refuses connections to the listeners' ports that no NAT brought there: they have no original destination.
func (r *recipe) redirectGuard() Chain {
	var ports []PortRange
	for _, t := range r.redirected {
		ports = append(ports, PortRange{t.port, t.port})
	}
	return Chain{Name: redirectGuard, Type: "filter", Hook: "input", Rules: []NFTRule{
		rule("dialled directly", DPort{Ranges: ports}, CTDNAT{Not: true}, RejectReset{}),
	}}
}
