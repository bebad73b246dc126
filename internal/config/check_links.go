package config

import (
	"fmt"
	"math/bits"
	"slices"
)

// fillLinks fills in what one part of the file says for another.
func fillLinks(cfg *Config) {
	b := &cfg.Balance
	widest := uint64(0)
	for _, l := range cfg.Links {
		widest = max(widest, l.Bandwidth)
	}
	for _, l := range cfg.Links {
		l.Masquerade, l.MasqueradeOff = l.masquerade.ByFamily, l.masquerade.off
		if l.OnDown == "" {
			l.OnDown = b.OnDown
		}
		if l.OnChange == nil {
			l.OnChange = b.OnChange
		}
		if c := l.Check; c != nil && c.Timeout == 0 {
			c.Timeout = c.Every / 2
		}
		switch {
		case l.Weight > 0:
		case l.Bandwidth > 0:
			l.Weight = max(1, int(l.Bandwidth*1000/widest)) // rates are at most 1e12
		default:
			l.Weight = 1
		}
	}
	for _, g := range b.Groups {
		if g.Spread == "" {
			g.Spread = b.Spread
		}
	}
}

// links checks what the file says about links against the rest of it.
func (c *checker) links() {
	if len(c.cfg.Links) == 0 {
		for _, key := range []string{"balance", "forward"} {
			if at := (Path{key}); c.has(at) && !c.has(Path{"links"}) {
				c.fault(at, key+" needs links, and there are none", "add  links: {NAME: {interface: wan1}}, or remove the key")
			}
		}
		if !c.has(Path{"links"}) && !c.has(Path{"listeners"}) {
			c.fault(Path{}, "the file has neither listeners nor links", "add for example  listeners: {web: {intercept: {interfaces: [eth0], ports: [80]}}}")
		}
		return
	}
	c.linkNumbers()
	byInterface := map[string]string{}
	for _, l := range c.cfg.Links {
		c.link(l, byInterface)
	}
	c.weights()
	c.inside(byInterface)
	for _, g := range c.cfg.Balance.Groups {
		c.group(g)
	}
	for i := range c.cfg.Balance.Rules {
		c.linkRule(i)
	}
	if b := c.cfg.Balance.Default; b != "" {
		c.linkThere(b, true, Path{"balance", "default"})
	}
	c.forwards()
}

// maxLinkPriority leaves room for the rules of links before those of the kernel, which begin at 32766.
const maxLinkPriority = 32757

// linkNumbers checks that marks and tables have room for every link.
func (c *checker) linkNumbers() {
	k, count := c.cfg.Kernel, len(c.cfg.Links)
	at := Path{"kernel", "link_marks"}
	if most := 1<<bits.OnesCount32(k.LinkMarks) - 1; k.LinkMarks != 0 && count > most {
		c.fault(Path{"links"}, fmt.Sprintf("%d links, and kernel.link_marks has room for %d", count, most), "make kernel.link_marks wider, as in  0x3f000000")
	}
	if k.LinkMarks&k.Marks != 0 {
		if !c.has(at) {
			at = Path{"kernel", "marks"}
		}
		c.fault(at, fmt.Sprintf("kernel.marks and kernel.link_marks share the bits %#x", k.LinkMarks&k.Marks), "give each bits of its own")
	}
	first, last := uint64(k.LinkTable), uint64(k.LinkTable)+uint64(count) // the first is for this host's own traffic
	at = Path{"kernel", "link_table"}
	switch own := uint64(k.Table); {
	case k.LinkTable == 0:
	case last > 1<<32-1 || first <= 255 && last >= 253:
		c.fault(at, fmt.Sprintf("the tables of the links would be %d to %d, and some of those are not to be had", first, last), "choose another number")
	case own >= first && own <= last:
		c.fault(at, fmt.Sprintf("table %d is kernel.table, and the links would have %d to %d", own, first, last), "choose another number")
	}
	if k.Priority > maxLinkPriority {
		c.fault(Path{"kernel", "priority"}, fmt.Sprintf("priority %d leaves no room for the rules of links, which take the eight numbers after it", k.Priority),
			fmt.Sprintf("choose one up to %d", maxLinkPriority))
	}
}

func reserved(name string) bool { return name == LinkBalanced || name == LinkBlackhole }

// link checks what one link says against itself and those before it.
func (c *checker) link(l *Link, byInterface map[string]string) {
	at := Path{"links", l.Name}
	if reserved(l.Name) {
		c.fault(at, l.Name+" cannot be the name of a link: rules use the word for something else", "choose another name")
	}
	if first, ok := byInterface[l.Interface]; ok && l.Interface != "" {
		c.fault(at.with("interface"), fmt.Sprintf("%s is the interface of link %s already", l.Interface, first), "each link needs an interface of its own: a VLAN, for example")
	} else {
		byInterface[l.Interface] = l.Name
	}
	if !l.IPv4 && !l.IPv6 && !c.refused[at.with("ipv4").id()] && !c.refused[at.with("ipv6").id()] {
		c.fault(at, "link "+l.Name+" is used neither for IPv4 nor for IPv6", "remove  ipv4: false  or  ipv6: false")
	}
	for _, family := range []struct {
		on     bool
		number int
	}{{l.IPv4, 4}, {l.IPv6, 6}} {
		for key, b := range map[string]ByFamily{"gateway": l.Gateway, "masquerade": l.masquerade.ByFamily} {
			if b.Of(family.number).IsValid() && !family.on {
				c.fault(at.with(key), fmt.Sprintf("%s is an IPv%d address, and the link is not used for IPv%d", b.Of(family.number), family.number, family.number), "remove one of the two")
			}
		}
	}
	switch {
	case l.Adapt == AdaptLatency && !c.has(at.with("check")):
		c.fault(at.with("adapt"), "adapt: latency needs check: nothing measures the link", "add  check: {ping: [ADDRESS]}")
	case l.Adapt == AdaptLoad && !c.has(at.with("bandwidth")):
		c.fault(at.with("adapt"), "adapt: load needs bandwidth: nobody knows how much the link carries", "add  bandwidth: 100Mbit")
	}
	c.npt(l, at)
	if l.Check != nil {
		c.linkCheck(l.Check, at.with("check"))
	}
	c.hook(l.OnChange, at.with("on_change"))
}

// npt checks that a link's prefix has an inside network to stand for.
func (c *checker) npt(l *Link, at Path) {
	if !l.NPT.IsValid() {
		return
	}
	at = at.with("npt")
	same := 0
	for _, n := range c.cfg.Balance.Inside.Networks {
		if n.Addr().Is6() && n.Bits() == l.NPT.Bits() {
			same++
		}
	}
	switch {
	case l.NPT.Addr().Is4():
		c.fault(at, l.NPT.String()+" is no IPv6 prefix", "IPv4 has  masquerade")
	case l.masquerade.IPv6.IsValid() || l.masquerade.off:
		c.fault(at, "a link has npt or masquerade for IPv6, not both", "remove one of them")
	case same != 1 && !c.refused[Path{"balance", "inside", "networks"}.id()]:
		c.fault(at, fmt.Sprintf("balance.inside.networks has %d IPv6 prefixes of length %d, and npt needs exactly one", same, l.NPT.Bits()),
			"name the inside network there, with the same length")
	}
}

func (c *checker) linkCheck(k *LinkCheck, at Path) {
	targets, any := k.Targets(), false
	for _, key := range []string{"ping", "tcp", "http", "dns"} {
		any = any || c.has(at.with(key))
	}
	switch {
	case !any:
		c.fault(at, "check has no target", "add  ping: [ADDRESS], or one of tcp, http, dns")
	case k.Quorum > targets && targets > 0:
		c.fault(at.with("quorum"), fmt.Sprintf("quorum is %d, and there are %d targets", k.Quorum, targets), "make it smaller, or name more targets")
	}
	if k.Timeout > k.Every && c.has(at.with("timeout")) && k.Every > 0 {
		c.fault(at.with("timeout"), "timeout is longer than every: rounds would overlap", "make it shorter, or every longer")
	}
	if c.has(at.with("dns_name")) && !c.has(at.with("dns")) {
		c.fault(at.with("dns_name"), "dns_name needs dns: nobody is asked", "add  dns: [ADDRESS], or remove the key")
	}
}

func (c *checker) hook(h *LinkHook, at Path) {
	if h == nil || !c.has(at) {
		return
	}
	if !c.has(at.with("run")) && !c.has(at.with("webhook")) {
		c.fault(at, "on_change has neither run nor webhook", "add one of them, or remove the key")
	}
	if c.has(at.with("user")) && !c.has(at.with("run")) {
		c.fault(at.with("user"), "user needs run", "add a program to run, or remove the key")
	}
}

// weights checks that all links are measured by the same thing.
func (c *checker) weights() {
	var byRate, byWeight *Link
	for _, l := range c.cfg.Links {
		at := Path{"links", l.Name}
		switch {
		case c.has(at.with("weight")):
			byWeight = l
		case c.has(at.with("bandwidth")):
			byRate = l
		default:
			byWeight = l
		}
	}
	if byRate != nil && byWeight != nil {
		c.fault(Path{"links", byRate.Name, "bandwidth"}, fmt.Sprintf("link %s counts by its bandwidth and link %s by its weight, which cannot be compared", byRate.Name, byWeight.Name),
			"give all links a weight, or all a bandwidth and none a weight")
	}
}

// inside checks that no interface is both inside and a link's.
func (c *checker) inside(byInterface map[string]string) {
	at := Path{"balance", "inside", "interfaces"}
	seen := map[string]bool{}
	for i, name := range c.cfg.Balance.Inside.Interfaces {
		if l, ok := byInterface[name]; ok && name != "" {
			c.fault(at.with(i), fmt.Sprintf("%s is the interface of link %s: it cannot be inside, too", name, l), "name the interfaces that clients come in by")
		}
		if seen[name] && name != "" {
			c.fault(at.with(i), "interface "+name+" is here twice", "remove one of them")
		}
		seen[name] = true
	}
	c.hook(c.cfg.Balance.OnChange, Path{"balance", "on_change"})
}

func (c *checker) group(g *LinkGroup) {
	at := Path{"balance", "groups", g.Name}
	if _, n := c.cfg.Link(g.Name); n > 0 || reserved(g.Name) {
		c.fault(at, g.Name+" cannot be the name of a group: it means something else already", "choose another name")
	}
	c.linksThere(g.Links, false, at.with("links"))
}

// linksThere checks a list of names: each is there, and none twice.
func (c *checker) linksThere(names []string, groups bool, at Path) {
	seen := map[string]bool{}
	for i, name := range names {
		at := at.with(i)
		if !c.has(at) {
			at = at[:len(at)-1] // the only one, without a list
		}
		if seen[name] && name != "" {
			c.fault(at, name+" is here twice", "remove one of them")
		}
		seen[name] = true
		c.linkThere(name, groups, at)
	}
}

// linkThere reports a link that the file does not have. groups says that a group, or a word that stands for links, will do.
func (c *checker) linkThere(name string, groups bool, at Path) {
	if name == "" || c.has(Path{"links", name}) || groups && (reserved(name) || c.has(Path{"balance", "groups", name})) {
		return
	}
	if !c.has(Path{"links"}) {
		c.fault(at, "there is no link "+quote(name), "add it under links:, or remove the key")
		return
	}
	var names []string
	for _, l := range c.cfg.Links {
		names = append(names, l.Name)
	}
	if groups {
		for _, g := range c.cfg.Balance.Groups {
			names = append(names, g.Name)
		}
		names = append(names, LinkBalanced, LinkBlackhole)
	}
	var entries []entry
	for _, n := range names {
		entries = append(entries, entry{key: n})
	}
	what, hint := "there is no link "+quote(name), "it can be "+clip(choice(names))
	if best := nearest(name, entries); best != "" {
		hint = "did you mean " + best + "?"
	}
	if !groups && (reserved(name) || c.has(Path{"balance", "groups", name})) {
		what, hint = name+" is no link by itself", "name each link"
	}
	c.fault(at, what, hint)
}

// linkRule checks the rule with that index.
func (c *checker) linkRule(i int) {
	at, r := Path{"balance", "rules", i}, c.cfg.Balance.Rules[i]
	c.linksThere(r.Links, true, at.with("link"))
	for j, name := range r.Links {
		if reserved(name) && j < len(r.Links)-1 {
			c.fault(at.with("link").with(j), name+" is not the last of the list, and those behind it would never be used", "remove them, or put it last")
		}
	}
	if len(r.Links) == 1 && r.Links[0] == LinkBlackhole && r.Strict {
		c.fault(at.with("strict"), "strict has no meaning with blackhole", "remove the key")
	}
	withPorts := []Transport{TransportTCP, TransportUDP, TransportSCTP}
	if len(r.Ports) > 0 && slices.ContainsFunc(r.Protocol, func(p Transport) bool { return p != "" && !slices.Contains(withPorts, p) }) {
		c.fault(at.with("ports"), "ports go with tcp, udp and sctp alone", "make two rules of it")
	}
	if r.Listener != "" && c.cfg.Listener(r.Listener) == nil && !c.has(Path{"listeners", r.Listener}) {
		c.fault(at.with("listener"), "there is no listener "+quote(r.Listener), "name one of listeners:, or remove the key")
	}
	if inside := c.cfg.Balance.Inside.Interfaces; len(inside) > 0 {
		for j, name := range r.Interfaces {
			if name != "" && !slices.Contains(inside, name) {
				c.fault(at.with("interfaces").with(j), name+" is not one of balance.inside.interfaces, so the rule would never match", "add it there, or remove it here")
			}
		}
	}
	if r.Listener != "" && len(r.Interfaces) > 0 {
		c.fault(at.with("interfaces"), "interfaces and listener exclude each other: Salp's own connections come in by none", "make two rules of it")
	}
	if last := i == len(c.cfg.Balance.Rules)-1; !last && r.Everything() && len(r.Links) > 0 {
		c.fault(at, "this rule matches everything, so those below it never match", "put it last, or use  balance.default")
	}
	c.places(r.From, at.with("from"))
	c.places(r.To, at.with("to"))
	if apart(r.From, r.To) {
		c.fault(at, "from and to have no address family in common, so the rule would never match", "name addresses of the same family")
	}
}

// places checks that the lists of places are there and hold addresses.
func (c *checker) places(all []Place, at Path) {
	for i, p := range all {
		if p.List != "" {
			c.listThere(p.List, false, at.with(i))
		}
	}
}

// Everything says that the rule has no condition.
func (r *LinkRule) Everything() bool {
	return len(r.From)+len(r.To)+len(r.Ports)+len(r.Protocol)+len(r.DSCP)+len(r.Interfaces) == 0 && r.Listener == ""
}

// apart says that two lists of places are both given, hold prefixes alone, and have no family in common.
func apart(from, to []Place) bool {
	families := func(all []Place) (four, six bool) {
		for _, p := range all {
			named := !p.Prefix.IsValid()
			four, six = four || named || p.Prefix.Addr().Is4(), six || named || p.Prefix.Addr().Is6()
		}
		return four, six
	}
	from4, from6 := families(from)
	to4, to6 := families(to)
	return len(from) > 0 && len(to) > 0 && !(from4 && to4) && !(from6 && to6)
}

// forwards checks that no two forwards want the same port of a link.
func (c *checker) forwards() {
	for i := range c.cfg.Forward {
		f, at := &c.cfg.Forward[i], Path{"forward", i}
		c.linksThere(f.Links, false, at.with("links"))
		c.places(f.From, at.with("from"))
		if ip := f.To.Addr(); ip.IsValid() && ip.IsLoopback() {
			c.fault(at.with("to"), ip.String()+" is a loopback address, where nothing from outside is let in", "name an address of the server in its network")
		}
		for j := range c.cfg.Forward[:i] {
			if o := &c.cfg.Forward[j]; f.clashes(o) {
				c.fault(at.with("port"), fmt.Sprintf("a port of it is forwarded to %s already", o.To), "use another port, or other links")
				break
			}
		}
	}
}

// clashes says that two forwards take in the same, whoever it is from.
func (f *Forward) clashes(o *Forward) bool {
	links := len(f.Links) == 0 || len(o.Links) == 0 || slices.ContainsFunc(f.Links, func(l string) bool { return slices.Contains(o.Links, l) })
	protocols := slices.ContainsFunc(f.Protocol, func(p Transport) bool { return slices.Contains(o.Protocol, p) })
	ports := slices.ContainsFunc(f.Ports, func(p PortRange) bool {
		return slices.ContainsFunc(o.Ports, func(q PortRange) bool { return p.First > 0 && q.First > 0 && p.First <= q.Last && q.First <= p.Last })
	})
	families := f.To.Addr().Is4() == o.To.Addr().Is4()
	return links && protocols && ports && families && len(f.From) == 0 && len(o.From) == 0
}
