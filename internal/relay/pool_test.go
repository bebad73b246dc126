package relay_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
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
	"salp/internal/dial"
	"salp/internal/engine"
	"salp/internal/lab"
	"salp/internal/listen"
	"salp/internal/pool"
	"salp/internal/proxyproto"
)

// named are servers that say their number to everybody, and end.
func named(t *testing.T, n int) []config.Server {
	t.Helper()
	var servers []config.Server
	for i := range n {
		at := serve(t, "127.0.0.1:0", func(c *net.TCPConn) { fmt.Fprintln(c, i) })
		servers = append(servers, config.Server{Address: netip.MustParseAddrPort(at), Weight: 1})
	}
	return servers
}

// ask makes a connection and returns the number of the server that answered.
func ask(from, to string) (int, error) {
	c, err := tryFrom(from, to)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	text, err := io.ReadAll(c)
	if err != nil {
		return 0, err
	}
	var n int
	_, err = fmt.Sscan(string(text), &n)
	return n, err
}

// spread makes n connections from many addresses, 16 at once, and counts who answered. A client's connections are never two at once.
func (g *gateway) spread(n int, client func(i int) string) map[int]int {
	g.t.Helper()
	var mutex sync.Mutex
	counts := map[int]int{}
	var next atomic.Int64
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				who, err := ask(client(i), g.addr)
				if err != nil {
					g.t.Errorf("connection %d: %v", i, err)
					return
				}
				mutex.Lock()
				counts[who]++
				mutex.Unlock()
			}
		})
	}
	wait.Wait()
	return counts
}

func loopback(i int) string { return fmt.Sprintf("127.1.%d.%d:0", i>>8&255, i&255) }

// Every way of choosing gives 2,000 connections to servers by their weights.
func TestDistribution(t *testing.T) {
	lab.NeedInside(t)
	const n = 2000
	for _, test := range []struct {
		balance config.Balance
		within  float64
	}{{config.BalanceRoundRobin, 0.01}, {config.BalanceLeastConnections, 0.15}, {config.BalanceRandom, 0.15}, {config.BalanceSource, 0.12}} {
		t.Run(string(test.balance), func(t *testing.T) {
			p := config.Pool{Balance: test.balance, Servers: named(t, 3)}
			p.Servers[1].Weight = 2
			g := start(t, gatewayOptions{loops: 2, pool: p})
			counts := g.spread(n, loopback)
			for i, s := range p.Servers {
				want := n * float64(s.Weight) / 4
				if got := float64(counts[i]); math.Abs(got-want) > want*test.within {
					t.Errorf("server %d of weight %d answered %.0f of %d, want %.0f", i, s.Weight, got, n, want)
				}
			}
		})
	}
}

// A server that is taken down moves its own clients alone, no more than 1.2 / n of all.
func TestSourceMovement(t *testing.T) {
	lab.NeedInside(t)
	const n, servers = 2000, 5
	p := config.Pool{Balance: config.BalanceSource, Servers: named(t, servers)}
	g := start(t, gatewayOptions{loops: 2, pool: p})
	before := make([]int, n)
	for i := range before {
		who, err := ask(loopback(i), g.addr)
		if err != nil {
			t.Fatal(err)
		}
		before[i] = who
	}
	var members []pool.Member
	for i := range p.Servers {
		members = append(members, pool.Member{Server: p.Servers[i].String(), Address: p.Servers[i].Address})
	}
	members[2].State = pool.Down
	g.pool.Set(members, time.Now())
	moved := 0
	for i := range before {
		who, err := ask(loopback(i), g.addr)
		if err != nil {
			t.Fatal(err)
		}
		if who == before[i] {
			continue
		}
		if moved++; before[i] != 2 {
			t.Fatalf("client %d moved from server %d, which is up", i, before[i])
		}
	}
	if float64(moved) > 1.2*n/servers || moved < n/servers/2 {
		t.Errorf("%d of %d clients moved", moved, n)
	}
}

// One server of three dies under load and nobody tells: no client notices, because its connections go on to the others.
func TestDeadServerUnderLoad(t *testing.T) {
	p := config.Pool{Retries: 2, Servers: named(t, 2)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, 2)
			c.Close()
		}
	}()
	p.Servers = append(p.Servers, config.Server{Address: ln.Addr().(*net.TCPAddr).AddrPort(), Weight: 1})
	g := start(t, gatewayOptions{loops: 2, pool: p, listener: config.Listener{Timeouts: config.Timeouts{Connect: 5 * time.Second}}})
	time.AfterFunc(100*time.Millisecond, func() { ln.Close() })
	var failed atomic.Int64
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 400 {
				if _, err := ask("127.0.0.1:0", g.addr); err != nil && !isServersOwn(err) {
					failed.Add(1)
					sockets, _ := os.ReadFile("/proc/self/net/tcp")
					t.Logf("%v; %+v; sockets:\n%s", err, g.sum(), sockets)
				}
			}
		})
	}
	wait.Wait()
	sum := g.idle()
	if failed.Load() != 0 || sum.Errors[listen.ConnectRefused] != 0 {
		t.Errorf("%d of 3200 connections failed, counters %+v", failed.Load(), sum)
	}
	if sum.Retries == 0 {
		t.Error("no retries: the server was not dead")
	}
}

// isServersOwn tells the reset of a connection that was in the queue of the dying server's socket: it had been made.
func isServersOwn(err error) bool {
	return errors.Is(err, io.EOF) || strings.Contains(err.Error(), "reset by peer") || strings.Contains(err.Error(), "unexpected newline")
}

// Two connections are the bound: the third waits and gets the first place that is free, the fifth finds the queue full, the fourth waits in vain.
func TestMaxConnections(t *testing.T) {
	server := netip.MustParseAddrPort(serve(t, "127.0.0.1:0", lab.Echo))
	g := start(t, gatewayOptions{loops: 2, pool: config.Pool{
		Queue:   config.Queue{Length: 2, Timeout: 600 * time.Millisecond},
		Servers: []config.Server{{Address: server, Weight: 1, MaxConnections: 2}},
	}})
	first, second := g.dial(), g.dial()
	for _, c := range []net.Conn{first, second} {
		write(t, c, "in")
		expect(t, c, "in")
	}
	third := g.dial()
	write(t, third, "third")
	g.until("the third waits", func(*listen.Counters) bool { return g.pool.Counts().Queued == 1 })
	fourth := g.dial()
	g.until("the fourth waits", func(*listen.Counters) bool { return g.pool.Counts().Queued == 2 })
	g.refused()
	first.Close()
	expect(t, third, "third")
	expectReset(t, fourth)
	sum := g.until("the first has ended", func(c *listen.Counters) bool { return c.Active == 2 })
	if sum.Errors[listen.QueueFull] != 1 || sum.Errors[listen.QueueTimeout] != 1 {
		t.Errorf("counters %+v", sum)
	}
	if got := g.pool.Counts(); got != (pool.Counts{QueueFull: 1, QueueTimeouts: 1}) {
		t.Errorf("counts %+v", got)
	}
	if e := g.pool.Endpoints()[0]; e.Active() != 2 {
		t.Errorf("%d places are taken", e.Active())
	}
}

// A client that gives up while it waits leaves the queue, and its place goes to the next.
func TestQueueAndGone(t *testing.T) {
	server := netip.MustParseAddrPort(serve(t, "127.0.0.1:0", lab.Echo))
	g := start(t, gatewayOptions{loops: 2, pool: config.Pool{
		Queue:   config.Queue{Length: 100, Timeout: 10 * time.Second},
		Servers: []config.Server{{Address: server, Weight: 1, MaxConnections: 1}},
	}})
	first := g.dial()
	write(t, first, "in")
	expect(t, first, "in")
	gone := g.dial()
	g.until("one waits", func(*listen.Counters) bool { return g.pool.Counts().Queued == 1 })
	last := g.dial()
	write(t, last, "last")
	g.until("two wait", func(*listen.Counters) bool { return g.pool.Counts().Queued == 2 })
	lab.Reset(gone)
	g.until("one has left", func(*listen.Counters) bool { return g.pool.Counts().Queued == 1 })
	first.Close()
	expect(t, last, "last")
	last.Close()
	g.idle()
	if e := g.pool.Endpoints()[0]; e.Active() != 0 {
		t.Errorf("%d places are taken at the end", e.Active())
	}
}

// readHeader reads a PROXY header and leaves what follows.
func readHeader(r *bufio.Reader) (proxyproto.Header, error) {
	for n := 1; ; n++ {
		b, err := r.Peek(n)
		if err != nil {
			return proxyproto.Header{}, err
		}
		h, length, err := proxyproto.Parse(b)
		if err == proxyproto.ErrShort {
			continue
		}
		r.Discard(length)
		return h, err
	}
}

// The server is told the client before the first byte, whoever speaks first.
func TestProxyProtocolOut(t *testing.T) {
	for _, version := range []config.ProxyHeader{config.ProxyHeaderV1, config.ProxyHeaderV2} {
		for _, speaksFirst := range []string{"client", "server"} {
			t.Run(string(version)+" "+speaksFirst, func(t *testing.T) {
				headers := make(chan proxyproto.Header, 10)
				server := serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
					r := bufio.NewReader(c)
					h, err := readHeader(r)
					if err != nil {
						t.Errorf("the server read %v", err)
						return
					}
					headers <- h
					if speaksFirst == "server" {
						io.WriteString(c, "220 ")
					}
					io.Copy(c, r)
				})
				g := start(t, gatewayOptions{pool: config.Pool{ProxyProtocol: version, Servers: []config.Server{{Address: netip.MustParseAddrPort(server), Weight: 1}}}})
				c := g.dial()
				if speaksFirst == "server" {
					begin := time.Now()
					expect(t, c, "220 ")
					if took := time.Since(begin); took > 150*time.Millisecond {
						t.Errorf("the server's first bytes came after %v", took)
					}
				}
				write(t, c, "hello")
				expect(t, c, "hello")
				h := <-headers
				if h.Source != lab.Local(c) || h.Destination.String() != g.addr {
					t.Errorf("the server was told %+v of a connection from %s to %s", h, lab.Local(c), g.addr)
				}
			})
		}
	}
}

func believing(from string, required bool) config.Listener {
	return config.Listener{ProxyProtocol: &config.ProxyProtocol{From: []netip.Prefix{netip.MustParsePrefix(from)}, Required: required, Timeout: 400 * time.Millisecond}}
}

func TestProxyProtocolIn(t *testing.T) {
	lab.NeedInside(t)
	told4, to4 := netip.MustParseAddrPort("127.44.0.1:4444"), netip.MustParseAddrPort("127.0.0.1:25")
	v1, v2 := string(proxyproto.Append1(nil, told4, to4)), string(proxyproto.Append2(nil, told4, to4))
	for _, test := range []struct {
		name, from, sends string
		required          bool
		split             bool // one byte a packet
		sees              string
		refused           bool
	}{
		{name: "v1", from: "127.0.0.7:0", sends: v1, required: true, sees: "127.44.0.1"},
		{name: "v2", from: "127.0.0.7:0", sends: v2, required: true, sees: "127.44.0.1"},
		{name: "v2 in pieces", from: "127.0.0.7:0", sends: v2, split: true, sees: "127.44.0.1"},
		{name: "proxy for itself", from: "127.0.0.7:0", sends: string(proxyproto.Append2(nil, netip.AddrPort{}, netip.AddrPort{})), required: true, sees: "127.0.0.7"},
		{name: "no header from a listed one", from: "127.0.0.7:0", sends: "EHLO x\r\n", refused: true},
		{name: "silence from a listed one", from: "127.0.0.7:0", refused: true},
		{name: "half a header", from: "127.0.0.7:0", sends: v1[:10], refused: true},
		{name: "nobody's address", from: "127.0.0.7:0", sends: "PROXY TCP4 0.0.0.0 127.0.0.1 1 2\r\n", refused: true},
		{name: "another one, all must", from: "127.0.0.8:0", sends: v1, required: true, refused: true},
		{name: "another one, a client", from: "127.0.0.8:0", sees: "127.0.0.8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := believing("127.0.0.7/32", test.required)
			l.Source, l.SourcePort = config.SourceClient, config.SourcePortAny
			g := start(t, gatewayOptions{listener: l, servers: []string{serve(t, "127.0.0.9:0", lab.Tell)}})
			c, err := tryFrom(test.from, g.addr)
			if err != nil && !(test.refused && errors.Is(err, syscall.ECONNRESET)) {
				t.Fatal(err)
			}
			if err == nil {
				defer c.Close()
				deadline(t, c, 10*time.Second)
				if test.split {
					for i := range test.sends {
						io.WriteString(c, test.sends[i:i+1])
						time.Sleep(time.Millisecond)
					}
				} else {
					_, err = io.WriteString(c, test.sends)
				}
			}
			if test.refused {
				if !errors.Is(err, syscall.ECONNRESET) { // it came while the client dialled or wrote: a socket tells of it once
					expectReset(t, c)
				}
				if sum := g.idle(); sum.Errors[listen.ProxyHeader] != 1 {
					t.Errorf("counters %+v", sum)
				}
				return
			}
			if saw := told(t, c); saw.Addr().String() != test.sees {
				t.Errorf("the server saw %s, want %s", saw, test.sees)
			}
		})
	}
}

// The limit per client goes by the client that the header tells, not by the proxy that all come from.
func TestLimitOfToldClient(t *testing.T) {
	l := believing("127.0.0.0/8", true)
	l.Limits.PerClient = 1
	g := start(t, gatewayOptions{loops: 2, listener: l, servers: []string{serve(t, "127.0.0.1:0", lab.Echo)}})
	to := netip.MustParseAddrPort("127.0.0.1:25")
	enter := func(client string) *net.TCPConn {
		c := g.dial()
		c.Write(append(proxyproto.Append2(nil, netip.MustParseAddrPort(client), to), "in"...))
		return c
	}
	for _, client := range []string{"10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"} {
		expect(t, enter(client), "in")
	}
	expectReset(t, enter("10.0.0.2:2"))
	if sum := g.sum(); sum.Active != 3 || sum.Errors[listen.LimitClient] != 1 {
		t.Errorf("counters %+v", sum)
	}
}

// So does the rate of new connections per client, and what a proxy says for itself counts for nobody.
func TestRateOfToldClient(t *testing.T) {
	l := believing("127.0.0.0/8", true)
	l.Limits.ClientRate = 2
	g := start(t, gatewayOptions{loops: 2, listener: l, servers: []string{serve(t, "127.0.0.1:0", lab.Echo)}})
	to := netip.MustParseAddrPort("127.0.0.1:25")
	enter := func(client netip.AddrPort) *net.TCPConn {
		c := g.dial()
		c.Write(append(proxyproto.Append2(nil, client, to), "in"...))
		return c
	}
	begin := time.Now()
	one, two := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:1")
	for _, client := range []netip.AddrPort{one, two, {}, one, two, {}, {}, {}} {
		expect(t, enter(client), "in")
	}
	third := enter(one)
	if took := time.Since(begin); took > 400*time.Millisecond {
		t.Skipf("this machine took %v for nine connections: a half second gives another one", took)
	}
	expectReset(t, third)
	if sum := g.sum(); sum.Errors[listen.ClientRate] != 1 {
		t.Errorf("counters %+v", sum)
	}
	g.until("another one may come", func(*listen.Counters) bool {
		c := enter(one)
		c.SetReadDeadline(time.Now().Add(time.Second))
		n, _ := io.ReadFull(c, make([]byte, 2))
		return n == 2
	})
}

// A client in the server's own network: each fall-back does what it says, and is counted.
func TestSameNetwork(t *testing.T) {
	lab.NeedInside(t)
	for _, test := range []struct {
		how     config.SameNetwork
		header  bool
		refused bool
	}{{how: config.SameNetworkProxy}, {how: config.SameNetworkHeader, header: true}, {how: config.SameNetworkRefuse, refused: true}} {
		t.Run(string(test.how), func(t *testing.T) {
			from := make(chan netip.AddrPort, 2)
			header := make(chan proxyproto.Header, 2)
			server := serve(t, "127.9.0.9:0", func(c *net.TCPConn) {
				from <- c.RemoteAddr().(*net.TCPAddr).AddrPort()
				r := bufio.NewReader(c)
				if test.header {
					h, _ := readHeader(r)
					header <- h
				}
				io.Copy(c, r)
			})
			n := &dial.Networks{}
			n.SetOnLink([]netip.Prefix{netip.MustParsePrefix("127.9.0.0/24"), netip.MustParsePrefix("127.8.0.0/24")})
			g := start(t, gatewayOptions{networks: n, listener: config.Listener{Source: config.SourceClient, SourcePort: config.SourcePortAny},
				pool: config.Pool{SameNetwork: test.how, Servers: []config.Server{{Address: netip.MustParseAddrPort(server), Weight: 1}}}})
			if test.refused {
				refusedFrom(t, "127.9.0.5:0", g.addr)
				if sum := g.idle(); sum.Errors[listen.SameNetwork] != 1 {
					t.Errorf("counters %+v", sum)
				}
			} else {
				c := dialFrom(t, "127.9.0.5:0", g.addr)
				write(t, c, "x")
				expect(t, c, "x")
				if saw := <-from; saw.Addr().String() == "127.9.0.5" {
					t.Error("the server saw the client that it would answer directly")
				}
				if test.header {
					if h := <-header; h.Source != lab.Local(c) {
						t.Errorf("the server was told %+v", h)
					}
				}
			}
			if !test.refused {
				other := dialFrom(t, "127.7.0.5:0", g.addr)
				if saw := <-from; saw.Addr().String() != "127.7.0.5" {
					t.Errorf("of a client of another network the server saw %s", saw)
				}
				other.Close()
			}
			var counted uint64
			if err := g.engine.Collect(g.ended, func(l *engine.Loop) { counted = g.pool.Endpoints()[0].Counters(0).SameNetwork }); err != nil {
				t.Fatal(err)
			}
			if counted != 1 {
				t.Errorf("%d are counted", counted)
			}
		})
	}
}

// A stickiness table keeps clients where they were when another worker comes, with servers in another order.
func TestStickOverWorkers(t *testing.T) {
	lab.NeedInside(t)
	servers := named(t, 4)
	p := config.Pool{Stick: &config.Stick{By: config.StickBySource, For: time.Hour, Size: 1000}, Servers: servers}
	words := make([]atomic.Uint64, pool.TableWords(1000))
	g := start(t, gatewayOptions{loops: 2, pool: p, table: pool.OpenTable(words)})
	had := map[int]int{}
	for i := range 200 {
		who, err := ask(loopback(i), g.addr)
		if err != nil {
			t.Fatal(err)
		}
		had[i] = who
	}
	g.close()
	p.Servers = slices.Clone(servers)
	slices.Reverse(p.Servers)
	next := start(t, gatewayOptions{loops: 2, pool: p, table: pool.OpenTable(words)})
	for i := range 200 {
		if who, err := ask(loopback(i), next.addr); err != nil || who != had[i] {
			t.Fatalf("client %d got server %d, %v; it had %d", i, who, err, had[i])
		}
	}
}

// A connect to a dead server of this very host, from the port that was the server's, reaches its own socket: that must count as refused,
// or the client waits for a server that is nobody.
func TestDeadServerIsNotItself(t *testing.T) {
	lab.NeedInside(t)
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			dead := netip.AddrPortFrom(netip.MustParseAddr(host), 20001) // no other socket has such a port
			p := config.Pool{Balance: config.BalanceFirst, Retries: 1, Servers: append([]config.Server{{Address: dead, Weight: 1}}, named(t, 1)...)}
			both := start(t, gatewayOptions{pool: p})
			alone := start(t, gatewayOptions{servers: []string{dead.String()}})
			onlyLocalPort(t, dead.Port())
			if who, err := ask("127.0.0.1:1001", both.addr); err != nil || who != 0 {
				t.Errorf("server %d answered, error %v", who, err)
			}
			if _, err := ask("127.0.0.1:1002", alone.addr); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("error %v, want a reset", err)
			}
			if sum := both.idle(); sum.Retries != 1 {
				t.Errorf("%d retries", sum.Retries)
			}
			if sum := alone.idle(); sum.Errors[listen.ConnectRefused] != 1 {
				t.Errorf("counters %+v", sum)
			}
		})
	}
}

// onlyLocalPort leaves the kernel this port alone to choose from, until the test ends.
func onlyLocalPort(t *testing.T, port uint16) {
	t.Helper()
	const file = "/proc/sys/net/ipv4/ip_local_port_range"
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(file, before, 0) })
	if err := os.WriteFile(file, fmt.Appendf(nil, "%d %d", port, port), 0); err != nil {
		t.Fatal(err)
	}
}
