package httpproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
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
	"salp/internal/htpasswd"
	"salp/internal/httpproxy"
	"salp/internal/lab"
	"salp/internal/listen"
	"salp/internal/policy"
	"salp/internal/pool"
	"salp/internal/relay"
	"salp/internal/resolve"
	"salp/internal/sock"
)

// TestMain runs the tests in a network namespace of their own, where every address of 127.0.0.0/8 is free to use.
func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// rig is a proxy on the loops of an engine, made of a configuration with one listener.
type rig struct {
	t        testing.TB
	engine   *engine.Engine
	listener *listen.Listener
	counters []*listen.Counters
	proxies  []*httpproxy.Proxy
	fds      []int
	addr     string
	original netip.AddrPort // what connections are said to have been going to; invalid: as they were
	ended    chan struct{}
	stop     sync.Once
	log      *logBuffer
}

// options are what a rig has besides its configuration.
type options struct {
	original string
	loops    int
	names    map[string][]string // what the resolver knows
	users    string              // htpasswd
	destroy  dial.Destroy
	upstream func(fd int, host string) (int, *dial.Secure, error)
}

// explicit is a listener with a pool of one server.
func explicit(server, more string) string {
	return fmt.Sprintf("listeners: {test: {listen: ['127.0.0.1:1'], protocol: http, pool: p%s}}\npools: {p: {servers: ['%s']}}\n", more, server)
}

// intercepting is a listener that takes connections in.
func intercepting(more string) string {
	return "listeners: {test: {intercept: {interfaces: [eth9], ports: [80]}, source: proxy, protocol: http" + more + "}}\n"
}

func start(t testing.TB, yaml string, o options) *rig {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	n := cfg.Listeners[0]
	r := &rig{t: t, listener: listen.NewListener(n), ended: make(chan struct{}), log: &logBuffer{}}
	if o.original != "" {
		r.original = netip.MustParseAddrPort(o.original)
		r.listener.Method = listen.Explicit // the test has no nft rules; the address is given below
	}
	if r.engine, err = engine.New(max(o.loops, 1)); err != nil {
		t.Fatal(err)
	}
	if r.fds, err = sock.Listen(netip.MustParseAddrPort("127.0.0.1:0"), 1, sock.ListenOptions{}); err != nil {
		t.Fatal(err)
	}
	addr, _ := sock.Local(r.fds[0])
	r.addr = addr.String()
	r.build(cfg, n, addr, o)
	go func() {
		defer close(r.ended)
		if err := r.engine.Run(); err != nil {
			t.Errorf("engine: %v", err)
		}
	}()
	t.Cleanup(r.close)
	return r
}

func (r *rig) build(cfg *config.Config, n *config.Listener, addr netip.AddrPort, o options) {
	pools := map[string]*pool.Pool{}
	for _, p := range cfg.Pools {
		pools[p.Name] = pool.New(p, len(r.engine.Loops()), nil)
	}
	rules := access.Compile(cfg)
	shared := &httpproxy.Shared{Access: rules.List(n.Access), Routes: rules.Routes(n.Name), Pools: pools, Resolver: names(o.names)}
	shared.Upstream = o.upstream
	if o.users != "" {
		users, err := htpasswd.New()
		if err != nil {
			r.t.Fatal(err)
		}
		if err := users.Load(strings.NewReader(o.users)); err != nil {
			r.t.Fatal(err)
		}
		shared.Users = users
	}
	if cfg.Logs.Access != nil {
		log, err := accesslog.New(cfg.Logs.Access.Format, r.log, slog.Default())
		if err != nil {
			r.t.Fatal(err)
		}
		shared.Log = log
		r.t.Cleanup(log.Close)
	}
	shared.Prepare(n)
	rule := policy.New(cfg, pools, nil)[n.Name]
	own := listen.NewOwn([]netip.AddrPort{addr})
	for _, l := range r.engine.Loops() {
		c := &listen.Counters{}
		d := dial.New(dial.Options{Counters: c, Own: own, Destroy: o.destroy, Connect: n.Timeouts.Connect})
		p := httpproxy.New(httpproxy.Options{Config: n, Listener: r.listener, Counters: c, Rule: rule, Dialer: d,
			Relay: relay.New(n, r.listener, c, rule, d), Loop: &httpproxy.Loop{}, Shared: shared})
		r.counters, r.proxies = append(r.counters, c), append(r.proxies, p)
		l.Post(func() {
			if _, err := listen.Accept(l, r.fds[0], addr, r.listener, c, redirected{r, p}); err != nil {
				panic(err)
			}
		})
	}
}

// redirected tells the proxy another original destination, as tproxy would.
type redirected struct {
	r *rig
	p *httpproxy.Proxy
}

func (s redirected) Serve(l *engine.Loop, fd int, f *listen.Flow) {
	if s.r.original.IsValid() {
		f.Original = s.r.original
	}
	s.p.Serve(l, fd, f)
}

// names is a resolver that knows some.
type names map[string][]string

func (n names) Lookup(_ context.Context, name string) (resolve.Answer, error) {
	a := resolve.Answer{Until: time.Now().Add(time.Minute)}
	for _, s := range n[name] {
		a.Addrs = append(a.Addrs, netip.MustParseAddr(s))
	}
	if a.Addrs == nil {
		return a, resolve.ErrNoSuchName
	}
	return a, nil
}

// logBuffer keeps what the access log writes.
type logBuffer struct {
	sync.Mutex
	bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.Write(p)
}

func (b *logBuffer) Close() error { return nil }

func (b *logBuffer) text() string {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.String()
}

func (r *rig) close() {
	r.stop.Do(func() {
		if err := r.engine.Collect(r.ended, func(l *engine.Loop) {
			l.Each(func(h engine.Handler) {
				if !relay.Abort(l, h) {
					httpproxy.Abort(l, h)
				}
			})
		}); err != nil {
			r.t.Error(err)
		}
		r.engine.Stop()
		<-r.ended
		for _, fd := range r.fds {
			sock.Close(fd)
		}
	})
}

// sum adds up the counters of all loops.
func (r *rig) sum() listen.Counters {
	r.t.Helper()
	var sum listen.Counters
	var mutex sync.Mutex
	if err := r.engine.Collect(r.ended, func(l *engine.Loop) {
		mutex.Lock()
		defer mutex.Unlock()
		sum.Add(r.counters[l.Number()])
	}); err != nil {
		r.t.Fatal(err)
	}
	return sum
}

// until waits until the counters are as wanted.
func (r *rig) until(what string, ok func(*listen.Counters) bool) listen.Counters {
	r.t.Helper()
	var sum listen.Counters
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if sum = r.sum(); ok(&sum) {
			return sum
		}
	}
	r.t.Fatalf("not within 10 s: %s; counters %+v", what, sum)
	return sum
}

func (r *rig) idle() listen.Counters {
	r.t.Helper()
	return r.until("no active connection", func(c *listen.Counters) bool { return c.Active == 0 })
}

// peer is one end of a connection, for tests in raw bytes.
type peer struct {
	t testing.TB
	*net.TCPConn
	*bufio.Reader
}

func newPeer(t testing.TB, c net.Conn) *peer {
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Error(err)
	}
	return &peer{t, c.(*net.TCPConn), bufio.NewReader(c)}
}

func (p *peer) Read(b []byte) (int, error) { return p.Reader.Read(b) }

func (r *rig) dial() *peer {
	r.t.Helper()
	c, err := net.DialTimeout("tcp", r.addr, 5*time.Second)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return newPeer(r.t, c)
}

func (p *peer) send(text string) {
	p.t.Helper()
	if _, err := p.Write([]byte(text)); err != nil {
		p.t.Errorf("send %.60q: %v", text, err)
	}
}

// want reads exactly this.
func (p *peer) want(text string) {
	p.t.Helper()
	b := make([]byte, len(text))
	n, err := io.ReadFull(p, b)
	if string(b[:n]) != text {
		p.t.Errorf("got  %q (%v)\nwant %q", b[:n], err, text)
	}
}

// wantEOF reads a FIN and nothing before it.
func (p *peer) wantEOF() {
	p.t.Helper()
	if b, err := io.ReadAll(p); err != nil || len(b) > 0 {
		p.t.Errorf("got %.200q and %v, want the end", b, err)
	}
}

// wantReset reads until a reset, whatever comes before.
func (p *peer) wantReset() {
	p.t.Helper()
	if b, err := io.ReadAll(p); !errors.Is(err, syscall.ECONNRESET) {
		p.t.Errorf("got %.200q and %v, want a reset", b, err)
	}
}

// head reads up to the empty line.
func (p *peer) head() string {
	var b strings.Builder
	for {
		line, err := p.ReadString('\n')
		b.WriteString(line)
		if err != nil || line == "\r\n" {
			return b.String()
		}
	}
}

// answer reads a response with Go's client code.
func (p *peer) answer() (*http.Response, string) {
	p.t.Helper()
	response, err := http.ReadResponse(p.Reader, nil)
	if err != nil {
		p.t.Errorf("no response: %v", err)
		return &http.Response{}, ""
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Errorf("body: %v", err)
	}
	return response, string(body)
}

// wantStatus reads a response of the proxy's own.
func (p *peer) wantStatus(status int) *http.Response {
	p.t.Helper()
	response, body := p.answer()
	if response.StatusCode != status {
		p.t.Errorf("got %s %.300q, want %d", response.Status, body, status)
	}
	return response
}

// serve runs a server on loopback until the test ends, and says where.
func serve(t testing.TB, handler func(*peer)) string { return serveAt(t, "127.0.0.1:0", handler) }

func serveAt(t testing.TB, addr string, handler func(*peer)) string {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { ln.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				handler(newPeer(t, c))
			})
		}
	})
	return ln.Addr().String()
}
