package worker_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/control"
	"salp/internal/lab"
	"salp/internal/sock"
	"salp/internal/worker"
)

// asWorker makes the test binary run as a worker instead of running tests.
const asWorker = "SALP_TEST_AS_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(asWorker) == "" {
		os.Exit(m.Run())
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if err := worker.Run(context.Background(), 3, log); err != nil {
		log.Error("worker", "error", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// process is a worker process in the gateway of a standard network, and the keeper's end of its socket.
type process struct {
	t       *testing.T
	net     *lab.Net
	process *lab.Process
	conn    *control.Conn
	beats   chan control.Stats
	bye     chan *control.Bye
	destroy chan *control.Destroy
}

type group struct {
	listener, address string
	transparent       bool
}

func network(t *testing.T) *lab.Net {
	t.Helper()
	l := lab.Test(t)
	n, err := l.Standard(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// startWorker starts a worker as nobody, with CAP_NET_RAW alone when it is to be transparent and without any capability when not.
func startWorker(t *testing.T, n *lab.Net, text string, groups ...group) *process {
	t.Helper()
	conn, file, err := control.Pair()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asWorker+"=1")
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	for _, g := range groups {
		if g.transparent {
			cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_RAW}
		}
	}
	p, err := n.Gateway.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	w := &process{t: t, net: n, process: p, conn: conn, beats: make(chan control.Stats, 1000), bye: make(chan *control.Bye, 1), destroy: make(chan *control.Destroy, 10)}
	t.Cleanup(func() { conn.Close() })
	for _, g := range groups {
		addr := netip.MustParseAddrPort(g.address)
		var fds []int
		if err := n.Gateway.Do(func() (err error) {
			fds, err = sock.Listen(addr, 2, sock.ListenOptions{Transparent: g.transparent})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for _, fd := range fds {
				sock.Close(fd)
			}
		})
		w.send(control.Message{Sockets: &control.Sockets{Listener: g.listener, Address: addr}}, fds...)
	}
	w.start(text)
	return w
}

func (w *process) start(text string) {
	w.t.Helper()
	fd, err := unix.MemfdCreate("configuration", unix.MFD_CLOEXEC)
	if err != nil {
		w.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "configuration")
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		w.t.Fatal(err)
	}
	w.send(control.Message{Start: &control.Start{File: "test.yaml", Generation: 1}}, fd)
	m, _, err := w.conn.Receive()
	if err != nil || m.Ready == nil {
		w.t.Fatalf("%+v and %v, want Ready", m, err)
	}
	go w.receive()
}

func (w *process) send(m control.Message, fds ...int) {
	w.t.Helper()
	if err := w.conn.Send(m, fds...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *process) receive() {
	for {
		m, _, err := w.conn.Receive()
		switch {
		case err != nil:
			return
		case m.Beat != nil:
			w.beats <- m.Beat.Stats
		case m.Bye != nil:
			w.bye <- m.Bye
		case m.Destroy != nil:
			w.destroy <- m.Destroy
		}
	}
}

// until waits for a Beat whose counters are as wanted.
func (w *process) until(what string, ok func(control.Stats) bool) {
	w.t.Helper()
	over := time.After(20 * time.Second)
	for {
		select {
		case s := <-w.beats:
			if ok(s) {
				return
			}
		case <-over:
			w.t.Fatalf("no Beat within 20 s that says: %s", what)
		}
	}
}

func (w *process) ended() error {
	w.t.Helper()
	select {
	case <-w.process.Done():
		return w.process.Wait()
	case <-time.After(time.Minute):
		w.t.Fatal("the worker does not end")
		return nil
	}
}

func (w *process) dial(addr string) *net.TCPConn {
	w.t.Helper()
	c, err := w.net.Client().Dial(addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

func echo(t *testing.T, c net.Conn) {
	t.Helper()
	got := make([]byte, 4)
	if _, err := io.WriteString(c, "echo"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "echo" {
		t.Fatalf("%q and %v, want an echo", got, err)
	}
}

const explicit = `
listeners:
  front:
    listen: [10.0.1.1:8080]
    pool: servers
pools:
  servers:
    servers: [10.0.2.2:80]
`

var front = group{"front", "10.0.1.1:8080", false}

func serve(t *testing.T, n *lab.Net, addr string, h lab.Handler) *lab.Server {
	t.Helper()
	s, err := n.Server().Serve(addr, h)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// An explicit listener needs no capability at all. Drain lets connections end by themselves.
func TestExplicitAndDrain(t *testing.T) {
	n := network(t)
	serve(t, n, "10.0.2.2:80", lab.Echo)
	w := startWorker(t, n, explicit, front)
	if caps := capabilities(t, w.process.Pid()); caps != 0 {
		t.Errorf("the worker has capabilities %#x", caps)
	}
	c := w.dial("10.0.1.1:8080")
	echo(t, c)
	w.until("one connection, 4 bytes each way", func(s control.Stats) bool {
		return s["front"].Accepted == 1 && s["front"].Active == 1 && s["front"].BytesIn == 4 && s["front"].BytesOut == 4
	})
	w.send(control.Message{Drain: &control.Drain{Bound: 10 * time.Second}})
	time.Sleep(300 * time.Millisecond)
	echo(t, c)
	// Whoever comes now waits in the sockets that the keeper holds, for the next worker.
	late := w.dial("10.0.1.1:8080")
	late.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := late.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("a connection that came after Drain: %v", err)
	}
	c.Close()
	if bye := <-w.bye; bye.Cut != 0 || bye.Stats["front"].Accepted != 1 {
		t.Errorf("%+v", bye)
	}
	if err := w.ended(); err != nil {
		t.Error(err)
	}
}

func TestDrainBound(t *testing.T) {
	n := network(t)
	serve(t, n, "10.0.2.2:80", lab.Echo)
	w := startWorker(t, n, explicit, front)
	c := w.dial("10.0.1.1:8080")
	echo(t, c)
	w.send(control.Message{Drain: &control.Drain{Bound: 300 * time.Millisecond}})
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("at the bound: %v, want a reset", err)
	}
	if bye := <-w.bye; bye.Cut != 1 {
		t.Errorf("%+v", bye)
	}
	if err := w.ended(); err != nil {
		t.Error(err)
	}
}

// The keeper dies: no more is accepted, what runs may end, and then the worker ends too.
func TestKeeperDies(t *testing.T) {
	n := network(t)
	serve(t, n, "10.0.2.2:80", lab.Echo)
	w := startWorker(t, n, explicit, front)
	c := w.dial("10.0.1.1:8080")
	echo(t, c)
	w.conn.Close()
	time.Sleep(200 * time.Millisecond)
	echo(t, c)
	c.Close()
	if err := w.ended(); err != nil {
		t.Error(err)
	}
}

const inline = `
listeners:
  inline:
    intercept:
      interfaces: [g0]
      ports: [80]
      port: 61000
    source: client
    source_port: require
`

// divert is the least that diverts, without Salp's own plan.
const divert = `
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.tcp_timestamps=0
ip rule add fwmark 0x10000000/0x10000000 lookup 8110
ip route add local default dev lo table 8110
nft -f - <<X
table inet divert { chain c { type filter hook prerouting priority -150;
  tcp flags & (fin|syn|rst|ack) != syn socket transparent 1 meta mark set meta mark or 0x10000000 accept
  iifname g0 tcp dport 80 tproxy ip to 127.0.0.1:61000 meta mark set meta mark or 0x10000000 accept
}; }
X
`

// Fully transparent with CAP_NET_RAW alone, and a TIME_WAIT of ours in the way of a kept port that the keeper destroys.
func TestTransparentWithNetRawAlone(t *testing.T) {
	n := network(t)
	s := serve(t, n, "10.0.2.2:80", lab.Tell)
	if out, err := n.Gateway.Run(t.Context(), "sh", "-ec", divert); err != nil {
		t.Skipf("skipped: needs sysctl, ip and nft: %v: %s", err, out)
	}
	w := startWorker(t, n, inline, group{"inline", "127.0.0.1:61000", true})
	if caps := capabilities(t, w.process.Pid()); caps != 1<<unix.CAP_NET_RAW {
		t.Errorf("the worker has capabilities %#x, want CAP_NET_RAW alone", caps)
	}
	from := netip.MustParseAddrPort("10.0.1.2:40000")
	once := func() {
		t.Helper()
		c, err := n.Client().DialWith("10.0.2.2:80", lab.DialOptions{From: from})
		if err != nil {
			t.Fatal(err)
		}
		defer lab.Reset(c)
		c.SetDeadline(time.Now().Add(10 * time.Second))
		line := make([]byte, 100)
		k, err := c.Read(line)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := lab.ParseTold(string(line[:k])); err != nil || p.From != from {
			t.Errorf("the server was told %q: %v", line[:k], err)
		}
	}
	once()
	w.until("a port was kept", func(s control.Stats) bool { return s["inline"].PortKept == 1 && s["inline"].Active == 0 })

	occupy(t, n, from)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ask := <-w.destroy
		if ask.Local != from || ask.Remote.String() != "10.0.2.2:80" {
			t.Errorf("asked to destroy %+v", ask)
		}
		err := n.Gateway.Do(func() error { return destroyTimeWait(ask.Local, ask.Remote) })
		answer := control.Destroyed{ID: ask.ID}
		if err != nil {
			t.Error(err)
			answer.Error = err.Error()
		}
		w.conn.Send(control.Message{Destroyed: &answer})
	}()
	once()
	<-done
	w.until("two ports were kept", func(s control.Stats) bool { return s["inline"].PortKept == 2 })
	if s.Accepted() != 3 {
		t.Errorf("the server had %d connections", s.Accepted())
	}
}

// capabilities are the effective ones; the other sets must not have more.
func capabilities(t *testing.T, pid int) (eff uint64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			fmt.Sscanf(value, "%x", &eff)
		}
		if value, ok := strings.CutPrefix(line, "Uid:"); ok && strings.TrimSpace(value)[:5] != "65534" {
			t.Errorf("the worker runs as %s", value)
		}
	}
	return eff
}
