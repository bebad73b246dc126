package test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/lab"
)

// TestBadConfiguration gives run and check files that cannot work: one clear message with its place, exit code 1, and a kernel as before.
func TestBadConfiguration(t *testing.T) {
	r := newRig(t, 1)
	for _, addr := range []string{"10.0.1.1:9000", "127.0.0.1:61500"} {
		ln, err := r.net.Gateway.Listen(addr, lab.ListenOptions{})
		r.must(err)
		defer ln.Close()
	}
	const pool = "pools: {web: {servers: [\"10.0.2.2:80\"]}}\n"
	before := r.look()
	for _, c := range []struct {
		name, text string
		line       string // of the mistake
		want       []string
	}{
		{"interface", "listeners:\n  web:\n    intercept: {interfaces: [nosuch], ports: [80]}\n", "3:", []string{"nosuch"}},
		{"port in use", "listeners:\n  web: {listen: [\"10.0.1.1:9000\"], pool: web}\n" + pool, "2:", []string{"10.0.1.1:9000", "use"}},
		{"interception port in use", "listeners:\n  web: {intercept: {interfaces: [g0], ports: [80], port: 61500}}\n", "2:", []string{"61500"}},
		{"collision", "listeners:\n  a: {listen: [\"10.0.1.1:80\"], pool: web}\n  b: {listen: [\"10.0.1.1:80\"], pool: web}\n" + pool, "3:", []string{"10.0.1.1:80", "listener a"}},
		{"not ours", "listeners:\n  web: {listen: [\"10.9.9.9:80\"], pool: web}\n" + pool, "2:", []string{"10.9.9.9"}},
		{"unknown key", "listeners:\n  web: {listen: [\"10.0.1.1:80\"], pol: web, pool: web}\n" + pool, "2:", []string{"pol", "did you mean pool"}},
		{"empty", "", "1:", []string{"empty"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &rig{T: t, net: r.net, dir: r.dir}
			file := r.writeConfig(c.text)
			for _, args := range [][]string{
				{"run", "-c", file, "--run-dir", filepath.Join(r.dir, "run")},
				{"check", "-c", file, "--run-dir", filepath.Join(r.dir, "run")},
				{"plan", "-c", file, "--run-dir", filepath.Join(r.dir, "run")},
			} {
				out, code := r.command(args...)
				if code != 1 {
					r.Errorf("salp %s: exit code %d, want 1", args[0], code)
				}
				for _, w := range append(c.want, file+":"+c.line) {
					if !strings.Contains(out, w) {
						r.Errorf("salp %s does not say %q:\n%s", args[0], w, out)
					}
				}
				if n := strings.Count(out, file+":"); n != 1 {
					r.Errorf("salp %s tells %d mistakes, want one:\n%s", args[0], n, out)
				}
			}
		})
	}
	r.wantAsBefore(before)
}

// TestWrongUse wants exit code 2 for command lines that mean nothing, and 1 for a file that is not there.
func TestWrongUse(t *testing.T) {
	r := newRig(t, 1)
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"nosuch", 2, "nosuch"},
		{"run --nosuch", 2, "nosuch"},
		{"check one two", 2, ""},
		{"demo nosuch", 2, "nosuch"},
		{"run -c /nonexistent/salp.yaml", 1, "/nonexistent/salp.yaml"},
		{"check -c /nonexistent/salp.yaml", 1, "/nonexistent/salp.yaml"},
		{"status --run-dir /nonexistent", 1, "/nonexistent"},
		{"version", 0, "salp"},
		{"--help", 0, "demo"},
	} {
		if out, code := r.command(strings.Fields(c.args)...); code != c.code || !strings.Contains(out, c.want) {
			r.Errorf("salp %s: exit code %d, want %d and %q; it said:\n%s", c.args, code, c.code, c.want, out)
		}
	}
}

// TestNotRoot runs salp without privileges: it must name what is missing and change nothing.
func TestNotRoot(t *testing.T) {
	r := newRig(t, 1)
	before := r.look()
	file := r.writeConfig(modeNamed("inbound").config(portTell))
	own := filepath.Join(r.dir, "nobody") // where that user may write
	r.must(os.Mkdir(own, 0o700))
	r.must(os.Chown(own, 65534, 65534))
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"run", "-c", file, "--run-dir", own}, "CAP_NET_ADMIN"},
		{[]string{"demo"}, "root"},
	} {
		var out bytes.Buffer
		cmd := exec.Command(salpBin, c.args...)
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		p, err := r.net.Gateway.Start(cmd)
		r.must(err)
		select {
		case <-p.Done():
		case <-time.After(patience):
			r.Fatalf("salp %s runs without privileges:\n%s", c.args[0], out.String())
		}
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(out.String(), c.want) {
			r.Errorf("salp %s without privileges: exit code %d, want 1 and %q; it said:\n%s", c.args[0], code, c.want, out.String())
		}
	}
	r.wantAsBefore(before)
}

// TestTwoAtOnce starts a second gateway beside a running one: refused, and the first is not disturbed.
func TestTwoAtOnce(t *testing.T) {
	r := newRig(t, 1)
	r.serve(portTell, lab.Tell)
	s := r.start(modeNamed("inbound").config(portTell))
	v, _ := r.tell(at("10.0.2.2", portTell))
	now := r.look()
	for name, dir := range map[string]string{"the same run directory": s.dir, "another run directory": filepath.Join(r.dir, "other")} {
		out, code := r.command("run", "-c", s.file, "--run-dir", dir)
		if code != 1 || len(strings.TrimSpace(out)) == 0 {
			r.Errorf("a second gateway with %s: exit code %d, it said:\n%s", name, code, out)
		}
		r.Logf("with %s it says:\n%s", name, out)
		r.wantAsBefore(now)
	}
	v.exchange("undisturbed")
	r.awaitProbe("goes through", at("10.0.2.2", portTell), time.Second, isThrough)
}

// TestWorkerIsUnprivileged reads what the worker process may do.
func TestWorkerIsUnprivileged(t *testing.T) {
	r := newRig(t, 1)
	s := r.start(modeNamed("full-keep").config(portTell))
	text, err := os.ReadFile("/proc/" + itoa(s.worker()) + "/status")
	r.must(err)
	const netRaw = "0000000000002000" // capabilities(7): CAP_NET_RAW is 13
	for field, want := range map[string]string{
		"CapEff": netRaw, "CapPrm": netRaw, "CapAmb": netRaw, "NoNewPrivs": "1",
	} {
		if got := statusField(string(text), field); got != want {
			r.Errorf("the worker's %s is %s, want %s", field, got, want)
		}
	}
	if bounding := statusField(string(text), "CapBnd"); bounding != netRaw && bounding != "0000000000000000" {
		r.Errorf("the worker's bounding set is %s", bounding)
	}
	for _, field := range []string{"Uid", "Gid"} {
		if got := statusField(string(text), field); regexp.MustCompile(`\b0\b`).MatchString(got) {
			r.Errorf("the worker's %s is %s", field, got)
		}
	}
	if groups := statusField(string(text), "Groups"); regexp.MustCompile(`(^|\s)0(\s|$)`).MatchString(groups) {
		r.Errorf("the worker is in the groups %s", groups)
	}
}

func statusField(status, name string) string {
	for l := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(l, name+":"); ok {
			return strings.Join(strings.Fields(rest), " ")
		}
	}
	return ""
}
