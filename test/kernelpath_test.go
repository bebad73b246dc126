package test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/lab"
)

// kernelRig is a network whose gateway sends connections to servers by the kernel path. Each server answers with its number.
type kernelRig struct {
	*rig
	servers []*lab.Server
}

func newKernelRig(t *testing.T, servers int) *kernelRig {
	t.Helper()
	r := &kernelRig{rig: newRig(t, servers)}
	for i, h := range r.net.Servers {
		s, err := h.Serve(fmt.Sprintf("[::]:%d", 25), lab.Banner(fmt.Sprintf("%d\n", i+1)))
		r.must(err)
		t.Cleanup(s.Close)
		r.servers = append(r.servers, s)
	}
	// The client is many: every address of two networks is its own.
	for _, line := range []string{"ip route add local 10.50.0.0/16 dev lo", "ip route add local fd00:50::/64 dev lo", "sysctl -qw net.ipv6.ip_nonlocal_bind=1"} {
		words := strings.Fields(line)
		_, err := r.net.Client().Run(context.Background(), words[0], words[1:]...)
		r.must(err)
	}
	r.gw("ip", "route", "add", "10.50.0.0/16", "via", "10.0.1.2")
	r.gw("ip", "route", "add", "fd00:50::/64", "via", "fd00:1::2")
	return r
}

func manyV4(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 50, byte(i >> 8), byte(i)}) }

func manyV6(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x50, 14: byte(i>>8) + 1, 15: byte(i)})
}

// ask makes n exchanges and returns who answered each and how often each did.
func (r *kernelRig) ask(network, to string, n int, from func(int) netip.Addr) ([]string, map[string]int) {
	r.Helper()
	answers, err := r.net.Client().Ask(network, to, n, from)
	r.must(err)
	counts := map[string]int{}
	for _, a := range answers {
		counts[a]++
	}
	return answers, counts
}

// within wants a count near a share of all.
func (r *kernelRig) within(what string, counts map[string]int, server string, want, most float64) {
	r.Helper()
	all := 0
	for _, n := range counts {
		all += n
	}
	if share := float64(counts[server]) / float64(all); share < want-most || share > want+most {
		r.Errorf("%s: server %s has %.3f of the connections, want %.3f: %v", what, server, share, want, counts)
	}
}

const kernelMail = `listeners:
  smtp:
    listen: ["10.0.1.1:25", "[fd00:1::1]:25"]
    via: kernel
    source: client
    on_down: reset
    pool: mail
pools:
  mail:
    balance: source
    servers: ["10.0.2.2:25", "10.0.2.3:25", "10.0.2.4:25", "[fd00:2::2]:25", "[fd00:2::3]:25", "[fd00:2::4]:25"]
    check: {every: 1s, timeout: 500ms, rise: 1, fall: 2}
`

// moved returns which share of the clients has another server than before.
func moved(before, after []string) float64 {
	n := 0
	for i := range before {
		if before[i] != after[i] {
			n++
		}
	}
	return float64(n) / float64(len(before))
}

// By the client's address: evenly spread, the server sees the client, a server that is drained loses its clients and no other moves, and
// what the kernel counts is shown. No process carries anything, and killed or not makes no difference.
func TestKernelPathSource(t *testing.T) {
	r := newKernelRig(t, 3)
	s := r.start(kernelMail)
	if st, err := s.status(); err != nil || len(st.Workers) > 0 {
		t.Errorf("there are workers: %+v, %v", st.Workers, err)
	}
	const n = 2400
	before, counts := r.ask("tcp", "10.0.1.1:25", n, manyV4)
	for i := range 3 {
		r.within("source", counts, fmt.Sprint(i+1), 1.0/3, 0.05)
	}
	if p, ok := r.servers[0].Last(); !ok || !netip.MustParsePrefix("10.50.0.0/16").Contains(p.From.Addr()) {
		t.Errorf("the server saw %v", p.From)
	}
	again, _ := r.ask("tcp", "10.0.1.1:25", 200, manyV4)
	if moved(before[:200], again) > 0 {
		t.Error("clients have other servers the second time")
	}
	if _, counts := r.ask("tcp", "[fd00:1::1]:25", 600, manyV6); len(counts) != 3 {
		t.Errorf("IPv6: %v", counts)
	}
	st, err := s.status()
	r.must(err)
	var connections, bytes uint64
	for _, server := range st.Pools[0].Servers {
		connections += server.Connections
		bytes += server.BytesOut
	}
	if st.Pools[0].Via != "kernel" || connections < n+800 || sum(st, accepted) != connections || bytes < 2*n {
		t.Errorf("status: %+v, %d connections, %d bytes", st.Pools[0], connections, bytes)
	}

	if _, err := r.net.Server().Ask("tcp", "10.0.1.1:25", 60, nil); err != nil { // to itself and to its neighbours
		t.Error(err)
	}

	if out, code := r.command("pool", "10.0.2.3:25", "drain", "--run-dir", s.dir); code != 0 {
		t.Fatalf("drain: %s", out)
	}
	after, counts := r.ask("tcp", "10.0.1.1:25", n, manyV4)
	if share := moved(before, after); counts["2"] > 0 || share > 1.2/3 {
		t.Errorf("after a drain %.3f of the clients moved, %v", share, counts)
	}
	for i := range before {
		if before[i] != after[i] && before[i] != "2" {
			t.Fatalf("client %d moved from server %s, which is up", i, before[i])
		}
	}

	if out, code := r.command("plan", "-c", s.file, "--run-dir", s.dir); code != 0 || !strings.Contains(out, "this machine is as planned") {
		t.Errorf("plan does not know that a server is drained: %s", out[max(0, len(out)-1000):])
	}

	r.kill(s.Pid(), syscall.SIGKILL)
	<-s.Done()
	still, _ := r.ask("tcp", "10.0.1.1:25", 300, manyV4)
	if moved(after[:300], still) > 0 {
		t.Error("clients have other servers when the keeper is dead")
	}
	s.down()
	if list := r.gw("nft", "list", "ruleset"); list != "" {
		t.Errorf("left: %s", list)
	}
}

// A server that fails has no new connections within the time of its checks, its connections are reset where that is wanted, and those of
// others go on.
func TestKernelPathServerFails(t *testing.T) {
	r := newKernelRig(t, 2)
	held := map[string]*conversation{}
	for i, h := range r.net.Servers {
		server, err := h.Serve(fmt.Sprintf("10.0.2.%d:26", i+2), lab.Tell)
		r.must(err)
		t.Cleanup(server.Close)
	}
	s := r.start(`listeners:
  smtp: {listen: ["10.0.1.1:26"], via: kernel, source: client, on_down: reset, pool: mail}
pools:
  mail: {balance: source, servers: ["10.0.2.2:26", "10.0.2.3:26"], check: {every: 1s, timeout: 500ms, rise: 1, fall: 2}}
`)
	for i := 0; len(held) < 2 && i < 200; i++ {
		c, err := r.net.Client().DialWith("10.0.1.1:26", lab.DialOptions{From: netip.AddrPortFrom(manyV4(i), 0), Timeout: patience})
		r.must(err)
		t.Cleanup(func() { c.Close() })
		r.must(c.SetDeadline(time.Now().Add(3 * patience)))
		v := &conversation{r: r.rig, conn: c, read: bufio.NewReader(c)}
		held[v.told().To.Addr().String()] = v
		v.exchange("hello")
	}
	if len(held) != 2 {
		t.Fatalf("connections to %d servers", len(held))
	}
	_, err := r.net.Servers[0].Run(context.Background(), "ip", "link", "set", "e0", "down")
	r.must(err)
	start := time.Now()
	s.await("without the server", func(st *admin.Status) bool {
		return st.Pools[0].Servers[0].State == control.ServerDown
	})
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the server was found down after %v", took)
	}
	if answers, err := r.net.Client().Ask("tcp", "10.0.1.1:26", 300, manyV4); err != nil {
		t.Errorf("new connections: %v (%d answers)", err, len(answers))
	}
	held["10.0.2.3"].exchange("still there")
	if err := held["10.0.2.2"].try("gone"); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection to the server that is down ends with %v", err)
	}
}

// In turn and at random by weight, and the first that is up; servers see the gateway; the gateway's own connections and those of the
// servers' neighbours are carried too.
func TestKernelPathByWeight(t *testing.T) {
	r := newKernelRig(t, 2)
	configuration := func(balance string) string {
		return fmt.Sprintf(`listeners:
  web: {listen: ["10.0.1.1:25", "192.0.2.80:25", "[fd00:1::1]:25"], via: kernel, pool: web}
pools:
  web:
    balance: %s
    servers: [{address: "10.0.2.2:25", weight: 3}, "10.0.2.3:25", "[fd00:2::2]:25", "[fd00:2::3]:25"]
`, balance)
	}
	s := r.start(configuration("round-robin"))
	_, counts := r.ask("tcp", "10.0.1.1:25", 2000, nil)
	r.within("in turn", counts, "1", 0.75, 0.01)
	if p, ok := r.servers[0].Last(); !ok || p.From.Addr().Unmap().String() != "10.0.2.1" {
		t.Errorf("the server saw %v", p.From)
	}
	if _, counts := r.ask("tcp", "192.0.2.80:25", 40, nil); len(counts) != 2 {
		t.Errorf("an address that is not the gateway's: %v", counts)
	}
	if _, counts := r.ask("tcp", "[fd00:1::1]:25", 100, nil); counts["1"] != 50 {
		t.Errorf("IPv6: %v", counts)
	}
	for _, h := range []*lab.Host{r.net.Gateway, r.net.Server()} {
		if _, err := h.Ask("tcp", "10.0.1.1:25", 20, nil); err != nil {
			t.Error(err)
		}
	}
	for _, step := range []struct {
		balance string
		share   float64
		most    float64
	}{{"random", 0.75, 0.04}, {"first", 1, 0}} {
		r.writeConfig(configuration(step.balance))
		generation := s.await("running", serves).Generation
		r.must(s.Signal(syscall.SIGHUP))
		s.await("reloaded", func(st *admin.Status) bool { return st.Generation > generation && serves(st) })
		_, counts := r.ask("tcp", "10.0.1.1:25", 2000, nil)
		r.within(step.balance, counts, "1", step.share, step.most)
	}
}

// UDP: a client stays where it is; a server that goes down is left at once; without servers clients are told.
func TestKernelPathUDP(t *testing.T) {
	r := newKernelRig(t, 2)
	for i, h := range r.net.Servers {
		for _, network := range []string{"10.0.2.%d:53", "[fd00:2::%d]:53"} {
			closeIt, err := h.AnswerUDP(fmt.Sprintf(network, i+2), fmt.Sprint(i+1))
			r.must(err)
			t.Cleanup(func() { _ = closeIt() })
		}
	}
	s := r.start(`listeners:
  dns: {listen: ["10.0.1.1:53", "[fd00:1::1]:53"], via: kernel, transport: udp, source: client, pool: dns, limits: {client_rate: 500}}
pools:
  dns: {servers: ["10.0.2.2:53", "10.0.2.3:53", "[fd00:2::2]:53", "[fd00:2::3]:53"]}
`)
	for to, from := range map[string]func(int) netip.Addr{"10.0.1.1:53": manyV4, "[fd00:1::1]:53": manyV6} {
		if _, counts := r.ask("udp", to, 200, from); counts["1"] != 100 {
			t.Errorf("%s: %v", to, counts)
		}
	}
	for _, server := range []string{"10.0.2.2:53", "10.0.2.3:53"} {
		if out, code := r.command("pool", server, "maint", "--run-dir", s.dir); code != 0 {
			t.Fatalf("maint: %s", out)
		}
	}
	if _, err := r.net.Client().Ask("udp", "10.0.1.1:53", 1, nil); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("no server is up: %v", err)
	}
	if _, counts := r.ask("udp", "[fd00:1::1]:53", 20, manyV6); counts["1"] != 10 {
		t.Errorf("IPv6 afterwards: %v", counts)
	}
}

// A client that keeps its UDP port stays with its server, and is with the other as soon as that one is down: it would never notice by itself.
func TestKernelPathUDPServerFails(t *testing.T) {
	r := newKernelRig(t, 2)
	for i, h := range r.net.Servers {
		closeIt, err := h.AnswerUDP(fmt.Sprintf("10.0.2.%d:53", i+2), fmt.Sprint(i+1))
		r.must(err)
		t.Cleanup(func() { _ = closeIt() })
	}
	s := r.start(`listeners:
  dns: {listen: ["10.0.1.1:53"], via: kernel, transport: udp, pool: dns}
pools:
  dns: {servers: ["10.0.2.2:53", "10.0.2.3:53"], check: {every: 1s, timeout: 500ms, rise: 1, fall: 1, port: 25}}
`)
	var c net.Conn
	r.must(r.net.Client().Do(func() (err error) { c, err = net.Dial("udp", "10.0.1.1:53"); return err }))
	defer c.Close()
	ask := func() (string, error) {
		b := make([]byte, 16)
		err := c.SetDeadline(time.Now().Add(time.Second))
		if err == nil {
			_, err = c.Write([]byte{'?'})
		}
		if err != nil {
			return "", err
		}
		n, err := c.Read(b)
		return string(b[:n]), err
	}
	first, err := ask()
	r.must(err)
	for range 20 {
		if again, err := ask(); err != nil || again != first {
			t.Fatalf("server %s answers after %s, %v", again, first, err)
		}
	}
	at, other := 0, "2"
	if first == "2" {
		at, other = 1, "1"
	}
	r.servers[at].Close() // what is checked
	s.await("without the server", func(st *admin.Status) bool { return st.Pools[0].Servers[at].State == control.ServerDown })
	for end := time.Now().Add(5 * time.Second); ; {
		if now, err := ask(); err == nil && now == other {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the client is still with the server that is down")
		}
	}
}

// Without a server TCP is refused at once, and rates are kept to: a listener's, and each client's.
func TestKernelPathRefusesAndLimits(t *testing.T) {
	r := newKernelRig(t, 1)
	s := r.start(`listeners:
  a: {listen: ["10.0.1.1:25"], via: kernel, pool: mail, limits: {client_rate: 5}}
  b: {listen: ["10.0.1.1:26"], via: kernel, pool: mail, limits: {rate: 5}}
  c: {listen: ["10.0.1.1:27"], pool: mail, limits: {client_rate: 5}}
pools:
  mail: {servers: ["10.0.2.2:25"]}
`)
	for port := 25; port <= 27; port++ {
		start, to := time.Now(), fmt.Sprintf("10.0.1.1:%d", port)
		if _, err := r.net.Client().Ask("tcp", to, 12, nil); err != nil {
			t.Errorf("%s: %v", to, err)
		}
		if took := time.Since(start); took < 900*time.Millisecond {
			t.Errorf("%s: 12 connections at 5 a second took %v", to, took)
		}
	}
	st, err := s.status()
	r.must(err)
	for i, kind := range []string{"over_client_rate", "over_rate", "over_client_rate"} {
		if st.Listeners[i].Counters.Errors[kind] == 0 {
			t.Errorf("listener %s: %v", st.Listeners[i].Name, st.Listeners[i].Counters.Errors)
		}
	}
	if out, code := r.command("pool", "10.0.2.2:25", "maint", "--run-dir", s.dir); code != 0 {
		t.Fatalf("maint: %s", out)
	}
	time.Sleep(1100 * time.Millisecond) // the buckets are full again
	if _, err := r.net.Client().Ask("tcp", "10.0.1.1:25", 1, nil); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("no server is up: %v", err)
	}
	s.stop()
}

// TestMailExamples runs the two files with a pool unchanged: servers that greet as mail servers do see the clients, and one that ends is left.
func TestMailExamples(t *testing.T) {
	for _, file := range []string{"mail.yaml", "mail-kernel.yaml"} {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile("../examples/" + file)
			if err != nil {
				t.Fatal(err)
			}
			r := newRig(t, 2)
			var servers []*lab.Server
			for i, h := range r.net.Servers {
				s, err := h.Serve(fmt.Sprintf("10.0.2.%d:25", i+2), lab.Banner("220 mail\n"))
				r.must(err)
				t.Cleanup(s.Close)
				servers = append(servers, s)
			}
			before := r.look()
			s := r.start(string(text))
			for range 2 {
				if answers, err := r.net.Client().Ask("tcp", "10.0.1.1:25", 30, nil); err != nil || answers[29] != "220 mail" {
					t.Fatalf("%v, %v", answers, err)
				}
				seen := false // beside the checks, which come from the gateway
				for _, server := range servers {
					seen = seen || slices.ContainsFunc(server.Peers(), func(p lab.Peer) bool { return p.From.Addr().Unmap().String() == "10.0.1.2" })
				}
				if !seen {
					t.Error("no server saw the client")
				}
				servers[0].Close()
				s.await("without the first server", func(st *admin.Status) bool { return st.Pools[0].Servers[0].State == control.ServerDown })
			}
			s.stop()
			r.wantAsBefore(before)
		})
	}
}
