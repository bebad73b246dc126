package probe

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"salp/internal/lab"
	"salp/internal/proxyproto"
)

// serve starts a TCP server on loopback that has each connection handled.
func serve(t *testing.T, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return netip.MustParseAddrPort(ln.Addr().String())
}

// says is a server that sends a text at once, then waits for the client's end.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, text)
		_, _ = io.Copy(io.Discard, c)
	}
}

// answers is a server that reads a line, sends a text and ends.
func answers(text string) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		line, err := r.ReadString('\n')
		for err == nil && strings.HasPrefix(line, "GET") || strings.Contains(line, ": ") {
			line, err = r.ReadString('\n') // an HTTP request, up to its empty line
		}
		_, _ = io.WriteString(c, strings.ReplaceAll(text, "LINE", strings.TrimSpace(line)))
	}
}

// readHeader reads a PROXY header, and tells its length.
func readHeader(c net.Conn) (proxyproto.Header, int, error) {
	r := bufio.NewReader(c)
	for n := 1; ; n++ {
		b, err := r.Peek(n)
		if err != nil {
			return proxyproto.Header{}, 0, err
		}
		if h, length, err := proxyproto.Parse(b); err != proxyproto.ErrShort {
			return h, length, err
		}
	}
}

func refused(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return netip.MustParseAddrPort(ln.Addr().String())
}

func TestStreams(t *testing.T) {
	banner, busy, silent := serve(t, says("220 mx.test ESMTP\r\n")), serve(t, says("421 too \x1b[31mbusy\r\n")), serve(t, says(""))
	ends := serve(t, func(net.Conn) {})
	resets := serve(t, func(c net.Conn) { _ = lab.Reset(c.(*net.TCPConn)) })
	slow := serve(t, func(c net.Conn) {
		for _, part := range []string{"2", "20", " mx"} {
			_, _ = io.WriteString(c, part)
			time.Sleep(20 * time.Millisecond)
		}
		_, _ = io.Copy(io.Discard, c)
	})
	floods := serve(t, func(c net.Conn) {
		for line := strings.Repeat("x", 1024); ; {
			if _, err := io.WriteString(c, line); err != nil {
				return
			}
		}
	})
	echo := serve(t, answers("+LINE"))
	introduced := serve(t, func(c net.Conn) {
		if h, length, err := readHeader(c); err == nil {
			_, _ = io.WriteString(c, fmt.Sprintf("220 %v %d\n", h.Source.Addr(), length))
		}
		_, _ = io.Copy(io.Discard, c)
	})
	for _, c := range []struct {
		name string
		spec Spec
		want string // a part of the error; "": good
	}{
		{"connect", Spec{Target: silent}, ""},
		{"refused", Spec{Target: refused(t)}, "connection refused"},
		{"banner", Spec{Target: banner, Expect: "220 "}, ""},
		{"banner by regexp", Spec{Target: banner, Expect: `/^220[ -].*ESMTP/`}, ""},
		{"banner in pieces", Spec{Target: slow, Expect: "220 mx"}, ""},
		{"busy", Spec{Target: busy, Expect: "220 "}, `the server sent "421 too \x1b[31mbusy\r\n" and no more, expected "220 " within 300ms`},
		{"silent", Spec{Target: silent, Expect: "220 "}, "no answer within 300ms"},
		{"ends", Spec{Target: ends, Expect: "220 "}, `the server sent nothing and ended, expected "220 "`},
		{"resets", Spec{Target: resets, Expect: "220 "}, "connection reset"},
		{"floods", Spec{Target: floods, Expect: "220 "}, `…, expected "220 "`},
		{"question", Spec{Target: echo, Send: "PING\n", Expect: "+PING"}, ""},
		{"wrong answer", Spec{Target: echo, Send: "PING\n", Expect: "+PONG"}, `the server sent "+PING", expected "+PONG"`},
		{"header, version 1", Spec{Target: introduced, Header: HeaderV1, Expect: "220 127.0.0.1 "}, ""},
		{"header, version 2", Spec{Target: introduced, Header: HeaderV2, Expect: "220 invalid IP 16\n"}, ""},
		{"no header", Spec{Target: introduced, Expect: "220 "}, "no answer within 300ms"},
		{"bad header", Spec{Target: introduced, Header: "v3"}, `no version "v3"`},
		{"bad regexp", Spec{Target: echo, Expect: "/(/"}, "expect missing closing )"},
		{"no address", Spec{}, "no address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.spec.Timeout = patience(c.want)
			began := time.Now()
			check(t, Run(t.Context(), &c.spec), c.want)
			if took := time.Since(began); took > c.spec.Timeout+time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	began := time.Now()
	if r := Run(ctx, &Spec{Target: silent, Expect: "x", Timeout: 10 * time.Second}); r.OK || time.Since(began) > time.Second {
		t.Errorf("cancelled: %+v after %v", r, time.Since(began))
	}
}

// patience is short where the time must be over, and else long enough for a machine that has other work.
func patience(want string) time.Duration {
	if strings.Contains(want, "within") {
		return 300 * time.Millisecond
	}
	return 5 * time.Second
}

func check(t *testing.T, r Result, want string) {
	t.Helper()
	if r.OK != (want == "") || r.OK != (r.Error == "") || !strings.Contains(r.Error, want) || r.RTT <= 0 {
		t.Errorf("%+v, want %q", r, want)
	}
}

func TestHTTP(t *testing.T) {
	ok := serve(t, answers("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nhealthy"))
	moved := serve(t, answers("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"))
	down := serve(t, answers("HTTP/1.1 503 No\r\n\r\nsorry"))
	for _, c := range []struct {
		name string
		at   netip.AddrPort
		http HTTP
		want string
	}{
		{"good", ok, HTTP{}, ""},
		{"body", ok, HTTP{Body: "health", Path: "/a?b=c", Host: "www.test"}, ""},
		{"body by regexp", ok, HTTP{Body: "/^healthy$/"}, ""},
		{"other body", ok, HTTP{Body: "ready"}, `the body is "healthy", expected "ready"`},
		{"redirect is good", moved, HTTP{}, ""},
		{"redirect is bad", moved, HTTP{Status: []Status{{200, 200}, {204, 206}}}, "HTTP status 302"},
		{"unavailable", down, HTTP{}, "HTTP status 503"},
		{"unavailable is wanted", down, HTTP{Status: []Status{{500, 599}}}, ""},
		{"not HTTP", serve(t, answers("220 mx.test\r\n")), HTTP{}, "no HTTP answer"},
		{"ends", serve(t, answers("")), HTTP{}, "the server ended the connection without an answer"},
		{"silent", serve(t, says("")), HTTP{}, "no answer within"},
		{"endless header", serve(t, answers("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 1<<20))), HTTP{}, "no HTTP answer"},
		{"endless continue", serve(t, answers(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100))), HTTP{}, "answer"},
		{"long body", serve(t, answers("HTTP/1.1 200 OK\r\n\r\n"+strings.Repeat("x", 1<<20))), HTTP{Body: "y"}, `…, expected "y"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			check(t, Run(t.Context(), &Spec{Target: c.at, Timeout: patience(c.want), HTTP: &c.http}), c.want)
		})
	}
}

// certificate makes a certificate for a name, signed by itself.
func certificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestTLS(t *testing.T) {
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t, "mx.test")}, NextProtos: []string{"h2", "http/1.1"}}
	names := make(chan string, 10)
	config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		names <- h.ServerName
		return nil, nil
	}
	at := serve(t, func(c net.Conn) {
		s := tls.Server(c, config)
		if s.Handshake() == nil {
			answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(s)
		}
	})
	for _, c := range []struct {
		name string
		at   netip.AddrPort
		tls  TLS
		http *HTTP
		sni  string
		want string
	}{
		{"handshake", at, TLS{}, nil, "", ""},
		{"name", at, TLS{Name: "mx.test"}, nil, "mx.test", ""},
		{"verified", at, TLS{Name: "mx.test", Verify: true}, nil, "mx.test", "certificate signed by unknown authority"},
		{"protocol", at, TLS{ALPN: []string{"h2"}}, nil, "", ""},
		{"other protocol", at, TLS{ALPN: []string{"smtp"}}, nil, "", "no application protocol"},
		{"over it HTTP", at, TLS{}, &HTTP{Body: "ok"}, "", ""},
		{"no TLS", serve(t, says("220 mx.test ESMTP\r\n")), TLS{}, nil, "-", "TLS: first record does not look like a TLS handshake"},
		{"silent", serve(t, says("")), TLS{}, nil, "-", "no answer within"},
		{"ends", serve(t, func(net.Conn) {}), TLS{}, nil, "-", "connection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			check(t, Run(t.Context(), &Spec{Target: c.at, Timeout: patience(c.want), TLS: &c.tls, HTTP: c.http}), c.want)
			if c.sni != "-" {
				if got := <-names; got != c.sni {
					t.Errorf("asked for %q, want %q", got, c.sni)
				}
			}
		})
	}
}

func TestDNS(t *testing.T) {
	d, err := lab.StartDNS("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	d.Set("a.test", time.Minute, "10.0.0.1")
	ask := func(name string) Result {
		return Run(t.Context(), &Spec{Target: d.Addr(), Timeout: 200 * time.Millisecond, DNS: &DNS{Name: name}})
	}
	check(t, ask("a.test"), "")
	check(t, ask("gone.test"), "")
	d.Fail(dnsmessage.RCodeServerFailure)
	check(t, ask("a.test"), "SERVFAIL")
	d.Fail(dnsmessage.RCodeSuccess)
	d.Mute(true)
	check(t, ask("a.test"), "no answer within 200ms")
	check(t, Run(t.Context(), &Spec{Target: refused(t), Timeout: 200 * time.Millisecond, DNS: &DNS{Name: "a.test"}}), "no DNS server runs at")
}

func TestPingLoopback(t *testing.T) {
	lab.NeedInside(t)
	for _, target := range []string{"127.0.0.1", "::1"} {
		s := &Spec{Target: netip.AddrPortFrom(netip.MustParseAddr(target), 0), Timeout: time.Second, Ping: &Ping{Size: 1000}}
		check(t, Run(t.Context(), s), "")
	}
}

func FuzzReply(f *testing.F) {
	data := []byte("0123456789abcdef")
	for _, v6 := range []bool{false, true} {
		text, err := echoRequest(v6, 7, data)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, v6)
		text[0] = map[bool]byte{false: 0, true: 129}[v6]
		f.Add(text, v6)
		if !isReply(text, v6, 7, data) || isReply(text, v6, 8, data) || isReply(text, v6, 7, data[1:]) || isReply(text, !v6, 7, data) {
			f.Errorf("replies are told apart wrongly")
		}
	}
	f.Fuzz(func(t *testing.T, packet []byte, v6 bool) { isReply(packet, v6, 7, data) })
}

func FuzzAnswer(f *testing.F) {
	f.Add("220 mx", "220 ")
	f.Add("HTTP/1.1 200 OK\r\n\r\nok", "/ok/")
	f.Fuzz(func(t *testing.T, sent, pattern string) {
		want, err := ParsePattern(pattern)
		if err != nil {
			return
		}
		err = await(t.Context(), strings.NewReader(sent), want, "the server sent")
		if good := sent != "" && len(sent) <= maxAnswer && want.Match([]byte(sent)); good && want.regexp == nil && err != nil {
			t.Errorf("%q holds %q: %v", sent, pattern, err)
		}
		if err != nil {
			for _, c := range err.Error() {
				if c < ' ' {
					t.Errorf("control character in %q", err)
				}
			}
		}
	})
}
