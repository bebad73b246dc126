package httpproxy_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"salp/internal/config"
	"salp/internal/listen"
	"salp/internal/tlsproxy"
)

// authority makes a certificate for a name that signs itself, in PEM too.
func authority(t testing.TB, name string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// secureRig is a proxy before a server by TLS.
type secureRig struct {
	*rig
	upstream *tlsproxy.Upstream
	log      *logBuffer
}

// startSecure starts a server that does with each connection, and its first request, what handle says, and a proxy before it. more goes into the listener.
func startSecure(t *testing.T, server *tls.Config, ca []byte, more string, handle func(c *tls.Conn, head string)) *secureRig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				c := tls.Server(conn, server)
				var head []byte
				for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
					b := make([]byte, 1024)
					n, err := c.Read(b)
					if err != nil {
						return
					}
					head = append(head, b[:n]...)
				}
				handle(c, string(head))
			})
		}
	})
	text := explicit(l.Addr().String(), ", upstream_tls: {authorities: ca.pem}"+more)
	cfg, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s := &secureRig{log: &logBuffer{}}
	if s.upstream, err = tlsproxy.NewUpstream(cfg.Listeners[0].UpstreamTLS, map[string][]byte{"ca.pem": ca}, 5*time.Second, slog.New(slog.NewTextHandler(s.log, nil))); err != nil {
		t.Fatal(err)
	}
	s.rig = start(t, text, options{upstream: s.upstream.Wrap})
	return s
}

const forOrigin = "GET / HTTP/1.1\r\nHost: origin.example\r\n\r\n"

// What a server says by TLS is whole when its framing or its close_notify says so, and never because TCP has ended (RFC 8446 6.1, RFC 9112 9.8).
func TestSecureEnds(t *testing.T) {
	cert, ca := authority(t, "origin.example")
	large := strings.Repeat("x", 1<<20)
	for _, c := range []struct {
		name, response string
		notify         bool // the server sends close_notify
		later          bool // the end comes when the response has long been passed on
		want           string
		reset          bool
	}{
		{"closed well", "HTTP/1.1 200 OK\r\n\r\nhello", true, false, "hello", false},
		{"cut", "HTTP/1.1 200 OK\r\n\r\nhello", false, false, "hello", true},
		{"cut later", "HTTP/1.1 200 OK\r\n\r\nhello", false, true, "hello", true},
		{"large and closed well", "HTTP/1.1 200 OK\r\n\r\n" + large, true, false, large, false},
		{"large and cut", "HTTP/1.1 200 OK\r\n\r\n" + large, false, false, large, true},
		{"with a length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, false, "hello", false},
		{"short of its length", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", true, false, "hello", true},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false, false, "5\r\nhello\r\n0\r\n\r\n", false},
		{"chunked and cut", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false, true, "5\r\nhello\r\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startSecure(t, &tls.Config{Certificates: []tls.Certificate{cert}}, ca, "", func(s *tls.Conn, _ string) {
				io.WriteString(s, c.response)
				if c.later {
					time.Sleep(50 * time.Millisecond)
				}
				if c.notify {
					_ = s.CloseWrite()
				}
				_ = s.NetConn().(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, s.NetConn())
			})
			p := r.dial()
			p.send(forOrigin)
			head := p.head()
			if !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") {
				t.Fatalf("head %q", head)
			}
			if framed := strings.Contains(c.response, "Content-Length") || strings.Contains(c.response, "chunked"); c.reset || !framed {
				got, err := io.ReadAll(p)
				if (err != nil) != c.reset || len(got) > len(c.want) || !c.reset && string(got) != c.want {
					t.Errorf("got %d bytes and %v", len(got), err)
				}
				return
			}
			p.want(c.want)
		})
	}
}

// Another protocol after 101 ends at the other side as it does at the server's or the client's.
func TestSecureTunnel(t *testing.T) {
	cert, ca := authority(t, "origin.example")
	for _, how := range []string{"server notifies", "server cuts", "client ends", "client resets"} {
		t.Run(how, func(t *testing.T) {
			ended := make(chan error, 1)
			r := startSecure(t, &tls.Config{Certificates: []tls.Certificate{cert}}, ca, "", func(s *tls.Conn, _ string) {
				io.WriteString(s, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello")
				switch how {
				case "server notifies":
					_ = s.CloseWrite()
					fallthrough
				case "server cuts":
					_ = s.NetConn().(*net.TCPConn).CloseWrite()
				}
				_, err := io.Copy(io.Discard, s)
				ended <- err
			})
			p := r.dial()
			p.send("GET / HTTP/1.1\r\nHost: origin.example\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
			p.head()
			p.want("hello")
			switch how {
			case "server notifies":
				p.wantEOF()
				p.CloseWrite()
			case "server cuts":
				p.wantReset()
			case "client ends":
				p.CloseWrite()
				if err := <-ended; err != nil {
					t.Errorf("the server reads until %v", err)
				}
			case "client resets":
				_ = p.SetLinger(0)
				p.Close()
				if err := <-ended; err == nil {
					t.Error("the server takes a reset for an end")
				}
			}
			r.idle()
		})
	}
}

// Without TLS with the server a client is told so, a transparent one reset; the log tells why, and not of each request.
func TestSecureRefused(t *testing.T) {
	cert, ca := authority(t, "origin.example")
	other, otherCA := authority(t, "origin.example")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(otherCA)
	for _, c := range []struct {
		name   string
		server *tls.Config
		host   string
	}{
		{"another name", &tls.Config{Certificates: []tls.Certificate{cert}}, "other.example"},
		{"another authority", &tls.Config{Certificates: []tls.Certificate{other}}, "origin.example"},
		{"no common version", &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS11}, "origin.example"},
		{"wants a certificate", &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots}, "origin.example"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startSecure(t, c.server, ca, "", func(*tls.Conn, string) { t.Error("the server got a request") })
			p := r.dial()
			for range 3 {
				p.send("GET / HTTP/1.1\r\nHost: " + c.host + "\r\nAccept-Language: it\r\n\r\n")
				response, body := p.answer()
				if response.StatusCode != 502 || !strings.Contains(body, "server_tls") || !strings.Contains(body, `lang="it"`) {
					t.Errorf("%s %s", response.Status, body)
				}
			}
			if n := r.sum().Errors; n[listen.ServerHandshake] != 3 || n[listen.ServerReset] != 0 {
				t.Errorf("counted %v", n)
			}
			if n := strings.Count(r.log.text(), "TLS to a server failed"); n != 1 {
				t.Errorf("told %d times:\n%s", n, r.log.text())
			}
		})
	}
	r := startSecure(t, &tls.Config{Certificates: []tls.Certificate{cert}}, ca, ", errors: {server_failure: reset}", nil)
	p := r.dial()
	p.send("GET / HTTP/1.1\r\nHost: other.example\r\n\r\n")
	p.wantReset()
}

// New roots are in force from the next connection on, and wrong ones are not taken.
func TestSecureReload(t *testing.T) {
	cert, ca := authority(t, "origin.example")
	_, otherCA := authority(t, "origin.example")
	r := startSecure(t, &tls.Config{Certificates: []tls.Certificate{cert}}, otherCA, "", func(s *tls.Conn, _ string) {
		io.WriteString(s, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
	})
	for _, step := range []struct {
		roots  []byte
		fails  bool
		status int
	}{{nil, false, 502}, {ca, false, 200}, {[]byte("nothing"), true, 200}, {otherCA, false, 502}} {
		if step.roots != nil {
			if err := r.upstream.Set("ca.pem", step.roots); (err != nil) != step.fails {
				t.Error(err)
			}
			if err := r.upstream.Set("other.pem", nil); err != nil {
				t.Error(err)
			}
		}
		p := r.dial()
		p.send(forOrigin)
		p.wantStatus(step.status)
	}
}
