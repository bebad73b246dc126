package httpproxy_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"salp/internal/listen"
)

// What is not HTTP passes as it is, whoever speaks first.
func TestNotHTTP(t *testing.T) {
	smtp := serve(t, func(p *peer) {
		p.send("220 mail ESMTP\r\n")
		p.want("EHLO x\r\n")
		p.send("250 hello\r\n")
		p.want("QUIT\r\n")
		p.wantEOF()
	})
	r := start(t, intercepting(", not_http: tunnel"), options{original: smtp})
	c := r.dial()
	c.want("220 mail ESMTP\r\n")
	c.send("EHLO x\r\n")
	c.want("250 hello\r\n")
	c.send("QUIT\r\n")
	c.CloseWrite()
	c.wantEOF()
	if n := r.idle(); n.Tunnels != 1 || n.Requests != 0 {
		t.Errorf("%+v", n)
	}
	r.close()

	for _, first := range []string{"SSH-2.0-x\r\n", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "\x00\x01\x02", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "{\"method\":1}\n"} {
		server := serve(t, func(p *peer) {
			p.want(first)
			p.send("answer")
			p.want("more")
		})
		r := start(t, intercepting(", not_http: tunnel"), options{original: server})
		c := r.dial()
		for i := range first {
			c.send(first[i : i+1])
		}
		c.want("answer")
		c.send("more")
		c.wantEOF()
		c.Close()
		r.idle()
		r.close()

		r = start(t, intercepting(", not_http: close"), options{original: server})
		c = r.dial()
		c.send(first)
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: %v", first, err)
		}
		if n := r.idle(); n.Errors[listen.NotHTTP] != 1 {
			t.Errorf("%+v", n)
		}
		r.close()
	}
}

// TLS through a listener for HTTP.
func TestTLSPasses(t *testing.T) {
	known := httptest.NewTLSServer(nil) // for its certificate
	defer known.Close()
	server := serve(t, func(p *peer) {
		s := tls.Server(p.TCPConn, known.TLS)
		io.Copy(s, s)
		s.Close()
	})
	r := start(t, intercepting(", not_http: tunnel"), options{original: server})
	roots := x509.NewCertPool()
	roots.AddCert(known.Certificate())
	c := tls.Client(r.dial().TCPConn, &tls.Config{ServerName: "example.com", RootCAs: roots})
	defer c.Close()
	fmt.Fprint(c, "hello")
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Errorf("%q %v", b, err)
	}
}

// A client that begins like HTTP and says no more is a tunnel after a while; an HTTP client that is slow gets 408.
func TestUndecided(t *testing.T) {
	server := serve(t, func(p *peer) {
		p.want("GE")
		p.send("what?")
	})
	r := start(t, intercepting(", not_http: tunnel"), options{original: server})
	c := r.dial()
	c.send("GE")
	c.want("what?")
	c.wantEOF()
	r.close()
	r = start(t, explicit(server, ", http: {timeouts: {head: 200ms}}"), options{})
	c = r.dial()
	c.send("GET / HTTP/1.1\r\nHo")
	c.wantStatus(408)
	c.wantEOF()
	if n := r.idle(); n.Errors[listen.HeadTimeout] != 1 {
		t.Errorf("%+v", n)
	}
}

// Where rules read requests, a client does not pass them by when it writes slowly, or in HTTP/2; where they do not, nothing is in the way.
func TestRulesAreNotPassedBy(t *testing.T) {
	server := serve(t, func(p *peer) {
		first := make([]byte, 2)
		if _, err := io.ReadFull(p, first); err == nil {
			p.send("tunnel")
		}
	})
	for _, test := range []struct {
		rule, first, want string
		status            int
	}{
		{rule: `deny: {host: [".ads.example"]}`, first: "GE", status: 408},
		{rule: `deny: {not_path: ["/x"]}`, first: "\r\nFOO /", status: 408},
		{rule: `deny: {host: [".ads.example"]}`, first: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", status: 505},
		{rule: `deny: {host: [".ads.example"]}`, first: "SSH-2.0-x\r\n", want: "tunnel"},
		{rule: `deny: {from: [192.0.2.1]}`, first: "GE", want: "tunnel"},
		{rule: `deny: {from: [192.0.2.1]}`, first: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", want: "tunnel"},
	} {
		yaml := intercepting(", not_http: tunnel, access: a, http: {timeouts: {head: 400ms}}") + "access: {a: [" + "{" + test.rule + "}, {allow: {from: [127.0.0.0/8]}}]}\n"
		r := start(t, yaml, options{original: server})
		c := r.dial()
		c.send(test.first)
		if test.want != "" {
			c.want(test.want)
		} else {
			c.wantStatus(test.status)
		}
		c.Close()
		if n := r.idle(); n.Tunnels != 0 && test.want == "" {
			t.Errorf("%s, %q: %d tunnels", test.rule, test.first, n.Tunnels)
		}
		r.close()
	}
}

func TestWebSocket(t *testing.T) {
	const ask = "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n"
	const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
	server := serve(t, func(p *peer) {
		p.want(ask)
		p.send(switching + "\x81\x05hello")
		p.want("\x81\x05world")
		p.wantEOF()
	})
	r := start(t, explicit(server, ""), options{})
	c := r.dial()
	c.send(ask)
	c.want(switching + "\x81\x05hello")
	c.send("\x81\x05world")
	c.CloseWrite()
	c.wantEOF()
	if n := r.idle(); n.Tunnels != 1 || n.Statuses[1] != 1 {
		t.Errorf("%+v", n)
	}
}

// A browser's proxy: absolute form and CONNECT, names looked up.
func TestExplicitProxy(t *testing.T) {
	server := serve(t, func(p *peer) {
		first, _ := p.Peek(3)
		if string(first) != "GET" {
			p.want("opaque")
			p.send("bytes")
			return
		}
		for head := p.head(); head != ""; head = p.head() {
			p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(head), head))
		}
	})
	port := server[strings.LastIndexByte(server, ':')+1:]
	r := start(t, "listeners: {test: {listen: ['127.0.0.1:1'], protocol: http}}", options{names: map[string][]string{"a.example": {"127.0.0.1"}}})
	c := r.dial()
	for range 2 {
		c.send("GET http://A.example:" + port + "/x HTTP/1.1\r\nHost: A.example:" + port + "\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\n\r\n")
		if _, body := c.answer(); body != "GET /x HTTP/1.1\r\nHost: A.example:"+port+"\r\n\r\n" {
			t.Errorf("the server got %q", body)
		}
	}
	c.send("GET http://nowhere.example/ HTTP/1.1\r\nHost: nowhere.example\r\n\r\n")
	c.wantStatus(502)
	c.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	c.wantStatus(400)
	c.send("GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
	c.wantStatus(501)
	c.send("CONNECT nowhere.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
	c.wantStatus(502)
	c.send("CONNECT a.example:" + port + " HTTP/1.1\r\nHost: a.example\r\n\r\nopaque")
	c.want("HTTP/1.1 200 Connection established\r\n\r\nbytes")
	c.wantEOF()
	c.Close()
	if n := r.idle(); n.Tunnels != 1 || n.Requests != 7 || n.Errors[listen.NoName] != 2 {
		t.Errorf("%+v", n)
	}
	r.close()
	// To ourselves: a loop.
	r = start(t, "listeners: {test: {listen: ['127.0.0.1:1'], protocol: http}}", options{})
	c = r.dial()
	c.send("GET http://" + r.addr + "/ HTTP/1.1\r\nHost: " + r.addr + "\r\n\r\n")
	c.wantStatus(508)
}

func TestTimeouts(t *testing.T) {
	hold := make(chan struct{})
	server := serve(t, func(p *peer) {
		head := p.head()
		if strings.Contains(head, "/half") {
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
		}
		if strings.Contains(head, "/quick") {
			p.send(ok)
		}
		<-hold
	})
	t.Cleanup(func() { close(hold) })
	const short = ", http: {timeouts: {head: 300ms, body: 300ms, response: 300ms, keepalive: 300ms, server_keepalive: 300ms}}"
	r := start(t, explicit(server, short), options{})
	c := r.dial()
	c.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
	c.wantStatus(504)
	c.send("GET /half HTTP/1.1\r\nHost: a\r\n\r\n")
	c.wantReset()
	c = r.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
	c.wantStatus(408)
	c.wantEOF()
	c = r.dial()
	c.send("GET /quick HTTP/1.1\r\nHost: a\r\n\r\n")
	c.want(ok)
	began := time.Now()
	c.wantEOF()
	if d := time.Since(began); d < 200*time.Millisecond || d > 5*time.Second {
		t.Errorf("the idle connection ended after %v", d)
	}
	if n := r.idle(); n.Errors[listen.ResponseTimeout] != 1 || n.Errors[listen.BodyTimeout] != 2 {
		t.Errorf("%+v", n)
	}
}
