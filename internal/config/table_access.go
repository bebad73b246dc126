package config

// What access rules may hold at most.
const (
	maxAccessLists = 256
	maxRules       = 4096
	maxItems       = 1024
	maxLists       = 256
)

// accessKeys is a list of rules under a name.
var accessKeys = func() kind[AccessList] {
	rules := list("rules", accessRuleKeys, maxRules)
	return kind[AccessList]{shape: rules.shape, read: readAccessList(rules)}
}()

var accessRuleKeys = mapping(map[string]any{"oneOf": []any{
	map[string]any{"required": []string{"allow"}},
	map[string]any{"required": []string{"deny"}},
}},
	prop(entry{key: "allow",
		doc:     "What meets all of these conditions is allowed. `{}` is everything.",
		example: "allow: {from: [10.0.1.0/24]}",
		aka:     []string{"permit", "accept"},
	}, optional(ruleConditions()), func(a *AccessRule) **Conditions { return &a.Allow }),
	prop(entry{key: "deny",
		doc:     "What meets all of these conditions is denied: an HTTP client gets a page that says so (403), any other connection is closed. `{}` is everything.",
		example: `deny: {host: [".ads.example"]}`,
		aka:     []string{"block", "reject", "refuse", "forbid"},
	}, optional(ruleConditions()), func(a *AccessRule) **Conditions { return &a.Deny }),
	markKey(func(a *AccessRule) *Marking { return &a.Marking }),
	dscpKey(func(a *AccessRule) *Marking { return &a.Marking }),
	linkKey(func(a *AccessRule) *Marking { return &a.Marking }),
)

func markKey[T any](slot func(*T) *Marking) field[T] {
	return prop(entry{key: "mark", absent: "none",
		doc: "Bits that are set in the packet mark of the connection to the server, for routing and firewall rules of your own. A rule's mark takes the place " +
			"of its listener's.",
		watch:   "Not those of `kernel.marks` and `kernel.link_marks`. Requests with different marks never share a connection to a server.",
		example: "mark: 0x10",
		aka:     []string{"fwmark", "tcp_outgoing_mark", "so_mark"},
	}, markBits(), func(t *T) *uint32 { return &slot(t).Mark })
}

func dscpKey[T any](slot func(*T) *Marking) field[T] {
	return prop(entry{key: "dscp", absent: "what the kernel gives, 0",
		doc:     "The DiffServ code point of packets to the server, by number or name.",
		example: "dscp: af21",
		aka:     []string{"tos", "qos", "tcp_outgoing_tos"},
	}, dscp(), func(t *T) **uint8 { return &slot(t).DSCP })
}

func linkKey[T any](slot func(*T) *Marking) field[T] {
	return prop(entry{key: "link", absent: "as the rules of `balance` say",
		doc:     "The Internet link, or the group of links, that connections to servers use.",
		example: "link: embratel",
	}, nameOf("a link"), func(t *T) *string { return &slot(t).Link })
}

// conditionKeys are the conditions of a rule or a route. response says that conditions on the response are among them.
func conditionKeys[T any](response bool, slot func(*T) *Conditions) []field[T] {
	is := matchKeys("", response, func(t *T) *Match { return &slot(t).Match })
	verified := prop(entry{key: "host_verified",
		doc: "`true`: the name in the request resolves to the address that the client dialled. `false`: it does not, or nobody knows. " +
			"Only intercepted connections have an address that the client dialled.",
		example: "host_verified: true",
	}, optional(boolean()), func(t *T) **bool { return &slot(t).HostVerified })
	not := matchKeys("not_", response, func(t *T) *Match { return &slot(t).Not })
	return append(append(is, verified), not...)
}

// ruleConditions are the conditions of an access rule.
func ruleConditions() kind[Conditions] {
	return mapping(nil, conditionKeys(true, func(c *Conditions) *Conditions { return c })...)
}

// matchKeys are the conditions, plain or with not_ before them.
func matchKeys[T any](not string, response bool, slot func(*T) *Match) []field[T] {
	m := matchTable(not, slot)
	if !response {
		return append(m[:7:7], m[8:]...) // without content_type
	}
	return m
}

func matchTable[T any](not string, slot func(*T) *Match) []field[T] {
	say := func(key, doc, example string, aka ...string) entry {
		e := entry{key: not + key, doc: doc, example: not + key + ": " + example}
		if not != "" {
			e.doc = "The condition `" + key + "` the other way round: holds when none of its items fits, also where there is nothing to compare."
			aka = nil
		}
		e.aka = aka
		return e
	}
	return []field[T]{
		prop(say("from", "The client's address: addresses, prefixes and lists of them.", "[10.0.1.0/24, list:staff]", "src", "source", "client"),
			list("addresses, prefixes or lists", addressItem(), maxItems), func(t *T) *[]AddressItem { return &slot(t).From }),
		prop(say("to", "The server's address: the one that the client dialled, or where the name resolves to. Of a pool's server nothing is known yet.",
			"[203.0.113.0/24]", "dst", "destination"),
			list("addresses, prefixes or lists", addressItem(), maxItems), func(t *T) *[]AddressItem { return &slot(t).To }),
		prop(say("ports", "The server's port: of the URL or of the CONNECT, and of a connection that is not HTTP the one that the client dialled.",
			"[80, 8000-8099]", "port", "dport"),
			list("ports and ranges of ports", ports(), maxPorts), func(t *T) *[]PortRange { return &slot(t).Ports }),
		prop(say("method", "The request's method. Methods are in capital letters.", "[GET, HEAD]", "methods"),
			list("methods", token("method of HTTP", "write it as in  GET"), maxItems), func(t *T) *[]string { return &slot(t).Method }),
		prop(say("host", "The host that the request is for (without port). `www.example` is that name alone, `.example` the name and all below it, "+
			"`list:ads` what the list `ads` under `lists` has.", `[".ads.example", list:ads]`, "hosts", "domain", "domains", "dstdomain"),
			list("host names or lists", hostItem(), maxItems), func(t *T) *[]HostItem { return &slot(t).Host }),
		prop(say("path", "The path of the request, without the query, normalised (RFC 3986 6.2.2: `/%61/../b` is `/b`). In a pattern `*` is any run of characters, `/` too; "+
			"after a `~` it is a regular expression, which fits anywhere unless it has `^` and `$`.", `["/admin/*", "~\\.(exe|msi)$"]`, "url", "urlpath"),
			list("patterns", pattern(), maxItems), func(t *T) *[]Pattern { return &slot(t).Path }),
		prop(say("header", "A field of the request's header whose value fits the pattern; letter case of the name does not matter, that of the value does. "+
			"`\"Name: *\"` asks whether the field is there.", `["User-Agent: *curl*"]`, "headers"),
			list("fields with patterns", headerItem(), maxItems), func(t *T) *[]HeaderItem { return &slot(t).Header }),
		prop(say("content_type", "The media type of the response, in lower case, without its parameters. The request is sent first: a rule that denies by it "+
			"only keeps the response from the client.", `["video/*"]`, "rep_mime_type", "mime_type"),
			list("patterns", pattern(), maxItems), func(t *T) *[]Pattern { return &slot(t).ContentType }),
		prop(say("time", "Parts of the week: days, hours and a time zone, each of which may be left out; without a zone it is this machine's. "+
			"A span that ends before it begins goes on into the next day.", `["mon-fri 08:00-18:00", "sat 08:00-12:00 Europe/Rome"]`, "when", "hours"),
			list("times of the week", timeSpan(), maxItems), func(t *T) *[]TimeSpan { return &slot(t).Time }),
		prop(say("sni", "The name that a TLS client asks for. With `protocol: tls`, and where `tls` is ended.", `[".example"]`, "server_name"),
			list("host names or lists", hostItem(), maxItems), func(t *T) *[]HostItem { return &slot(t).SNI }),
		prop(say("alpn", "A protocol that a TLS client offers to speak (ALPN, RFC 7301), such as `h2`, `http/1.1` or `imap`. With `protocol: tls`, and where `tls` is ended.",
			`[h2, "http/1.1"]`, "application_protocol"),
			list("names of protocols", plainText("name of a protocol", 255), maxItems), func(t *T) *[]string { return &slot(t).ALPN }),
		prop(say("user", "The user who has authenticated; `*` is any.", "[alice, bob]", "users", "proxy_auth"),
			list("names of users", text("name of a user", 128), maxItems), func(t *T) *[]string { return &slot(t).User }),
		prop(say("listener", "The listener by which the connection came, for an access list that several share.", "[web]", "listeners", "myportname"),
			list("names of listeners", nameOf("a listener"), maxItems), func(t *T) *[]string { return &slot(t).Listener }),
	}
}

var listKeys = mapping(map[string]any{"oneOf": []any{
	map[string]any{"required": []string{"names"}},
	map[string]any{"required": []string{"addresses"}},
}},
	prop(entry{key: "names",
		doc: "A file of host names, one a line; what follows a `#` is a comment. `www.example` is that name alone, `.example` the name and all below it. " +
			"Lines as in /etc/hosts (`0.0.0.0 ads.example`) are understood.",
		watch: "The keeper opens the file and hands it to the worker, again whenever it changes. When a new text is wrong, the one before stays in force and the log says so. " +
			"A relative path counts from the directory of the configuration.",
		example: "names: /etc/salp/ads.txt",
		aka:     []string{"hosts", "domains"},
	}, fileName("a file of names"), func(l *List) *string { return &l.Names }),
	prop(entry{key: "addresses",
		doc:     "A file of addresses and prefixes, one a line; what follows a `#` is a comment.",
		watch:   "Read as `names` is.",
		example: "addresses: /etc/salp/staff.txt",
		aka:     []string{"networks", "ips", "prefixes"},
	}, fileName("a file of addresses"), func(l *List) *string { return &l.Addresses }),
)
