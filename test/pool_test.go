package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
	"salp/internal/proxyproto"
)

// mailGreets greets as a mail server does, and says whom it sees.
func mailGreets(c *net.TCPConn) {
	fmt.Fprintf(c, "220 %s\r\n", lab.Remote(c))
	io.Copy(io.Discard, c)
}

// sessionSees reads the address that a mail server says it sees.
func sessionSees(c net.Conn) (netip.AddrPort, error) {
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(strings.TrimSpace(strings.TrimPrefix(line, "220 ")))
}

func poolServers(st *admin.Status) []admin.PoolServer {
	if len(st.Pools) == 0 {
		return nil
	}
	return st.Pools[0].Servers
}

// TestMailExample runs examples/mail.yaml as it is: each server sees each sender's own address, the one with weight 2 has twice as many
// sessions, and a server that dies is noticed by no new one.
func TestMailExample(t *testing.T) {
	text, err := os.ReadFile("../examples/mail.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, 2)
	var servers []*lab.Server
	for _, host := range r.net.Servers {
		server, err := host.Serve("[::]:25", mailGreets)
		r.must(err)
		servers = append(servers, server)
	}
	before := r.look()
	s := r.start(string(text))
	var open []net.Conn
	session := func() {
		t.Helper()
		c := r.dial("10.0.1.1:25")
		open = append(open, c)
		saw, err := sessionSees(c)
		r.must(err)
		if saw.Addr() != lab.Local(c).Addr() {
			t.Fatalf("the server saw %s, the client is %s", saw, lab.Local(c))
		}
	}
	for range 30 {
		session()
	}
	st := s.await("counting all sessions", func(st *admin.Status) bool {
		var active uint64
		for _, server := range poolServers(st) {
			active += server.Active
		}
		return active >= 30
	})
	if a, b := poolServers(st)[0].Active, poolServers(st)[1].Active; a < 19 || a > 21 || a+b != 30 {
		t.Errorf("the servers have %d and %d sessions, want 20 and 10", a, b)
	}
	servers[0].Close()
	for range 10 {
		session()
	}
	out, code := r.command("status", "--run-dir", s.dir)
	if code != 0 || !strings.Contains(out, "10.0.2.3:25") || !strings.Contains(out, "mail, least-connections") {
		t.Errorf("salp status: exit %d:\n%s", code, out)
	}
	for _, c := range open {
		c.Close()
	}
	s.stop()
	r.wantAsBefore(before)
}

// TestStickOutlivesWorkers has clients with addresses of their own come back to the server that they had: after a reload, after one with
// another size of the table, and after a worker was killed.
func TestStickOutlivesWorkers(t *testing.T) {
	r := newRig(t, 3)
	for i, host := range r.net.Servers {
		_, err := host.Serve("[::]:80", lab.Banner(fmt.Sprintf("server%d\n", i+1)))
		r.must(err)
	}
	config := func(size int) string {
		return fmt.Sprintf(`listeners: {web: {listen: ["10.0.1.1:8000"], pool: web}}
pools:
  web:
    stick: {for: 10m, size: %d}
    servers: ["10.0.2.2:80", "10.0.2.3:80", "10.0.2.4:80"]
`, size)
	}
	const clients = 20
	for i := range clients {
		r.must(r.net.Client().Addr("e0", fmt.Sprintf("10.0.1.%d/24", 50+i)))
	}
	who := func(i int) string {
		t.Helper()
		c := r.dialFrom(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(50 + i)}), 0), "10.0.1.1:8000")
		defer c.Close()
		line, err := bufio.NewReader(c).ReadString('\n')
		r.must(err)
		return line
	}
	s := r.start(config(1000))
	had := map[int]string{}
	seen := map[string]bool{}
	for i := range clients {
		had[i] = who(i)
		seen[had[i]] = true
	}
	if len(seen) != 3 {
		t.Errorf("the clients are on %d servers, want 3", len(seen))
	}
	again := func(after string) {
		t.Helper()
		for i := clients - 1; i >= 0; i-- {
			if now := who(i); now != had[i] {
				t.Fatalf("after %s client %d is on %q, it was on %q", after, i, now, had[i])
			}
		}
	}
	again("nothing")
	for i, size := range []int{1000, 5000, 64 * clients} {
		r.writeConfig(config(size))
		r.must(s.Signal(syscall.SIGHUP))
		s.await("reloaded", func(st *admin.Status) bool { return st.Generation == uint64(i+2) && st.Alive })
		again(fmt.Sprintf("a reload to size %d", size))
	}
	old := s.worker()
	r.kill(old, syscall.SIGKILL)
	s.await("served by another worker", func(st *admin.Status) bool {
		for _, w := range st.Workers {
			if w.PID != old && w.State == admin.WorkerRunning {
				return st.Alive
			}
		}
		return false
	})
	again("a crash")
	r.must(s.Signal(syscall.SIGUSR2))
	s.await("upgraded", func(st *admin.Status) bool { return st.Upgrade != nil && st.Generation == 5 && st.Alive })
	again("an upgrade")
	s.stop()
}

// TestServersOwnNetwork has a client in the network of the server, which would answer it past the gateway: each fall-back by IPv4 and IPv6,
// told by status; clients of other networks are seen as they are.
func TestServersOwnNetwork(t *testing.T) {
	for _, how := range []string{"proxy", "proxy-protocol", "refuse"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t, 2)
			_, err := r.net.Servers[0].Serve("[::]:80", func(c *net.TCPConn) {
				reader := bufio.NewReader(c)
				first, err := reader.Peek(1)
				if err == nil && (first[0] == 'P' || first[0] == '\r') {
					for n := 1; ; n++ {
						b, err := reader.Peek(n)
						if err != nil {
							return
						}
						if h, _, err := proxyproto.Parse(b); err == nil {
							fmt.Fprintf(c, "%s told %s\n", lab.Remote(c).Addr(), h.Source.Addr())
							return
						}
					}
				}
				fmt.Fprintf(c, "%s\n", lab.Remote(c).Addr())
			})
			r.must(err)
			s := r.start(fmt.Sprintf(`listeners: {web: {listen: ["0.0.0.0:8000", "[::]:8000"], source: client, pool: web}}
pools: {web: {same_network: %s, servers: ["10.0.2.2:80", "[fd00:2::2]:80"]}}
`, how))
			ask := func(host *lab.Host, to string) (string, error) {
				c, err := host.DialWith(to, lab.DialOptions{Timeout: patience})
				if err != nil {
					return "", err
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				io.WriteString(c, "x")
				line, err := bufio.NewReader(c).ReadString('\n')
				return strings.TrimSpace(line), err
			}
			for _, family := range []struct{ gateway, farGateway, near, far string }{
				{"10.0.2.1", "10.0.1.1", "10.0.2.3", "10.0.1.2"}, {"fd00:2::1", "fd00:1::1", "fd00:2::3", "fd00:1::2"},
			} {
				if saw, err := ask(r.net.Client(), at(family.farGateway, 8000)); err != nil || saw != family.far {
					t.Errorf("of a client elsewhere the server saw %q, %v; want %s", saw, err, family.far)
				}
				saw, err := ask(r.net.Servers[1], at(family.gateway, 8000))
				want := map[string]string{"proxy": family.gateway, "proxy-protocol": family.gateway + " told " + family.near, "refuse": ""}[how]
				if saw != want || (err != nil) != (how == "refuse") {
					t.Errorf("of a client in its own network the server saw %q, %v; want %q", saw, err, want)
				}
			}
			s.await("telling it", func(st *admin.Status) bool {
				n := 0
				for _, server := range poolServers(st) {
					if server.SameNetwork == 1 && server.Fallback == how {
						n++
					}
				}
				return n == 2
			})
			out, _ := r.command("status", "--run-dir", s.dir)
			if !strings.Contains(out, "past Salp; same_network is "+how) {
				t.Errorf("salp status does not tell it:\n%s", out)
			}
			s.stop()
		})
	}
}

// TestNetworkByRouteAlone has a client and a server in a network that the gateway has a route to and no address in: that is known before anything is tried.
func TestNetworkByRouteAlone(t *testing.T) {
	r := newRig(t, 2)
	r.must(r.net.Servers[0].Addr("e0", "10.9.0.2/24", "fd00:9::2/64"))
	r.must(r.net.Servers[1].Addr("e0", "10.9.0.3/24", "fd00:9::3/64"))
	r.gw("ip", "route", "add", "10.9.0.0/24", "dev", "g1")
	r.gw("ip", "route", "add", "fd00:9::/64", "dev", "g1")
	_, err := r.net.Servers[0].Serve("[::]:80", lab.Tell)
	r.must(err)
	s := r.start(`listeners: {web: {listen: ["10.0.2.1:8000", "[fd00:2::1]:8000"], source: client, pool: web}}
pools: {web: {servers: ["10.9.0.2:80", "[fd00:9::2]:80"]}}
`)
	for from, family := range map[string]struct{ to, sees string }{"10.9.0.3": {"10.0.2.1:8000", "10.0.2.1"}, "fd00:9::3": {"[fd00:2::1]:8000", "fd00:2::1"}} {
		begin := time.Now()
		c, err := r.net.Servers[1].DialWith(family.to, lab.DialOptions{From: netip.AddrPortFrom(netip.MustParseAddr(from), 0), Timeout: patience})
		r.must(err)
		r.must(c.SetDeadline(time.Now().Add(patience)))
		line, err := bufio.NewReader(c).ReadString('\n')
		r.must(err)
		c.Close()
		saw, err := lab.ParseTold(line)
		if took := time.Since(begin); err != nil || saw.From.Addr().String() != family.sees || took > time.Second*slowdown {
			t.Errorf("of client %s the server saw %s after %v, %v; want %s at once", from, saw.From, took, err, family.sees)
		}
	}
	s.await("telling it", func(st *admin.Status) bool {
		return poolServers(st)[0].SameNetwork == 1 && poolServers(st)[1].SameNetwork == 1
	})
	s.stop()
}

// TestAnswersElsewhere has a server whose answers to the clients do not come by the gateway, though no address tells: the first connection
// finds out, the next ones know.
func TestAnswersElsewhere(t *testing.T) {
	r := newRig(t, 1)
	r.serve(80, lab.Tell)
	r.must(r.net.Server().Do(func() error {
		_, err := r.net.Server().Run(t.Context(), "ip", "route", "add", "blackhole", "10.0.1.0/24")
		return err
	}))
	s := r.start(`listeners: {web: {listen: ["10.0.1.1:8000"], source: client, pool: web, timeouts: {connect: 4s}}}
pools: {web: {servers: ["10.0.2.2:80"]}}
`)
	begin := time.Now()
	one, seen := r.tell("10.0.1.1:8000")
	if seen.From.Addr().String() != "10.0.2.1" {
		t.Errorf("the server saw %s", seen.From)
	}
	first := time.Since(begin)
	begin = time.Now()
	two, seen := r.tell("10.0.1.1:8000")
	if seen.From.Addr().String() != "10.0.2.1" {
		t.Errorf("the second time the server saw %s", seen.From)
	}
	if second := time.Since(begin); first < time.Second || second > time.Second {
		t.Errorf("the first connection took %v, the second %v", first, second)
	}
	s.await("telling it", func(st *admin.Status) bool { return len(poolServers(st)) == 1 && poolServers(st)[0].SameNetwork == 2 })
	if !strings.Contains(s.log.String(), "does not answer clients through this machine") {
		t.Error("the log does not tell it")
	}
	one.conn.Close()
	two.conn.Close()
	s.stop()
}
