package keeper

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/kernel"
	"salp/internal/kernel/route"
	"salp/internal/lab"
	"salp/internal/plan"
)

// fakeKernel remembers what it was asked. Its alive element lapses as the real one does.
type fakeKernel struct {
	mu         sync.Mutex
	facts      plan.Facts
	applied    []plan.Plan
	applyError error
	aliveUntil time.Time
	removed    int
	destroyed  []netip.AddrPort
	tell       func(kernel.Event)
	owner      *os.File
	drift      []kernel.Change // what the next Apply repairs
	gateways   []plan.Gateway
	counts     map[string]kernel.Count
	traffic    map[string]route.Traffic
	forgotten  []uint32 // marks of links whose flows were
}

func newFakeKernel() *fakeKernel {
	return &fakeKernel{facts: plan.Facts{IPv6: true, TProxy: plan.Yes, Interfaces: []plan.Interface{
		{Name: "lo", Up: true, Loopback: true, Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128")}},
		{Name: "lan0", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}},
	}}}
}

func (f *fakeKernel) Facts() (plan.Facts, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.facts, nil
}

func (f *fakeKernel) Diff(plan.Plan) ([]kernel.Change, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.drift, nil
}

func (f *fakeKernel) Apply(p plan.Plan) ([]kernel.Change, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.applyError != nil {
		return nil, f.applyError
	}
	f.applied = append(f.applied, p)
	changes := f.drift
	f.drift = nil
	return changes, nil
}

func (f *fakeKernel) Alive(d time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.aliveUntil = time.Now().Add(d)
	return nil
}

func (f *fakeKernel) Watch(ctx context.Context, tell func(kernel.Event)) error {
	f.mu.Lock()
	f.tell = tell
	f.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func (f *fakeKernel) Remove() ([]kernel.Change, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.removed++
	return nil, nil
}

func (f *fakeKernel) DestroyTimeWait(local, _ netip.AddrPort) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.destroyed = append(f.destroyed, local)
	return nil
}

func (f *fakeKernel) Owner() (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.owner == nil {
		var err error
		if f.owner, err = os.Open(os.DevNull); err != nil {
			return -1, err
		}
	}
	return descriptor(f.owner)
}

func (f *fakeKernel) Gateways() ([]plan.Gateway, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gateways, nil
}

func (f *fakeKernel) Counters(string) (map[string]kernel.Count, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts, nil
}

func (f *fakeKernel) Traffic() (map[string]route.Traffic, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.traffic, nil
}

func (f *fakeKernel) ForgetFlows(value, mask uint32, still func() bool) (int, error) {
	if !still() {
		return 0, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgotten = append(f.forgotten, value&mask)
	return 1, nil
}

func (f *fakeKernel) SetElements(string, []plan.Set) error { return nil }

func (f *fakeKernel) ForgetForwarded(byte, []netip.AddrPort, bool) (int, error) { return 0, nil }

func (f *fakeKernel) alive() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Before(f.aliveUntil)
}

func (f *fakeKernel) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// rig is a keeper under test.
type rig struct {
	t      *testing.T
	kernel *fakeKernel
	keeper *keeper
	file   string
	stop   context.CancelFunc
	reload chan struct{}
	hurry  chan struct{}
	ended  chan error
	log    *lab.Log
}

const (
	explicit  = "listeners: {web: {listen: [\"127.0.0.1:8080\"], source: proxy, pool: web}}\npools: {web: {servers: [\"127.0.0.1:8081\"]}}\ndrain: 1s\n"
	intercept = "listeners: {web: {intercept: {interfaces: [lan0], ports: [80]}, source: client}}\ndrain: 1s\n"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: transparent sockets and another user take root")
	}
}

// start runs a keeper with that configuration. It does not wait until it is ready.
func start(t *testing.T, text string, fake *fakeKernel) *rig {
	t.Helper()
	return startIn(t, t.TempDir(), text, fake)
}

// startIn is start with a run directory, where another keeper may have been.
func startIn(t *testing.T, dir, text string, fake *fakeKernel) *rig {
	t.Helper()
	r := &rig{t: t, kernel: fake, file: filepath.Join(dir, "salp.yaml"), ended: make(chan error, 1), log: &lab.Log{},
		reload: make(chan struct{}), hurry: make(chan struct{})}
	r.write(text)
	cfg, err := config.Load(r.file)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{ConfigFile: r.file, RunDir: dir, Version: "test", Reload: r.reload, Hurry: r.hurry, Worker: []string{"/proc/self/exe", "fake-worker"}}
	r.keeper = newKeeper(o, newLogSink(r.log, config.Logs{Format: config.LogText, Level: "debug"}), r.kernel)
	if r.keeper.lock, err = lockRunDir(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.keeper.lock.release)
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	go func() { r.ended <- r.keeper.run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-r.ended:
			r.ended <- err
		case <-time.After(10 * time.Second):
			t.Error("the keeper does not end")
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.log)
		}
	})
	return r
}

func (r *rig) write(text string) {
	r.t.Helper()
	fresh := r.file + ".new" // and then renamed: a reload that reads meanwhile must not find an empty file
	if err := errors.Join(os.WriteFile(fresh, []byte(text), 0o600), os.Rename(fresh, r.file)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) status() admin.Status {
	r.t.Helper()
	s, err := (&gateway{r.keeper}).Status(r.t.Context())
	if err != nil && !errors.Is(err, errStopping) {
		r.t.Fatal(err)
	}
	return s
}

// await polls the status until it is as wanted. A machine that is busy with something else gets three times as long as it should take.
func (r *rig) await(what string, within time.Duration, wanted func(admin.Status) bool) admin.Status {
	r.t.Helper()
	within *= 3
	until := time.Now().Add(within)
	for {
		s := r.status()
		if wanted(s) {
			return s
		}
		if time.Now().After(until) {
			r.t.Fatalf("not %s within %v: %+v", what, within, s)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (r *rig) ready() admin.Status {
	r.t.Helper()
	return r.await("ready", 10*time.Second, running)
}

func running(s admin.Status) bool {
	return s.State == admin.StateRunning && s.Alive && len(s.Workers) == 1
}

// end waits for the keeper's end.
func (r *rig) end(within time.Duration) error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		r.ended <- err
		return err
	case <-time.After(within):
		r.t.Fatalf("no end within %v", within)
		return nil
	}
}

func (r *rig) reloadNow() (uint64, error) { return (&gateway{r.keeper}).Reload(r.t.Context()) }

func (r *rig) signal(pid int, s syscall.Signal) {
	r.t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) logs(want string) {
	r.t.Helper()
	if !strings.Contains(r.log.String(), want) {
		r.t.Errorf("the log does not say %q", want)
	}
}
