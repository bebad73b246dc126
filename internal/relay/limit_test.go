package relay_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"salp/internal/config"
	"salp/internal/engine"
	"salp/internal/lab"
	"salp/internal/listen"
)

func TestLimitOfListener(t *testing.T) {
	g := start(t, gatewayOptions{loops: 2, servers: []string{serve(t, "127.0.0.1:0", lab.Echo)}, listener: config.Listener{Limits: config.Limits{Connections: 3}}})
	var first net.Conn
	for range 3 {
		first = g.dial()
		write(t, first, "in")
		expect(t, first, "in")
	}
	g.refused()
	if sum := g.sum(); sum.Active != 3 || sum.Errors[listen.LimitListener] != 1 {
		t.Errorf("counters %+v", sum)
	}
	first.Close()
	g.until("one has left", func(c *listen.Counters) bool { return c.Active == 2 })
	c := g.dial()
	write(t, c, "in")
	expect(t, c, "in")
}

func TestLimitOfClient(t *testing.T) {
	lab.NeedInside(t)
	g := start(t, gatewayOptions{loops: 2, servers: []string{serve(t, "127.0.0.1:0", lab.Echo)}, listener: config.Listener{Limits: config.Limits{PerClient: 2}}})
	enter := func(from string) *net.TCPConn {
		c := dialFrom(t, from, g.addr)
		write(t, c, "in")
		expect(t, c, "in")
		return c
	}
	first := enter("127.0.0.2:44001")
	enter("127.0.0.2:44002")
	refusedFrom(t, "127.0.0.2:44003", g.addr)
	enter("127.0.0.3:44004")
	lab.Reset(first)
	g.until("one has left", func(c *listen.Counters) bool { return c.Active == 2 })
	enter("127.0.0.2:44005")
	if sum := g.sum(); sum.Errors[listen.LimitClient] != 1 {
		t.Errorf("counters %+v", sum)
	}
}

// A pool that names the listener itself, and a client who dials the interception port, would both go round for ever.
func TestLoopGuard(t *testing.T) {
	for name, l := range map[string]config.Listener{
		"server is the listener": {},
		"direct hit":             {Intercept: &config.Intercept{Method: config.MethodTProxy}},
	} {
		t.Run(name, func(t *testing.T) {
			servers := []string{"127.0.0.1:61998"}
			if l.Intercept != nil {
				servers = nil
			}
			g := start(t, gatewayOptions{listen: "127.0.0.1:61998", servers: servers, listener: l})
			g.refused()
			if sum := g.idle(); sum.Accepted != 1 || sum.Errors[listen.Loop] != 1 {
				t.Errorf("counters %+v", sum)
			}
		})
	}
}

// A server whose queue is full drops SYNs.
func TestConnectTimeout(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, _ := syscall.Getsockname(fd)
	server := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*syscall.SockaddrInet4).Port)).String()
	for range 3 {
		if c, err := net.DialTimeout("tcp", server, 50*time.Millisecond); err == nil {
			defer c.Close()
		}
	}
	g := start(t, gatewayOptions{servers: []string{server}, listener: config.Listener{Timeouts: config.Timeouts{Connect: 300 * time.Millisecond, Idle: time.Hour}}})
	begin := time.Now()
	g.refused()
	if took := time.Since(begin); took < 250*time.Millisecond || took > time.Second {
		t.Errorf("reset after %v, want 300 ms", took)
	}
	if sum := g.idle(); sum.Errors[listen.ConnectTimeout] != 1 {
		t.Errorf("counters %+v", sum)
	}
}

// Without descriptors the acceptor pauses instead of spinning, and goes on when there are some.
func TestOutOfDescriptors(t *testing.T) {
	g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", lab.Echo)}})
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	last, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = uint64(last.Fd()) + 8
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	for {
		f, err := os.Open("/dev/null")
		if err != nil {
			break
		}
		defer f.Close()
	}
	last.Close()
	c := g.dial() // takes the last one
	write(t, c, "waiting")
	g.until("accept has failed", func(c *listen.Counters) bool { return c.Errors[listen.Descriptors] > 0 })
	before := turns(t, g)
	time.Sleep(500 * time.Millisecond)
	if turned := turns(t, g) - before; turned > 50 {
		t.Errorf("the loop turned %d times in 500 ms", turned)
	}
	syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	expect(t, c, "waiting")
}

func turns(t *testing.T, g *gateway) (n uint64) {
	t.Helper()
	if err := g.engine.Collect(g.ended, func(l *engine.Loop) { n += l.Turns() }); err != nil {
		t.Fatal(err)
	}
	return n
}
