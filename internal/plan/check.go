package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"salp/internal/config"
)

// checker finds what a file asks of this host that the host cannot give.
type checker struct {
	cfg   *config.Config
	facts Facts
	ports map[string]uint16
	errs  config.Errors
}

func check(cfg *config.Config, f Facts) config.Errors {
	c := &checker{cfg: cfg, facts: f, ports: Ports(cfg, f)}
	for _, l := range cfg.Listeners {
		for i, a := range l.Listen {
			if l.Via == config.ViaKernel {
				c.kernelPath(config.Path{"listeners", l.Name}, a, i)
				continue
			}
			c.listen(config.Path{"listeners", l.Name, "listen", i}, a)
		}
		if l.Intercept != nil {
			c.intercept(l)
		}
		c.support(l)
	}
	slices.SortStableFunc(c.errs, func(a, b *config.Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return c.errs
}

func (c *checker) fault(path config.Path, message, hint string) {
	c.errs = append(c.errs, c.cfg.Fault(path, message, hint))
}

// listen checks an address that clients are to dial.
func (c *checker) listen(at config.Path, a netip.AddrPort) {
	ip := a.Addr()
	if ip.Is6() && !c.facts.IPv6 {
		c.fault(at, fmt.Sprintf("%s is an IPv6 address and this kernel has no IPv6", a), "remove it, or boot with IPv6")
		return
	}
	if !ip.IsUnspecified() && !c.onHost(ip) {
		c.fault(at, fmt.Sprintf("%s is not an address of this host", ip), c.addressHint(ip))
		return
	}
	if other, ok := c.heldBy(a); ok {
		c.fault(at, fmt.Sprintf("port %d is in use: another program listens on %s", a.Port(), other),
			fmt.Sprintf("find it with  ss -ltnp 'sport = :%d'  and stop it, or use another port", a.Port()))
	}
}

// kernelPath checks what the kernel is to send to servers. The address need not be this host's: that it passes is enough.
func (c *checker) kernelPath(at config.Path, a netip.AddrPort, i int) {
	if a.Addr().Is6() && !c.facts.IPv6 {
		c.fault(append(at, "listen", i), fmt.Sprintf("%s is an IPv6 address and this kernel has no IPv6", a), "remove it, or boot with IPv6")
	}
	if c.facts.KernelPath == No && i == 0 {
		c.fault(append(at[:2:2], "via"), "this kernel cannot send connections to servers by itself: it lacks nft_nat, nft_masq, nft_hash or nft_numgen",
			"load or install those modules (salp features tells which), or use  via: proxy")
	}
}

// onHost says whether a connection to ip arrives here. All of an IPv4 prefix on a loopback interface does.
func (c *checker) onHost(ip netip.Addr) bool {
	for _, i := range c.facts.Interfaces {
		if z := ip.Zone(); z != "" && z != i.Name {
			continue
		}
		for _, p := range i.Addresses {
			if p.Addr() == ip.WithZone("") || i.Loopback && ip.Is4() && p.Contains(ip) {
				return true
			}
		}
	}
	return false
}

// addressHint lists the addresses of the family that the host does have.
func (c *checker) addressHint(ip netip.Addr) string {
	var have []string
	for _, i := range byName(c.facts.Interfaces) {
		for _, p := range i.Addresses {
			if p.Addr().Is4() == ip.Is4() {
				have = append(have, fmt.Sprintf("%s (%s)", p.Addr(), i.Name))
			}
		}
	}
	if len(have) == 0 {
		return "this host has no address of that family"
	}
	return "this host has " + few(have)
}

// heldBy returns the address another program listens on that keeps us from listening on a: the same, or one of the two covers the other.
func (c *checker) heldBy(a netip.AddrPort) (netip.AddrPort, bool) {
	for _, other := range c.facts.Listening {
		if other.Port() != a.Port() || other.Addr().Is4() != a.Addr().Is4() {
			continue
		}
		if other.Addr() == a.Addr() || other.Addr().IsUnspecified() || a.Addr().IsUnspecified() {
			return other, true
		}
	}
	return netip.AddrPort{}, false
}

func (c *checker) intercept(l *config.Listener) {
	at := config.Path{"listeners", l.Name, "intercept"}
	for i, name := range l.Intercept.Interfaces {
		c.interfaceNamed(append(at[:len(at):len(at)], "interfaces", i), l.Intercept.Method, name)
	}
	c.interceptPort(append(at[:len(at):len(at)], "port"), l)
}

func (c *checker) interfaceNamed(at config.Path, method config.Method, name string) {
	n := slices.IndexFunc(c.facts.Interfaces, func(i Interface) bool { return i.Name == name })
	if n < 0 {
		c.fault(at, fmt.Sprintf("there is no interface %s on this host", name), c.interfaceHint())
		return
	}
	switch i := c.facts.Interfaces[n]; {
	case i.Loopback:
		c.fault(at, fmt.Sprintf("%s is a loopback interface: nothing that comes from outside arrives there", name), c.interfaceHint())
	case i.Enslaved && i.Master != "":
		c.fault(at, fmt.Sprintf("%s belongs to %s, and its packets arrive there", name, i.Master), "write "+i.Master+" instead")
	case i.Enslaved:
		c.fault(at, fmt.Sprintf("%s belongs to a bridge or bond, and its packets arrive there", name), "write the name of the bridge or bond instead")
	case method == config.MethodRedirect && !i.has(IPv4) && !i.has(IPv6):
		c.fault(at, fmt.Sprintf("%s has no address beyond its link, and method: redirect sends connections to the address of the interface they came by", name),
			"give it an address, or use  method: tproxy")
	}
}

// interfaceHint lists the interfaces that one can take in from.
func (c *checker) interfaceHint() string {
	var have []string
	for _, i := range byName(c.facts.Interfaces) {
		if !i.Loopback && !i.Enslaved {
			have = append(have, i.Name)
		}
	}
	switch len(have) {
	case 0:
		return "this host has no interface to take in from"
	case 1:
		return "did you mean " + have[0] + "?"
	}
	return "did you mean one of " + few(have) + "?"
}

// interceptPort checks the port that diverted connections arrive at. One that Salp chose is free or its own already.
func (c *checker) interceptPort(at config.Path, l *config.Listener) {
	port, ok := c.ports[l.Name]
	if !ok {
		c.fault(at, fmt.Sprintf("no port from %d up is free for diverted connections to arrive at", firstPort), "name a free one with  port:")
		return
	}
	if l.Intercept.Port == 0 {
		return
	}
	for _, a := range arrivals(l.Intercept.Method, families(c.facts), port) {
		if other, ok := c.heldBy(a); ok {
			c.fault(at, fmt.Sprintf("port %d is in use: another program listens on %s", port, other), "use another port, or leave the key out and Salp finds a free one")
			return
		}
	}
}

// arrivals are the addresses that an intercepting listener listens on.
func arrivals(method config.Method, families []Family, port uint16) []netip.AddrPort {
	var all []netip.AddrPort
	for _, f := range families {
		ip := loopback(f)
		if method == config.MethodRedirect {
			ip = wildcard(f)
		}
		all = append(all, netip.AddrPortFrom(ip, port))
	}
	return all
}

func wildcard(f Family) netip.Addr {
	if f == IPv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// support refuses what needs the nft tproxy and socket expressions on a kernel that is known to lack them.
func (c *checker) support(l *config.Listener) {
	if c.facts.TProxy != No || l.Via == config.ViaKernel {
		return
	}
	at := config.Path{"listeners", l.Name}
	if l.Intercept != nil && l.Intercept.Method != config.MethodRedirect {
		instead := "method: redirect"
		if l.Source == config.SourceClient {
			instead += "  with  source: proxy" // nothing else shows servers the client's address
		}
		c.fault(append(at, "intercept", "method"), "this kernel cannot divert with TPROXY: it lacks nft_tproxy or nft_socket",
			"load or install those modules, or use  "+instead)
		return
	}
	if l.Source == config.SourceClient {
		c.fault(append(at, "source"), "source: client needs TPROXY support in the kernel, and this one lacks nft_tproxy or nft_socket",
			"load or install those modules, or use  source: proxy")
	}
}

func byName(all []Interface) []Interface {
	return slices.SortedFunc(slices.Values(all), func(a, b Interface) int { return strings.Compare(a.Name, b.Name) })
}

// few lists the first dozen.
func few(words []string) string {
	const most = 12
	if len(words) > most {
		return strings.Join(words[:most], ", ") + fmt.Sprintf(" and %d more", len(words)-most)
	}
	return strings.Join(words, ", ")
}
