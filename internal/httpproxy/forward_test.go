package httpproxy_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
)

const plainGet = "GET /a?b HTTP/1.1\r\nhOST: x.example\r\nx-a:1\r\n\r\n"

// The very bytes go through, both ways, and both connections are used again.
func TestBytesAreKept(t *testing.T) {
	const response = "HTTP/1.1 200 Fine\r\nx-SERVER:  y\r\ncontent-length:5\r\n\r\nhello"
	var accepted atomic.Int32
	server := serve(t, func(p *peer) {
		accepted.Add(1)
		for range 3 {
			p.want(plainGet)
			p.send(response)
		}
		p.wantEOF()
	})
	r := start(t, explicit(server, ""), options{})
	c := r.dial()
	for range 3 {
		c.send(plainGet)
		c.want(response)
	}
	c.Close()
	n := r.idle()
	if accepted.Load() != 1 || n.Requests != 3 || n.Statuses[2] != 3 || n.Reused != 2 {
		t.Errorf("%d connections to the server, counters %+v", accepted.Load(), n)
	}
	r.close()
}

// Every framing of a response: what the client gets, and whether its connection goes on.
func TestResponses(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, test := range []struct {
		name, request, response string
		want                    string // "": the response as it is
		closes                  bool   // the client's connection ends
		ends                    bool   // the server ends after the response
	}{
		{name: "length", request: get, response: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"},
		{name: "no content", request: get, response: "HTTP/1.1 204 No\r\nA: b\r\n\r\n"},
		{name: "not modified", request: get, response: "HTTP/1.1 304 No\r\nContent-Length: 3\r\n\r\n"},
		{name: "head", request: "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", response: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"},
		{name: "head chunked", request: "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{name: "chunked", request: get, response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n00\r\nT: u\r\n\r\n"},
		{name: "interim", request: get, response: "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		{name: "until close", request: get, response: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc", closes: true, ends: true},
		{name: "until close, not said", request: get, response: "HTTP/1.1 200 OK\r\n\r\nabc", want: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc", closes: true, ends: true},
		{name: "server closes, client may stay", request: get, response: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na", want: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", ends: true},
		{name: "server of 1.0", request: get, response: "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", want: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", ends: true},
		{name: "client closes", request: "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", response: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", want: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na", closes: true},
		{name: "client of 1.0", request: "GET / HTTP/1.0\r\n\r\n", response: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", want: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na", closes: true},
		{name: "client of 1.0 that stays", request: "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", response: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", want: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\na"},
		{name: "client of 1.0, chunked", request: "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: u\r\n\r\n", want: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcde", closes: true},
		{name: "client of 1.0, interim", request: "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", response: "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", want: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc"},
		{name: "interim, changed", request: get, response: "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nKeep-Alive: 5\r\nContent-Length: 3\r\n\r\nabc", want: "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"},
	} {
		for _, piece := range []int{1 << 20, 7, 1} {
			t.Run(fmt.Sprintf("%s in pieces of %d", test.name, piece), func(t *testing.T) {
				server := serve(t, func(p *peer) {
					for p.head() != "" {
						for s := test.response; s != ""; s = s[min(piece, len(s)):] {
							p.send(s[:min(piece, len(s))])
						}
						if test.ends {
							return
						}
					}
				})
				r := start(t, explicit(server, ""), options{})
				c := r.dial()
				want := test.want
				if want == "" {
					want = test.response
				}
				for range 2 {
					for s := test.request; s != ""; s = s[min(piece, len(s)):] {
						c.send(s[:min(piece, len(s))])
					}
					c.want(want)
					if test.closes {
						c.wantEOF()
						break
					}
				}
				c.Close()
				r.idle()
			})
		}
	}
}

// What the server gets of requests with and without a body.
func TestRequests(t *testing.T) {
	for _, test := range []struct{ name, request, want string }{
		{"length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", ""},
		{"chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n", ""},
		{"empty", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", ""},
		{"of the connection", "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x-y\r\nX-Y: z\r\nKeep-Alive: 3\r\nTE: gzip\r\nA: b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"},
		{"empty line before", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"empty line before, and changed", "\r\nPOST / HTTP/1.1\r\nHost: a\r\nTE: gzip\r\nContent-Length: 3\r\n\r\nabc", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"},
		{"unknown method", "BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"large", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + strings.Repeat("0123456789", 30000), ""},
		{"large head", "GET / HTTP/1.1\r\nHost: a\r\nA: " + strings.Repeat("x", 20000) + "\r\nB: " + strings.Repeat("y", 30000) + "\r\n\r\n", ""},
	} {
		for _, piece := range []int{1 << 20, 10000, 1} {
			if piece == 1 && len(test.request) > 1000 {
				continue
			}
			t.Run(fmt.Sprintf("%s in pieces of %d", test.name, piece), func(t *testing.T) {
				want := test.want
				if want == "" {
					want = test.request
				}
				server := serve(t, func(p *peer) {
					for range 2 {
						p.want(want)
						p.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					}
				})
				r := start(t, explicit(server, ""), options{})
				c := r.dial()
				for range 2 {
					for s := test.request; s != ""; s = s[min(piece, len(s)):] {
						c.send(s[:min(piece, len(s))])
					}
					c.want("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			})
		}
	}
}

// Requests that are sent ahead are answered in their order.
func TestPipelining(t *testing.T) {
	server := serve(t, func(p *peer) {
		for {
			head := p.head()
			if head == "" {
				return
			}
			if strings.Contains(head, "Content-Length: 4") {
				p.want("body")
			}
			path := strings.Fields(head)[1]
			p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(path), path))
		}
	})
	r := start(t, explicit(server, ""), options{})
	c := r.dial()
	var ask, want strings.Builder
	for i := range 200 {
		path := fmt.Sprintf("/%d/%s", i, strings.Repeat("x", i*3))
		if i%3 == 0 {
			fmt.Fprintf(&ask, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", path)
		} else {
			fmt.Fprintf(&ask, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
		}
		fmt.Fprintf(&want, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(path), path)
	}
	go c.Write([]byte(ask.String()))
	c.want(want.String())
	if n := r.sum(); n.Requests != 200 || n.Reused != 199 {
		t.Errorf("%+v", n)
	}
}
