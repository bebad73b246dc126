package dial_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"salp/internal/config"
	"salp/internal/dial"
	"salp/internal/engine"
	"salp/internal/lab"
	"salp/internal/listen"
	"salp/internal/policy"
	"salp/internal/pool"
	"salp/internal/sock"
)

// TestMain runs the tests in a network namespace of their own: they make rules and open sockets with other addresses.
func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

var addr = netip.MustParseAddrPort

// owner is the least that can have an attempt: it keeps what becomes of it.
type owner struct {
	attempt *dial.Attempt
	result  chan result
}

type result struct {
	progress dial.Progress
	kind     listen.Kind
	errno    syscall.Errno
	remote   string
	counters pool.Counters
}

func (o *owner) Handle(l *engine.Loop, ev engine.Event) {
	if o.attempt != nil {
		o.progress(l, o.attempt.Handle(l, ev))
	}
}

func (o *owner) progress(_ *engine.Loop, p dial.Progress) {
	r := result{progress: p, kind: o.attempt.Kind, errno: o.attempt.Errno}
	switch p {
	case dial.Waiting:
		return
	case dial.Failed:
		o.attempt.Abort()
	default:
		fd, place, _ := o.attempt.Take(false)
		if e := place.Endpoint(); e != nil {
			r.remote = e.Address().String()
		}
		r.counters = *place.Counters()
		place.End()
		sock.Close(fd)
	}
	o.attempt = nil
	o.result <- r
}

// rig is a loop with a dialer.
type rig struct {
	engine   *engine.Engine
	dialer   *dial.Dialer
	counters listen.Counters
}

func newRig(t *testing.T, o dial.Options) *rig {
	t.Helper()
	r := &rig{}
	var err error
	if r.engine, err = engine.New(1); err != nil {
		t.Fatal(err)
	}
	o.Counters = &r.counters
	if o.Own == nil {
		o.Own = listen.NewOwn(nil)
	}
	r.dialer = dial.New(o)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := r.engine.Run(); err != nil {
			t.Errorf("engine: %v", err)
		}
	}()
	t.Cleanup(func() { r.engine.Stop(); <-ended })
	return r
}

// dial makes an attempt and waits for its end.
func (r *rig) dial(t *testing.T, f listen.Flow, d policy.Decision) result {
	t.Helper()
	o := &owner{result: make(chan result, 1)}
	l := r.engine.Loops()[0]
	l.Post(func() {
		var p dial.Progress
		o.attempt, p = r.dialer.Start(l, l.Add(o), 1, &f, &d)
		o.progress(l, p)
	})
	select {
	case got := <-o.result:
		return got
	case <-time.After(time.Minute):
		t.Fatal("the attempt has not ended in 10 s")
	}
	return result{}
}

func poolOf(servers ...string) *pool.Pool {
	c := &config.Pool{Name: "pool", Retries: 2}
	for _, s := range servers {
		c.Servers = append(c.Servers, config.Server{Address: addr(s)})
	}
	return pool.New(c, 1, nil)
}

// server listens until the test ends.
func server(t *testing.T, at string) string {
	t.Helper()
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

// dead is an address that refuses.
func dead(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// deaf is an address whose queue is full, so that it does not answer.
func deaf(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, _ := syscall.Getsockname(fd)
	at := fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
	for range 3 {
		if c, err := net.DialTimeout("tcp", at, 50*time.Millisecond); err == nil {
			t.Cleanup(func() { c.Close() })
		}
	}
	return at
}

func TestOriginalDestination(t *testing.T) {
	r := newRig(t, dial.Options{Connect: 5 * time.Second})
	if got := r.dial(t, listen.Flow{}, policy.Decision{Server: addr(server(t, "127.0.0.1:0"))}); got.progress != dial.Connected {
		t.Errorf("%+v", got)
	}
	if got := r.dial(t, listen.Flow{}, policy.Decision{Server: addr(dead(t))}); got.progress != dial.Failed || got.kind != listen.ConnectRefused {
		t.Errorf("%+v", got)
	}
	if r.counters.Retries != 0 {
		t.Errorf("%d retries with no other server to go to", r.counters.Retries)
	}
}

// A server that refuses is left for another one, whoever's turn it was.
func TestRefusedGoesElsewhere(t *testing.T) {
	r := newRig(t, dial.Options{Connect: 5 * time.Second})
	good := server(t, "127.0.0.1:0")
	p := poolOf(dead(t), good)
	for range 4 {
		if got := r.dial(t, listen.Flow{}, policy.Decision{Pool: p}); got.progress != dial.Connected || got.remote != good {
			t.Errorf("%+v, want %s", got, good)
		}
	}
	if r.counters.Retries != 4 {
		t.Errorf("%d retries, want 4: a second try takes the good server's turn, so every connection begins with the dead one", r.counters.Retries)
	}
}

func TestAllRefuse(t *testing.T) {
	r := newRig(t, dial.Options{Connect: 5 * time.Second})
	p := poolOf(dead(t), dead(t))
	if got := r.dial(t, listen.Flow{}, policy.Decision{Pool: p}); got.progress != dial.Failed || got.kind != listen.ConnectRefused || got.errno != syscall.ECONNREFUSED {
		t.Errorf("%+v", got)
	}
}

// A server that does not answer is left while there is time for another.
func TestTimedOutGoesElsewhere(t *testing.T) {
	r := newRig(t, dial.Options{Connect: 3 * time.Second})
	good := server(t, "127.0.0.1:0")
	p := poolOf(deaf(t), good)
	begin := time.Now()
	got := r.dial(t, listen.Flow{}, policy.Decision{Pool: p})
	if got.progress != dial.Connected || got.remote != good {
		t.Errorf("%+v, want %s", got, good)
	}
	if took := time.Since(begin); took < time.Second || took > 2500*time.Millisecond {
		t.Errorf("the second try was made after %v, want half of the time", took)
	}
}

// A single server gets all of the time.
func TestTimeoutOfOne(t *testing.T) {
	r := newRig(t, dial.Options{Connect: 400 * time.Millisecond})
	p := poolOf(deaf(t))
	begin := time.Now()
	got := r.dial(t, listen.Flow{}, policy.Decision{Pool: p})
	if took := time.Since(begin); got.kind != listen.ConnectTimeout || took < 350*time.Millisecond || took > time.Second {
		t.Errorf("%+v after %v", got, took)
	}
}

func TestNoServerOfTheFamily(t *testing.T) {
	r := newRig(t, dial.Options{})
	got := r.dial(t, listen.Flow{Client: addr("[fd00::1]:4000")}, policy.Decision{Pool: poolOf("127.0.0.1:80"), Source: addr("[fd00::1]:4000")})
	if got.progress != dial.Failed || got.kind != listen.NoServer {
		t.Errorf("%+v", got)
	}
}

func TestLoopGuard(t *testing.T) {
	own := listen.NewOwn([]netip.AddrPort{addr("127.0.0.1:61000"), addr("0.0.0.0:8080")})
	own.SetLocal([]netip.Addr{netip.MustParseAddr("10.0.1.1")})
	r := newRig(t, dial.Options{Own: own})
	for name, d := range map[string]policy.Decision{
		"pool names a listener":                                {Pool: poolOf("127.0.0.1:61000")},
		"pool names a wildcard listener by an address of ours": {Pool: poolOf("10.0.1.1:8080")},
		"loopback on a wildcard listener":                      {Server: addr("127.0.0.9:8080")},
	} {
		if got := r.dial(t, listen.Flow{}, d); got.progress != dial.Failed || got.kind != listen.Loop {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// The first link leads nowhere; the next one does, with the same server.
func TestAnotherLink(t *testing.T) {
	lab.NeedInside(t)
	const first, second, upstream = 0x01000000, 0x02000000, 0x20000000
	rule := []string{"rule", "add", "fwmark", fmt.Sprintf("%#x/0x0f000000", first), "unreachable", "priority", "10"}
	if out, err := exec.Command("ip", rule...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v: %s", rule, err, out)
	}
	defer exec.Command("ip", append([]string{"rule", "del"}, rule[2:]...)...).Run()
	if out, err := exec.Command("ip", "address", "add", "10.99.0.1/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("ip: %v: %s", err, out)
	}
	defer exec.Command("ip", "address", "del", "10.99.0.1/32", "dev", "lo").Run()
	// Local addresses are found by the rule of priority 0 before ours: move it behind, as the test's namespace is its own.
	for _, args := range [][]string{{"rule", "add", "priority", "100", "lookup", "local"}, {"rule", "del", "priority", "0"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	defer func() {
		exec.Command("ip", "rule", "add", "priority", "0", "lookup", "local").Run()
		exec.Command("ip", "rule", "del", "priority", "100").Run()
	}()
	r := newRig(t, dial.Options{Connect: 5 * time.Second})
	good := server(t, "10.99.0.1:0")
	if got := r.dial(t, listen.Flow{}, policy.Decision{Server: addr(good), Mark: upstream, Link: first}); got.progress != dial.Failed || got.kind != listen.ConnectOther {
		t.Errorf("over the first link alone: %+v", got)
	}
	d := policy.Decision{Server: addr(good), Mark: upstream, Link: first, Alternatives: []uint32{second}}
	if got := r.dial(t, listen.Flow{}, d); got.progress != dial.Connected || r.counters.Retries != 1 {
		t.Errorf("%+v with %d retries", got, r.counters.Retries)
	}
}

// On the plain path an attempt costs no memory.
func TestNoAllocation(t *testing.T) {
	r := newRig(t, dial.Options{Connect: 5 * time.Second})
	p := poolOf(server(t, "127.0.0.1:0"))
	l := r.engine.Loops()[0]
	done := make(chan float64)
	l.Post(func() {
		f, d := &listen.Flow{Client: addr("127.0.0.1:4000")}, &policy.Decision{Pool: p}
		o := &owner{}
		done <- testing.AllocsPerRun(100, func() {
			s := l.Add(o)
			a, progress := r.dialer.Start(l, s, 1, f, d)
			if progress != dial.Waiting {
				t.Errorf("progress %d", progress)
			}
			a.Abort()
			l.Remove(s)
		})
	})
	if n := <-done; n != 0 {
		t.Errorf("%v allocations", n)
	}
	if e, _ := p.Pick(&pool.Want{}, &pool.Tried{}); e.Active() != 1 {
		t.Errorf("%d places are taken at the end, want only the one taken now", e.Active())
	}
}
