package test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// program copies the program under test to where a test may replace it.
func (r *rig) program(name, from string) string {
	r.Helper()
	file := filepath.Join(r.dir, name)
	text, err := os.ReadFile(from)
	r.must(err)
	r.must(os.WriteFile(file+".new", text, 0o755))
	r.must(os.Rename(file+".new", file))
	return file
}

// nextVersion builds the program with another version; where it cannot be built it is the one under test.
func nextVersion(t *testing.T, version string) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		return salpBin
	}
	nextBuilt.once.Do(func() {
		nextBuilt.path = filepath.Join(os.TempDir(), fmt.Sprintf("salp-next-%d", os.Getpid()))
		cmd := exec.Command("go", "build", "-ldflags", "-X main.version="+version, "-o", nextBuilt.path, "../cmd/salp")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			nextBuilt.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if nextBuilt.err != nil {
		t.Fatal(nextBuilt.err)
	}
	return nextBuilt.path
}

var nextBuilt struct {
	once sync.Once
	path string
	err  error
}

// witness watches that counters never go back, that status is always answered, and that new connections are always taken in.
type witness struct {
	stop  chan struct{}
	ended sync.WaitGroup
	asked int
	most  int // workers at once
	wrong []string
}

func (s *salp) witness() *witness {
	w := &witness{stop: make(chan struct{})}
	w.ended.Go(func() {
		last := map[string]uint64{}
		grows := func(name string, n uint64) {
			if n < last[name] {
				w.wrong = append(w.wrong, fmt.Sprintf("%s went back from %d to %d", name, last[name], n))
			}
			last[name] = n
		}
		for {
			select {
			case <-w.stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			st, err := s.status()
			if err != nil {
				w.wrong = append(w.wrong, err.Error())
				continue
			}
			w.asked++
			w.most = max(w.most, len(st.Workers))
			if !st.Alive {
				w.wrong = append(w.wrong, "connections are not taken in")
			}
			for _, l := range st.Listeners {
				grows(l.Name+" accepted", l.Counters.Accepted)
				grows(l.Name+" bytes_in", l.Counters.BytesIn)
				grows(l.Name+" bytes_out", l.Counters.BytesOut)
			}
			grows("generation", st.Generation)
		}
	})
	return w
}

func (w *witness) finish(t *testing.T) {
	t.Helper()
	close(w.stop)
	w.ended.Wait()
	t.Logf("status was asked %d times, there were up to %d workers", w.asked, w.most)
	if len(w.wrong) > 0 {
		t.Errorf("%d things were wrong, the first: %s", len(w.wrong), w.wrong[0])
	}
}

// synRetransmits returns how many SYNs the client's kernel has sent again (proc_pid_net(5), TcpExt).
func (r *rig) synRetransmits() int {
	r.Helper()
	out, err := r.net.Client().Run(context.Background(), "cat", "/proc/net/netstat")
	r.must(err)
	var names []string
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "TcpExt:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "TCPSynRetrans" {
				n, err := strconv.Atoi(fields[i])
				r.must(err)
				return n
			}
		}
	}
	r.Fatal("the kernel does not count SYN retransmissions")
	return 0
}

// tableHandle returns what the kernel gave the nft table when it was made: another one means that it was away.
func (r *rig) tableHandle() string {
	r.Helper()
	out := r.gw("nft", "-a", "list", "table", "inet", "salp")
	_, handle, _ := strings.Cut(strings.SplitN(out, "\n", 2)[0], "# handle ")
	if handle == "" {
		r.Fatalf("no handle in %q", out)
	}
	return handle
}

const upgradeConfig = `drain: 20s
listeners:
  in: {intercept: {interfaces: [g0], ports: [81]}, source: proxy}
  keep: {intercept: {interfaces: [g0], ports: [82]}, source: client, source_port: keep}
  web: {listen: ["10.0.1.1:8000"], pool: web}
pools:
  web: {servers: ["10.0.2.2:80"]}
`

// startUpgradable starts salp from a file that can be replaced, with servers and connections that stay open.
func (r *rig) startUpgradable() (*salp, []*conversation) {
	r.Helper()
	return r.startUpgradableWith(upgradeConfig, nil)
}

// startUpgradableWith is startUpgradable with another configuration, and connections to more listeners.
func (r *rig) startUpgradableWith(configuration string, more []string) (*salp, []*conversation) {
	r.Helper()
	for _, port := range []string{"80", "81", "82"} {
		_, err := r.net.Server().Serve("[::]:"+port, lab.Tell)
		r.must(err)
	}
	r.must(r.net.Gateway.Forward())
	s := r.launchWith(r.program("salp", salpBin), configuration)
	s.await("running", serves)
	var held []*conversation
	for _, to := range append([]string{"10.0.2.2:81", "10.0.2.2:82", "[fd00:2::2]:82", "10.0.1.1:8000"}, more...) {
		v, _ := r.tell(to)
		held = append(held, v)
	}
	return s, held
}

// loadedConfig is upgradeConfig with two more ways in: whom a pool's servers see is the client, and the kernel path.
const loadedConfig = `drain: 5m
listeners:
  in: {intercept: {interfaces: [g0], ports: [81]}, source: proxy}
  keep: {intercept: {interfaces: [g0], ports: [82]}, source: client, source_port: keep}
  web: {listen: ["10.0.1.1:8000"], pool: web}
  redirected: {intercept: {interfaces: [g0], ports: [83], method: redirect}, pool: web}
  kernel: {listen: ["10.0.1.1:8001"], via: kernel, pool: fast}
pools:
  web: {servers: ["10.0.2.2:80"], check: {every: 200ms}}
  fast: {servers: ["10.0.2.2:80"], check: {every: 200ms}}
`

// loadedVariant is loadedConfig with something else changed each time: more and fewer loops, limits and their chains, another choice of server.
func loadedVariant(i int) string {
	switch i % 5 {
	case 0:
		return "workers: 1\n" + loadedConfig
	case 1:
		return "workers: 4\n" + loadedConfig
	case 2:
		return strings.Replace(loadedConfig, "pool: web}", "pool: web, limits: {rate: 100000, client_rate: 50000, connections: 10000, backlog: 2000}}", 1)
	case 3:
		return strings.Replace(loadedConfig, "web: {servers", "web: {balance: source, stick: {for: 1m}, servers", 1)
	}
	return loadedConfig
}

// TestReloadAndUpgradeUnderLoad reloads twenty-one times and upgrades three times while new connections keep coming, by each way in: not one is refused, reset,
// sent past Salp or kept waiting so long that its SYN was sent again, no connection that runs breaks, no counter goes back, and status shows both generations.
func TestReloadAndUpgradeUnderLoad(t *testing.T) {
	r := newRig(t, 1)
	next := nextVersion(t, "v-next")
	s, held := r.startUpgradableWith(loadedConfig, []string{"10.0.2.2:83", "10.0.1.1:8001"})
	st, err := s.status()
	r.must(err)
	first, pid, table, before := st.Version, st.PID, r.tableHandle(), r.synRetransmits()
	loads := []*load{r.load("10.0.2.2:81"), r.load("10.0.1.1:8000"), r.load("10.0.2.2:83"), r.load("10.0.1.1:8001")}
	direct := r.load("10.0.2.2:80") // which is not intercepted: it tells how slow the machine is itself
	w := s.witness()
	generation := st.Generation
	for i := range 24 {
		generation++
		if i%8 != 7 {
			r.writeConfig(loadedVariant(i))
			r.must(s.Signal(syscall.SIGHUP))
			s.wantGenerations(s.await("reloaded", func(st *admin.Status) bool { return st.Generation == generation && st.Alive }))
			continue
		}
		from, to := salpBin, first
		if i/8%2 == 0 {
			from, to = next, "v-next"
		}
		r.program("salp", from)
		if i == 7 {
			r.must(s.Signal(syscall.SIGUSR2))
		} else if out, code := r.command("upgrade", "--run-dir", s.dir); code != 0 {
			r.Fatalf("salp upgrade: exit %d: %s", code, out)
		}
		st := s.await("upgraded", func(st *admin.Status) bool {
			return st.Generation == generation && st.Upgrade != nil && st.Upgrade.State == admin.UpgradeDone
		})
		if next != salpBin && st.Version != to || st.PID != pid {
			r.Errorf("upgrade %d: version %s, want %s; process %d, want %d", i/8+1, st.Version, to, st.PID, pid)
		}
		s.wantGenerations(st)
		for _, v := range held {
			v.exchange("over the upgrade")
		}
	}
	for _, v := range held {
		v.exchange("after all of it")
	}
	w.finish(t)
	direct.end()
	for _, l := range loads {
		l.finish()
		if l.slowest > time.Second*slowdown+direct.slowest {
			r.Errorf("a connection took %v, and the slowest that Salp has nothing to do with %v", l.slowest, direct.slowest)
		}
	}
	if n := r.synRetransmits() - before; n > 0 {
		r.Errorf("%d SYNs were sent again", n)
	}
	if now := r.tableHandle(); now != table {
		r.Errorf("the nft table was made anew: handle %s, before %s", now, table)
	}
	st, err = s.status()
	r.must(err)
	versions := map[string]bool{}
	for _, w := range st.Workers {
		versions[w.Version] = true
	}
	if next != salpBin && (!versions[first] || !versions["v-next"]) {
		r.Errorf("workers are of versions %v, want %s and v-next", versions, first)
	}
	if !st.Kernel.InSync || len(st.Kernel.Repairs) > 0 {
		r.Errorf("kernel: %+v", st.Kernel)
	}
	for _, v := range held {
		v.conn.Close()
	}
	s.await("alone", func(st *admin.Status) bool { return len(st.Workers) == 1 })
	s.stop()
}

// wantGenerations wants status to show the worker of the generation in force, and those before that still have connections: all but one drain.
func (s *salp) wantGenerations(st *admin.Status) {
	s.r.Helper()
	running, draining := 0, 0
	for _, w := range st.Workers {
		switch {
		case w.State == admin.WorkerRunning && w.Generation == st.Generation:
			running++
		case w.State == admin.WorkerDraining && w.Generation < st.Generation && w.Connections > 0:
			draining++
		}
	}
	if running != 1 || draining == 0 {
		s.r.Errorf("in generation %d status shows the workers %+v", st.Generation, st.Workers)
	}
	out, code := s.r.command("status", "--run-dir", s.dir)
	for _, want := range []string{"draining", "running", fmt.Sprintf("(generation %d)", st.Generation)} {
		if code != 0 || !strings.Contains(out, want) {
			s.r.Errorf("salp status does not show %q:\n%s", want, out)
		}
	}
}

// TestUpgradeRefused tries programs that cannot take over: nothing happens, the reason is told, and connections go on.
func TestUpgradeRefused(t *testing.T) {
	r := newRig(t, 1)
	s, held := r.startUpgradable()
	script := func(name, text string) string {
		file := filepath.Join(r.dir, name)
		r.must(os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755))
		return file
	}
	plain := filepath.Join(r.dir, "plain")
	r.must(os.WriteFile(plain, []byte("no program"), 0o644))
	worker, table := s.worker(), r.tableHandle()
	for _, c := range []struct{ name, binary, want string }{
		{"nothing there", filepath.Join(r.dir, "nosuch"), "no such file"},
		{"not executable", plain, "permission denied"},
		{"another program", script("other", "echo hello world"), "is not Salp"},
		{"one that fails", script("fails", "echo kaput >&2; exit 1"), "kaput"},
		{"one that cannot take over", script("old", `[ "$1" = version ] && echo salp v0.1 || { echo "unknown flag: --takes-over" >&2; exit 2; }`), "unknown flag"},
	} {
		out, code := r.command("upgrade", "--run-dir", s.dir, c.binary)
		if code != 1 || !strings.Contains(out, c.want) {
			r.Errorf("%s: exit %d, %q, want %q", c.name, code, out, c.want)
		}
		if got := s.worker(); got != worker {
			r.Errorf("%s: another worker runs", c.name)
		}
		for _, v := range held {
			v.exchange("after a refused upgrade")
		}
		if now := r.tableHandle(); now != table {
			r.Errorf("%s: the nft table was made anew", c.name)
		}
	}
	st, err := s.status()
	r.must(err)
	if st.Upgrade == nil || st.Upgrade.State != admin.UpgradeFailed || st.State != admin.StateRunning || !st.Alive || !st.Kernel.InSync {
		r.Errorf("status: %+v, upgrade %+v", st, st.Upgrade)
	}
	// A bad file is found by the new program before anything happens.
	r.writeConfig(strings.Replace(upgradeConfig, "intercept:", "intercep:", 1))
	if out, code := r.command("upgrade", "--run-dir", s.dir, salpBin); code != 1 || !strings.Contains(out, "intercep") {
		r.Errorf("with a bad configuration: exit %d, %q", code, out)
	}
	r.writeConfig(upgradeConfig)
	if out, code := r.command("upgrade", "--run-dir", s.dir, salpBin); code != 0 {
		r.Errorf("at last: exit %d, %s", code, out)
	}
	for _, v := range held {
		v.exchange("over the upgrade")
		v.conn.Close()
	}
	s.stop()
}

// later writes a program that passes every examination, as it is salp that answers, and does something else when it is to take over.
func (r *rig) later(name, run string) string {
	r.Helper()
	file := filepath.Join(r.dir, name)
	r.must(os.WriteFile(file, []byte("#!/bin/sh\ncase $1 in run) "+run+" ;; esac\nexec "+salpBin+" \"$@\"\n"), 0o755))
	return file
}

// TestUpgradeFailsLate has programs fail when they run, which no examination finds out: one that ends goes back to the old program, one that is
// killed leaves the traffic to pass by.
func TestUpgradeFailsLate(t *testing.T) {
	r := newRig(t, 1)
	s, held := r.startUpgradable()
	table, worker := r.tableHandle(), s.worker()
	l, w := r.load("10.0.2.2:81"), s.witness()
	for _, c := range []struct{ name, run, want string }{
		{"it goes back", `export SALP_UPGRADE_FAILED="cannot take over after all"; exec /proc/self/fd/${SALP_UPGRADE#* } "$@"`, "cannot take over after all"},
		{"it does not know a flag", `exec ` + salpBin + ` "$@" --nosuch`, "nosuch"},
	} {
		out, code := r.command("upgrade", "--run-dir", s.dir, r.later("late", c.run))
		if code != 1 || !strings.Contains(out, c.want) {
			r.Errorf("%s: exit %d, %q, want %q", c.name, code, out, c.want)
		}
		for _, v := range held {
			v.exchange("after a failed upgrade")
		}
		st := s.await("as before", func(st *admin.Status) bool { return st.Alive && st.Kernel.InSync })
		if st.Upgrade.State != admin.UpgradeFailed || s.worker() != worker || r.tableHandle() != table {
			r.Errorf("%s: upgrade %+v, worker %d, want %d, table %s, want %s", c.name, st.Upgrade, s.worker(), worker, r.tableHandle(), table)
		}
	}
	w.finish(t)
	l.finish()
	if out, code := r.command("upgrade", "--run-dir", s.dir, r.later("killed", "kill -9 $$")); code != 1 {
		r.Errorf("killed: exit %d, %s", code, out)
	}
	<-s.Done()
	r.awaitProbe("goes directly after the new program was killed", "10.0.2.2:81", time.Second, isDirect)
	s.down()
	r.awaitNobody()
}

// TestUpgradeTellsSystemd has the service manager hear of an upgrade: reloading with the time, then ready, and never another main process.
func TestUpgradeTellsSystemd(t *testing.T) {
	r := newRig(t, 1)
	path := filepath.Join(r.dir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	r.must(err)
	defer socket.Close()
	told := &lab.Log{}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				return
			}
			_, _ = told.Write(append(buf[:n:n], '\n'))
		}
	}()
	r.environment = []string{"NOTIFY_SOCKET=" + path}
	s := r.start(`listeners: {in: {intercept: {interfaces: [g0], ports: [81]}, source: proxy}}`)
	if out, code := r.command("upgrade", "--run-dir", s.dir, salpBin); code != 0 {
		t.Fatalf("salp upgrade: %s", out)
	}
	s.stop()
	var states []string
	for line := range strings.Lines(told.String()) {
		if name, _, _ := strings.Cut(strings.TrimSpace(line), "="); name != "" && name != "STATUS" {
			states = append(states, name)
		}
	}
	got := strings.Join(states, " ")
	if want := "READY RELOADING MONOTONIC_USEC RELOADING MONOTONIC_USEC READY STOPPING"; got != want {
		t.Errorf("systemd is told %q, want %q:\n%s", got, want, told)
	}
}
