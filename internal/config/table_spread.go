package config

import (
	"net/netip"

	"go.yaml.in/yaml/v4"
)

var balanceField = prop(entry{key: "balance",
	doc: "Which flows use which link: whose traffic is spread, how, and what is sent by a certain link. A flow is decided about once, by its first packet, and stays where it is: " +
		"changes of weights and links that come back move new flows alone.",
	example: "balance: {inside: {interfaces: [lan0]}, spread: client}",
	aka:     []string{"balancing", "multiwan", "routing"},
}, linkBalanceKeys, func(c *Config) *LinkBalance { return &c.Balance })

var linkBalanceKeys = mapping(nil,
	prop(entry{key: "inside",
		doc: "Whose traffic is spread over the links: what comes in by these interfaces from these networks. Traffic between inside networks, and to " +
			"addresses of this host, is left alone.",
		example: "inside: {interfaces: [lan0], networks: [10.1.0.0/24]}",
		aka:     []string{"lan", "clients", "source"},
	}, insideKeys, func(b *LinkBalance) *Inside { return &b.Inside }),
	prop(entry{key: "masquerade", def: "true",
		doc:     "Gives flows that leave by a link an address of that link, where their own is not one.",
		watch:   "`false` is for networks whose addresses every provider routes here. What would leave with a source that is not the link's is dropped and counted unless the link says `masquerade: off`.",
		example: "masquerade: false",
		aka:     []string{"nat", "snat"},
	}, boolean(), func(b *LinkBalance) *bool { return &b.Masquerade }),
	prop(entry{key: "spread", def: string(SpreadPair),
		doc: "Which flows stay together. `client-and-destination`: those of one client to one destination, so that a site which binds a login to an address sees one. " +
			"`client`: all of one client. `destination`: all to one destination. `flow`: none, each new flow is dealt out by weight.",
		watch:   "Few clients or few destinations spread unevenly by anything but `flow`.",
		example: "spread: flow",
		aka:     []string{"sticky", "hash", "algorithm"},
	}, enum(SpreadPair, SpreadClient, SpreadDestination, SpreadFlow), func(b *LinkBalance) *Spread { return &b.Spread }),
	prop(entry{key: "on_link_down", def: string(LinkDownReset),
		doc: "What becomes of the flows of a link that goes down. `reset`: connection tracking forgets them, so TCP is reset and begins anew, and UDP goes on by another link at " +
			"its next packet. `keep`: they stay, and go on when the link is back in time. Flows on other links are not touched either way, nor those of the last link that goes down, when `last_resort` goes on using it.",
		example: "on_link_down: keep",
	}, enum(LinkDownReset, LinkDownKeep), func(b *LinkBalance) *LinkDown { return &b.OnDown }),
	prop(entry{key: "last_resort", def: string(LastResortAll),
		doc: "What becomes of new flows while no link is up that they may use. `all`: the links are used as if they were up, since it may be the targets that are dead; " +
			"a family for which no link has an address and a gateway is left to the host's own routing table. `main`: the host's own routing table decides. `reject`: they are refused at once.",
		watch:   "A rule with `strict` is always refused: TCP with a reset, the rest with an ICMP error.",
		example: "last_resort: reject",
	}, enum(LastResortAll, LastResortMain, LastResortReject), func(b *LinkBalance) *LastResort { return &b.LastResort }),
	prop(entry{key: "offload", def: "false",
		doc: "Lets the kernel carry established TCP and UDP flows from the inside to links past all rules (a flowtable), which costs it much less for each packet. " +
			"First packets pass the rules as ever, and the flows of a link that goes down are found another way as ever. Where the kernel has no flowtables (`salp features` tells), it changes nothing.",
		watch:   "Rules of other programs see the first packets of such a flow only: what blocks or counts flows that live already does not see them, nor does a packet capture by rules.",
		example: "offload: true",
		aka:     []string{"flow_offload", "flow_offloading", "flowtable", "fast_path", "fasttrack"},
	}, boolean(), func(b *LinkBalance) *bool { return &b.Offload }),
	prop(entry{key: "on_change", absent: "nothing is called",
		doc:     "What is called when a link changes its state: a program, a webhook or both.",
		example: "on_change: {webhook: http://10.1.0.5/links}",
		aka:     []string{"hooks", "hook", "notify", "on_event"},
	}, optional(linkHookKeys), func(b *LinkBalance) **LinkHook { return &b.OnChange }),
	prop(entry{key: "groups", absent: "none but `balanced`",
		doc:     "Some of the links under a name of your choice, for rules to name: flows are spread over them by their weights. `balanced` is the group of all links.",
		example: "groups: {fast: {links: [fibre, cable]}}",
	}, named(linkGroupKeys, maxGroups, func(g *LinkGroup, name string) { g.Name = name }), func(b *LinkBalance) *[]*LinkGroup { return &b.Groups }),
	prop(entry{key: "rules", absent: "none",
		doc: "Which flows use a certain link. The first rule that matches decides; all conditions of a rule must hold, and of the items of a condition one. " +
			"`salp explain SRC DST:PORT` tells which rule decides about a flow.",
		example: "rules: [{ports: [25], link: cable}]",
		aka:     []string{"rule", "pins", "policies"},
	}, list("rules", linkRuleKeys, maxLinkRules), func(b *LinkBalance) *[]LinkRule { return &b.Rules }),
	prop(entry{key: "default", def: LinkBalanced,
		doc: "The link, or the group, for flows that no rule names and for the gateway's own traffic. `balanced` spreads them over all links; `blackhole` drops what no rule names.", example: "default: cable",
	}, nameOf("a link"), func(b *LinkBalance) *string { return &b.Default }),
)

var insideKeys = mapping(nil,
	prop(entry{key: "interfaces", required: true,
		doc:     "The interfaces by which the traffic comes in.",
		example: "interfaces: [lan0]", aka: []string{"interface", "iface", "device"},
	}, list("names of interfaces", interfaceName(), maxInterface), func(i *Inside) *[]string { return &i.Interfaces }),
	prop(entry{key: "networks", absent: "whatever comes in by the interfaces",
		doc:     "The networks that the traffic is from. Traffic to them is never sent by a link.",
		watch:   "What comes in from elsewhere is routed by the host's own table.",
		example: `networks: [10.1.0.0/24, "fd00:1::/64"]`, aka: []string{"network", "subnets", "prefixes"},
	}, list("prefixes", prefix(), maxPlaces), func(i *Inside) *[]netip.Prefix { return &i.Networks }),
)

// linkGroupKeys is a group of links: a mapping.
var linkGroupKeys = mapping(nil,
	prop(entry{key: "links", required: true,
		doc: "The links of the group.", example: "links: [fibre, cable]", aka: []string{"link", "members"},
	}, list("names of links", nameOf("a link"), maxLinks), func(g *LinkGroup) *[]string { return &g.Links }),
	prop(entry{key: "spread", absent: "as `balance.spread` says",
		doc: "The same as `balance.spread`, for this group alone.", example: "spread: flow",
	}, enum(SpreadPair, SpreadClient, SpreadDestination, SpreadFlow), func(g *LinkGroup) *Spread { return &g.Spread }),
)

var linkRuleKeys = mapping(nil,
	prop(entry{key: "from", absent: "anyone",
		doc: "Where the flow is from: addresses, prefixes, host names, or lists as `list:NAME`. A rule with `from` is not about the gateway's own traffic.", example: "from: [10.1.0.50, 10.1.0.128/25]",
		aka: []string{"source", "src", "client"},
	}, list("addresses, prefixes, names or lists", placeItem(), maxPlaces), func(l *LinkRule) *[]Place { return &l.From }),
	prop(entry{key: "to", absent: "anywhere",
		doc:     "Where it goes: addresses, prefixes, host names, or lists as `list:NAME`. Names are resolved again as their answers run out.",
		watch:   "A name with many addresses, of which each client is told others, cannot be followed wholly: what the gateway is not told does not match. A list is read at the start and at a reload.",
		example: "to: [bank.example, 203.0.113.0/24]",
		aka:     []string{"destination", "dest", "dst"},
	}, list("addresses, prefixes, names or lists", placeItem(), maxPlaces), func(l *LinkRule) *[]Place { return &l.To }),
	prop(entry{key: "ports", absent: "any",
		doc: "The destination's ports: of TCP and UDP, unless `protocol` says more.", example: "ports: [25, 8000-8099]", aka: []string{"port", "dport", "dports"},
	}, list("ports and ranges of ports", ports(), maxPorts), func(l *LinkRule) *[]PortRange { return &l.Ports }),
	prop(entry{key: "protocol", absent: "any",
		doc: "The protocol, or several.", example: "protocol: udp", aka: []string{"proto", "protocols"},
	}, oneOrMore("words", enum(TransportTCP, TransportUDP, TransportICMP, TransportGRE, TransportESP, TransportSCTP), 6), func(l *LinkRule) *[]Transport { return &l.Protocol }),
	prop(entry{key: "dscp", absent: "any",
		doc: "The DiffServ code point that the flow's first packet has, by number or name.", example: "dscp: ef", aka: []string{"tos", "qos"},
	}, oneOrMore("code points", codePoint(), 64), func(l *LinkRule) *[]uint8 { return &l.DSCP }),
	prop(entry{key: "interfaces", absent: "any",
		doc: "The inside interfaces that the flow came in by.", example: "interfaces: [guest0]", aka: []string{"interface", "iif", "in"},
	}, list("names of interfaces", interfaceName(), maxInterface), func(l *LinkRule) *[]string { return &l.Interfaces }),
	prop(entry{key: "listener", absent: "any",
		doc:     "The rule is about the connections that Salp makes to servers for this listener, and about nothing else.",
		example: "listener: web",
	}, nameOf("a listener"), func(l *LinkRule) *string { return &l.Listener }),
	prop(entry{key: "link", required: true,
		doc:     "Where the flow goes: a link, a group, `balanced`, or `blackhole`, which drops it. Of a list the first that is up is used.",
		example: "link: [cable, fibre]", aka: []string{"links", "via", "use"},
	}, oneOrMore("names of links", nameOf("a link"), maxLinks), func(l *LinkRule) *[]string { return &l.Links }),
	prop(entry{key: "strict", def: "false",
		doc: "`true`: while none of `link` is up the flow is refused. `false`: it is then spread over the links that are up.", example: "strict: true",
	}, boolean(), func(l *LinkRule) *bool { return &l.Strict }),
)

var forwardField = prop(entry{key: "forward", absent: "none",
	doc: "Port forwards: what arrives at the addresses of links is led to a server inside. The server sees each client's own address, and its answers leave by the link that the " +
		"question came in by, whatever the default route says. Inside hosts may use the links' addresses, too.",
	example: `forward: [{links: [fibre, cable], port: 8080, to: "10.1.0.10:80"}]`,
	aka:     []string{"forwards", "dnat", "port_forward", "port_forwards"},
}, list("mappings", forwardKeys, maxForwards), func(c *Config) *[]Forward { return &c.Forward })

var forwardKeys = mapping(nil,
	prop(entry{key: "links", absent: "all",
		doc: "The links at whose addresses it can be reached.", example: "links: [fibre]", aka: []string{"link"},
	}, list("names of links", nameOf("a link"), maxLinks), func(f *Forward) *[]string { return &f.Links }),
	prop(entry{key: "port", required: true,
		doc: "The port that is dialled, a range of ports, or a list of both.", example: "port: 8080", aka: []string{"ports", "dport"},
	}, oneOrMore("ports and ranges of ports", ports(), maxPorts), func(f *Forward) *[]PortRange { return &f.Ports }),
	prop(entry{key: "protocol", def: string(TransportTCP),
		doc: "The protocol, or both.", example: "protocol: [tcp, udp]", aka: []string{"proto"},
	}, oneOrMore("words", enum(TransportTCP, TransportUDP), 2), func(f *Forward) *[]Transport { return &f.Protocol }),
	prop(entry{key: "to", required: true,
		doc: "The server inside. Without a port, the port that was dialled is kept.", example: `to: "10.1.0.10:80"`, aka: []string{"server", "target", "dest"},
	}, portless(), func(f *Forward) *netip.AddrPort { return &f.To }),
	prop(entry{key: "from", absent: "anyone",
		doc: "Who may use it: addresses, prefixes, host names, or lists as `list:NAME`.", example: "from: [203.0.113.0/24]", aka: []string{"source", "src", "allow"},
	}, list("addresses, prefixes, names or lists", placeItem(), maxPlaces), func(f *Forward) *[]Place { return &f.From }),
)

var linkMarksField = prop(entry{key: "link_marks", def: "0x0f000000",
	doc: "Two to eight bits of the packet mark and the conntrack mark, side by side, as a mask. They hold the number of the link that a flow uses, counted from 1 in the order " +
		"of the file; 0 is a flow that is not decided about. Four bits are enough for 15 links.",
	watch:   "No other program may use these bits, nor `kernel.marks`. Among those known, Cilium has 0xf00, Tailscale 0xff0000, dae 0x8000000 and mwan3 0x3f00.",
	example: "link_marks: 0x00f00000",
}, linkMask(), func(k *Kernel) *uint32 { return &k.LinkMarks })

var linkTableField = prop(entry{key: "link_table", def: "8120",
	doc: "The routing tables of links begin here: link N, counted from 1, has the table `link_table` + N. " +
		"`link_table` itself is for the gateway's own traffic while that is spread.",
	watch:   "Nothing else may be in these tables.",
	example: "link_table: 300",
}, routingTable(), func(k *Kernel) *uint32 { return &k.LinkTable })

// masqueradeWish is what the key masquerade of a link says.
type masqueradeWish struct {
	ByFamily
	off bool
}

// masquerading is addresses as perFamily has them, where off is not the same as leaving the key out.
func masquerading() kind[masqueradeWish] {
	k := perFamily("off", false)
	return kind[masqueradeWish]{shape: k.shape, read: func(r *reader, n *yaml.Node, at Path) (masqueradeWish, bool) {
		b, ok := k.read(r, n, at)
		return masqueradeWish{b, n.Kind == yaml.ScalarNode && n.Value == "off"}, ok
	}}
}

// dnsName is a name to ask a name server for.
func dnsName() kind[string] {
	return word("host name", map[string]any{"pattern": `^(\.|[a-zA-Z0-9_.-]+)$`}, func(s string) (problem, hint string) {
		if p, problem, _ := readPlace(s); s != "." && (problem != "" || p.Name == "") {
			return "is not a host name", "as in  example.org"
		}
		return "", ""
	})
}
