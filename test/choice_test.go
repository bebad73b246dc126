package test

import (
	"bufio"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/lab"
)

// reload puts another configuration in force and waits until it is.
func (s *salp) reload(configuration string) {
	s.r.Helper()
	generation := s.await("running", serves).Generation
	s.r.writeConfig(configuration)
	s.r.must(s.Signal(syscall.SIGHUP))
	s.await("reloaded", func(st *admin.Status) bool { return st.Generation > generation && serves(st) })
}

// hold opens n connections that stay, each from an address of its own, and returns them and how many each server has.
func (r *kernelRig) hold(to string, n int) ([]net.Conn, map[string]int) {
	r.Helper()
	conns, counts, failed := make([]net.Conn, n), map[string]int{}, error(nil)
	var mutex sync.Mutex
	var wait sync.WaitGroup
	for k := range 4 {
		wait.Go(func() {
			for i := k; i < n; i += 4 {
				c, err := r.net.Client().DialWith(to, lab.DialOptions{From: netip.AddrPortFrom(manyV4(i), 0), Timeout: patience})
				var name string
				if err == nil {
					conns[i] = c
					_ = c.SetDeadline(time.Now().Add(3 * patience))
					name, err = bufio.NewReader(c).ReadString('\n')
				}
				mutex.Lock()
				counts[strings.TrimSpace(name)]++
				if err != nil {
					failed = err
				}
				mutex.Unlock()
			}
		})
	}
	wait.Wait()
	r.must(failed)
	return conns, counts
}

// endAll resets connections and waits until Salp has nothing open: bounds count what a worker before had until the keeper knows that it has ended.
func (s *salp) endAll(conns []net.Conn) {
	s.r.Helper()
	for _, c := range conns {
		_ = lab.Reset(c.(*net.TCPConn))
	}
	s.await("idle", func(st *admin.Status) bool {
		for _, server := range st.Pools[0].Servers {
			if server.Active > 0 {
				return false
			}
		}
		return true
	})
}

// TestBalance has 2,000 clients and more reach servers by each way of choosing, through a worker: everybody has the share that the weights say, and
// a server that is taken out moves its own clients alone where they have a server of their own.
func TestBalance(t *testing.T) {
	r := newKernelRig(t, 4)
	config := func(more string) string {
		listen := `"10.0.1.1:25"`
		if strings.Contains(more, "fd00") {
			listen += `, "[fd00:1::1]:25"`
		}
		return "listeners: {smtp: {listen: [" + listen + "], source: client, pool: mail}}\npools:\n  mail:\n    " + more + "\n"
	}
	const (
		even     = `servers: ["10.0.2.2:25", "10.0.2.3:25", "10.0.2.4:25", "10.0.2.5:25", "[fd00:2::2]:25", "[fd00:2::3]:25", "[fd00:2::4]:25", "[fd00:2::5]:25"]`
		weighted = `servers: ["10.0.2.2:25", {address: "10.0.2.3:25", weight: 2}, "10.0.2.4:25", {address: "10.0.2.5:25", weight: 4}]`
		bounded  = `servers: [{address: "10.0.2.2:25", max_connections: 700}, {address: "10.0.2.3:25", max_connections: 700}, {address: "10.0.2.4:25", max_connections: 700}, "10.0.2.5:25"]`
		n        = 2400
	)
	shares := []float64{1. / 8, 2. / 8, 1. / 8, 4. / 8}
	s := r.start(config("balance: round-robin\n    " + weighted))
	for _, way := range []struct {
		balance string
		within  float64 // of all connections
		held    bool
	}{{"round-robin", 0.001, false}, {"random", 0.03, true}, {"source", 0.025, false}, {"least-connections", 0.002, true}} {
		s.reload(config("balance: " + way.balance + "\n    " + weighted))
		var counts map[string]int
		if way.held {
			var conns []net.Conn
			conns, counts = r.hold("10.0.1.1:25", n)
			s.endAll(conns)
		} else {
			_, counts = r.ask("tcp", "10.0.1.1:25", n, manyV4)
		}
		t.Logf("%s: %v", way.balance, counts)
		for i, share := range shares {
			r.within(way.balance, counts, fmt.Sprint(i+1), share, way.within)
		}
	}
	for i, server := range r.servers {
		if p, ok := server.Last(); !ok || !netip.MustParsePrefix("10.50.0.0/16").Contains(p.From.Addr()) {
			t.Errorf("server %d saw %v", i+1, p.From)
		}
	}

	s.reload(config("balance: first\n    " + bounded))
	conns, counts := r.hold("10.0.1.1:25", n)
	if counts["1"] != 700 || counts["2"] != 700 || counts["3"] != 700 || counts["4"] != 300 {
		t.Errorf("first: %v", counts)
	}
	s.endAll(conns)

	t.Run("source", func(t *testing.T) {
		s.reload(config("balance: source\n    " + even))
		r.movement(s, n, false)
		if _, counts := r.ask("tcp", "[fd00:1::1]:25", 800, manyV6); len(counts) != 4 {
			t.Errorf("IPv6: %v", counts)
		}
	})
	t.Run("stick", func(t *testing.T) {
		s.reload(config("balance: round-robin\n    stick: {for: 10m, size: 2400}\n    " + even))
		r.movement(s, n, true)
	})
	s.stop()
}

// movement takes the second of four servers out and puts it back, and wants at most 1.2 / 4 of the clients to move, all of them its own. Clients that
// stick come back to no server that they have left; others do.
func (r *kernelRig) movement(s *salp, n int, stick bool) {
	r.Helper()
	before, counts := r.ask("tcp", "10.0.1.1:25", n, manyV4)
	for i := range 4 {
		r.within("before", counts, fmt.Sprint(i+1), 1./4, 0.04)
	}
	set := func(state string) {
		r.Helper()
		if out, code := r.command("pool", "10.0.2.3:25", state, "--run-dir", s.dir); code != 0 {
			r.Fatalf("%s: %s", state, out)
		}
	}
	if stick {
		set("drain")
		if drained, _ := r.ask("tcp", "10.0.1.1:25", n, manyV4); moved(before, drained) > 0 {
			r.Errorf("%.3f of the clients left the server that they stick to when it was drained", moved(before, drained))
		}
	}
	set("maint")
	after, counts := r.ask("tcp", "10.0.1.1:25", n, manyV4)
	share := moved(before, after)
	r.Logf("%.4f of the clients moved, at most %.2f may: %v", share, 1.2/4, counts)
	if share > 1.2/4 || counts["2"] > 0 {
		r.Errorf("%.3f of the clients moved: %v", share, counts)
	}
	for i := range before {
		if before[i] != after[i] && before[i] != "2" {
			r.Fatalf("client %d moved from server %s, which is up", i, before[i])
		}
	}
	set("ready")
	back, _ := r.ask("tcp", "10.0.1.1:25", n, manyV4)
	was := before
	if stick {
		was = after
	}
	if share := moved(was, back); share > 0 {
		r.Errorf("%.3f of the clients are elsewhere when the server is back", share)
	}
}

// TestSlowStart has a server come back: its share grows from a tenth to all of it in the time that slow_start says, also over a reload.
func TestSlowStart(t *testing.T) {
	r := newKernelRig(t, 2)
	const slow = 5 * time.Second
	configuration := fmt.Sprintf(`listeners: {web: {listen: ["10.0.1.1:25"], pool: web}}
pools:
  web: {slow_start: %v, servers: ["10.0.2.2:25", "10.0.2.3:25"], check: {every: 100ms, timeout: 2s, rise: 1, fall: 1, jitter: 0}}
`, slow)
	s := r.start(configuration)
	s.awaitUp(2)
	if _, counts := r.ask("tcp", "10.0.1.1:25", 200, nil); counts["1"] != 100 {
		t.Errorf("at the start: %v", counts)
	}
	r.servers[1].Close()
	s.awaitStates("10.0.2.2:25 up, 10.0.2.3:25 down")
	server, err := r.net.Servers[1].Serve("10.0.2.3:25", lab.Banner("2\n"))
	r.must(err)
	t.Cleanup(server.Close)
	since := s.await("with both servers", func(st *admin.Status) bool { return st.Pools[0].Servers[1].State == control.ServerUp }).Pools[0].Servers[1].Since
	worst, batches := 0.0, 0
	for time.Since(since) < slow+500*time.Millisecond {
		age := time.Since(since)
		_, counts := r.ask("tcp", "10.0.1.1:25", 110, nil)
		middle := min(1, (age+time.Since(since)).Seconds()/2/slow.Seconds())
		want := max(0.1, middle)
		got := float64(counts["2"]) / 110
		worst, batches = max(worst, math.Abs(got-want/(1+want))), batches+1
		if math.Abs(got-want/(1+want)) > 0.07 {
			t.Errorf("%v after it came back the server has %.3f of the connections, want %.3f", age, got, want/(1+want))
		}
		if batches == 10 {
			r.must(s.Signal(syscall.SIGHUP))
			s.await("reloaded", func(st *admin.Status) bool { return st.Generation == 2 && st.Alive })
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("%d batches, the worst is %.3f off", batches, worst)
	if batches < 6 { // on a busy machine each takes long
		t.Errorf("only %d batches", batches)
	}
	if _, counts := r.ask("tcp", "10.0.1.1:25", 200, nil); counts["1"] != 100 {
		t.Errorf("in the end: %v", counts)
	}
	s.stop()
}
