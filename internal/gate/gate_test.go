package gate_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"salp/internal/access"
	"salp/internal/accesslog"
	"salp/internal/config"
	"salp/internal/dial"
	"salp/internal/engine"
	"salp/internal/gate"
	"salp/internal/listen"
	"salp/internal/policy"
	"salp/internal/pool"
	"salp/internal/relay"
	"salp/internal/resolve"
	"salp/internal/sock"
)

// logFile collects the access log.
type logFile struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (f *logFile) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.Write(b)
}

func (f *logFile) Close() error { return nil }

func (f *logFile) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.String()
}

// rig is a gate on a loop of its own, behind a listening socket on loopback.
type rig struct {
	t        *testing.T
	address  string
	counters *listen.Counters
	log      *logFile
	lines    *accesslog.Log
	engine   *engine.Engine
}

// newRig makes a gate for the listener "in" of a configuration, in which %s stands for its address.
func newRig(t *testing.T, text string, arguments ...any) *rig {
	t.Helper()
	address := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(t))
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 here.example\n192.0.2.1 there.example\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse("test", fmt.Appendf(nil, text, append([]any{address}, arguments...)...))
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(1)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, address: address.String(), counters: &listen.Counters{}, log: &logFile{}, engine: e}
	if r.lines, err = accesslog.New("%Ss %rm %ru %ssl::>sni %salp::rule %err_code %<a:%<p %>st %<st %salp::pool", r.log, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	fds, err := sock.Listen(address, 1, sock.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pools := map[string]*pool.Pool{}
	for _, p := range cfg.Pools {
		pools[p.Name] = pool.New(p, 1, nil)
	}
	c := cfg.Listener("in")
	n := listen.NewListener(c)
	rule := policy.New(cfg, pools, nil)["in"]
	rules := access.Compile(cfg)
	d := dial.New(dial.Options{Counters: r.counters, Own: listen.NewOwn(nil), Networks: &dial.Networks{}, Connect: 5 * time.Second})
	g := gate.New(gate.Options{Config: c, Listener: n, Counters: r.counters, Relay: relay.New(c, n, r.counters, rule, d), Rule: rule, Pools: pools,
		Access: rules.List(c.Access), Routes: rules.Routes("in"), Log: r.lines, Resolver: resolve.New(resolve.Options{Hosts: hosts, Timeout: 50 * time.Millisecond}),
		Cause: func(k listen.Kind) string { return fmt.Sprint("kind", k) }})
	e.Loops()[0].Post(func() {
		if _, err := listen.Accept(e.Loops()[0], fds[0], address, n, r.counters, g); err != nil {
			t.Error(err)
		}
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := e.Run(); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		e.Stop()
		<-ended
		sock.Close(fds[0])
	})
	return r
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

// logged waits for a line of the access log and returns all there are.
func (r *rig) logged(part string) {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); !strings.Contains(r.log.String(), part); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("the log has no %q:\n%s", part, r.log.String())
		}
	}
}

// tlsServer answers every connection with its name, over TLS.
func tlsServer(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"x"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go serve(l, func(c net.Conn) { fmt.Fprintln(c, name) })
	return l.Addr().String()
}

func serve(l net.Listener, with func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			with(c)
		}()
	}
}

// ask makes a TLS connection for a name and returns what the server says.
func (r *rig) ask(name string, slowly bool, protocols ...string) (string, error) {
	r.t.Helper()
	conn, err := net.DialTimeout("tcp", r.address, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if slowly {
		conn = &dribble{Conn: conn}
	}
	c := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: protocols})
	all, err := io.ReadAll(c) // to the end: who closes with something unread resets the connection
	return strings.TrimSpace(string(all)), err
}

// dribble sends its first bytes one by one.
type dribble struct {
	net.Conn
	sent int
}

func (d *dribble) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := d.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
		if d.sent++; d.sent < 300 {
			time.Sleep(time.Millisecond)
		}
	}
	return len(b), nil
}

func TestTLSRoutes(t *testing.T) {
	one, two := tlsServer(t, "one"), tlsServer(t, "two")
	r := newRig(t, `
listeners:
  in:
    listen: ["%s"]
    protocol: tls
    access: names
    routes:
      - {sni: [".one.example"], pool: one}
      - {sni: [".two.example"], pool: two}
      - {sni: [".example"], destination: host}
access: {names: [{deny: {sni: [bad.one.example]}}, {allow: {sni: [".example"]}}]}
pools: {one: {servers: ["%s"]}, two: {servers: ["%s"]}}
`, one, two)
	for name, want := range map[string]string{"one.example": "one", "www.two.example": "two"} {
		if got, err := r.ask(name, false); got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if got, err := r.ask(name, true); got != want {
			t.Errorf("%s byte by byte: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"bad.one.example", "other.org"} {
		if _, err := r.ask(name, false); err == nil || !strings.Contains(err.Error(), "access denied") {
			t.Errorf("%s: %v, want the alert access_denied", name, err)
		}
	}
	if _, err := r.ask("nowhere.example", false); err == nil {
		t.Error("a name without an address got somewhere")
	}
	r.logged("TCP_DENIED NONE bad.one.example:")
	r.logged("bad.one.example names[0] denied -:0 ")
	r.logged("other.org names denied")
	r.logged("TCP_TUNNEL NONE one.example:")
	r.logged("one.example names[1] - " + one)
	r.logged("nowhere.example names[1] name")
}

// What a client offers to speak decides about it, whatever name it asks for.
func TestTLSProtocols(t *testing.T) {
	mail, web := tlsServer(t, "mail"), tlsServer(t, "web")
	r := newRig(t, `
listeners:
  in:
    listen: ["%s"]
    protocol: tls
    access: protocols
    routes: [{alpn: [imap, pop3], pool: mail}, {not_alpn: [imap], pool: web}]
access: {protocols: [{deny: {alpn: [bad]}}, {allow: {}}]}
pools: {mail: {servers: ["%s"]}, web: {servers: ["%s"]}}
`, mail, web)
	for _, c := range []struct {
		want      string
		protocols []string
	}{{"mail", []string{"x", "imap"}}, {"mail", []string{"pop3"}}, {"web", []string{"h2", "http/1.1"}}, {"web", nil}} {
		if got, err := r.ask("one.example", len(c.protocols) > 1, c.protocols...); got != c.want {
			t.Errorf("%q: %q, %v, want %q", c.protocols, got, err, c.want)
		}
	}
	if _, err := r.ask("one.example", false, "imap", "bad"); err == nil || !strings.Contains(err.Error(), "access denied") {
		t.Errorf("%v, want the alert access_denied", err)
	}
}

// What does not begin as TLS goes to the pool as it is, and a server that speaks first is heard.
func TestNotTLS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serve(l, func(c net.Conn) {
		fmt.Fprintln(c, "220 hello")
		_, _ = io.Copy(c, c)
	})
	const text = `
listeners: {in: {listen: ["%s"], protocol: tls, pool: p, not_http: %s}}
pools: {p: {servers: ["%s"]}}
`
	talk := func(r *rig, say string) (string, error) {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		fmt.Fprint(conn, say)
		if say == "" {
			defer func(begin time.Time) {
				if d := time.Since(begin); d < time.Second {
					t.Errorf("decided about silence after %v", d)
				}
			}(time.Now())
		}
		in := bufio.NewReader(conn)
		hello, err := in.ReadString('\n')
		if say != "" && err == nil {
			echo, err := in.ReadString('\n')
			return hello + echo, err
		}
		return hello, err
	}
	r := newRig(t, text, "tunnel", l.Addr())
	if got, err := talk(r, "SSH-2.0-x\n"); got != "220 hello\nSSH-2.0-x\n" {
		t.Errorf("tunnel: %q, %v", got, err)
	}
	if got, err := talk(r, ""); got != "220 hello\n" {
		t.Errorf("silence: %q, %v", got, err)
	}
	r = newRig(t, text, "close", l.Addr())
	if got, err := talk(r, "SSH-2.0-x\n"); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("close: %q, %v", got, err)
	}
	r.logged("TCP_DENIED NONE " + r.address + " - - not_tls")
}

func TestTCPAccess(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serve(l, func(c net.Conn) { _, _ = io.Copy(c, c) })
	const text = `
listeners: {in: {listen: ["%s"], pool: p, access: a}}
pools: {p: {servers: ["%s"]}}
access: {a: [{%s: {from: [127.0.0.0/8], not_host: [a]}}]}
`
	for _, verb := range []string{"allow", "deny"} {
		r := newRig(t, text, l.Addr(), verb)
		got, err := hello(r.address) // who is denied may be reset before the dial returns
		if (err == nil) != (verb == "allow") {
			t.Errorf("%s: %q, %v", verb, got, err)
		}
		if verb == "allow" {
			r.logged("TCP_TUNNEL NONE " + r.address + " - a[0] - " + l.Addr().String() + " 6 6 p")
		} else {
			r.logged("TCP_DENIED NONE " + r.address + " - a[0] denied")
		}
	}
}

// hello says hello and returns the echo.
func hello(address string) (string, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintln(conn, "hello")
	return bufio.NewReader(conn).ReadString('\n')
}
