package test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/lab"
)

// newcomers are clients of the kernel path who come one after the other, each with an address of its own, whatever becomes of those before.
type newcomers struct {
	r    *kernelRig
	to   string
	from func(int) netip.Addr
	stop chan struct{}
	all  sync.WaitGroup

	mu     sync.Mutex
	death  time.Time // of the server; zero: it lives
	failed []*failure
	served map[string]int // by each server
	late   int            // who had to try again
}

// failure is a client that was not served.
type failure struct {
	began     time.Time
	connected bool
	err       error
}

func (f *failure) String() string { return f.err.Error() }

// cut says that a client was with the server when it died; perhaps in its queue, which it did not know of.
func (f *failure) cut(death time.Time) bool {
	return f.began.Before(death) && (f.connected || errors.Is(f.err, syscall.ECONNRESET))
}

// arrive has a client come every few milliseconds until leave.
func (r *kernelRig) arrive(to string, from func(int) netip.Addr) *newcomers {
	c := &newcomers{r: r, to: to, from: from, stop: make(chan struct{}), served: map[string]int{}}
	c.all.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-c.stop:
				return
			case <-tick.C:
				c.all.Go(func() { c.come(i) })
			}
		}
	})
	return c
}

func (c *newcomers) come(i int) {
	began := time.Now()
	conn, err := c.r.net.Client().DialWith(c.to, lab.DialOptions{From: netip.AddrPortFrom(c.from(i%2000), 0), Timeout: 15 * time.Second * slowdown})
	took, banner := time.Since(began), ""
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second * slowdown))
		banner, err = bufio.NewReader(conn).ReadString('\n')
		banner = strings.TrimSpace(banner)
		conn.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		c.failed = append(c.failed, &failure{began, conn != nil, fmt.Errorf("client %d, after %v: %w", i, time.Since(began).Round(time.Millisecond), err)})
	case took > 900*time.Millisecond:
		c.late++
	}
	c.served[banner]++
}

// mourn says that what was open until now may have been cut.
func (c *newcomers) mourn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.death = time.Now()
}

// underWay waits until both servers have served somebody.
func (c *newcomers) underWay() {
	c.r.Helper()
	for end := time.Now().Add(patience * slowdown); ; time.Sleep(20 * time.Millisecond) {
		c.mu.Lock()
		both := c.served["1"] > 0 && c.served["2"] > 0
		c.mu.Unlock()
		if both {
			return
		}
		if time.Now().After(end) {
			c.r.Fatalf("clients of %s: not both servers have served", c.to)
		}
	}
}

// leave waits for those who are there when nobody comes any more, and wants each of them served, by both servers.
func (c *newcomers) leave(when string) (late int) {
	c.r.Helper()
	c.all.Wait()
	all := len(c.failed)
	c.failed = slices.DeleteFunc(c.failed, func(f *failure) bool { return f.cut(c.death) })
	n := c.served["1"] + c.served["2"]
	if len(c.failed) > 0 || n < 40 || c.served["1"] == 0 || c.served["2"] == 0 {
		c.r.Errorf("%s: %d clients of %s served: %v, %d failed: %v", when, n, c.to, c.served, len(c.failed), c.failed[:min(3, len(c.failed))])
	}
	c.r.Logf("%s: %d clients of %s served, %d of them at a further try, %d cut", when, n, c.to, c.late, all-len(c.failed))
	return c.late
}

// TestKernelPathLosesNobody has a server end, and then a server's machine vanish, while clients come: nobody of them is refused, or stays with
// the server that is dead. Who meets it tries again, as TCP does by itself, and is served by the other.
func TestKernelPathLosesNobody(t *testing.T) {
	r := newKernelRig(t, 2)
	s := r.start(`listeners:
  smtp: {listen: ["10.0.1.1:25", "[fd00:1::1]:25"], via: kernel, source: client, pool: mail}
pools:
  mail:
    balance: source
    servers: ["10.0.2.2:25", "10.0.2.3:25", "[fd00:2::2]:25", "[fd00:2::3]:25"]
    check: {every: 500ms, timeout: 400ms, rise: 1, fall: 2}
`)
	down := func(st *admin.Status) bool {
		return st.Pools[0].Servers[0].State == control.ServerDown && st.Pools[0].Servers[2].State == control.ServerDown
	}
	crowd := func() []*newcomers {
		return []*newcomers{r.arrive("10.0.1.1:25", manyV4), r.arrive("[fd00:1::1]:25", manyV6)}
	}

	lose := func(how func(), gone, when, what string) {
		t.Helper()
		comers := crowd()
		for _, c := range comers {
			c.underWay()
		}
		how()
		for _, c := range comers {
			c.mourn()
		}
		s.await(gone, down)
		time.Sleep(300 * time.Millisecond)
		for _, c := range comers {
			close(c.stop)
		}
		for _, c := range comers {
			if c.leave(when) == 0 {
				t.Errorf("%s: nobody met %s", c.to, what)
			}
		}
	}
	lose(r.servers[0].Close, "without the server", "a server ends", "the server that had ended")

	again, err := r.net.Servers[0].Serve("[::]:25", lab.Banner("1\n"))
	r.must(err)
	t.Cleanup(again.Close)
	s.await("with the server", func(st *admin.Status) bool {
		return serves(st) && !down(st) && st.Pools[0].Servers[0].State == control.ServerUp && st.Pools[0].Servers[2].State == control.ServerUp
	})
	lose(func() {
		_, err := r.net.Servers[0].Run(context.Background(), "ip", "link", "set", "e0", "down")
		r.must(err)
	}, "without the machine", "a machine vanishes", "the machine that had vanished")

	// The last server's refusal is a client's to hear at once.
	r.servers[1].Close()
	began := time.Now()
	if conn, err := r.net.Client().DialWith("10.0.1.1:25", lab.DialOptions{Timeout: patience}); err == nil {
		conn.Close()
		t.Error("a connection without a server")
	} else if took := time.Since(began); took > 900*time.Millisecond*slowdown {
		t.Errorf("the refusal took %v: %v", took, err)
	}
}

// TestKernelPathNames has a name as the server: all its addresses are used, and when it has others new connections go to these, those that run go on,
// and what was counted stays.
func TestKernelPathNames(t *testing.T) {
	r := newKernelRig(t, 3)
	for i, h := range r.net.Servers {
		server, err := h.Serve(fmt.Sprintf("10.0.2.%d:26", i+2), lab.Tell)
		r.must(err)
		t.Cleanup(server.Close)
	}
	dns, err := r.net.Servers[2].ServeDNS("10.0.2.4:53")
	r.must(err)
	dns.Set("mx.test", time.Second, "10.0.2.2", "10.0.2.3")
	s := r.start(`listeners:
  smtp: {listen: ["10.0.1.1:25"], via: kernel, source: client, pool: mail}
  tell: {listen: ["10.0.1.1:26"], via: kernel, source: client, pool: tell}
pools:
  mail: {servers: ["mx.test:25"], check: {every: 500ms, timeout: 400ms}}
  tell: {servers: ["mx.test:26"]}
resolvers: {servers: [10.0.2.4], timeout: 1s}
`)
	if _, counts := r.ask("tcp", "10.0.1.1:25", 100, manyV4); counts["1"] != 50 || counts["2"] != 50 {
		t.Errorf("two addresses: %v", counts)
	}
	c, err := r.net.Client().Dial("10.0.1.1:26")
	r.must(err)
	t.Cleanup(func() { c.Close() })
	r.must(c.SetDeadline(time.Now().Add(4 * patience)))
	open := &conversation{r: r.rig, conn: c, read: bufio.NewReader(c)}
	open.told()
	before, err := s.status()
	r.must(err)
	dns.Set("mx.test", time.Second, "10.0.2.3", "10.0.2.4")
	st := s.await("with the other address", func(st *admin.Status) bool {
		all := st.Pools[0].Servers
		return len(all) == 2 && all[0].Address == "10.0.2.3:25" && all[1].Address == "10.0.2.4:25"
	})
	if was, is := before.Pools[0].Servers[1].Connections, st.Pools[0].Servers[0].Connections; is < was || was == 0 {
		t.Errorf("10.0.2.3 had %d connections, and now %d", was, is)
	}
	var counts map[string]int
	for end := time.Now().Add(patience); counts["3"] == 0 && time.Now().Before(end); {
		_, counts = r.ask("tcp", "10.0.1.1:25", 40, manyV4)
	}
	if _, counts = r.ask("tcp", "10.0.1.1:25", 100, manyV4); counts["2"] != 50 || counts["3"] != 50 {
		t.Errorf("the addresses have changed: %v", counts)
	}
	open.exchange("still there")
	if sum(st, accepted) < sum(before, accepted) {
		t.Errorf("listeners had %d connections, and now %d", sum(before, accepted), sum(st, accepted))
	}
	s.stop()
}
