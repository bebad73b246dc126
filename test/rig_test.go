package test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// rig is the standard network with a place for a gateway in it.
type rig struct {
	*testing.T
	net  *lab.Net
	dir  string
	salp *salp // the one that runs now, or ran last

	environment []string // of it, beside the test's own
}

// salp is a running `salp run`.
type salp struct {
	*lab.Process
	r    *rig
	log  *lab.Log
	file string
	dir  string
}

// slots bounds how many rigs exist at once: more would only wait for each other and blur the times that some tests measure.
var slots = make(chan struct{}, 2)

// newRig builds a network with one client and so many servers, in parallel to at most one other.
func newRig(t *testing.T, servers int) *rig {
	t.Helper()
	needTools(t)
	t.Parallel()
	slots <- struct{}{}
	t.Cleanup(func() { <-slots })
	r := &rig{T: t}
	var err error
	r.dir, err = os.MkdirTemp("", "salp") // short: it holds a Unix socket
	r.must(err)
	r.must(os.Chmod(r.dir, 0o755))
	t.Cleanup(func() { os.RemoveAll(r.dir) }) // after the lab has closed, and with it everything that writes there
	r.net, err = lab.Test(t).Standard(1, servers)
	r.must(err)
	t.Cleanup(r.explain)
	return r
}

func needTools(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root, to make network namespaces")
	}
	for _, tool := range []string{"nft", "ip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("skipped: needs the program %s, to compare with what the kernel holds", tool)
		}
	}
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// gw runs a program in the gateway and returns its output.
func (r *rig) gw(name string, args ...string) string {
	r.Helper()
	out, err := r.net.Gateway.Run(context.Background(), name, args...)
	r.must(err)
	return out
}

// nft loads a ruleset into the gateway.
func (r *rig) nft(script string) {
	r.Helper()
	file := filepath.Join(r.dir, "script.nft")
	r.must(os.WriteFile(file, []byte(script), 0o644))
	r.gw("nft", "-f", file)
}

// explain prints what a person needs to find out why a test failed.
func (r *rig) explain() {
	if !r.Failed() {
		return
	}
	if r.salp != nil {
		r.Logf("log of salp:\n%s", r.salp.log)
	}
	for _, command := range []string{
		"nft list ruleset", "ip rule", "ip -6 rule", "ip route show table 8110", "ss -tanoe", "cat /proc/net/nf_conntrack",
	} {
		words := strings.Fields(command)
		out, err := r.net.Gateway.Run(context.Background(), words[0], words[1:]...)
		if len(out) > 6000 {
			out = out[:6000] + "\n…"
		}
		r.Logf("%s (%v):\n%s", command, err, out)
	}
}

// writeConfig writes a configuration beside the others and returns its path.
func (r *rig) writeConfig(text string) string {
	r.Helper()
	file := filepath.Join(r.dir, "salp.yaml")
	r.must(os.WriteFile(file, []byte(text), 0o644))
	return file
}

// start runs salp with a configuration and waits until it takes connections.
func (r *rig) start(configuration string) *salp {
	r.Helper()
	s := r.launch(configuration)
	s.await("running", serves)
	return s
}

func serves(st *admin.Status) bool {
	return st.State == admin.StateRunning && st.Alive && (!st.Kernel.Needed || st.Kernel.InSync)
}

// launch starts salp and does not wait.
func (r *rig) launch(configuration string) *salp {
	r.Helper()
	return r.launchWith(salpBin, configuration)
}

// launchWith is launch of another program than the one under test, as a copy of it.
func (r *rig) launchWith(binary, configuration string) *salp {
	r.Helper()
	s := &salp{r: r, log: &lab.Log{}, file: r.writeConfig(configuration), dir: filepath.Join(r.dir, "run")}
	cmd := exec.Command(binary, "run", "-c", s.file, "--run-dir", s.dir)
	cmd.Env = append(os.Environ(), r.environment...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	var err error
	s.Process, err = r.net.Gateway.Start(cmd)
	r.must(err)
	r.salp = s
	return s
}

func (s *salp) status() (*admin.Status, error) {
	client, err := admin.Dial(s.dir)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return client.Status(ctx)
}

// patience is how long the tests wait for what must come. An emulated machine is slow.
const patience = 20 * time.Second

// await polls the status until it is as wanted.
func (s *salp) await(what string, wanted func(*admin.Status) bool) *admin.Status {
	s.r.Helper()
	var last *admin.Status
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var st *admin.Status
		if st, err = s.status(); err == nil {
			if last = st; wanted(st) {
				return st
			}
		}
		select {
		case <-s.Done():
			s.r.Fatalf("waiting for salp to be %s: it ended: %v", what, s.Wait())
		default:
		}
	}
	s.r.Fatalf("salp did not become %s: %v, last status %+v", what, err, last)
	return nil
}

// worker returns the process that takes new connections.
func (s *salp) worker() int {
	s.r.Helper()
	var pid int
	s.await("served by a worker", func(st *admin.Status) bool {
		for _, w := range st.Workers {
			if w.State == admin.WorkerRunning {
				pid = w.PID
			}
		}
		return st.Alive && pid != 0
	})
	return pid
}

// counters returns the sum over all listeners of a counter.
func sum(st *admin.Status, counter func(admin.Listener) uint64) (n uint64) {
	for _, l := range st.Listeners {
		n += counter(l)
	}
	return n
}

func accepted(l admin.Listener) uint64 { return l.Counters.Accepted }

// kill sends a signal to a process of the gateway.
func (r *rig) kill(pid int, sig syscall.Signal) {
	r.Helper()
	r.must(syscall.Kill(pid, sig))
}

// stop sends SIGTERM and wants a clean end.
func (s *salp) stop() {
	s.r.Helper()
	s.r.must(s.Signal(syscall.SIGTERM))
	select {
	case <-s.Done():
		if err := s.Wait(); err != nil {
			s.r.Fatalf("salp ended with %v after SIGTERM", err)
		}
	case <-time.After(patience):
		s.r.Fatal("salp does not end after SIGTERM")
	}
}

// command runs another salp command in the gateway, and returns its output and exit code.
func (r *rig) command(args ...string) (out string, code int) {
	r.Helper()
	out, err := r.net.Gateway.Run(context.Background(), salpBin, args...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.Fatal(err)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	return out, code
}

// down runs `salp down` and wants it to succeed.
func (s *salp) down() {
	s.r.Helper()
	if out, code := s.r.command("down", "--run-dir", s.dir); code != 0 {
		s.r.Fatalf("salp down: exit %d: %s", code, out)
	}
}

// dial connects from the client and bounds everything on the connection.
func (r *rig) dial(to string) *net.TCPConn {
	r.Helper()
	return r.dialFrom(netip.AddrPort{}, to)
}

func (r *rig) dialFrom(from netip.AddrPort, to string) *net.TCPConn {
	r.Helper()
	c, err := r.net.Client().DialWith(to, lab.DialOptions{From: from, Timeout: patience})
	r.must(err)
	r.must(c.SetDeadline(time.Now().Add(3 * patience)))
	r.Cleanup(func() { c.Close() })
	return c
}

// tell connects to a server of lab.Tell, has bytes echoed, and returns the open connection and what the server saw.
func (r *rig) tell(to string) (*conversation, lab.Peer) {
	r.Helper()
	v := r.converse(netip.AddrPort{}, to)
	seen := v.told()
	v.exchange("hello")
	return v, seen
}

// converse connects to a server of lab.Tell, which has not spoken yet.
func (r *rig) converse(from netip.AddrPort, to string) *conversation {
	r.Helper()
	c := r.dialFrom(from, to)
	return &conversation{r: r, conn: c, read: bufio.NewReader(c)}
}

// conversation is a connection to a server that echoes lines.
type conversation struct {
	r    *rig
	conn *net.TCPConn
	read *bufio.Reader
}

func (v *conversation) told() lab.Peer {
	v.r.Helper()
	line, err := v.read.ReadString('\n')
	v.r.must(err)
	seen, err := lab.ParseTold(line)
	v.r.must(err)
	return seen
}

// exchange sends a line and wants it back.
func (v *conversation) exchange(text string) {
	v.r.Helper()
	if err := v.try(text); err != nil {
		v.r.Fatal(err)
	}
}

func (v *conversation) try(text string) error {
	if _, err := fmt.Fprintln(v.conn, text); err != nil {
		return err
	}
	line, err := v.read.ReadString('\n')
	if err != nil {
		return err
	}
	if line != text+"\n" {
		return fmt.Errorf("sent %q, got back %q", text, line)
	}
	return nil
}

// probe makes one short connection to a lab.Tell server and says whether the server saw the client's address.
func (r *rig) probe(to string, bound time.Duration) (direct bool, err error) {
	c, err := r.net.Client().DialWith(to, lab.DialOptions{Timeout: bound})
	if err != nil {
		return false, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(bound)); err != nil {
		return false, err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return false, err
	}
	seen, err := lab.ParseTold(line)
	return seen.From == lab.Local(c), err
}

// awaitProbe probes until the connection goes the wanted way, and returns how long that took.
func (r *rig) awaitProbe(what, to string, bound time.Duration, wanted func(direct bool, err error) bool) time.Duration {
	r.Helper()
	start := time.Now()
	var direct bool
	var err error
	for time.Since(start) < bound {
		if direct, err = r.probe(to, 500*time.Millisecond); wanted(direct, err) {
			return time.Since(start)
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.Fatalf("no connection %s within %v; the last: direct %v, error %v", what, bound, direct, err)
	return 0
}

func isDirect(direct bool, err error) bool  { return direct && err == nil }
func isThrough(direct bool, err error) bool { return !direct && err == nil }

// isRefused wants the refusal that on_failure: closed promises, not silence.
func isRefused(_ bool, err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}

func writeFile(name, text string) error { return os.WriteFile(name, []byte(text), 0o644) }
