package relay_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"salp/internal/config"
	"salp/internal/dial"
	"salp/internal/engine"
	"salp/internal/lab"
	"salp/internal/listen"
	"salp/internal/policy"
	"salp/internal/pool"
	"salp/internal/relay"
	"salp/internal/sock"
)

// TestMain runs the tests in a network namespace of their own, where every address of 127.0.0.0/8 is free to use: the engine's
// threads are the process's, so the whole process must be inside.
func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// gateway is an engine with relays on it, listening on one address.
type gateway struct {
	t        testing.TB
	engine   *engine.Engine
	pool     *pool.Pool
	listener *listen.Listener
	counters []*listen.Counters
	fds      []int
	addr     string
	ended    chan struct{}
	stop     sync.Once
}

type gatewayOptions struct {
	listener config.Listener // Timeouts, Limits, Source, SourcePort, Keepalive
	servers  []string        // none: connections go to their original destination
	loops    int
	listen   string // default 127.0.0.1:0
	destroy  dial.Destroy
	pool     config.Pool // but its servers, unless it has some
	table    *pool.Table
	networks *dial.Networks
}

func start(t testing.TB, o gatewayOptions) *gateway {
	t.Helper()
	if o.listen == "" {
		o.listen = "127.0.0.1:0"
	}
	cfg := &config.Config{Kernel: config.Kernel{Marks: 0xf0000000}}
	n := o.listener
	n.Name = "test"
	if len(o.servers)+len(o.pool.Servers) > 0 {
		n.Pool = "pool"
	}
	if n.Source == "" {
		n.Source = config.SourceProxy
	}
	servers := &o.pool
	servers.Name = "pool"
	for _, s := range o.servers {
		servers.Servers = append(servers.Servers, config.Server{Address: netip.MustParseAddrPort(s)})
	}
	cfg.Listeners, cfg.Pools = []*config.Listener{&n}, []*config.Pool{servers}

	g := &gateway{t: t, listener: listen.NewListener(&n), ended: make(chan struct{})}
	var err error
	if g.engine, err = engine.New(max(o.loops, 1)); err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(o.listen)
	if g.fds, err = sock.Listen(addr, len(g.engine.Loops()), sock.ListenOptions{}); err != nil {
		t.Fatal(err)
	}
	if addr, _ = sock.Local(g.fds[0]); addr.Port() != netip.MustParseAddrPort(o.listen).Port() && len(g.fds) > 1 {
		g.listenAgain(addr)
	}
	g.addr = addr.String()
	own := listen.NewOwn([]netip.AddrPort{addr})
	g.pool = pool.New(servers, len(g.engine.Loops()), o.table)
	rule := policy.New(cfg, map[string]*pool.Pool{"pool": g.pool}, nil)["test"]
	for i, l := range g.engine.Loops() {
		c := &listen.Counters{}
		g.counters = append(g.counters, c)
		r := relay.New(&n, g.listener, c, rule, dial.New(dial.Options{Counters: c, Own: own, Networks: o.networks, Destroy: o.destroy, Connect: n.Timeouts.Connect}))
		l.Post(func() {
			if _, err := listen.Accept(l, g.fds[i], addr, g.listener, c, r); err != nil {
				panic(err)
			}
		})
	}
	go func() {
		defer close(g.ended)
		if err := g.engine.Run(); err != nil {
			t.Errorf("engine: %v", err)
		}
	}()
	t.Cleanup(g.close)
	return g
}

// listenAgain makes a whole group on the port that the kernel chose for its first socket.
func (g *gateway) listenAgain(addr netip.AddrPort) {
	for _, fd := range g.fds[1:] {
		sock.Close(fd)
	}
	more, err := sock.Listen(addr, len(g.fds)-1, sock.ListenOptions{})
	if err != nil {
		g.t.Fatal(err)
	}
	g.fds = append(g.fds[:1], more...)
}

func (g *gateway) close() {
	g.stop.Do(func() {
		if err := g.engine.Collect(g.ended, func(l *engine.Loop) {
			l.Each(func(h engine.Handler) { _ = relay.Abort(l, h) || listen.Abort(l, h) })
		}); err != nil {
			g.t.Error(err)
		}
		g.engine.Stop()
		<-g.ended
		for _, fd := range g.fds {
			sock.Close(fd)
		}
	})
}

// sum adds up the counters of all loops.
func (g *gateway) sum() listen.Counters {
	g.t.Helper()
	var sum listen.Counters
	var mutex sync.Mutex
	if err := g.engine.Collect(g.ended, func(l *engine.Loop) {
		mutex.Lock()
		defer mutex.Unlock()
		sum.Add(g.counters[l.Number()])
	}); err != nil {
		g.t.Fatal(err)
	}
	return sum
}

// until waits until the counters are as wanted.
func (g *gateway) until(what string, ok func(*listen.Counters) bool) listen.Counters {
	g.t.Helper()
	var sum listen.Counters
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if sum = g.sum(); ok(&sum) {
			return sum
		}
	}
	g.t.Fatalf("not within 10 s: %s; counters %+v", what, sum)
	return sum
}

// idle waits until no connection is left.
func (g *gateway) idle() listen.Counters {
	g.t.Helper()
	return g.until("no active connection", func(c *listen.Counters) bool { return c.Active == 0 })
}

func (g *gateway) dial() *net.TCPConn {
	g.t.Helper()
	c, err := net.DialTimeout("tcp", g.addr, 5*time.Second)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	deadline(g.t, c, time.Minute)
	return c.(*net.TCPConn)
}

// refused dials and expects a reset, which may come before the dial returns.
func (g *gateway) refused() {
	g.t.Helper()
	c, err := net.DialTimeout("tcp", g.addr, 5*time.Second)
	if err == nil {
		defer c.Close()
		deadline(g.t, c, time.Minute)
		_, err = io.Copy(io.Discard, c)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		g.t.Fatalf("dialled or read until %v, want a reset", err)
	}
}

func deadline(t testing.TB, c net.Conn, d time.Duration) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(d)); err != nil {
		t.Fatal(err)
	}
}

// serve runs a server on loopback until the test ends.
func serve(t testing.TB, addr string, handler func(*net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		wait.Wait()
	})
	wait.Go(func() {
		for {
			c, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(time.Millisecond) // out of descriptors: a test makes it so
				continue
			}
			wait.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(time.Minute))
				handler(c.(*net.TCPConn))
			})
		}
	})
	return ln.Addr().String()
}

func write(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func expect(t testing.TB, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q and then %v, want %q", got[:n], err, want)
	}
}

func expectEnd(t testing.TB, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("read %d bytes and %v, want the end", n, err)
	}
}

func expectReset(t testing.TB, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read until %v, want a reset", err)
	}
}
