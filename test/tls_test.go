package test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// writeCertificate writes NAME.pem and NAME.key into the rig's directory, readable for root alone, and returns the certificate.
func (r *rig) writeCertificate(name string, hosts ...string) []byte {
	r.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	r.must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: hosts, IsCA: true, BasicConstraintsValid: true}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	r.must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	r.must(err)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	r.must(os.WriteFile(filepath.Join(r.dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	r.must(os.WriteFile(filepath.Join(r.dir, name+".pem"), cert, 0o600))
	return cert
}

// httpsClient dials an address from the client, whatever the URL, and believes in a certificate.
func (r *rig) httpsClient(to string, root []byte, http2 bool) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	protocols := &http.Protocols{}
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	return &http.Client{Timeout: patience, Transport: &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{RootCAs: pool},
		DialContext: func(context.Context, string, string) (net.Conn, error) { return r.net.Client().Dial(to) }}}
}

// A listener ends TLS: HTTP/1.1 and HTTP/2, rules, pages and log as without it, TLS to the server, and files that change.
func TestTLS(t *testing.T) {
	r := newRig(t, 1)
	front := r.writeCertificate("front", "www.example", "bad.example")
	r.writeCertificate("back", "www.example")
	pair, err := tls.LoadX509KeyPair(filepath.Join(r.dir, "back.pem"), filepath.Join(r.dir, "back.key"))
	r.must(err)
	l, err := r.net.Server().Listen("10.0.2.2:443", lab.ListenOptions{})
	r.must(err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		host, _, _ := net.SplitHostPort(q.RemoteAddr)
		fmt.Fprintf(w, "%s %s %s for %s by %s", q.Method, q.Host, q.URL, host, q.Header.Get("X-Forwarded-Proto"))
	})}
	go func() { _ = server.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}})) }()
	t.Cleanup(func() { server.Close() })
	log := filepath.Join(r.dir, "access.log")
	r.must(os.WriteFile(filepath.Join(r.dir, "bad.txt"), []byte("bad.example\n"), 0o600))
	r.start(fmt.Sprintf(`
listeners:
  www:
    listen: ["10.0.1.1:443"]
    source: client
    protocol: http
    pool: p
    access: a
    http: {forwarded_proto: replace}
    tls: {certificates: [{certificate: front.pem, key: front.key}]}
    upstream_tls: {authorities: back.pem, name: www.example}
pools: {p: {servers: ["10.0.2.2:443"]}}
access: {a: [{deny: {host: [list:bad]}}, {allow: {sni: [".example"]}}]}
lists: {bad: {names: bad.txt}}
logs: {access: {file: %s, format: "%%>a %%rm %%ru %%>Hs %%rv %%ssl::>sni %%salp::rule"}}
`, log))

	for _, http2 := range []bool{false, true} {
		c := r.httpsClient("10.0.1.1:443", front, http2)
		get := func(url string) (int, string) {
			t.Helper()
			a, err := c.Get(url)
			r.must(err)
			defer a.Body.Close()
			body, err := io.ReadAll(a.Body)
			r.must(err)
			if (a.ProtoMajor == 2) != http2 {
				t.Errorf("%s by %s", url, a.Proto)
			}
			return a.StatusCode, string(body)
		}
		if status, body := get("https://www.example/x?y"); status != 200 || body != "GET www.example /x?y for 10.0.1.2 by https" {
			t.Errorf("HTTP/2 %v: %d %q", http2, status, body)
		}
		if status, body := get("https://bad.example/"); status != 403 || !strings.Contains(body, "Not allowed here") {
			t.Errorf("HTTP/2 %v: %d %q", http2, status, body)
		}
		c.CloseIdleConnections()
	}
	r.logHas(log, "10.0.1.2 GET https://www.example/x?y 200 1.1 www.example a[1]", "10.0.1.2 GET https://bad.example/ 403 1.1 bad.example a[0]")

	// Files that change are in force within seconds; the log goes on in a new file.
	r.must(os.WriteFile(filepath.Join(r.dir, "bad.txt"), []byte("other.example\n"), 0o600))
	r.must(os.Rename(log, log+".1"))
	r.must(r.salp.Signal(syscall.SIGUSR1))
	fresh := r.writeCertificate("front", "bad.example")
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		a, err := r.httpsClient("10.0.1.1:443", fresh, false).Get("https://bad.example/now")
		if err == nil {
			a.Body.Close()
			if a.StatusCode == 200 {
				break
			}
		}
		if time.Now().After(end) {
			t.Fatalf("the new certificate or list is not in force: %v", err)
		}
	}
	r.logHas(log, "GET https://bad.example/now 200 1.1 bad.example a[1]")
}

// logHas waits until the access log has all of that.
func (r *rig) logHas(path string, parts ...string) {
	r.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(path)
		missing := ""
		for _, part := range parts {
			if !strings.Contains(string(text), part) {
				missing = part
			}
		}
		if err == nil && missing == "" {
			return
		}
		if time.Now().After(end) {
			r.Fatalf("the access log has no %q: %v\n%s", missing, err, text)
		}
	}
}

// A listener that passes TLS on takes it in on its way, routes it by name, and tells who may not.
func TestTLSPassedThrough(t *testing.T) {
	r := newRig(t, 2)
	cert := r.writeCertificate("back", "one.example", "two.example", "bad.example", "one.host.example", "two.host.example")
	pair, err := tls.LoadX509KeyPair(filepath.Join(r.dir, "back.pem"), filepath.Join(r.dir, "back.key"))
	r.must(err)
	for i, h := range r.net.Servers {
		l, err := h.Listen(fmt.Sprintf("10.0.2.%d:443", i+2), lab.ListenOptions{})
		r.must(err)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			host, _, _ := net.SplitHostPort(q.RemoteAddr)
			fmt.Fprintf(w, "server %d for %s", i+1, host)
		})}
		go func() { _ = server.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}})) }()
		t.Cleanup(func() { server.Close() })
	}
	dns, err := r.net.Server().ServeDNS("10.0.2.2:53")
	r.must(err)
	t.Cleanup(dns.Close)
	dns.Set("one.host.example", time.Minute, "10.0.2.2")
	dns.Set("two.host.example", time.Minute, "10.0.2.3")
	r.start(`
resolvers: {servers: [10.0.2.2]}
listeners:
  tls:
    intercept: {interfaces: [g0], ports: [443]}
    source: client
    source_port: keep
    protocol: tls
    access: names
    routes: [{sni: [two.example], pool: two}, {sni: [".host.example"], destination: host}]
access: {names: [{deny: {sni: [bad.example]}}, {deny: {to: [10.0.2.3], sni: [".host.example"]}}, {allow: {}}]}
pools: {two: {servers: ["10.0.2.3:443"]}}
`)
	for name, want := range map[string]string{"one.example": "server 1 for 10.0.1.2", "two.example": "server 2 for 10.0.1.2", "one.host.example": "server 1 for 10.0.1.2"} {
		a, err := r.httpsClient("10.0.2.2:443", cert, false).Get("https://" + name + "/")
		r.must(err)
		body, err := io.ReadAll(a.Body)
		a.Body.Close()
		if err != nil || string(body) != want {
			t.Errorf("%s: %q, %v", name, body, err)
		}
	}
	for _, name := range []string{"bad.example", "two.host.example"} { // the second is judged by the host that it leads to, not by the one dialled
		if _, err := r.httpsClient("10.0.2.2:443", cert, false).Get("https://" + name + "/"); err == nil || !strings.Contains(err.Error(), "access denied") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A reload under load loses no request of HTTP/1.1 or HTTP/2, and lets a long response end.
func TestTLSReload(t *testing.T) {
	r := newRig(t, 1)
	front := r.writeCertificate("front", "www.example")
	l, err := r.net.Server().Listen("10.0.2.2:80", lab.ListenOptions{})
	r.must(err)
	released, long := make(chan struct{}), strings.Repeat("x", 1<<20)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/long" {
			fmt.Fprint(w, "ok")
			return
		}
		fmt.Fprint(w, long)
		_ = http.NewResponseController(w).Flush()
		<-released
		fmt.Fprint(w, long)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	s := r.start(`
listeners: {www: {listen: ["10.0.1.1:443"], protocol: http, pool: p, tls: {certificates: [{certificate: front.pem, key: front.key}]}}}
pools: {p: {servers: ["10.0.2.2:80"]}}
`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	get := func(c *http.Client, path string) (int, error) {
		a, err := c.Get("https://www.example" + path)
		if err != nil {
			return 0, err
		}
		defer a.Body.Close()
		body, err := io.ReadAll(a.Body)
		if err == nil && a.StatusCode != 200 {
			err = fmt.Errorf("%s", a.Status)
		}
		return len(body), err
	}
	results := make(chan error, 4)
	for i := range cap(results) {
		go func() {
			c := r.httpsClient("10.0.1.1:443", front, i%2 == 0)
			defer c.CloseIdleConnections()
			for n := 0; ctx.Err() == nil; n++ {
				if _, err := get(c, "/"); err != nil {
					results <- fmt.Errorf("request %d, HTTP/2 %v: %w", n, i%2 == 0, err)
					return
				}
			}
			results <- nil
		}()
	}
	longs := make(chan error, 2)
	for i := range cap(longs) {
		go func() {
			n, err := get(r.httpsClient("10.0.1.1:443", front, i%2 == 0), "/long")
			if err == nil && n != 2*len(long) {
				err = fmt.Errorf("%d bytes", n)
			}
			longs <- err
		}()
	}
	s.await("busy", func(st *admin.Status) bool {
		return st.Listeners[0].Counters.Requests > 100 && st.Listeners[0].Counters.Active >= 6
	})
	for range 3 {
		before := s.await("there", serves).Generation
		if out, code := r.command("reload", "--run-dir", s.dir); code != 0 {
			t.Fatalf("reload: %d %s", code, out)
		}
		s.await("reloaded", func(st *admin.Status) bool { return serves(st) && st.Generation > before })
		time.Sleep(100 * time.Millisecond)
	}
	close(released)
	for range cap(longs) {
		if err := <-longs; err != nil {
			t.Errorf("a long response: %v", err)
		}
	}
	cancel()
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	s.await("drained", func(st *admin.Status) bool { return len(st.Workers) == 1 })
}
