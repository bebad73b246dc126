package test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// TestRates has clients connect faster than they may, by each way of taking connections in: what is over the rate comes later and never goes past Salp, another
// client notices nothing of one client's rate, and status and metrics count it, over a reload that changes the rates and an upgrade too.
func TestRates(t *testing.T) {
	r := newKernelRig(t, 1)
	_, err := r.net.Server().Serve("10.0.2.2:80", lab.Tell)
	r.must(err)
	configuration := `metrics: {listen: "10.0.1.1:9101", from: [10.0.1.0/24]}
listeners:
  tproxy-client: {intercept: {interfaces: [g0], ports: [81]}, pool: tell, limits: {client_rate: 5}}
  tproxy-all: {intercept: {interfaces: [g0], ports: [82]}, pool: tell, limits: {rate: 5}}
  redirect-client: {intercept: {interfaces: [g0], ports: [83], method: redirect}, pool: tell, limits: {client_rate: 5}}
  redirect-all: {intercept: {interfaces: [g0], ports: [84], method: redirect}, pool: tell, limits: {rate: 5}}
  listen-client: {listen: ["10.0.1.1:85"], pool: tell, limits: {client_rate: 5}}
  listen-all: {listen: ["10.0.1.1:86"], pool: tell, limits: {rate: 5}}
pools: {tell: {servers: ["10.0.2.2:80"]}}
`
	s := r.start(configuration)
	var wait sync.WaitGroup
	for port := 81; port <= 86; port++ {
		to := fmt.Sprintf("10.0.2.2:%d", port)
		if port >= 85 {
			to = fmt.Sprintf("10.0.1.1:%d", port)
		}
		wait.Go(func() {
			begin := time.Now()
			answers, err := r.net.Client().Ask("tcp", to, 12, func(int) netip.Addr { return manyV4(1) })
			if took := time.Since(begin); err != nil || took < 900*time.Millisecond {
				t.Errorf("%s: 12 connections at 5 a second took %v, %v", to, took, err)
			}
			for _, a := range answers {
				if !strings.HasPrefix(a, "10.0.2.1:") {
					t.Errorf("%s: a connection went past Salp: %q", to, a)
				}
			}
		})
		if port%2 == 1 { // a rate of each client
			wait.Go(func() {
				begin := time.Now()
				if _, err := r.net.Client().Ask("tcp", to, 5, func(int) netip.Addr { return manyV4(2) }); err != nil || time.Since(begin) > 900*time.Millisecond*slowdown {
					t.Errorf("%s: another client's five connections took %v, %v", to, time.Since(begin), err)
				}
			})
		}
	}
	wait.Wait()
	counts := func() (all [6]uint64) {
		st, err := s.status()
		r.must(err)
		page, err := r.scrape(r.net.Client(), "10.0.1.1:9101")
		r.must(err)
		for i, l := range st.Listeners {
			kind := []string{"over_client_rate", "over_rate"}[i%2]
			all[i] = l.Counters.Errors[kind]
			key := fmt.Sprintf("salp_listener_errors_total kind=%s listener=%s", kind, l.Name)
			if other, there := page["salp_listener_errors_total listener="+l.Name+" kind="+kind]; there {
				page[key] = other
			}
			if all[i] == 0 || uint64(page[key]) != all[i] {
				t.Errorf("%s: status counts %d over the rate, metrics %v", l.Name, all[i], page[key])
			}
		}
		return all
	}
	before := counts()
	s.reload(strings.ReplaceAll(configuration, "rate: 5", "rate: 6"))
	if now := counts(); now != before {
		t.Errorf("a reload that changes the rates changed the counts from %v to %v", before, now)
	}
	if out, code := r.command("upgrade", "--run-dir", s.dir); code != 0 {
		t.Fatalf("salp upgrade: %s", out)
	}
	if now := counts(); now != before {
		t.Errorf("an upgrade changed the counts from %v to %v", before, now)
	}
	if out, _ := r.command("status", "--run-dir", s.dir); !strings.Contains(out, "limits: 6 new ones a second of one client") {
		t.Errorf("salp status does not tell the rates:\n%s", out)
	}
	s.stop()
}

// TestBacklog has more connections wait than may while the worker stands still: the kernel drops the SYNs of those that are too many, they come again,
// nobody is refused, and status tells what was dropped.
func TestBacklog(t *testing.T) {
	r := newKernelRig(t, 1)
	s := r.start(`workers: 1
listeners: {web: {listen: ["10.0.1.1:25"], pool: web, limits: {backlog: 4}}}
pools: {web: {servers: ["10.0.2.2:25"]}}
`)
	worker := s.worker()
	r.kill(worker, syscall.SIGSTOP)
	r.awaitStopped(worker)
	var first []*net.TCPConn
	for range 5 { // one more than the backlog: the kernel calls a queue full that is longer (sk_acceptq_is_full)
		first = append(first, r.dial("10.0.1.1:25"))
	}
	took := make([]time.Duration, 6)
	var wait sync.WaitGroup
	for i := range took {
		wait.Go(func() {
			begin := time.Now()
			if answers, err := r.net.Client().Ask("tcp", "10.0.1.1:25", 1, nil); err != nil || answers[0] != "1" {
				t.Errorf("connection %d: %q, %v", i, answers, err)
			}
			took[i] = time.Since(begin)
		})
		time.Sleep(40 * time.Millisecond) // so that the second SYNs do not come all at once either
	}
	r.kill(worker, syscall.SIGCONT)
	for i, c := range first {
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "1\n" {
			t.Errorf("connection %d of those that fit got %q, %v", i, line, err)
		}
		c.Close()
	}
	wait.Wait()
	for _, d := range took {
		if d < 900*time.Millisecond {
			t.Errorf("a connection that found the queue full took %v, less than until its second SYN", d)
		}
	}
	st := s.await("telling the drops", func(st *admin.Status) bool { return st.Listeners[0].Queue.Dropped >= 6 })
	if st.Listeners[0].Queue.Bound != 4 || st.Restarts != 0 {
		t.Errorf("status: %+v, %d workers replaced", st.Listeners[0].Queue, st.Restarts)
	}
	if out, _ := r.command("status", "--run-dir", s.dir); !strings.Contains(out, "accept queue: 0 of 4 wait, ") {
		t.Errorf("salp status does not tell of the queue:\n%s", out)
	}
	s.reload(`workers: 1
listeners: {web: {listen: ["10.0.1.1:25"], pool: web, limits: {backlog: 9}}}
pools: {web: {servers: ["10.0.2.2:25"]}}
`)
	after := s.await("with a longer queue", func(st *admin.Status) bool { return st.Listeners[0].Queue.Bound == 9 })
	if after.Listeners[0].Queue.Dropped < st.Listeners[0].Queue.Dropped {
		t.Errorf("a reload made %d drops of %d", after.Listeners[0].Queue.Dropped, st.Listeners[0].Queue.Dropped)
	}
	s.stop()
}

// awaitStopped waits until every thread of a process stands still.
func (r *rig) awaitStopped(pid int) {
	r.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		r.must(err)
		running := slices.ContainsFunc(files, func(file string) bool {
			text, err := os.ReadFile(file)
			return err == nil && !strings.Contains(string(text), ") T ")
		})
		if len(files) > 0 && !running {
			return
		}
	}
	r.Fatal("the process does not stop")
}

// TestBoundsOverReload fills a listener and a server, and reloads: what the worker before has open counts. One connection waits for a place on the server and
// gets the first that is free, the next finds the queue full, and one waits in vain.
func TestBoundsOverReload(t *testing.T) {
	r := newRig(t, 1)
	r.serve(80, lab.Tell)
	configuration := `drain: 1m
listeners:
  few: {listen: ["10.0.1.1:8001"], pool: web, limits: {connections: 3}}
  each: {intercept: {interfaces: [g0], ports: [81]}, pool: web, limits: {per_client: 2}}
  full: {listen: ["10.0.1.1:8002"], pool: bounded}
pools:
  web: {servers: ["10.0.2.2:80"]}
  bounded: {servers: [{address: "10.0.2.2:80", max_connections: 2}], queue: {length: 1, timeout: 3s}}
`
	s := r.start(configuration)
	held := map[string][]*conversation{}
	for _, to := range []string{"10.0.1.1:8001", "10.0.1.1:8001", "10.0.1.1:8001", "10.0.1.1:8002", "10.0.1.1:8002", "10.0.2.2:81", "10.0.2.2:81"} {
		v, _ := r.tell(to)
		held[to] = append(held[to], v)
	}
	s.await("counting them", func(st *admin.Status) bool {
		return sum(st, func(l admin.Listener) uint64 { return l.Counters.Active }) == 7
	})
	for round := range 2 {
		if _, err := r.probe("10.0.1.1:8001", patience); !isRefused(false, err) {
			t.Errorf("round %d: the fourth of three connections got %v; want a reset", round, err)
		}
		if _, err := r.probe("10.0.2.2:81", patience); !isRefused(false, err) {
			t.Errorf("round %d: the third of a client's two connections got %v; want a reset", round, err)
		}
		waits := r.dial("10.0.1.1:8002")
		st := s.await("with one that waits", func(st *admin.Status) bool { return st.Pools[1].Queued == 1 })
		if _, err := r.probe("10.0.1.1:8002", patience); !isRefused(false, err) {
			t.Errorf("round %d: a connection that found the queue full got %v; want a reset", round, err)
		}
		held["10.0.1.1:8002"][0].conn.Close()
		v := &conversation{r: r, conn: waits, read: bufio.NewReader(waits)}
		v.told()
		v.exchange("served")
		held["10.0.1.1:8002"] = append(held["10.0.1.1:8002"][1:], v)
		s.await("counting who was refused", func(st *admin.Status) bool {
			return st.Pools[1].QueueFull == uint64(round+1) && st.Pools[1].Queued == 0 && st.Listeners[0].Counters.Errors["limit_listener"] == uint64(round+1) &&
				st.Listeners[1].Counters.Errors["limit_client"] == uint64(round+1)
		})
		if round == 0 {
			s.reload(configuration)
			time.Sleep(200 * time.Millisecond * slowdown) // clients are told with the first beat of the drain
			if st, err := s.status(); err != nil || len(st.Workers) != 2 {
				t.Errorf("the worker before is not there: %+v, %v", st.Workers, err)
			}
		} else if len(st.Workers) != 2 {
			t.Errorf("%d workers", len(st.Workers))
		}
	}
	begin := time.Now()
	if _, err := r.probe("10.0.1.1:8002", patience); !isRefused(false, err) || time.Since(begin) < 2900*time.Millisecond {
		t.Errorf("a connection that waited in vain got %v after %v", err, time.Since(begin))
	}
	for _, to := range []string{"10.0.1.1:8001", "10.0.2.2:81"} {
		held[to][0].conn.Close()
		r.awaitProbe("finds room again", to, patience, isThrough)
	}
	st := s.await("counting who waited in vain", func(st *admin.Status) bool { return st.Pools[1].QueueTimeouts == 1 })
	if st.Pools[1].Servers[0].MaxConnections != 2 {
		t.Errorf("status: %+v", st.Pools[1].Servers[0])
	}
	for _, all := range held {
		for _, v := range all {
			v.conn.Close()
		}
	}

	// A worker drains for as long as the configuration after it says, and no longer.
	long, _ := r.tell("10.0.1.1:8001")
	s.await("alone", func(st *admin.Status) bool { return len(st.Workers) == 1 })
	begin = time.Now()
	s.reload(strings.Replace(configuration, "drain: 1m", "drain: 1s", 1))
	long.exchange("while it drains")
	if err := long.try(""); err == nil {
		_, err = long.read.ReadByte()
		if took := time.Since(begin); !errors.Is(err, syscall.ECONNRESET) || took < 900*time.Millisecond || took > 5*time.Second*slowdown {
			t.Errorf("a connection that outlasts its worker's drain of a second ends after %v with %v", took, err)
		}
	}
	s.await("alone", func(st *admin.Status) bool { return len(st.Workers) == 1 })
	s.stop()
}
