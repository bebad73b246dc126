package httpproxy_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"salp/internal/listen"
)

// echo answers with the head that it got.
func echo(p *peer) {
	for head := p.head(); head != ""; head = p.head() {
		p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s", len(head), head))
	}
}

func TestAccessRules(t *testing.T) {
	server := serveAt(t, "127.0.0.3:80", echo)
	yaml := `
listeners:
  test: {intercept: {interfaces: [eth9], ports: [80]}, source: proxy, protocol: http, not_http: close, access: rules}
access:
  rules:
    - deny: {method: [DELETE]}
    - deny: {host: [".bad.example"]}
    - deny: {path: [/secret/*]}
    - deny: {host: [must.example], host_verified: false}
    - deny: {path: [/plain], content_type: [text/plain]}
    - allow: {from: [127.0.0.0/8]}
logs: {access: {file: access.log, format: squid}}
`
	r := start(t, yaml, options{original: server, names: map[string][]string{"must.example": {"127.0.0.3"}}})
	c := r.dial()
	for _, test := range []struct {
		first, host string
		status      int
	}{
		{"GET /", "good.example", 200},
		{"DELETE /", "good.example", 403},
		{"GET /", "very.bad.example", 403},
		{"GET /", "BAD.example.", 403},
		{"GET /secret/x", "a", 403},
		{"GET /a/../%73ecret/x", "a", 403},
		{"GET /", "must.example", 200},
		{"GET /plain", "a", 403},
		{"GET /", "good.example", 200},
	} {
		c.send(test.first + " HTTP/1.1\r\nHost: " + test.host + "\r\n\r\n")
		c.wantStatus(test.status)
	}
	if n := r.sum(); n.Errors[listen.Denied] != 6 || n.Statuses[2] != 3 || n.Statuses[4] != 6 {
		t.Errorf("%+v", n)
	}
	r.close()
	r = start(t, yaml, options{original: server, names: map[string][]string{"must.example": {"127.0.0.9"}}})
	c = r.dial()
	c.send("GET /x HTTP/1.1\r\nHost: must.example\r\n\r\n")
	c.wantStatus(403)
	deadline := time.Now().Add(5 * time.Second)
	for r.log.text() == "" && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	if line := r.log.text(); !strings.Contains(line, "127.0.0.1 TCP_DENIED/403 ") || !strings.Contains(line, " GET http://must.example/x - HIER_NONE/- ") {
		t.Errorf("logged %q", line)
	}
}

// A rule that allows by the type of the response lets nothing else through: no tunnel, which has no response, no other protocol, nothing without a type.
func TestAllowedByType(t *testing.T) {
	server := serve(t, func(p *peer) {
		for head := p.head(); head != ""; head = p.head() {
			switch strings.Fields(head)[1] {
			case "/text":
				p.send("HTTP/1.1 200 OK\r\nContent-Type: Text/HTML; charset=x\r\nContent-Length: 2\r\n\r\nok")
			case "/video":
				p.send("HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: 2\r\n\r\nok")
			case "/none":
				p.send(ok)
			case "/upgrade":
				p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nopen")
			}
		}
	})
	r := start(t, `
listeners: {test: {listen: ['127.0.0.1:1'], protocol: http, access: rules}}
access: {rules: [{deny: {method: [PUT], not_content_type: ["video/*"]}}, {allow: {content_type: ["text/*"]}}, {allow: {method: [PUT]}}]}
`, options{})
	for _, test := range []struct {
		request string
		status  int
	}{
		{"GET http://" + server + "/text", 200}, {"GET http://" + server + "/video", 403}, {"GET http://" + server + "/none", 403}, {"GET http://" + server + "/upgrade", 403},
		{"PUT http://" + server + "/video", 200}, {"PUT http://" + server + "/none", 403}, {"CONNECT " + server, 403},
	} {
		c := r.dial()
		c.send(test.request + " HTTP/1.1\r\nHost: " + server + "\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 0\r\n\r\n")
		if response := c.wantStatus(test.status); test.status == 403 && response.Header.Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s: %v", test.request, response.Header)
		}
		c.Close()
	}
}

func TestAuthentication(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	server := serve(t, echo)
	yaml := `
listeners:
  test: {listen: ['127.0.0.1:1'], protocol: http, auth: {basic: {file: users, realm: Office}}, access: rules}
access:
  rules:
    - allow: {user: [ann]}
`
	r := start(t, yaml, options{users: "ann:" + string(hash) + "\nbob:" + string(hash) + "\n"})
	basic := func(s string) string {
		return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(s)) + "\r\n"
	}
	c := r.dial()
	for _, test := range []struct {
		field  string
		status int
	}{
		{"", 407}, {basic("ann:wrong"), 407}, {basic("ann:secret"), 200}, {basic("ann:secret"), 200}, {basic("bob:secret"), 403}, {"", 407}, {"Proxy-Authorization: Bearer x\r\n", 407},
	} {
		c.send("GET http://" + server + "/ HTTP/1.1\r\nHost: " + server + "\r\n" + test.field + "\r\n")
		response := c.wantStatus(test.status)
		if challenge := response.Header.Get("Proxy-Authenticate"); (challenge != "") != (test.status == 407) {
			t.Errorf("%q: challenge %q", test.field, challenge)
		}
	}
	c.send("CONNECT " + server + " HTTP/1.1\r\nHost: a\r\n\r\n")
	c.wantStatus(407)
	c.send("CONNECT " + server + " HTTP/1.1\r\nHost: a\r\n" + basic("ann:secret") + "\r\n")
	c.want("HTTP/1.1 200 Connection established\r\n\r\n")
	c.send("GET /inside HTTP/1.1\r\n\r\n")
	if _, body := c.answer(); body != "GET /inside HTTP/1.1\r\n\r\n" {
		t.Errorf("%q", body)
	}
}

func TestRoutesAndRewriting(t *testing.T) {
	a, b, other := serve(t, echo), serve(t, echo), serve(t, echo)
	r := start(t, `
listeners:
  test:
    listen: ['127.0.0.1:1']
    protocol: http
    pool: other
    http: {forwarded_for: append, forwarded_proto: replace, forwarded: append, via_header: gate}
    routes:
      - {host: [a.example], pool: a, rewrite: {host: origin.example, strip: /static, prepend: /v2}}
      - {path: [/b/*], pool: b, rewrite: {match: "^/b/([0-9]+)", replace: "/n/$1"}}
pools:
  a: {servers: ['`+a+`']}
  b: {servers: ['`+b+`']}
  other: {servers: ['`+other+`']}
`, options{})
	c := r.dial()
	for _, test := range []struct{ request, want string }{
		{"GET /static/x?y HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Proto: https\r\n\r\n",
			"GET /v2/x?y HTTP/1.1\r\nHost: origin.example\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nForwarded: for=127.0.0.1;proto=http;host=\"a.example\"\r\nVia: 1.1 gate\r\n\r\n"},
		{"GET /static HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 9.9.9.9\r\nVia: 1.0 x\r\n\r\n",
			"GET /v2/ HTTP/1.1\r\nHost: origin.example\r\nX-Forwarded-For: 9.9.9.9, 127.0.0.1\r\nVia: 1.0 x, 1.1 gate\r\nX-Forwarded-Proto: http\r\nForwarded: for=127.0.0.1;proto=http;host=\"a.example\"\r\n\r\n"},
		{"GET /b/12/c HTTP/1.1\r\nHost: z\r\nX-Forwarded-For: 1.1.1.1\r\nConnection: x-forwarded-for\r\n\r\n",
			"GET /n/12/c HTTP/1.1\r\nHost: z\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nForwarded: for=127.0.0.1;proto=http;host=\"z\"\r\nVia: 1.1 gate\r\n\r\n"},
		{"GET http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n",
			"GET /v2/ HTTP/1.1\r\nHost: origin.example\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nForwarded: for=127.0.0.1;proto=http;host=\"a.example\"\r\nVia: 1.1 gate\r\n\r\n"},
	} {
		c.send(test.request)
		response, body := c.answer()
		if body != test.want {
			t.Errorf("%q: the server got\n%q, want\n%q", test.request, body, test.want)
		}
		if response.Header.Get("Via") != "1.1 gate" {
			t.Errorf("%v", response.Header)
		}
	}
}

func TestRequestLimits(t *testing.T) {
	r := start(t, explicit(serve(t, answering(ok)), ", http: {limits: {requests: 3}}"), options{})
	c := r.dial()
	c.send(strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 2))
	c.want(ok + ok)
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.want("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
	c.wantEOF()
	r.close()
	r = start(t, explicit(serve(t, answering(ok)), ", http: {limits: {rate: 1, burst: 2}}"), options{})
	c = r.dial()
	for _, status := range []int{200, 200, 429, 429} {
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if got := c.wantStatus(status).Header.Get("Retry-After"); (got == "1") != (status == 429) {
			t.Errorf("%d: Retry-After %q", status, got)
		}
	}
	if n := r.sum(); n.Errors[listen.RateLimit] != 2 {
		t.Errorf("%+v", n)
	}
}

// Rules ask about the server that is connected to: where the host decides, that is not the address that the client dialled.
func TestRulesAskAboutTheServer(t *testing.T) {
	first, second := serveAt(t, "127.0.0.3:80", echo), serveAt(t, "127.0.0.4:8080", echo)
	names := map[string][]string{"first.example": {"127.0.0.3"}, "second.example": {"127.0.0.4"}}
	const rules = `
access:
  rules:
    - deny: {not_ports: [80]}
    - deny: {to: [127.0.0.4]}
    - deny: {to: [127.0.0.3], content_type: [video/*]}
    - allow: {from: [127.0.0.0/8]}
`
	type ask struct {
		target, host string
		status       int
	}
	for _, test := range []struct {
		name, more, original string
		asks                 []ask
	}{
		{"by host", ", http: {destination: host}", "127.0.0.9:80", []ask{
			{"/", "first.example", 200}, {"/", "first.example:8080", 403}, {"/", "second.example:8080", 403}, {"/", "second.example", 403}, {"/", "127.0.0.4", 403}, {"http://first.example/", "first.example", 200},
		}},
		{"by host, another port", ", http: {destination: host}", "127.0.0.9:81", []ask{{"/", "first.example", 403}, {"/", "first.example:80", 200}, {"http://first.example/", "first.example", 200}}},
		{"as dialled", "", first, []ask{{"/", "first.example", 200}, {"/", "second.example:8080", 200}}}, // a name is a claim
		{"as dialled, to another", "", second, []ask{{"/", "first.example:80", 403}}},
		{"a route by host", ", routes: [{path: [/r/*], destination: host}]", first, []ask{{"/", "second.example:8080", 200}, {"/r/", "second.example:8080", 403}, {"/r/", "second.example", 403}, {"/r/", "first.example", 200}}},
		{"a route as dialled", ", http: {destination: host}, routes: [{path: [/r/*], destination: original}]", second, []ask{{"/", "first.example:80", 200}, {"/r/", "first.example:80", 403}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := start(t, intercepting(", not_http: close, access: rules"+test.more)+rules, options{original: test.original, names: names})
			for _, a := range test.asks {
				c := r.dial()
				c.send("GET " + a.target + " HTTP/1.1\r\nHost: " + a.host + "\r\n\r\n")
				if got := c.wantStatus(a.status); got.StatusCode != a.status {
					t.Errorf("%s of %s: %d", a.target, a.host, got.StatusCode)
				}
				c.Close()
			}
		})
	}
}
