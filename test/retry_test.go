package test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// TestRetries has one server of three refuse, then be silent, then unreachable: no client notices but by the time of a silent one, the counters tell, and the
// number of retries bounds them. A connection that a server took and then broke is never tried elsewhere.
func TestRetries(t *testing.T) {
	r := newRig(t, 3)
	var breaks atomic.Bool
	var got [3]atomic.Int64
	for i, h := range r.net.Servers {
		_, err := h.Serve(fmt.Sprintf("10.0.2.%d:80", i+2), func(c *net.TCPConn) {
			got[i].Add(1)
			if breaks.Load() {
				_, _ = bufio.NewReader(c).ReadString('\n')
				_ = lab.Reset(c)
				return
			}
			fmt.Fprintf(c, "%d\n", i+1)
			_, _ = io.Copy(io.Discard, c)
		})
		r.must(err)
	}
	third := r.net.Servers[2]
	r.must(third.Sysctl("net/ipv4/icmp_ratelimit", "0"))
	configuration := func(retries int) string {
		return fmt.Sprintf(`listeners: {web: {listen: ["10.0.1.1:8000"], pool: web, timeouts: {connect: 6s}}}
pools: {web: {retries: %d, servers: ["10.0.2.2:80", "10.0.2.3:80", "10.0.2.4:80"]}}
`, retries)
	}
	s := r.start(configuration(2))
	rule := func(what string) {
		t.Helper()
		file := filepath.Join(r.dir, "third.nft")
		r.must(os.WriteFile(file, []byte("flush ruleset\ntable inet t {\nchain in {\ntype filter hook input priority 0\ntcp dport 80 "+what+"\n}\n}\n"), 0o644))
		_, err := third.Run(context.Background(), "nft", "-f", file)
		r.must(err)
	}
	retried, asked := uint64(0), uint64(0)
	for _, c := range []struct {
		rule, kind  string
		n           int
		least, most time.Duration // for the connections that met the server
	}{
		{"reject with tcp reset", "connect_refused", 30, 0, 500 * time.Millisecond},
		{"drop", "connect_timeout", 6, 1500 * time.Millisecond, 3 * time.Second},
		{"reject with icmpx host-unreachable", "connect_other", 30, 0, 500 * time.Millisecond},
	} {
		rule(c.rule)
		slowest := time.Duration(0)
		asked += uint64(c.n)
		for range c.n {
			begin := time.Now()
			if answers, err := r.net.Client().Ask("tcp", "10.0.1.1:8000", 1, nil); err != nil || answers[0] == "3" || answers[0] == "" {
				t.Errorf("%s: %q, %v", c.rule, answers, err)
			}
			slowest = max(slowest, time.Since(begin))
		}
		if slowest < c.least || slowest > c.most*slowdown {
			t.Errorf("%s: the slowest connection took %v", c.rule, slowest)
		}
		st := s.await("counting what failed", func(st *admin.Status) bool {
			return sum(st, accepted) == asked && sum(st, func(l admin.Listener) uint64 { return l.Counters.Active }) == 0
		})
		server := poolServers(st)[2]
		if n := server.Errors[c.kind]; n != server.Retries-retried || n < uint64(c.n/3)-1 {
			t.Errorf("%s: %d errors of %d connections, %d retries", c.rule, n, c.n, server.Retries-retried)
		}
		retried = server.Retries
		delete(st.Listeners[0].Counters.Errors, "client_reset") // that is how Ask ends
		if total(st.Listeners[0].Counters.Errors) > 0 {
			t.Errorf("%s: clients noticed: %v", c.rule, st.Listeners[0].Counters.Errors)
		}
	}

	rule("reject with tcp reset")
	s.reload(configuration(0))
	failed := 0
	for range 9 {
		if _, err := r.net.Client().Ask("tcp", "10.0.1.1:8000", 1, nil); errors.Is(err, syscall.ECONNRESET) {
			failed++
		} else if err != nil {
			t.Error(err)
		}
	}
	if failed != 3 {
		t.Errorf("without retries %d of 9 connections failed, want the third server's", failed)
	}

	rule("accept")
	s.reload(configuration(5))
	breaks.Store(true)
	before := got[0].Load() + got[1].Load() + got[2].Load()
	for range 6 {
		c := r.dial("10.0.1.1:8000")
		_, err := io.WriteString(c, "a line that nobody may get twice\n")
		r.must(err)
		if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection that the server broke ends with %v", err)
		}
	}
	if n := got[0].Load() + got[1].Load() + got[2].Load() - before; n != 6 {
		t.Errorf("6 connections that broke reached servers %d times", n)
	}
	if out, _ := r.command("status", "--run-dir", s.dir); !strings.Contains(out, "went on to another server") {
		t.Errorf("salp status does not tell of retries:\n%s", out)
	}
	s.stop()
}

func total(counts map[string]uint64) (sum uint64) {
	for _, n := range counts {
		sum += n
	}
	return sum
}
