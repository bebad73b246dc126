package config

import "time"

const (
	maxRoutes       = 1024
	maxCertificates = 256
	maxACMENames    = 100
)

var httpKeys = mapping(nil,
	prop(entry{key: "destination", absent: "`original` with `intercept`, `host` with `listen`",
		doc: "Where a request goes that no route and no pool takes: to the address that the client dialled (`original`), or to the host that the request names, " +
			"which is looked up (`host`).",
		watch:   "With `host` a client can reach whatever the gateway can: bound it by `access`.",
		example: "destination: host",
	}, enum(DestinationOriginal, DestinationHost), func(h *HTTP) *Destination { return &h.Destination }),
	prop(entry{key: "via_header", absent: "no Via field is added",
		doc:     "The name under which the gateway enters itself in the Via field of requests and responses (RFC 9110 7.6.3).",
		example: "via_header: gateway",
	}, token("name for Via", "write a short name, as in  gateway"), func(h *HTTP) *string { return &h.ViaHeader }),
	prop(entry{key: "forwarded_for", def: string(FieldKeep),
		doc:     "What becomes of X-Forwarded-For in requests: `keep` it as it came, `append` the client's address to it, `replace` it by the client's address, or `remove` it.",
		watch:   "Servers that believe this field need `replace`, or a client can name any address. With `source: client` they see the client anyhow.",
		example: "forwarded_for: replace",
		aka:     []string{"x_forwarded_for", "forwardfor"},
	}, enum(FieldKeep, FieldAppend, FieldReplace, FieldRemove), func(h *HTTP) *FieldMode { return &h.ForwardedFor }),
	prop(entry{key: "forwarded_proto", def: string(FieldKeep),
		doc:     "What becomes of X-Forwarded-Proto, which tells servers whether the client used http or https: `keep`, `replace` or `remove`.",
		example: "forwarded_proto: replace",
	}, enum(FieldKeep, FieldReplace, FieldRemove), func(h *HTTP) *FieldMode { return &h.ForwardedProto }),
	prop(entry{key: "forwarded", def: string(FieldKeep),
		doc:     "What becomes of the Forwarded field (RFC 7239): `keep`, `append`, `replace` or `remove`.",
		example: "forwarded: append",
	}, enum(FieldKeep, FieldAppend, FieldReplace, FieldRemove), func(h *HTTP) *FieldMode { return &h.Forwarded }),
	prop(entry{key: "timeouts",
		doc:     "How long each phase of an exchange may last.",
		example: "timeouts: {head: 10s, keepalive: 30s}",
	}, httpTimeoutsKeys, func(h *HTTP) *HTTPTimeouts { return &h.Timeouts }),
	prop(entry{key: "limits",
		doc:     "How large and how many messages may be.",
		example: "limits: {head: 32KiB, rate: 100}",
	}, httpLimitsKeys, func(h *HTTP) *HTTPLimits { return &h.Limits }),
)

// head is as long as a slow phone on a bad line takes, and short of what a slow-loris client likes; the rest is what servers
// that are asked customarily wait.
var httpTimeoutsKeys = mapping(nil,
	prop(entry{key: "head", def: "30s",
		doc:     "How long a client may take for the head of a request, from its first byte on. Then the answer is 408.",
		example: "head: 10s",
		aka:     []string{"request", "http_request", "client_header_timeout"},
	}, span(100*time.Millisecond, time.Hour, "no bound"), func(t *HTTPTimeouts) *time.Duration { return &t.Head }),
	prop(entry{key: "body", def: "1m",
		doc:     "How long a body may stand still, in either direction.",
		example: "body: 30s",
		aka:     []string{"client_body_timeout"},
	}, span(100*time.Millisecond, 24*time.Hour, "no bound"), func(t *HTTPTimeouts) *time.Duration { return &t.Body }),
	prop(entry{key: "response", def: "5m",
		doc:     "How long a server may take to begin its response. Then the answer is 504.",
		example: "response: 1m",
		aka:     []string{"server", "proxy_read_timeout", "read_timeout"},
	}, span(100*time.Millisecond, 24*time.Hour, "no bound"), func(t *HTTPTimeouts) *time.Duration { return &t.Response }),
	prop(entry{key: "keepalive", def: "2m",
		doc:     "How long a client's connection may wait for its next request.",
		example: "keepalive: 30s",
		aka:     []string{"http_keep_alive", "keepalive_timeout"},
	}, span(100*time.Millisecond, 24*time.Hour, "no bound"), func(t *HTTPTimeouts) *time.Duration { return &t.Keepalive }),
	prop(entry{key: "server_keepalive", def: "1m",
		doc:     "How long an idle connection to a server is kept for the next request.",
		watch:   "With `source: client` a connection is only ever used again for the same client.",
		example: "server_keepalive: 10s",
	}, span(100*time.Millisecond, 24*time.Hour, "close it at once"), func(t *HTTPTimeouts) *time.Duration { return &t.ServerKeepalive }),
)

var httpLimitsKeys = mapping(nil,
	prop(entry{key: "line", def: "16KiB",
		doc:     "The longest request line, which holds the URL, and the longest status line. A longer one is answered with 414.",
		example: "line: 8KiB",
	}, size(256, 64<<10), func(l *HTTPLimits) *int64 { return &l.Line }),
	prop(entry{key: "head", def: "64KiB",
		doc:     "The largest head of a message, its first line included. A larger one is answered with 431.",
		example: "head: 32KiB",
		aka:     []string{"header", "header_max_size", "large_client_header_buffers"},
	}, size(1<<10, 1<<20), func(l *HTTPLimits) *int64 { return &l.Head }),
	prop(entry{key: "fields", def: "200",
		doc:     "The most header fields of a message. With more it is answered with 431.",
		example: "fields: 100",
		aka:     []string{"headers", "maxhdr"},
	}, number[int](10, 10000), func(l *HTTPLimits) *int { return &l.Fields }),
	prop(entry{key: "requests", absent: "no bound",
		doc:     "The most requests of one client connection. The last response says `Connection: close`.",
		example: "requests: 10000",
		aka:     []string{"keepalive_requests"},
	}, number[int](1, 1_000_000_000), func(l *HTTPLimits) *int { return &l.Requests }),
	prop(entry{key: "rate", absent: "no bound",
		doc:     "The most requests a second of one client address. What is above is answered with 429.",
		watch:   "Clients behind one NAT address count as one client.",
		example: "rate: 100",
		aka:     []string{"limit_req", "rate_limit", "requests_per_second"},
	}, number[int](1, 10_000_000), func(l *HTTPLimits) *int { return &l.Rate }),
	prop(entry{key: "burst", absent: "as many as `rate`",
		doc:     "How many requests of one client may come at once before `rate` holds them back.",
		example: "burst: 200",
	}, number[int](1, 10_000_000), func(l *HTTPLimits) *int { return &l.Burst }),
)

// routeKeys are the conditions of access rules, but for those on the response, and where what meets them goes.
var routeKeys = mapping(nil, append(conditionKeys(false, func(r *Route) *Conditions { return &r.When }),
	prop(entry{key: "pool", absent: "the route has `destination`",
		doc:     "The pool that it goes to.",
		example: "pool: images",
		aka:     []string{"backend", "upstream"},
	}, poolName(), func(r *Route) *string { return &r.Pool }),
	prop(entry{key: "destination", absent: "the route has `pool`",
		doc:     "In place of a pool: the address that the client dialled (`original`), or the host that the request or the TLS client names (`host`).",
		example: "destination: host",
	}, enum(DestinationOriginal, DestinationHost), func(r *Route) *Destination { return &r.Destination }),
	prop(entry{key: "rewrite",
		doc:     "What is changed in the request on its way to the server. First `strip`, then `match` with `replace`, then `prepend`.",
		example: "rewrite: {host: origin.example, strip: /static}",
	}, optional(rewriteKeys), func(r *Route) **Rewrite { return &r.Rewrite }),
)...)

var rewriteKeys = mapping(map[string]any{"dependentRequired": map[string]any{"match": []string{"replace"}, "replace": []string{"match"}}},
	prop(entry{key: "host", absent: "as the client sent it",
		doc:     "The host that the server is asked for.",
		example: "host: origin.example",
	}, rewriteHost(), func(r *Rewrite) *string { return &r.Host }),
	prop(entry{key: "strip",
		doc:     "A path that is removed from the beginning, where the request's path begins with it.",
		example: "strip: /static",
	}, pathPrefix(), func(r *Rewrite) *string { return &r.Strip }),
	prop(entry{key: "prepend",
		doc:     "A path that is put before the request's.",
		example: "prepend: /v2",
		aka:     []string{"prefix", "add"},
	}, pathPrefix(), func(r *Rewrite) *string { return &r.Prepend }),
	prop(entry{key: "match",
		doc:     "A regular expression; what it matches of the path (without the query) is replaced.",
		example: `match: "^/user/([0-9]+)"`,
	}, expression(), func(r *Rewrite) *string { return &r.Match }),
	prop(entry{key: "replace",
		doc:     "What takes the place of the match; `$1` is its first group.",
		example: `replace: "/u/$1"`,
	}, text("text", 1024), func(r *Rewrite) *string { return &r.Replace }),
)

func rewriteHost() kind[string] {
	return word("host name", map[string]any{"pattern": `^\S+$`}, func(s string) (string, string) {
		_, problem, hint := hostName(s, s)
		return problem, hint
	})
}

func pathPrefix() kind[string] {
	return word("path", map[string]any{"pattern": "^/[!-~]*$"}, func(s string) (string, string) {
		for _, c := range s {
			if c <= ' ' || c > '~' || c == '?' || c == '#' {
				return "is not a path", "a path is ASCII without blanks, ? and #; write others as %XX"
			}
		}
		if s == "" || s[0] != '/' {
			return "is not a path", "begin it with a /"
		}
		return "", ""
	})
}

func expression() kind[string] {
	return word("regular expression", map[string]any{"minLength": 1, "maxLength": 1024}, func(s string) (string, string) {
		if s == "" || len(s) > 1024 {
			return "is not a regular expression of up to 1024 characters", ""
		}
		return regexpProblem(s), ""
	})
}

var errorsKeys = mapping(nil,
	prop(entry{key: "pages", absent: "the built-in pages",
		doc: "A directory with pages of your own. `STATUS.html` is taken for a status, as `403.html`; `STATUS.LANGUAGE.html`, as `403.it.html`, before it for clients who ask for that language; " +
			"`error.html` for every status that has no page. docs/http.md tells what is replaced in them.",
		watch:   "A relative path counts from the directory of the configuration.",
		example: "pages: /etc/salp/pages",
		aka:     []string{"directory", "error_directory", "errorfile"},
	}, fileName("a directory"), func(e *ErrorPages) *string { return &e.Pages }),
	prop(entry{key: "server_failure", absent: "`reset` with `intercept` and `source: client`, else `page`",
		doc:     "What becomes of the client when the server refuses, resets or cannot be reached: a `page` that says so, or a `reset`, as the client would see without the gateway.",
		example: "server_failure: page",
	}, enum(FailurePage, FailureReset), func(e *ErrorPages) *ServerFailure { return &e.ServerFailure }),
)

var authKeys = mapping(nil,
	prop(entry{key: "basic", required: true,
		doc:     "Name and password with every request (RFC 7617).",
		watch:   "They cross the network readable by anyone, unless the connection is protected by `tls`.",
		example: "basic: {file: /etc/salp/users, realm: Office}",
	}, basicKeys, func(a *Auth) *Basic { return &a.Basic }),
)

var basicKeys = mapping(nil,
	prop(entry{key: "file", required: true,
		doc:     "Users and their bcrypt hashes, as `htpasswd -B` writes them. Read again when it changes.",
		watch:   "Only bcrypt: other kinds of hash are refused. A relative path counts from the directory of the configuration.",
		example: "file: /etc/salp/users",
		aka:     []string{"htpasswd", "users"},
	}, fileName("an htpasswd file"), func(b *Basic) *string { return &b.File }),
	prop(entry{key: "realm", def: "Salp",
		doc:     "What browsers show when they ask for the password.",
		example: "realm: Office",
	}, text("text", 128), func(b *Basic) *string { return &b.Realm }),
)

var accessLogKeys = mapping(nil,
	prop(entry{key: "file", required: true,
		doc:     "The file that lines are appended to. The keeper opens it, as root, and hands it to the worker. After a rotation send the keeper SIGUSR1, and it opens the file anew.",
		watch:   "A relative path counts from the directory that Salp was started in.",
		example: "file: /var/log/salp/access.log",
		aka:     []string{"path"},
	}, fileName("a file"), func(l *AccessLog) *string { return &l.File }),
	prop(entry{key: "format", def: "squid",
		doc:     "The form of a line: `squid` (its native access.log), `common` and `combined` (as Apache), `json` (one object a line), or a text with Squid's % codes, which docs/http.md lists.",
		example: `format: "%ts.%03tu %>a %rm %ru %>Hs"`,
		aka:     []string{"logformat"},
	}, logLine(), func(l *AccessLog) *string { return &l.Format }),
)

func markingOf(l *Listener) *Marking { return &l.Marking }

var protocolKey = prop(entry{key: "protocol", def: string(ProtocolTCP),
	doc: "What connections are taken for. `tcp`: bytes that nobody looks at. `http`: requests are read, so that access rules, routes, error pages and the access log know them. " +
		"`tls`: passed through unread, but for the name (SNI) that the client asks for in the clear, which access rules and routes can use.",
	example: "protocol: http",
	aka:     []string{"mode", "type"},
}, enum(ProtocolTCP, ProtocolHTTP, ProtocolTLS), func(l *Listener) *Protocol { return &l.Protocol })

var notHTTPKey = prop(entry{key: "not_http", def: string(NotHTTPTunnel),
	doc: "What becomes of a connection that does not begin as its protocol does: carried untouched, as `protocol: tcp` would (`tunnel`), or closed (`close`). " +
		"Also of one whose server speaks first, as those of SSH and mail do.",
	watch:   "`tunnel` needs to know where to: with `listen` and without a pool nobody does, and the connection is closed.",
	example: "not_http: close",
	aka:     []string{"on_unsupported_protocol"},
}, enum(NotHTTPTunnel, NotHTTPClose), func(l *Listener) *NotHTTP { return &l.NotHTTP })

var accessKey = prop(entry{key: "access", absent: "everything is allowed",
	doc:     "The list of access rules, under `access`, that decides what is allowed.",
	watch:   "A listener that clients dial as a proxy, without one, lets them reach everything that the gateway can reach.",
	example: "access: office",
	aka:     []string{"acl"},
}, nameOf("an access list"), func(l *Listener) *string { return &l.Access })

var routesKey = prop(entry{key: "routes", absent: "everything goes where `pool` or `http.destination` says",
	doc: "Where requests, or TLS connections, go by what they ask for: conditions, as access rules have them, and the place beside them. The first route whose " +
		"conditions all hold has it.",
	example: `routes: [{host: [img.example], path: ["/static/*"], pool: images}]`,
	aka:     []string{"use_backend", "route"},
}, list("routes", routeKeys, maxRoutes), func(l *Listener) *[]Route { return &l.Routes })

var httpKey = prop(entry{key: "http",
	doc:     "How messages are treated. Only with `protocol: http`.",
	example: "http: {forwarded_for: replace}",
}, httpKeys, func(l *Listener) *HTTP { return &l.HTTP })

var errorsKey = prop(entry{key: "errors",
	doc:     "What a client is shown when Salp itself answers. Only with `protocol: http`.",
	example: "errors: {pages: /etc/salp/pages}",
}, errorsKeys, func(l *Listener) *ErrorPages { return &l.Errors })

var authKey = prop(entry{key: "auth", absent: "nobody is asked who they are",
	doc:     "Who may use the listener. Every request must name a user; clients who use a proxy are asked with 407, others with 401. Only with `protocol: http` and `listen`.",
	example: "auth: {basic: {file: /etc/salp/users}}",
	aka:     []string{"authentication"},
}, optional(authKeys), func(l *Listener) **Auth { return &l.Auth })

var tlsKey = prop(entry{key: "tls", absent: "clients do not use TLS",
	doc:     "Ends TLS for the clients: they speak HTTPS with the gateway. Only with `protocol: http`.",
	example: "tls: {certificates: [{certificate: /etc/salp/www.pem, key: /etc/salp/www.key}]}",
	aka:     []string{"ssl", "https"},
}, optional(tlsKeys), func(l *Listener) **TLS { return &l.TLS })

var upstreamTLSKey = prop(entry{key: "upstream_tls", absent: "servers are spoken to as the URL says, intercepted ones without TLS",
	doc:     "Speaks TLS with the servers. `{}` is with every default. Only with `protocol: http`.",
	example: "upstream_tls: {authorities: /etc/salp/ca.pem}",
	aka:     []string{"backend_tls", "proxy_ssl"},
}, optional(upstreamTLSKeys), func(l *Listener) **UpstreamTLS { return &l.UpstreamTLS })
