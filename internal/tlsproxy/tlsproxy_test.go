package tlsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"salp/internal/config"
	"salp/internal/engine"
	"salp/internal/listen"
	"salp/internal/sock"
	"salp/internal/tlsproxy"
)

// certificate makes a certificate that signs itself, in PEM.
func certificate(t testing.TB, names ...string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: names,
		IsCA: true, BasicConstraintsValid: true}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// rig is a server on a loop, behind a listening socket on loopback. In the place of the proxy is a server of package net/http.
type rig struct {
	address  string
	counters *listen.Counters
	server   *tlsproxy.Server
	certs    *tlsproxy.Certificates
	roots    *x509.CertPool
	files    map[string][]byte
	engine   *engine.Engine
	flows    chan listen.Flow
}

// behind serves what comes with net/http, as the proxy would on the loop.
type behind struct {
	rig      *rig
	listener *listen.Listener
	conns    chan net.Conn
}

func (b *behind) Serve(l *engine.Loop, fd int, f *listen.Flow) {
	file := os.NewFile(uintptr(fd), "inner")
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		panic(err)
	}
	select {
	case b.rig.flows <- *f:
	default:
	}
	lease := f.Lease
	b.conns <- &ended{Conn: conn, end: func() { l.Post(func() { b.listener.End(b.rig.counters, lease) }) }}
}

func (b *behind) Accept() (net.Conn, error) {
	c, ok := <-b.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (b *behind) Close() error   { return nil }
func (b *behind) Addr() net.Addr { return &net.TCPAddr{} }

type ended struct {
	net.Conn
	once sync.Once
	end  func()
}

func (e *ended) Close() error {
	e.once.Do(e.end)
	return e.Conn.Close()
}

func newRig(t *testing.T, handler http.Handler) *rig {
	t.Helper()
	files, roots := map[string][]byte{}, x509.NewCertPool()
	for _, name := range []string{"a", "b"} {
		cert, key := certificate(t, name+".example", "*."+name+".example")
		files[name+".pem"], files[name+".key"] = cert, key
		roots.AppendCertsFromPEM(cert)
	}
	r := newRigWith(t, handler, freeAddress(t), "{certificates: [{certificate: a.pem, key: a.key}, {certificate: b.pem, key: b.key}]}", files)
	r.roots = roots
	return r
}

// newRigWith makes a server on an address with what the configuration has as tls.
func newRigWith(t *testing.T, handler http.Handler, on, text string, files map[string][]byte) *rig {
	t.Helper()
	r := &rig{address: on, counters: &listen.Counters{}, files: files, flows: make(chan listen.Flow, 10)}
	cfg, err := config.Parse("test", fmt.Appendf(nil, "listeners: {in: {listen: [\"%s\"], protocol: http, pool: p, tls: %s}}\npools: {p: {servers: [\"192.0.2.1:80\"]}}\n", r.address, text))
	if err != nil {
		t.Fatal(err)
	}
	c := cfg.Listener("in")
	if r.certs, err = tlsproxy.NewCertificates(c.TLS, r.files); err != nil {
		t.Fatal(err)
	}
	n := listen.NewListener(c)
	if r.server, err = tlsproxy.New(tlsproxy.Options{Config: c, Listener: n, Certificates: r.certs, Authority: files["ca.pem"], Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	if r.engine, err = engine.New(1); err != nil {
		t.Fatal(err)
	}
	loop := r.engine.Loops()[0]
	address := netip.MustParseAddrPort(r.address)
	fds, err := sock.Listen(address, 1, sock.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	port := r.server.Port(loop, r.counters, func(n *listen.Listener) listen.Server {
		b := &behind{rig: r, listener: n, conns: make(chan net.Conn, 1000)}
		go func() { _ = (&http.Server{Handler: handler}).Serve(b) }()
		return b
	})
	loop.Post(func() {
		if _, err := listen.Accept(loop, fds[0], address, n, r.counters, port); err != nil {
			t.Error(err)
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.engine.Run(); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		r.server.Close()
		r.engine.Stop()
		<-done
		sock.Close(fds[0])
	})
	return r
}

func (r *rig) client(http2 bool) *http.Client {
	p := &http.Protocols{}
	p.SetHTTP1(!http2)
	p.SetHTTP2(http2)
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{Protocols: p, TLSClientConfig: &tls.Config{RootCAs: r.roots},
		DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("tcp", r.address) }}}
}

// active waits until that many connections are counted.
func (r *rig) active(t *testing.T, want uint64) {
	t.Helper()
	got := make(chan uint64)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		r.engine.Loops()[0].Post(func() { got <- r.counters.Active })
		n := <-got
		if n == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections are active, want %d", n, want)
		}
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Got", fmt.Sprint(r.Host, " ", r.RequestURI, " ", r.Header.Get("X-Forwarded-For"), " ", r.Method))
	w.Header().Set("Trailer", "X-Sum")
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 always is
	n, err := io.Copy(w, r.Body)
	w.Header().Set("X-Sum", fmt.Sprint(n, err == nil, r.Trailer.Get("X-End")))
}

func TestForward(t *testing.T) {
	r := newRig(t, http.HandlerFunc(echo))
	for _, http2 := range []bool{false, true} {
		c := r.client(http2)
		var wait sync.WaitGroup
		for i := range 20 {
			wait.Go(func() {
				body := bytes.Repeat([]byte("x"), i*100_000)
				q, err := http.NewRequest("POST", fmt.Sprintf("https://www.b.example/%%2fa%d?q=%%20;", i), io.MultiReader(bytes.NewReader(body)))
				if err != nil {
					t.Error(err)
					return
				}
				q.Header.Set("X-Forwarded-For", "1.2.3.4")
				q.Trailer = http.Header{"X-End": {"yes"}}
				a, err := c.Do(q)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(a.Body)
				a.Body.Close()
				if err != nil || !bytes.Equal(got, body) || (a.ProtoMajor == 2) != http2 {
					t.Errorf("%d bytes of %d, %s, %v", len(got), len(body), a.Proto, err)
				}
				if want := fmt.Sprintf("www.b.example /%%2fa%d?q=%%20; 1.2.3.4 POST", i); a.Header.Get("X-Got") != want {
					t.Errorf("the server got %q, want %q", a.Header.Get("X-Got"), want)
				}
				if want := fmt.Sprint(len(body), true, "yes"); a.Trailer.Get("X-Sum") != want {
					t.Errorf("trailer %q, want %q", a.Trailer.Get("X-Sum"), want)
				}
			})
		}
		wait.Wait()
		if f := <-r.flows; f.TLS == nil || f.TLS.ServerName != "www.b.example" || slices.Contains(f.TLS.ALPN, "h2") != http2 || !f.Client.Addr().IsLoopback() {
			t.Errorf("flow %+v", f)
		}
		c.CloseIdleConnections()
		r.active(t, 0)
		for len(r.flows) > 0 {
			<-r.flows
		}
	}
}

// A response over HTTP/2 has the fields that the server gave it, and the one that RFC 9110 6.6.1 has a proxy add.
func TestFields(t *testing.T) {
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header()["Content-Type"] = nil // so that net/http guesses none here
		w.Header().Set("X-A", "b")
		if q.URL.Path == "/early" {
			w.Header().Set("Link", "</x>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header()["Content-Type"] = nil
		}
		fmt.Fprint(w, "<html>hello")
	}))
	for _, path := range []string{"/", "/early"} {
		a, err := r.client(true).Get("https://a.example" + path)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		if _, there := a.Header["Content-Type"]; there || a.Header.Get("X-A") != "b" || a.Header.Get("Date") == "" {
			t.Errorf("%s: %v", path, a.Header)
		}
	}
}

// A client gets the certificate for the name it asks for, and the new one as soon as both halves have changed.
func TestCertificates(t *testing.T) {
	r := newRig(t, http.HandlerFunc(echo))
	serial := func(name string) string {
		c, err := tls.Dial("tcp", r.address, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil {
			t.Error(err)
			return ""
		}
		defer c.Close()
		return strings.Join(c.ConnectionState().PeerCertificates[0].DNSNames, " ")
	}
	for name, want := range map[string]string{"a.example": "a.example *.a.example", "x.b.example": "b.example *.b.example", "nobody.example": "a.example *.a.example", "": "a.example *.a.example"} {
		if got := serial(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	for _, c := range []struct {
		after time.Duration
		want  string
	}{{0, ""}, {2 * time.Hour, "has expired on"}, {-2 * time.Hour, "is not valid before"}} {
		told := r.certs.Invalid(time.Now().Add(c.after))
		if len(told) == 0 != (c.want == "") || c.want != "" && (len(told) != 2 || !strings.Contains(told[0], "a.pem "+c.want)) {
			t.Errorf("after %v: %q", c.after, told)
		}
	}
	cert, key := certificate(t, "b.example", "new.example")
	if err := r.certs.Set("b.pem", cert); err == nil {
		t.Error("a certificate fits the key of another")
	}
	if got := serial("b.example"); got != "b.example *.b.example" {
		t.Errorf("between the halves: %q", got)
	}
	if err := r.certs.Set("b.key", key); err != nil {
		t.Error(err)
	}
	if got := serial("new.example"); got != "b.example new.example" {
		t.Errorf("after both: %q", got)
	}
}

// A listener that drains lets streams end, serves who was accepted before, and then has every client leave.
func TestDrain(t *testing.T) {
	begun, released := make(chan struct{}), make(chan struct{})
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/long" {
			close(begun)
			<-released
		}
		fmt.Fprint(w, "hello")
	}))
	get := func(conn net.Conn, path string) error {
		c := r.client(true)
		if conn != nil {
			c.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
		}
		a, err := c.Get("https://a.example" + path)
		if err != nil {
			return err
		}
		defer a.Body.Close()
		if body, err := io.ReadAll(a.Body); err != nil || string(body) != "hello" || a.ProtoMajor != 2 {
			return fmt.Errorf("%s %q, %w", a.Proto, body, err)
		}
		return nil
	}
	long := make(chan error, 1)
	go func() { long <- get(nil, "/long") }()
	<-begun
	waiting, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	r.active(t, 3) // the client, its stream, and one that has said nothing
	r.server.Drain()
	time.Sleep(50 * time.Millisecond)
	if err := get(waiting, "/"); err != nil {
		t.Errorf("accepted before the drain: %v", err)
	}
	close(released)
	if err := <-long; err != nil {
		t.Errorf("a stream that was there: %v", err)
	}
	r.active(t, 0)
}

// Versions older than the configuration's are refused, and a client that says nothing is not waited for.
func TestVersions(t *testing.T) {
	cert, key := certificate(t, "a.example")
	files := map[string][]byte{"a.pem": cert, "a.key": key}
	for _, c := range []struct {
		least     string
		most      uint16
		completes bool
	}{{"1.2", tls.VersionTLS11, false}, {"1.2", tls.VersionTLS12, true}, {"1.2", tls.VersionTLS13, true}, {"1.3", tls.VersionTLS12, false}, {"1.3", tls.VersionTLS13, true}} {
		r := newRigWith(t, http.HandlerFunc(echo), freeAddress(t),
			fmt.Sprintf(`{certificates: [{certificate: a.pem, key: a.key}], min_version: "%s"}, http: {timeouts: {head: 300ms}}`, c.least), files)
		conn, err := tls.Dial("tcp", r.address, &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: c.most})
		if (err == nil) != c.completes {
			t.Errorf("at least %s, a client of %#x: %v", c.least, c.most, err)
		}
		if err == nil {
			if got := conn.ConnectionState().Version; got != c.most {
				t.Errorf("at least %s, a client of %#x: %#x", c.least, c.most, got)
			}
			conn.Close()
		}
		silent, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		_ = silent.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprint(silent, "\x16\x03\x01\x02")
		began := time.Now()
		if _, err := io.ReadAll(silent); errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) < 100*time.Millisecond {
			t.Errorf("a silent client: %v after %v", err, time.Since(began))
		}
		silent.Close()
		r.active(t, 0)
	}
}

// A reset of the proxy reaches the client as an error, never as an end; handshakes that fail are counted, and nothing is left.
func TestFailures(t *testing.T) {
	var hits atomic.Int64
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		hits.Add(1)
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	for _, http2 := range []bool{false, true} {
		c := r.client(http2)
		a, err := c.Get("https://a.example/")
		if err == nil {
			var got []byte
			got, err = io.ReadAll(a.Body)
			a.Body.Close()
			if err == nil {
				t.Errorf("HTTP/2 %v: %q is whole", http2, got)
			}
		}
		c.CloseIdleConnections()
	}
	for _, say := range []string{"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x00\x05hello"} {
		c, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, say)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, _ = bufio.NewReader(c).ReadString(0) // an alert, or nothing
		c.Close()
	}
	r.active(t, 0)
	failed := make(chan uint64, 1)
	r.engine.Loops()[0].Post(func() { failed <- r.counters.Errors[listen.Handshake] })
	if n := <-failed; n != 2 || hits.Load() < 2 {
		t.Errorf("%d failed handshakes counted, %d requests", n, hits.Load())
	}
}

// The proxy speaks TLS to a server by a pair of sockets in which nothing shows of it.
func TestUpstream(t *testing.T) {
	cert, key := certificate(t, "origin.example")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	talk := func(text, host string) string {
		cfg, err := config.Parse("test", fmt.Appendf(nil, "listeners: {in: {listen: [\"127.0.0.1:1\"], protocol: http, upstream_tls: {%s}}}", text))
		if err != nil {
			t.Fatal(err)
		}
		u, err := tlsproxy.NewUpstream(cfg.Listeners[0].UpstreamTLS, map[string][]byte{"ca.pem": cert}, 5*time.Second, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		file, err := conn.(*net.TCPConn).File()
		conn.Close()
		if err != nil {
			t.Fatal(err)
		}
		dup, err := syscall.Dup(int(file.Fd()))
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		inner, _, err := u.Wrap(dup, host)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(inner), "inner")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprint(c, "hello")
		_ = c.(*net.UnixConn).CloseWrite()
		got, _ := io.ReadAll(c) // an end where the handshake failed
		return string(got)
	}
	for _, c := range []struct{ text, host, want string }{
		{"authorities: ca.pem", "origin.example", "hello"}, {"authorities: ca.pem", "other.example", ""}, {"authorities: ca.pem", "", ""}, {"", "origin.example", ""},
		{"verify: false", "other.example", "hello"}, {"authorities: ca.pem, name: origin.example", "other.example", "hello"},
	} {
		if got := talk(c.text, c.host); got != c.want {
			t.Errorf("%s for %s: %q, want %q", c.text, c.host, got, c.want)
		}
	}
}
