package config

import (
	"fmt"
	"path/filepath"
)

// httpOnlyKeys are the keys of a listener that mean nothing unless its protocol is http.
var httpOnlyKeys = []string{"http", "errors", "auth", "tls", "upstream_tls"}

// http checks what one listener says about its protocol.
func (c *checker) http(l *Listener, at Path) {
	if c.refused[at.with("protocol").id()] {
		return
	}
	for _, key := range httpOnlyKeys {
		if l.Protocol != ProtocolHTTP && c.has(at.with(key)) {
			c.fault(at.with(key), key+" needs protocol: http; of "+string(l.Protocol)+" no request is read", "add  protocol: http, or remove the key")
		}
	}
	for _, key := range []string{"not_http", "routes"} {
		if l.Protocol == ProtocolTCP && c.has(at.with(key)) {
			c.fault(at.with(key), key+" needs protocol: http or tls; of tcp no byte is read", "add  protocol: http, or remove the key")
		}
	}
	if l.Auth != nil && l.Intercept != nil {
		c.fault(at.with("auth"), "auth needs listen: clients who do not know of a proxy cannot be asked by one", "remove the key, or make a listener with listen")
	}
	if l.Listen != nil && l.HTTP.Destination == DestinationOriginal {
		c.fault(at.with("http").with("destination"), "destination: original needs intercept: who dials Salp names no other server by that", "remove the key")
	}
	if l.Access != "" {
		c.known("access list", l.Access, Path{"access"}, at.with("access"))
	}
	if h := l.HTTP.Limits; h.Line > h.Head {
		c.fault(at.with("http").with("limits"), "line is more than head, of which it is a part", "make line smaller, or head larger")
	} else if h.Burst > 0 && h.Rate == 0 {
		c.fault(at.with("http").with("limits").with("burst"), "burst needs rate", "add  rate: NUMBER, or remove the key")
	}
	if t := l.TLS; t != nil && len(t.Certificates) == 0 && t.ACME == nil && !c.has(at.with("tls").with("certificates")) && !c.has(at.with("tls").with("acme")) {
		c.fault(at.with("tls"), "tls has neither certificates nor acme", "add  certificates: [{certificate: FILE, key: FILE}]")
	}
	if t := l.TLS; t != nil && t.ACME != nil && t.ACME.State != "" && !filepath.IsAbs(t.ACME.State) {
		c.fault(at.with("tls").with("acme").with("state"), "state must be a whole path: it is the same wherever Salp is started", "write it as in  /var/lib/salp/acme")
	}
	if u := l.UpstreamTLS; u != nil && (u.Certificate == "") != (u.Key == "") {
		c.fault(at.with("upstream_tls"), "certificate and key go together", "add the other one, or remove it")
	}
	c.marking(l.Marking, at)
	for i := range l.Routes {
		c.route(l, &l.Routes[i], at.with("routes").with(i))
	}
}

func (c *checker) route(l *Listener, r *Route, at Path) {
	pool, destination := c.has(at.with("pool")), c.has(at.with("destination"))
	switch {
	case pool && destination:
		c.fault(at.with("destination"), "a route has pool or destination, not both", "remove one of them")
	case !pool && !destination && c.has(at):
		c.fault(at, "the route says nowhere to go", "add  pool: NAME  or  destination: host")
	case r.Destination == DestinationOriginal && l.Intercept == nil:
		c.fault(at.with("destination"), "destination: original needs intercept: who dials Salp names no other server by that", "write  destination: host, or name a pool")
	}
	c.poolThere(r.Pool, at.with("pool"))
	if r.Rewrite != nil {
		if l.Protocol != ProtocolHTTP {
			c.fault(at.with("rewrite"), "rewrite needs protocol: http", "remove the key")
		}
		if re := at.with("rewrite"); c.has(re.with("match")) != c.has(re.with("replace")) {
			c.fault(re, "match and replace go together", "add the other one")
		}
	}
	c.conditions(&r.When, at)
	if l.Protocol == ProtocolTLS {
		for _, key := range []string{"method", "host", "path", "header", "user"} {
			for _, key := range []string{key, "not_" + key} {
				if c.has(at.with(key)) {
					c.fault(at.with(key), key+" is not known of TLS that is passed on", "of such connections sni and alpn tell what the client wants")
				}
			}
		}
	}
}

// access checks the access lists and what their rules name.
func (c *checker) access() {
	for _, a := range c.cfg.Access {
		for i := range a.Rules {
			rule, at := &a.Rules[i], Path{"access", a.Name, i}
			allow, deny := c.has(at.with("allow")), c.has(at.with("deny"))
			switch {
			case allow && deny:
				c.fault(at.with("deny"), "a rule has allow or deny, not both", "make two rules of it")
			case !allow && !deny && c.has(at):
				c.fault(at, "the rule says neither allow nor deny", "add  allow: {...}  or  deny: {...}")
			case deny && rule.Marking != (Marking{}):
				c.fault(at, "mark, dscp and link need allow: what is denied makes no connection", "remove them")
			case allow && rule.Marking != (Marking{}) && rule.Allow != nil && (rule.Allow.ContentType != nil || rule.Allow.Not.ContentType != nil):
				c.fault(at, "mark, dscp and link cannot depend on content_type: the connection is made before there is a response", "give it to a rule without, and write  deny: {content_type: ...}  as a rule before that")
			}
			if rule.Allow != nil {
				c.conditions(rule.Allow, at.with("allow"))
			}
			if rule.Deny != nil {
				c.conditions(rule.Deny, at.with("deny"))
			}
			c.marking(rule.Marking, at)
		}
	}
	for _, l := range c.cfg.Lists {
		at := Path{"lists", l.Name}
		switch names, addresses := c.has(at.with("names")), c.has(at.with("addresses")); {
		case names && addresses:
			c.fault(at.with("addresses"), "a list has names or addresses, not both", "make two lists of it")
		case !names && !addresses && c.has(at):
			c.fault(at, l.Name+" has neither names nor addresses", "add  names: FILE  or  addresses: FILE")
		}
	}
}

// conditions checks what the conditions name.
func (c *checker) conditions(k *Conditions, at Path) {
	for _, side := range []struct {
		not string
		*Match
	}{{"", &k.Match}, {"not_", &k.Not}} {
		for _, part := range []struct {
			key   string
			items []AddressItem
		}{{"from", side.From}, {"to", side.To}} {
			for i, item := range part.items {
				c.listThere(item.List, false, at.with(side.not+part.key).with(i))
			}
		}
		for _, part := range []struct {
			key   string
			items []HostItem
		}{{"host", side.Host}, {"sni", side.SNI}} {
			for i, item := range part.items {
				c.listThere(item.List, true, at.with(side.not+part.key).with(i))
			}
		}
		for i, name := range side.Listener {
			c.known("listener", name, Path{"listeners"}, at.with(side.not+"listener").with(i))
		}
	}
}

// listThere reports a list that the file does not have, or that holds the wrong kind of thing.
func (c *checker) listThere(name string, names bool, at Path) {
	if name == "" || !c.known("list", name, Path{"lists"}, at) {
		return
	}
	l := c.cfg.List(name)
	switch {
	case l == nil:
	case names && l.Addresses != "":
		c.fault(at, fmt.Sprintf("list %s holds addresses, and names are needed here", name), "use it with from or to")
	case !names && l.Names != "":
		c.fault(at, fmt.Sprintf("list %s holds names, and addresses are needed here", name), "use it with host or sni")
	}
}

// known reports a name that is not among the keys of the mapping at in.
func (c *checker) known(what, name string, in Path, at Path) bool {
	if name == "" || c.has(in.with(name)) {
		return true
	}
	var entries []entry
	var names []string
	add := func(s string) { entries, names = append(entries, entry{key: s}), append(names, s) }
	switch in.key() {
	case "access":
		for _, a := range c.cfg.Access {
			add(a.Name)
		}
	case "lists":
		for _, l := range c.cfg.Lists {
			add(l.Name)
		}
	case "listeners":
		for _, l := range c.cfg.Listeners {
			add(l.Name)
		}
	}
	if len(names) == 0 && c.has(in) {
		return false // its own mistakes have been reported
	}
	hint := "add it under " + in.key() + ":, or remove the name"
	if best := nearest(name, entries); best != "" {
		hint = "did you mean " + best + "?"
	} else if len(names) > 0 {
		hint = clip("there are " + choice(names))
	}
	c.fault(at, fmt.Sprintf("there is no %s %q", what, name), hint)
	return false
}

// marking checks the marks that a listener or a rule gives.
func (c *checker) marking(m Marking, at Path) {
	if taken := m.Mark & c.cfg.Kernel.Marks; taken != 0 {
		c.fault(at.with("mark"), fmt.Sprintf("mark 0x%x has bits of kernel.marks, 0x%x, which are Salp's own", m.Mark, taken), "choose other bits")
	}
	if taken := m.Mark & c.cfg.Kernel.LinkMarks; taken != 0 && len(c.cfg.Links) > 0 {
		c.fault(at.with("mark"), fmt.Sprintf("mark 0x%x has bits of kernel.link_marks, 0x%x, which name the link", m.Mark, taken), "choose other bits, or use  link")
	}
	c.linkThere(m.Link, true, at.with("link"))
}
