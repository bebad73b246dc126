package test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// TestFlowsBefore has connections that were there before Salp live through its start and its end, in every intercepting mode.
func TestFlowsBefore(t *testing.T) {
	for _, name := range []string{"inbound", "full-keep", "inbound-redirect"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			r.serve(portTell, lab.Tell)
			r.must(r.net.Gateway.Forward())
			before := r.look()
			m := modeNamed(name)
			var flows []*conversation
			for _, f := range families {
				v, seen := r.tell(at(f.server, portTell))
				if seen.From != lab.Local(v.conn) {
					r.Fatalf("without Salp the server saw %s", seen.From)
				}
				flows = append(flows, v)
			}
			chat := func(when string) {
				for i, v := range flows {
					if err := v.try(when); err != nil {
						r.Errorf("flow %d %s: %v", i, when, err)
					}
				}
			}
			s := r.start(m.config(portTell))
			chat("after start")
			time.Sleep(300 * time.Millisecond)
			chat("while Salp runs")
			if v, seen := r.tell(at("10.0.2.2", portTell)); m.source == "proxy" && seen.From == lab.Local(v.conn) {
				r.Error("a new connection passed Salp by")
			}
			s.stop()
			chat("after the end")
			r.wantAsBefore(before)
		})
	}
}

// TestStopDrains has SIGTERM let a connection finish, send new ones directly meanwhile, and remove exactly what Salp had made.
func TestStopDrains(t *testing.T) {
	r := newRig(t, 1)
	r.serve(portTell, lab.Tell)
	r.must(r.net.Gateway.Forward())
	before := r.look()
	m := modeNamed("inbound")
	s := r.start(strings.Replace(m.config(portTell), "drain: 2s", "drain: 20s", 1))
	held, _ := r.tell(at("10.0.2.2", portTell))
	r.must(s.Signal(syscall.SIGTERM))
	r.awaitProbe("goes directly while Salp drains", at("10.0.2.2", portTell), 2*time.Second, isDirect)
	for range 5 {
		held.exchange("still carried")
		time.Sleep(50 * time.Millisecond)
	}
	if err := held.bulk(1 << 20); err != nil {
		r.Errorf("the connection that drains: %v", err)
	}
	held.conn.Close()
	select {
	case <-s.Done():
		r.must(s.Wait())
	case <-time.After(5 * time.Second):
		r.Error("nothing is carried any more, and Salp does not end")
	}
	r.wantAsBefore(before)
}

// TestStopIsBounded has SIGTERM cut what does not end by itself when the drain time is over.
func TestStopIsBounded(t *testing.T) {
	r := newRig(t, 1)
	r.serve(portTell, lab.Tell)
	before := r.look()
	s := r.start(strings.Replace(modeNamed("full-keep").config(portTell), "drain: 2s", "drain: 1s", 1))
	held, _ := r.tell(at("10.0.2.2", portTell))
	start := time.Now()
	s.stop()
	if took := time.Since(start); took < 900*time.Millisecond || took > 4*time.Second {
		r.Errorf("the end took %v, the drain bound is 1s", took)
	}
	if err := held.try("anybody"); err == nil {
		r.Error("the connection lives on without Salp")
	}
	r.wantAsBefore(before)
}

// TestWorkerKilled kills the worker again and again: no new connection may fail, those that come while the keeper waits longer and
// longer go directly, and a new worker takes over each time.
func TestWorkerKilled(t *testing.T) {
	r := newRig(t, 1)
	r.serve(portTell, lab.Tell)
	s := r.start(modeNamed("inbound").config(portTell))
	to := at("10.0.2.2", portTell)
	var kills []int
	for i := range 5 {
		pid := s.worker()
		if i > 0 && pid == kills[i-1] {
			r.Fatalf("the killed worker %d still counts as running", pid)
		}
		kills = append(kills, pid)
		r.kill(pid, syscall.SIGKILL)
		time.Sleep(20 * time.Millisecond) // what comes in these few milliseconds waits in the listening socket; see TestWorkerKilledUnderLoad
		if i == 4 {
			r.awaitProbe("goes directly while the keeper waits", to, 1400*time.Millisecond, isDirect)
		}
		for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if _, err := r.probe(to, 5*time.Second); err != nil {
				r.Errorf("after kill %d: %v", i+1, err)
			}
		}
	}
	took := r.awaitProbe("goes through a worker in the end", to, patience, isThrough)
	st := s.await("counting restarts", func(st *admin.Status) bool { return st.Restarts >= 5 })
	r.Logf("back %v after the fifth kill; restarts %d", took, st.Restarts)
}

// TestWorkerKilledUnderLoad kills the worker while connections keep coming. Only those that it had taken may be reset.
func TestWorkerKilledUnderLoad(t *testing.T) {
	r := newRig(t, 1)
	r.serve(portTell, lab.Tell)
	s := r.start(modeNamed("inbound").config(portTell))
	l := r.load(at("10.0.2.2", portTell))
	for range 3 {
		r.kill(s.worker(), syscall.SIGKILL)
		time.Sleep(300 * time.Millisecond)
	}
	l.mayLose(2*3, time.Second) // two callers, three kills
}

// TestWorkerHangs stops the worker: within three seconds new connections go directly, and later a new worker takes over.
func TestWorkerHangs(t *testing.T) {
	r := newRig(t, 1)
	r.serve(portTell, lab.Tell)
	s := r.start(modeNamed("inbound").config(portTell))
	to := at("10.0.2.2", portTell)
	pid := s.worker()
	r.kill(pid, syscall.SIGSTOP)
	took := r.awaitProbe("is answered", to, 3*time.Second, func(direct bool, err error) bool { return err == nil })
	r.Logf("the first connection that was answered came %v after the worker hung", took)
	s.await("served by another worker", func(st *admin.Status) bool {
		return st.Alive && len(st.Workers) > 0 && st.Workers[len(st.Workers)-1].PID != pid
	})
	r.awaitProbe("goes through the new worker", to, patience, isThrough)
}

// TestKeeperHangs stops the keeper: nobody refreshes the alive element, so new connections go directly.
func TestKeeperHangs(t *testing.T) {
	r := newRig(t, 1)
	r.serve(portTell, lab.Tell)
	s := r.start(modeNamed("inbound").config(portTell))
	to := at("10.0.2.2", portTell)
	held, _ := r.tell(to)
	r.kill(s.Pid(), syscall.SIGSTOP)
	took := r.awaitProbe("goes directly", to, 3*time.Second, isDirect)
	r.Logf("direct after %v", took)
	held.exchange("the worker still carries this")
	r.kill(s.Pid(), syscall.SIGCONT)
	r.awaitProbe("goes through again", to, patience, isThrough)
	held.exchange("and this")
}

// TestKeeperKilled kills the keeper: new connections go directly at once, and `salp down` restores the rest, byte for byte.
func TestKeeperKilled(t *testing.T) {
	for _, name := range []string{"inbound", "full-keep", "inbound-redirect"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			r.serve(portTell, lab.Tell)
			r.addForeign()
			r.sysctls("net/ipv4/conf/all/accept_redirects", "0")
			before := r.look()
			s := r.start(modeNamed(name).config(portTell))
			to := at("10.0.2.2", portTell)
			v, _ := r.tell(to)
			v.conn.Close()
			r.must(s.Signal(syscall.SIGKILL))
			<-s.Done()
			// Table gone, forwarding still on: the first packet after that goes directly.
			start := time.Now()
			if _, err := r.probe(to, 2*time.Second); err != nil {
				r.Errorf("right after the kill: %v", err)
			}
			if took := time.Since(start); took > time.Second {
				r.Errorf("the first connection after the kill took %v", took)
			}
			if name != "full-keep" { // where the server cannot tell
				r.awaitProbe("goes directly", to, 500*time.Millisecond, isDirect)
			}
			s.down()
			r.wantAsBefore(before)
			if out, code := r.command("down", "--run-dir", s.dir); code != 0 {
				r.Errorf("a second down: exit %d: %s", code, out)
			}
			r.wantAsBefore(before)
			r.awaitNobody()
		})
	}
}

// TestKeeperKilledUnderLoad kills the keeper while connections keep coming: only those that are open at that moment may be lost, as the
// kernel no longer diverts their packets. By redirect that is without a word: it no longer translates their addresses.
func TestKeeperKilledUnderLoad(t *testing.T) {
	for _, name := range []string{"inbound", "inbound-redirect"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			r.serve(portTell, lab.Tell)
			s := r.start(modeNamed(name).config(portTell))
			l := r.load(at("10.0.2.2", portTell))
			r.must(s.Signal(syscall.SIGKILL))
			<-s.Done()
			l.mayLose(2, 5*time.Second) // two callers
		})
	}
}

// awaitNobody waits until no process is left in the gateway: an orphaned worker has to end by itself.
func (r *rig) awaitNobody() {
	r.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if pids, err := r.net.Gateway.Inside(); err == nil && len(pids) == 0 {
			return
		}
	}
	r.Error("a process is left in the gateway")
}

// TestStartAfterKill starts Salp again after a kill -9 without `salp down` between: the second one must still restore what the first found.
func TestStartAfterKill(t *testing.T) {
	r := newRig(t, 1)
	r.serve(portTell, lab.Tell)
	before := r.look()
	config := modeNamed("full-keep").config(portTell)
	s := r.start(config)
	r.must(s.Signal(syscall.SIGKILL))
	<-s.Done()
	s = r.start(config)
	r.tell(at("10.0.2.2", portTell))
	s.stop()
	r.wantAsBefore(before)
}

// TestClosed has on_failure: closed refuse connections whenever no worker answers.
func TestClosed(t *testing.T) {
	start := func(t *testing.T) (*rig, *salp, string) {
		r := newRig(t, 1)
		r.serve(portTell, lab.Tell)
		m := modeNamed("inbound")
		m.more = "    on_failure: closed\n"
		s := r.start(m.config(portTell))
		to := at("10.0.2.2", portTell)
		if direct, err := r.probe(to, patience); direct || err != nil {
			t.Fatalf("at first: direct %v, %v", direct, err)
		}
		return r, s, to
	}
	neverDirect := func(r *rig, to string, bound time.Duration) {
		r.Helper()
		for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if direct, err := r.probe(to, 300*time.Millisecond); isDirect(direct, err) {
				r.Fatal("a connection went directly")
			}
		}
	}
	t.Run("worker killed", func(t *testing.T) {
		r, s, to := start(t)
		for range 4 {
			r.kill(s.worker(), syscall.SIGKILL)
			neverDirect(r, to, 100*time.Millisecond)
		}
		r.awaitProbe("is refused", to, 3*time.Second, isRefused)
		r.awaitProbe("goes through the new worker", to, patience, isThrough)
	})
	t.Run("worker hung", func(t *testing.T) {
		r, s, to := start(t)
		r.kill(s.worker(), syscall.SIGSTOP)
		neverDirect(r, to, 4*time.Second)
		r.awaitProbe("goes through the new worker", to, patience, isThrough)
	})
	t.Run("keeper killed", func(t *testing.T) {
		r, s, to := start(t)
		r.must(s.Signal(syscall.SIGKILL))
		<-s.Done()
		r.awaitProbe("is refused", to, time.Second, isRefused)
		r.awaitProbe("is refused by IPv6", at("fd00:2::2", portTell), time.Second, isRefused)
		neverDirect(r, to, 500*time.Millisecond)
		s.down()
		r.must(r.net.Gateway.Forward()) // down put forwarding back to off
		r.awaitProbe("goes directly after down", to, time.Second, isDirect)
	})
	t.Run("stopped", func(t *testing.T) {
		r, s, to := start(t)
		s.stop()
		r.must(r.net.Gateway.Forward())
		r.awaitProbe("goes directly after a clean stop", to, time.Second, isDirect)
	})
}

// TestReload changes the configuration under load: nothing is lost, what runs goes on, and a bad file is refused with its errors.
func TestReload(t *testing.T) {
	r := newRig(t, 2)
	for i, server := range r.net.Servers {
		_, err := server.Serve("[::]:80", lab.Banner(fmt.Sprintf("server%d ", i+1)))
		r.must(err)
		_, err = server.Serve("[::]:81", lab.Tell)
		r.must(err)
	}
	config := func(server string) string {
		return fmt.Sprintf(`drain: 20s
listeners:
  in: {intercept: {interfaces: [g0], ports: [81]}, source: proxy}
  web: {listen: ["10.0.1.1:8000"], pool: web}
pools:
  web: {servers: ["%s:80"]}
`, server)
	}
	who := func() string {
		buf := make([]byte, 7)
		if _, err := r.dial("10.0.1.1:8000").Read(buf); err != nil {
			r.Fatal(err)
		}
		return string(buf)
	}
	s := r.start(config("10.0.2.2"))
	held, _ := r.tell("10.0.2.2:81")
	if got := who(); got != "server1" {
		r.Errorf("at first %q answers", got)
	}
	l := r.load("10.0.2.2:81")
	for i, server := range []string{"10.0.2.3", "10.0.2.2", "10.0.2.3"} {
		r.writeConfig(config(server))
		r.must(s.Signal(syscall.SIGHUP))
		s.await("reloaded", func(st *admin.Status) bool { return st.Generation == uint64(i+2) && st.Alive })
		if got, want := who(), "server"+string(server[len(server)-1]-1); got != want {
			r.Errorf("after reload %d %q answers, want %q", i+1, got, want)
		}
		held.exchange("over the reload")
	}
	r.writeConfig(strings.Replace(config("10.0.2.2"), "intercept:", "intercep:", 1))
	r.must(s.Signal(syscall.SIGHUP))
	st := s.await("told that the file is bad", func(st *admin.Status) bool { return st.Reload != nil && !st.Reload.Good })
	if !strings.Contains(st.Reload.Error, "intercep") || !strings.Contains(s.log.String(), "intercep") {
		r.Errorf("the refusal does not name the mistake: %q", st.Reload.Error)
	}
	if st.Generation != 4 {
		r.Errorf("generation is %d after a refused reload, want 4", st.Generation)
	}
	if got := who(); got != "server2" {
		r.Errorf("after a refused reload %q answers", got)
	}
	r.writeConfig(strings.Replace(config("10.0.2.2"), "[g0]", "[nosuch]", 1))
	r.must(s.Signal(syscall.SIGHUP))
	s.await("told that the interface is missing", func(st *admin.Status) bool {
		return st.Reload != nil && !st.Reload.Good && strings.Contains(st.Reload.Error, "nosuch")
	})
	held.exchange("and over the refused ones")
	l.finish()
}

// TestReloadChangesInterception has a reload add and remove listeners that intercept, and the kernel follow.
func TestReloadChangesInterception(t *testing.T) {
	r := newRig(t, 1)
	r.serve(portTell, lab.Tell)
	r.serve(portEnd, lab.Tell)
	before := r.look()
	s := r.start(modeNamed("inbound").config(portTell))
	r.awaitProbe("to the other port goes directly", at("10.0.2.2", portEnd), time.Second, isDirect)
	r.writeConfig(modeNamed("inbound").config(portEnd))
	r.must(s.Signal(syscall.SIGHUP))
	s.await("reloaded", func(st *admin.Status) bool { return st.Generation == 2 && st.Alive && st.Kernel.InSync })
	r.awaitProbe("to the other port goes through", at("10.0.2.2", portEnd), time.Second, isThrough)
	r.awaitProbe("to the first port goes directly", at("10.0.2.2", portTell), time.Second, isDirect)
	r.writeConfig("listeners: {web: {listen: [\"10.0.1.1:8000\"], pool: web}}\npools: {web: {servers: [\"10.0.2.2:80\"]}}\n")
	r.must(s.Signal(syscall.SIGHUP))
	s.await("reloaded", func(st *admin.Status) bool { return st.Generation == 3 && st.Alive })
	s.stop()
	r.wantAsBefore(before)
}

// TestExamples runs every file of examples/ unchanged.
func TestExamples(t *testing.T) {
	for file, to := range map[string][]string{
		"explicit.yaml": {"10.0.1.1:8000", "[fd00:1::1]:8000"},
		"outbound.yaml": {"10.0.1.1:8000"},
		"inbound.yaml":  {"10.0.2.2:80", "[fd00:2::3]:80"},
		"inline.yaml":   {"10.0.2.2:80", "[fd00:2::3]:80"},
		"redirect.yaml": {"10.0.2.2:80", "[fd00:2::3]:80"},
	} {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile("../examples/" + file)
			if err != nil {
				t.Fatal(err)
			}
			r := newRig(t, 2)
			for _, server := range r.net.Servers {
				_, err := server.Serve("[::]:80", lab.Tell)
				r.must(err)
			}
			before := r.look()
			s := r.start(string(text))
			for _, addr := range to {
				v, seen := r.tell(addr)
				keeps := strings.Contains(string(text), "source: client")
				if same := seen.From.Addr() == lab.Local(v.conn).Addr(); same != keeps {
					r.Errorf("%s: the server saw %s, the client is %s", addr, seen.From, lab.Local(v.conn))
				}
				v.conn.Close()
			}
			s.await("counting them", func(st *admin.Status) bool { return sum(st, accepted) == uint64(len(to)) })
			s.stop()
			r.wantAsBefore(before)
		})
	}
}
