package keeper

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/kernel"
	"salp/internal/plan"
)

func TestExplicitNeedsNothingInTheKernel(t *testing.T) {
	r := start(t, explicit, newFakeKernel())
	s := r.ready()
	if s.Kernel.Needed || !s.Kernel.InSync || s.Listeners[0].Mode != "explicit" || s.Listeners[0].Addresses[0] != "127.0.0.1:8080" {
		t.Errorf("status: %+v", s)
	}
	if conn, err := net.Dial("tcp", "127.0.0.1:8080"); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
	r.stop()
	if err := r.end(3 * time.Second); err != nil {
		t.Error(err)
	}
	if len(r.kernel.applied) != 0 || r.kernel.removed != 0 {
		t.Errorf("the kernel was asked: %+v", r.kernel)
	}
	if _, err := net.Dial("tcp", "127.0.0.1:8080"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the end: %v, want refused", err)
	}
}

func TestInterceptAppliesThenTakesIn(t *testing.T) {
	needRoot(t)
	r := start(t, intercept, newFakeKernel())
	s := r.ready()
	if !r.kernel.alive() || len(r.kernel.applied) == 0 || r.kernel.applied[0].Empty() {
		t.Errorf("kernel: %+v", r.kernel)
	}
	l := s.Listeners[0]
	if l.Mode != "fully transparent" || l.Interfaces[0] != "lan0" || l.Ports[0] != "80" || l.LocalPort < 61440 || l.Method != "tproxy" {
		t.Errorf("listener: %+v", l)
	}
	r.stop()
	if err := r.end(3 * time.Second); err != nil {
		t.Error(err)
	}
	if r.kernel.alive() || r.kernel.removed != 1 {
		t.Errorf("after the end: alive %v, removed %d times", r.kernel.alive(), r.kernel.removed)
	}
}

func TestWorkerHasNoMorePrivilegesThanItNeeds(t *testing.T) {
	needRoot(t)
	for _, c := range []struct{ name, text, capabilities string }{
		{"intercept", intercept, "0000000000002000"}, // CAP_NET_RAW
		{"explicit", explicit, "0000000000000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, c.text, newFakeKernel())
			pid := r.ready().Workers[0].PID
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"Uid:\t65534\t65534\t65534\t65534", "Groups:\t \n", "NoNewPrivs:\t1"}
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
				want = append(want, set+":\t"+c.capabilities)
			}
			for _, want := range want {
				if !strings.Contains(string(status), want) {
					t.Errorf("worker lacks %q:\n%s", want, status)
				}
			}
			environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if err != nil || strings.Contains(string(environ), "SALP_TEST") {
				t.Errorf("worker's environment: %q, %v", environ, err)
			}
			own, err := os.ReadFile("/proc/self/status")
			if err != nil || !strings.Contains(string(own), "NoNewPrivs:\t0") {
				t.Errorf("the keeper has confined itself: %v", err)
			}
		})
	}
}

func TestCrashedWorkerIsReplaced(t *testing.T) {
	needRoot(t)
	r := start(t, intercept, newFakeKernel())
	first := r.ready().Workers[0].PID
	r.signal(first, syscall.SIGKILL)
	until := time.Now().Add(90 * time.Millisecond)
	for r.kernel.alive() && time.Now().Before(until) {
		time.Sleep(time.Millisecond)
	}
	if r.kernel.alive() {
		t.Error("new connections are still taken in though the worker is dead")
	}
	s := r.await("replaced", 5*time.Second, func(s admin.Status) bool { return running(s) && s.Workers[0].PID != first })
	if s.Restarts != 1 || s.Generation != 1 {
		t.Errorf("restarts %d, generation %d", s.Restarts, s.Generation)
	}
	r.logs("signal: killed")
}

func TestBackOffDoubles(t *testing.T) {
	r := start(t, explicit, newFakeKernel())
	began := time.Now()
	beaten := func(times uint64) admin.Status {
		return r.await("counted", 5*time.Second, func(s admin.Status) bool {
			return running(s) && s.Listeners[0].Counters.Errors[control.ErrorIdle] == times
		})
	}
	for i := range 3 {
		pid := beaten(uint64(i + 1)).Workers[0].PID
		r.signal(pid, syscall.SIGKILL)
		r.await("noticed", 5*time.Second, func(s admin.Status) bool { return s.Restarts == uint64(i+1) })
	}
	s := beaten(4) // what the dead workers counted is in it
	if took := time.Since(began); took < 700*time.Millisecond {
		t.Errorf("three restarts took %v, less than 100 + 200 + 400 ms", took)
	}
	if l := s.Listeners[0].Counters; l.Accepted < 4 || l.Errors["made up"] != 0 {
		t.Errorf("the counters hold what no worker may count: %+v", l)
	}
}

func TestHungWorkerIsPassedByAndReplaced(t *testing.T) {
	needRoot(t)
	r := start(t, intercept, newFakeKernel())
	first := r.ready().Workers[0].PID
	r.signal(first, syscall.SIGSTOP)
	began := time.Now()
	for r.kernel.alive() && time.Since(began) < 4*time.Second {
		time.Sleep(10 * time.Millisecond)
	}
	if lapse := time.Since(began); lapse > 2500*time.Millisecond {
		t.Errorf("new connections pass by only after %v", lapse)
	}
	if s := r.status(); s.Workers[0].State != admin.WorkerHung || s.Alive {
		t.Errorf("status: %+v", s)
	}
	r.signal(first, syscall.SIGCONT)
	r.await("back", 2*time.Second, running)
	r.signal(first, syscall.SIGSTOP)
	s := r.await("replaced", 15*time.Second, func(s admin.Status) bool { return running(s) && s.Workers[0].PID != first })
	if s.Restarts != 1 {
		t.Errorf("%d restarts", s.Restarts)
	}
	r.logs("no sign of life")
}

func TestReloadSwapsAndDrains(t *testing.T) {
	needRoot(t)
	r := start(t, "# worker: busy\n"+intercept, newFakeKernel())
	first := r.ready()
	r.write(strings.Replace(intercept, "80]", "80, 443]", 1))
	if generation, err := r.reloadNow(); generation != 2 || err != nil {
		t.Fatalf("reload: %d, %v", generation, err)
	}
	s := r.status()
	if len(s.Workers) != 2 || s.Workers[0].State != admin.WorkerDraining || s.Workers[1].State != admin.WorkerRunning || !s.Alive {
		t.Errorf("workers: %+v", s.Workers)
	}
	if !s.Reload.Good || len(s.Listeners[0].Ports) != 2 || s.Listeners[0].LocalPort != first.Listeners[0].LocalPort {
		t.Errorf("status: %+v", s)
	}
	s = r.await("drained", 4*time.Second, func(s admin.Status) bool { return len(s.Workers) == 1 })
	if s.Restarts != 0 || s.Listeners[0].Counters.Active != 0 {
		t.Errorf("after the drain: %+v", s)
	}
	r.logs("worker drained")
	r.logs("connections_reset=1")
}

func TestRefusedReloadKeepsTheOld(t *testing.T) {
	needRoot(t)
	taken, err := net.Listen("tcp", "127.0.0.1:8090")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		name, text, want string
		prepare          func(*fakeKernel)
	}{
		{"unknown key", intercept + "junk: 1\n", "junk", nil},
		{"missing interface", strings.Replace(intercept, "lan0", "wan9", 1), "wan9", nil},
		{"port in use", strings.ReplaceAll(explicit, "8080", "8090"), "8090", nil},
		{"unknown user", intercept + "user: nosuchuser\n", "nosuchuser", nil},
		{"marks", intercept + "kernel: {marks: 0x0f000000}\n", "mark bits cannot change", nil},
		{"worker fails", "# worker: fails\n" + intercept, "no engine", nil},
		{"worker panics", "# worker: panics\n" + intercept, "out of luck", nil},
		{"worker lies", "# worker: lies\n" + intercept, "keeper's to send", nil},
		{"kernel refuses", intercept, "nft: no", func(f *fakeKernel) { f.applyError = errors.New("nft: no") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, intercept, newFakeKernel())
			first := r.ready()
			r.write(c.text)
			if c.prepare != nil {
				r.kernel.set(func() { c.prepare(r.kernel) })
			}
			generation, err := r.reloadNow()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("reload: %d, %v; want an error with %q", generation, err, c.want)
			}
			s := r.await("one worker again", 3*time.Second, running)
			if s.Generation != 1 || s.Workers[0].PID != first.Workers[0].PID || s.Reload == nil || s.Reload.Good || !strings.Contains(s.Reload.Error, c.want) {
				t.Errorf("status: %+v", s)
			}
			r.logs("reload refused")
		})
	}
}

func TestManyReloadsEndWithTheLastFile(t *testing.T) {
	r := start(t, explicit, newFakeKernel())
	r.ready()
	results := make(chan error, 10)
	for i := range 10 {
		r.write(strings.ReplaceAll(explicit, "8080", fmt.Sprint(8100+i)))
		go func() {
			_, err := r.reloadNow()
			results <- err
		}()
		time.Sleep(3 * time.Millisecond)
	}
	for range 10 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	s := r.await("settled", 5*time.Second, running)
	if got := s.Listeners[0].Addresses[0]; got != "127.0.0.1:8109" {
		t.Errorf("in force is %s", got)
	}
	if _, err := net.Dial("tcp", "127.0.0.1:8080"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a removed listener's socket is still open: %v", err)
	}
}

func TestGroupsOnlyGrow(t *testing.T) {
	r := start(t, explicit+"workers: 2\n", newFakeKernel())
	sockets := func() uint64 {
		t.Helper()
		s := r.await("counted", 5*time.Second, func(s admin.Status) bool { return running(s) && s.Listeners[0].Counters.Accepted > 0 })
		return s.Listeners[0].Counters.Accepted
	}
	if n := sockets(); n != 2 {
		t.Errorf("the worker got %d sockets for 2 loops", n)
	}
	total := uint64(2)
	for _, c := range []struct{ loops, want uint64 }{{4, 4}, {1, 4}} {
		r.write(explicit + fmt.Sprintf("workers: %d\n", c.loops))
		if _, err := r.reloadNow(); err != nil {
			t.Fatal(err)
		}
		total += c.want
		r.await(fmt.Sprintf("%d sockets with %d loops", c.want, c.loops), 3*time.Second, func(s admin.Status) bool {
			return running(s) && s.Listeners[0].Counters.Accepted == total
		})
	}
}

func TestCrashDuringReload(t *testing.T) {
	r := start(t, explicit, newFakeKernel())
	first := r.ready().Workers[0].PID
	r.write("# worker: silent\n" + explicit)
	go func() { _, _ = r.reloadNow() }()
	s := r.await("two workers", 3*time.Second, func(s admin.Status) bool { return len(s.Workers) == 2 })
	r.signal(first, syscall.SIGKILL)
	r.await("noticed", 3*time.Second, func(s admin.Status) bool { return s.Restarts == 1 })
	r.signal(s.Workers[1].PID, syscall.SIGKILL)
	if s := r.ready(); s.Generation != 1 || s.Reload.Good {
		t.Errorf("status: %+v", s)
	}
}

func TestStopIsBoundedAndCanBeHurried(t *testing.T) {
	for _, c := range []struct {
		behaviour string
		hurry     bool
		least     time.Duration
		most      time.Duration
	}{{"good", false, 0, time.Second}, {"busy", false, 900 * time.Millisecond, 2 * time.Second}, {"busy", true, 0, 800 * time.Millisecond},
		{"stubborn", false, 2 * time.Second, 5 * time.Second}} {
		t.Run(fmt.Sprintf("%s hurry %v", c.behaviour, c.hurry), func(t *testing.T) {
			r := start(t, "# worker: "+c.behaviour+"\n"+explicit, newFakeKernel())
			r.ready()
			began := time.Now()
			r.stop()
			if c.hurry {
				r.hurry <- struct{}{}
			}
			if err := r.end(10 * time.Second); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took < c.least || took > c.most {
				t.Errorf("took %v, want between %v and %v", took, c.least, c.most)
			}
		})
	}
}

func TestStopDuringStart(t *testing.T) {
	r := start(t, "# worker: silent\n"+explicit, newFakeKernel())
	r.await("starting", 3*time.Second, func(s admin.Status) bool { return len(s.Workers) == 1 })
	r.stop()
	if err := r.end(3 * time.Second); err != nil {
		t.Error(err)
	}
}

func TestFailedStartSaysWhy(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name, text, want string
		prepare          func(*fakeKernel)
	}{
		{"worker fails", "# worker: fails\n" + explicit, "no engine", func(*fakeKernel) {}},
		{"kernel refuses", intercept, "nft: no", func(f *fakeKernel) { f.applyError = errors.New("nft: no") }},
		{"no interface", intercept, "lan0", func(f *fakeKernel) { f.facts.Interfaces = f.facts.Interfaces[:1] }},
	} {
		t.Run(c.name, func(t *testing.T) {
			fake := newFakeKernel()
			c.prepare(fake)
			r := start(t, c.text, fake)
			if err := r.end(5 * time.Second); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if fake.alive() {
				t.Error("connections are taken in by nobody")
			}
		})
	}
}

func TestRepairs(t *testing.T) {
	needRoot(t)
	r := start(t, intercept, newFakeKernel())
	r.ready()
	r.kernel.set(func() {
		r.kernel.drift = []kernel.Change{{Op: "add", Object: "ip rule", Want: "fwmark"}}
	})
	if s := r.status(); s.Kernel.InSync || len(s.Kernel.Differences) != 1 {
		t.Errorf("kernel: %+v", s.Kernel)
	}
	r.kernel.tell(kernel.Event{What: "address added", Facts: true})
	r.kernel.tell(kernel.Event{What: "ip rule removed", By: "ip (process 7)"})
	s := r.await("repaired", time.Second, func(s admin.Status) bool { return len(s.Kernel.Repairs) == 1 })
	if !s.Kernel.InSync {
		t.Errorf("kernel: %+v", s.Kernel)
	}
	if by := s.Kernel.Repairs[0].By; by != "ip rule removed by ip (process 7) (and 1 more changes)" {
		t.Errorf("repaired after %q", by)
	}
	r.logs("kernel repaired")
	// The host changes, the plan with it; then it does not fit any more, and the last plan stays.
	r.kernel.set(func() {
		r.kernel.facts.Interfaces = append(r.kernel.facts.Interfaces, plan.Interface{Name: "wan0", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}})
	})
	r.kernel.tell(kernel.Event{})
	last := func() plan.Plan {
		r.kernel.mu.Lock()
		defer r.kernel.mu.Unlock()
		return r.kernel.applied[len(r.kernel.applied)-1]
	}
	until := time.Now().Add(time.Second)
	for !strings.Contains(last().Text(), "wan0") && time.Now().Before(until) {
		time.Sleep(10 * time.Millisecond)
	}
	if !strings.Contains(last().Text(), "wan0") {
		t.Errorf("the new interface is not in the plan:\n%s", last().Text())
	}
	r.kernel.set(func() { r.kernel.facts.Interfaces = r.kernel.facts.Interfaces[:1] })
	r.kernel.tell(kernel.Event{})
	r.await("told", time.Second, func(s admin.Status) bool { return strings.Contains(s.Kernel.Error, "lan0") })
	if !strings.Contains(last().Text(), "wan0") {
		t.Error("the last plan did not stay")
	}
}

func TestTwoKeepersNeverShareARunDir(t *testing.T) {
	dir := t.TempDir()
	lock, err := lockRunDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockRunDir(dir); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("second lock: %v", err)
	}
	lock.release()
	lock, err = lockRunDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	lock.release()
}

func TestMissingCapabilitiesAreNamed(t *testing.T) {
	cfg := func(text string) *config.Config {
		c, err := config.Parse("salp.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	wants := plan.Plan{Rules: []plan.Rule{{}}}
	for _, c := range []struct {
		name string
		cfg  *config.Config
		plan plan.Plan
		who  identity
		want []string
	}{
		{"explicit", cfg(explicit), plan.Plan{}, identity{}, nil},
		{"low port", cfg(strings.ReplaceAll(explicit, "8080", "80")), plan.Plan{}, identity{}, []string{"CAP_NET_BIND_SERVICE", "127.0.0.1:80"}},
		{"intercept", cfg(intercept), wants, identity{}, []string{"CAP_NET_ADMIN", "CAP_NET_RAW", "listener web"}},
		{"user", cfg(explicit), plan.Plan{}, identity{name: "nobody", changes: true}, []string{"CAP_SETUID and CAP_SETGID and CAP_SETPCAP to start the worker as user nobody"}},
	} {
		err := missing(needs(c.cfg, c.plan, c.who, 1024), 0)
		if (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, want := range c.want {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not name %s", c.name, err, want)
			}
		}
		if err := missing(needs(c.cfg, c.plan, c.who, 1024), ^capabilities(0)); err != nil {
			t.Errorf("%s with all capabilities: %v", c.name, err)
		}
	}
}
