package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"go.yaml.in/yaml/v4"

	"salp/internal/probe"
)

// maxResolvers and maxALPN bound lists, maxSend the bytes of a check's question.
const (
	maxResolvers = 8
	maxALPN      = 8
	maxStatuses  = 32
	maxSend      = 4096
)

var checkKeys = mapping(checkRules,
	prop(entry{key: "every", def: "2s",
		doc:     "How often each server is checked.",
		watch:   "A server that fails is found after `fall` × `every`, and `timeout` when it is silent.",
		example: "every: 1s",
		aka:     []string{"interval", "inter"},
	}, span(100*time.Millisecond, time.Hour, ""), func(c *Check) *time.Duration { return &c.Every }),
	prop(entry{key: "timeout", absent: "as long as `every`, at most `3s`",
		doc:     "How long a check may take from its beginning to the whole of the expected answer.",
		watch:   "Under load a server takes longer to answer than usual: a check that is too impatient takes it away when it is needed most.",
		example: "timeout: 500ms",
	}, span(10*time.Millisecond, 10*time.Minute, ""), func(c *Check) *time.Duration { return &c.Timeout }),
	prop(entry{key: "rise", def: "2",
		doc:     "How many good checks in a row bring a server back that is down. After a start and for a new server the first check alone decides.",
		example: "rise: 3",
	}, number[int](1, 100), func(c *Check) *int { return &c.Rise }),
	prop(entry{key: "fall", def: "3",
		doc:     "How many bad checks in a row take a server down that is up. After a start and for a new server the first check alone decides.",
		example: "fall: 2",
	}, number[int](1, 100), func(c *Check) *int { return &c.Fall }),
	prop(entry{key: "jitter", def: "10",
		doc:     "By how many percent the pause between two checks is longer or shorter at random, so that the checks of many servers, and of several gateways, do not come all at once.",
		example: "jitter: 25",
		aka:     []string{"spread_checks", "spread-checks"},
	}, number[int](0, 50), func(c *Check) *int { return &c.Jitter }),
	prop(entry{key: "port", absent: "the server's own",
		doc: "Another port to check, such as that of an agent or a health page beside the service. To a server with `proxy_protocol` a check of its own port begins with a PROXY header, " +
			"one of another port does not.",
		watch:   "That another program answers says little about the service itself.",
		example: "port: 8025",
	}, number[uint16](1, 65535), func(c *Check) *uint16 { return &c.Port }),
	prop(entry{key: "send", absent: "nothing",
		doc:     "What is sent to the server when the connection is there. In YAML, `\\r\\n` needs double quotes.",
		example: `send: "PING\r\n"`,
		aka:     []string{"tcp_send"},
	}, plainText("text to send", maxSend), func(c *Check) *string { return &c.Send }),
	prop(entry{key: "expect", absent: "nothing is waited for",
		doc: "What the first bytes that the server sends (up to 64 KiB) must hold: a text, or a regular expression between slashes, as in `/^220[ -]/`. " +
			"The check is good as soon as it is there, and bad when the time is over or the server ends the connection without.",
		watch:   "A text may stand anywhere in the answer. Regular expressions are those of Go (RE2); `^` is the beginning of the answer.",
		example: `expect: "220 "`,
		aka:     []string{"banner", "tcp_expect"},
	}, answerPattern(), func(c *Check) *string { return &c.Expect }),
	prop(entry{key: "http", absent: "none",
		doc:     "Makes the check an HTTP/1.1 request, over TLS when `tls` is there too.",
		example: `http: {path: /health, status: [200]}`,
		aka:     []string{"httpchk", "http_check"},
	}, optional(checkHTTPKeys), func(c *Check) **CheckHTTP { return &c.HTTP }),
	prop(entry{key: "tls", absent: "none",
		doc:     "Begins the check with a TLS handshake; by itself, a completed handshake is a good check. `tls: {verify: false}` asks for no more than that.",
		example: `tls: {name: mx.example.org, verify: true}`,
		aka:     []string{"ssl", "check_ssl"},
	}, optional(checkTLSKeys), func(c *Check) **CheckTLS { return &c.TLS }),
)

// checkRules is what a schema can say about keys that exclude one another.
var checkRules = map[string]any{
	"not": map[string]any{"required": []string{"http"}, "anyOf": []any{map[string]any{"required": []string{"send"}}, map[string]any{"required": []string{"expect"}}}},
}

var checkHTTPKeys = mapping(nil,
	prop(entry{key: "method", def: "GET",
		doc:     "The request's method.",
		example: "method: HEAD",
	}, enum("GET", "HEAD", "OPTIONS"), func(h *CheckHTTP) *string { return &h.Method }),
	prop(entry{key: "path", def: "/",
		doc:     "The request's path, with a query if need be.",
		example: "path: /health?full=1",
		aka:     []string{"uri", "url"},
	}, requestPath(), func(h *CheckHTTP) *string { return &h.Path }),
	prop(entry{key: "host", absent: "the server's address",
		doc:     "The Host field of the request.",
		example: "host: www.example.org",
		aka:     []string{"hdr", "authority"},
	}, serverHostName("host name"), func(h *CheckHTTP) *string { return &h.Host }),
	prop(entry{key: "status", absent: "200 to 399",
		doc:     "The status codes that are good ones: single codes and ranges.",
		example: "status: [200, 300-399]",
		aka:     []string{"code", "codes"},
	}, list("status codes and ranges of them", status(), maxStatuses), func(h *CheckHTTP) *[]probe.Status { return &h.Status }),
	prop(entry{key: "body", absent: "any",
		doc:     "What the first 64 KiB of the answer's body must hold: a text, or a regular expression between slashes.",
		example: `body: "/^OK/"`,
		aka:     []string{"string", "rstring"},
	}, answerPattern(), func(h *CheckHTTP) *string { return &h.Body }),
)

var checkTLSKeys = mapping(nil,
	prop(entry{key: "name", absent: "none is sent",
		doc:     "The server name that is asked for (SNI), and that the certificate must be for with `verify`.",
		example: "name: mx.example.org",
		aka:     []string{"sni", "server_name"},
	}, serverHostName("host name"), func(t *CheckTLS) *string { return &t.Name }),
	prop(entry{key: "verify", def: "false",
		doc:     "Whether the certificate must be one that this machine's certificate authorities vouch for, and be valid today.",
		watch:   "With `verify` a certificate that has run out takes all servers down that have it. Needs `name`, unless the certificate is for the address.",
		example: "verify: true",
	}, boolean(), func(t *CheckTLS) *bool { return &t.Verify }),
	prop(entry{key: "alpn", absent: "none is offered",
		doc:     "The protocols that are offered, of which the server must choose one.",
		example: "alpn: [h2]",
	}, list("names of protocols", plainText("name of a protocol", 255), maxALPN), func(t *CheckTLS) *[]string { return &t.ALPN }),
)

var passiveKeys = mapping(nil,
	prop(entry{key: "errors", def: "5",
		doc:     "How many errors of connections take a server down: connects that fail or time out, and connections that the server resets.",
		example: "errors: 10",
		aka:     []string{"max_fails", "error_limit", "error-limit"},
	}, number[int](1, 1_000_000), func(p *Passive) *int { return &p.Errors }),
	prop(entry{key: "window", def: "10s",
		doc:     "The time within which they are counted.",
		example: "window: 30s",
	}, span(100*time.Millisecond, time.Hour, ""), func(p *Passive) *time.Duration { return &p.Window }),
	prop(entry{key: "for", def: "30s",
		doc:     "How long the server is then down. After that it is up, as far as its `check` agrees.",
		example: "for: 1m",
		aka:     []string{"fail_timeout", "base_ejection_time"},
	}, span(100*time.Millisecond, 24*time.Hour, ""), func(p *Passive) *time.Duration { return &p.For }),
)

var resolverKeys = mapping(nil,
	prop(entry{key: "servers", absent: "those of /etc/resolv.conf",
		doc:     "The DNS servers to ask, in this order; a server that does not answer is passed over for the next.",
		example: `servers: [10.0.0.53, "[fd00::53]:5353"]`,
		aka:     []string{"nameservers", "nameserver"},
	}, list("addresses, with a port when that is not 53", nameserver(), maxResolvers), func(r *Resolvers) *[]netip.AddrPort { return &r.Servers }),
	prop(entry{key: "timeout", def: "2s",
		doc:     "How long one DNS server may take to answer before the next is asked.",
		example: "timeout: 500ms",
	}, span(50*time.Millisecond, time.Minute, ""), func(r *Resolvers) *time.Duration { return &r.Timeout }),
	prop(entry{key: "min_ttl", def: "1s",
		doc:     "Answers are kept at least so long, whatever time to live they have.",
		example: "min_ttl: 10s",
	}, span(time.Second, time.Hour, ""), func(r *Resolvers) *time.Duration { return &r.MinTTL }),
	prop(entry{key: "max_ttl", def: "1h",
		doc:     "And at most so long.",
		example: "max_ttl: 5m",
	}, span(time.Second, 7*24*time.Hour, ""), func(r *Resolvers) *time.Duration { return &r.MaxTTL }),
)

// defaultTimeout is the most that a check takes when its timeout is not given.
const defaultTimeout = 3 * time.Second

// check is the mapping of a check, with the time limit filled in.
func checkMapping() kind[Check] {
	k := checkKeys
	k.read = func(r *reader, n *yaml.Node, at Path) (Check, bool) {
		c, ok := checkKeys.read(r, n, at)
		if c.Timeout == 0 {
			c.Timeout = min(c.Every, defaultTimeout)
		}
		return c, ok
	}
	return k
}

// plainText is any text of at least one and at most so many bytes.
func plainText(words string, most int) kind[string] {
	return word(words, map[string]any{"minLength": 1}, func(s string) (problem, hint string) {
		switch {
		case s == "":
			return "is empty", "give it a value, or remove the key"
		case len(s) > most:
			return "is too long", fmt.Sprintf("at most %d bytes are allowed", most)
		}
		return "", ""
	})
}

// answerPattern is a text or a regular expression between slashes.
func answerPattern() kind[string] {
	return word("text or `/regular expression/`", map[string]any{"minLength": 1}, func(s string) (problem, hint string) {
		if s == "" {
			return "is empty", "everything holds that: remove the key"
		}
		if _, err := probe.ParsePattern(s); err != nil {
			return "cannot be used: " + err.Error(), "see https://pkg.go.dev/regexp/syntax"
		}
		return "", ""
	})
}

// requestPath is the path of a request.
func requestPath() kind[string] {
	return word("path", map[string]any{"pattern": `^/[!-~]*$`}, func(s string) (problem, hint string) {
		if s == "" || s[0] != '/' || len(s) > maxSend {
			return "is no path", "a path begins with a /"
		}
		for _, c := range []byte(s) {
			if c <= ' ' || c > '~' {
				return "has a character that must be written with %", "write a blank as  %20"
			}
		}
		return "", ""
	})
}

// status is one HTTP status code or a range of them.
func status() kind[probe.Status] {
	s := shape{words: "status code or range of them", schema: map[string]any{"anyOf": []any{
		map[string]any{"type": "integer", "minimum": 100, "maximum": 599},
		map[string]any{"type": "string", "pattern": "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$"},
	}}}
	return kind[probe.Status]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (probe.Status, bool) {
		const form = "write a code from 100 to 599, or a range as in  200-299"
		if n.Kind != yaml.ScalarNode {
			r.wrongType(n, at, "a status code or a range of them", form)
			return probe.Status{}, false
		}
		v, ok := parseStatus(n.Value)
		if !ok {
			r.bad(n, at, "is not a status code or a range of them", form)
		}
		return v, ok
	}}
}

func parseStatus(text string) (probe.Status, bool) {
	code := func(s string) int {
		v, err := strconv.Atoi(s)
		if err != nil || len(s) != 3 || v < 100 || v > 599 {
			return 0
		}
		return v
	}
	if len(text) == 7 && text[3] == '-' {
		v := probe.Status{First: code(text[:3]), Last: code(text[4:])}
		return v, v.First > 0 && v.Last >= v.First
	}
	v := code(text)
	return probe.Status{First: v, Last: v}, v > 0
}

// nameserver is the address of a DNS server.
func nameserver() kind[netip.AddrPort] {
	s := shape{words: "address, with a port when that is not 53", schema: map[string]any{"type": "string"}}
	return kind[netip.AddrPort]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (netip.AddrPort, bool) {
		const form = `write an address, as in  10.0.0.53  or  "[fd00::53]:5353"`
		if n.Kind != yaml.ScalarNode {
			r.wrongType(n, at, "an address", form)
			return netip.AddrPort{}, false
		}
		a, err := netip.ParseAddrPort(n.Value)
		if ip, ipErr := netip.ParseAddr(n.Value); ipErr == nil {
			a, err = netip.AddrPortFrom(ip, 53), nil
		}
		problem, hint := "is not the address of a DNS server", form
		if err == nil {
			problem, hint = unfit(a, false)
		}
		if problem != "" {
			r.bad(n, at, problem, hint)
			return netip.AddrPort{}, false
		}
		return a, true
	}}
}
