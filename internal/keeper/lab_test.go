package keeper

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// salpBinary builds the program once.
func salpBinary(t *testing.T) string {
	t.Helper()
	if builtSalp.path == "" && builtSalp.err == nil {
		builtSalp.path = filepath.Join(os.TempDir(), fmt.Sprintf("salp-keeper-test-%d", os.Getpid()))
		cmd := exec.Command("go", "build", "-o", builtSalp.path, "salp/cmd/salp")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			builtSalp.err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	if builtSalp.err != nil {
		t.Fatal(builtSalp.err)
	}
	return builtSalp.path
}

var builtSalp struct {
	path string
	err  error
}

// real is a gateway in the standard network.
type real struct {
	*testing.T
	net    *lab.Net
	binary string
	dir    string
	file   string
	run    *lab.Process
	log    *lab.Log
}

func newReal(t *testing.T, text string) *real {
	t.Helper()
	needRoot(t)
	g := &real{T: t, binary: salpBinary(t), log: &lab.Log{}}
	var err error
	if g.dir, err = os.MkdirTemp("", "salp"); err != nil { // short: it holds a Unix socket
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(g.dir) }) // after the lab has closed, and with it everything that writes there
	if g.net, err = lab.Test(t).Standard(1, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := g.net.Server().Serve("[::]:80", lab.Tell); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} { // a router without Salp, too
		if err := g.net.Gateway.Sysctl(name, "1"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", g.log)
		}
	})
	g.file = filepath.Join(g.dir, "salp.yaml")
	g.write(text)
	g.start()
	return g
}

func (g *real) start() {
	g.Helper()
	cmd := exec.Command(g.binary, "run", "-c", g.file, "--run-dir", g.dir)
	cmd.Stdout, cmd.Stderr = g.log, g.log
	var err error
	if g.run, err = g.net.Gateway.Start(cmd); err != nil {
		g.Fatal(err)
	}
	g.await("ready", func(s *admin.Status) bool { return s.State == admin.StateRunning && s.Alive })
}

func (g *real) write(text string) {
	g.Helper()
	if err := os.WriteFile(g.file, []byte(text), 0o600); err != nil {
		g.Fatal(err)
	}
}

func (g *real) await(what string, wanted func(*admin.Status) bool) *admin.Status {
	g.Helper()
	var last *admin.Status
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		client, err := admin.Dial(g.dir)
		if err != nil {
			continue
		}
		last, err = client.Status(g.Context())
		client.Close()
		if err == nil && wanted(last) {
			return last
		}
	}
	g.Fatalf("not %s within 10 s: %+v", what, last)
	return nil
}

func (g *real) reload() error {
	g.Helper()
	client, err := admin.Dial(g.dir)
	if err != nil {
		g.Fatal(err)
	}
	defer client.Close()
	_, err = client.Reload(g.Context())
	return err
}

// held is a connection that stays open.
type held struct {
	*net.TCPConn
	lines *bufio.Reader
	peer  lab.Peer
}

func (g *real) dial(to string) *held {
	g.Helper()
	c, err := g.net.Client().Dial(to)
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { c.Close() })
	h := &held{TCPConn: c, lines: bufio.NewReader(c)}
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		g.Fatal(err)
	}
	line, err := h.lines.ReadString('\n')
	if err != nil {
		g.Fatal(err)
	}
	if h.peer, err = lab.ParseTold(line); err != nil {
		g.Fatal(err)
	}
	return h
}

// lives sends 300 kB over the connection and back.
func (h *held) lives(t *testing.T, when string) {
	t.Helper()
	out := bytes.Repeat([]byte(when), 300_000/len(when))
	go func() { _, _ = h.Write(out) }()
	in := make([]byte, len(out))
	if _, err := io.ReadFull(h.lines, in); err != nil || !bytes.Equal(in, out) {
		t.Errorf("%s: the connection does not live on: %v", when, err)
	}
}

// TestConnectionsOutliveTheEndOfInterception reloads to a configuration that takes in nothing any more, and then stops.
func TestConnectionsOutliveTheEndOfInterception(t *testing.T) {
	for _, c := range []struct{ name, listener string }{
		{"inbound", "intercept: {interfaces: [g0], ports: [80]}, source: proxy"},
		{"full", "intercept: {interfaces: [g0], ports: [80]}, source: client"},
		{"full, port kept", "intercept: {interfaces: [g0], ports: [80]}, source: client, source_port: keep"},
		{"redirect", "intercept: {interfaces: [g0], ports: [80], method: redirect}, source: proxy"},
		{"outbound", "listen: [\"10.0.1.1:80\"], source: client, pool: web"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pools := "drain: 10s\npools: {web: {servers: [\"10.0.2.2:80\"]}}\n"
			g := newReal(t, "listeners: {web: {"+c.listener+"}}\n"+pools)
			to := "10.0.2.2:80"
			if c.name == "outbound" {
				to = "10.0.1.1:80"
			}
			conns := []*held{g.dial(to)}
			if c.name != "outbound" {
				conns = append(conns, g.dial("[fd00:2::2]:80"))
			}
			g.write("listeners: {other: {listen: [\"10.0.1.1:8000\"], source: proxy, pool: web}}\n" + pools)
			if err := g.reload(); err != nil {
				t.Fatal(err)
			}
			s := g.await("draining", func(s *admin.Status) bool { return len(s.Workers) == 2 })
			if !s.Kernel.InSync || !s.Kernel.Needed {
				t.Errorf("kernel: %+v", s.Kernel)
			}
			time.Sleep(300 * time.Millisecond)
			for _, h := range conns {
				h.lives(t, "after the reload ")
			}
			if err := g.run.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
			for _, h := range conns {
				h.lives(t, "while stopping ")
				h.Close()
			}
			select {
			case <-g.run.Done():
			case <-time.After(5 * time.Second):
				t.Fatal("the gateway does not end though all connections have")
			}
			g.nothingLeft()
		})
	}
}

func (g *real) nothingLeft() {
	g.Helper()
	for _, look := range []string{"nft list ruleset", "ip rule show pref 810", "ip -6 rule show pref 810"} {
		args := strings.Fields(look)
		out, err := g.net.Gateway.Run(context.Background(), args[0], args[1:]...)
		if err != nil || strings.TrimSpace(out) != "" {
			g.Errorf("%s: %s, %v", look, out, err)
		}
	}
	if _, err := os.Stat(filepath.Join(g.dir, "state.json")); !os.IsNotExist(err) {
		g.Errorf("the state file stayed: %v", err)
	}
}

// TestKilledKeeperThenAnotherConfiguration starts, after a kill -9, a gateway that needs nothing in the kernel: what the first left must go.
func TestKilledKeeperThenAnotherConfiguration(t *testing.T) {
	g := newReal(t, "listeners: {web: {intercept: {interfaces: [g0], ports: [80]}, source: client}}\n")
	if err := g.run.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-g.run.Done()
	g.write("listeners: {other: {listen: [\"10.0.1.1:8000\"], source: proxy, pool: web}}\npools: {web: {servers: [\"10.0.2.2:80\"]}}\n")
	g.start()
	g.nothingLeft()
}

// TestAnInterfaceComesAndGoes has the plan follow the host.
func TestAnInterfaceComesAndGoes(t *testing.T) {
	g := newReal(t, "listeners: {web: {intercept: {interfaces: [g0], ports: [80]}, source: client}}\n")
	ip := func(args ...string) {
		t.Helper()
		if out, err := g.net.Gateway.Run(context.Background(), "ip", args...); err != nil {
			t.Fatal(out, err)
		}
	}
	ip("link", "add", "x0", "type", "veth", "peer", "name", "x1")
	ip("link", "set", "x1", "up")
	ip("addr", "add", "10.9.9.1/24", "dev", "x0")
	ip("link", "set", "x0", "up")
	rules := func() string {
		out, err := g.net.Gateway.Run(context.Background(), "ip", "rule", "show", "pref", "810")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	until := func(what string, done func() bool) {
		t.Helper()
		for limit := time.Now().Add(1500 * time.Millisecond); !done(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("not %s: %s", what, rules())
			}
		}
	}
	until("a rule for x0", func() bool { return strings.Contains(rules(), "x0") })
	ip("link", "del", "x0")
	until("no rule for x0", func() bool { return !strings.Contains(rules(), "x0") })
	ip("link", "set", "g0", "down")
	time.Sleep(300 * time.Millisecond)
	ip("link", "set", "g0", "up")
	s := g.await("in sync", func(s *admin.Status) bool { return s.Alive && s.Kernel.InSync && s.Kernel.Error == "" })
	if len(s.Workers) != 1 {
		t.Errorf("workers: %+v", s.Workers)
	}
	g.dial("10.0.2.2:80").lives(t, "after the interface came back ")
}

// load dials, reads a line and closes, again and again, until stop closes.
func (g *real) load(to string, stop <-chan struct{}) (tried int, failed []error) {
	var slowest time.Duration
	for {
		select {
		case <-stop:
			g.Logf("%d connections, the slowest took %v", tried, slowest)
			return tried, failed
		default:
		}
		tried++
		began := time.Now()
		c, err := g.net.Client().Dial(to)
		if err == nil {
			_ = c.SetDeadline(time.Now().Add(3 * time.Second))
			_, err = bufio.NewReader(c).ReadString('\n')
			c.Close()
		}
		slowest = max(slowest, time.Since(began))
		if err != nil {
			failed = append(failed, err)
		}
	}
}

// TestNoConnectionIsLost has clients connect through reloads that change the number of loops, and through the stop.
//
// The server must not see the client's address with a port that Salp chose: in this network all hosts have one kernel, which chooses ports
// the same way for the client and for Salp, so the two take the same port again and again. And where it sees the client's address the
// load ends before the stop: TIME_WAIT sockets with that address stay behind, and the kernel drops what is forwarded to them, so that
// a client which uses a port again within a minute waits.
func TestNoConnectionIsLost(t *testing.T) {
	for _, source := range []string{"source: proxy", "source: client, source_port: keep"} {
		t.Run(source, func(t *testing.T) {
			text := "listeners: {web: {intercept: {interfaces: [g0], ports: [80]}, " + source + "}}\nworkers: %d\n"
			g := newReal(t, fmt.Sprintf(text, 1))
			stop := make(chan struct{})
			var loads sync.WaitGroup
			for range 3 {
				loads.Go(func() {
					if tried, failed := g.load("10.0.2.2:80", stop); len(failed) > 0 || tried < 20 {
						t.Errorf("%d of %d connections failed: %v", len(failed), tried, failed)
					}
				})
			}
			for _, workers := range []int{3, 2, 4, 1} {
				time.Sleep(150 * time.Millisecond)
				g.write(fmt.Sprintf(text, workers))
				if err := g.reload(); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(150 * time.Millisecond)
			if source != "source: proxy" {
				close(stop)
				loads.Wait()
				return
			}
			if err := g.run.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			<-g.run.Done()
			time.Sleep(100 * time.Millisecond)
			close(stop)
			loads.Wait()
		})
	}
}
