package kernel

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"salp/internal/config"
	"salp/internal/lab"
	"salp/internal/plan"
)

// childVariable makes the test binary do one thing in another process, and its value says what.
const childVariable = "SALP_KERNEL_TEST_CHILD"

func TestMain(m *testing.M) {
	if what := os.Getenv(childVariable); what != "" {
		os.Exit(child(what, os.Getenv("RUN_DIR")))
	}
	os.Exit(m.Run())
}

// child is another process: one that applies a plan and waits to be killed, one that removes, one without privileges.
func child(what, runDir string) int {
	h, err := Open(Options{RunDir: runDir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err == nil {
		switch what {
		case "apply":
			err = childApply(h)
		case "remove":
			var changes []Change
			changes, err = h.Remove()
			for _, c := range changes {
				fmt.Println(c)
			}
		case "diff":
			err = childDiff(h)
		}
	}
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

func childApply(h *Host) error {
	p, err := makePlan(h, everyMethod)
	if err != nil {
		return err
	}
	if _, err := h.Apply(p); err != nil {
		return err
	}
	if err := h.Alive(time.Minute); err != nil {
		return err
	}
	fmt.Println("applied")
	time.Sleep(time.Hour)
	return nil
}

func childDiff(h *Host) error {
	p, err := makePlan(h, everyMethod)
	if err != nil {
		return err
	}
	if _, err := h.Apply(plan.Plan{}); err != nil {
		return fmt.Errorf("an empty plan: %w", err)
	}
	_, err = h.Diff(p)
	return err
}

// everyMethod makes use of all that a plan can hold.
const everyMethod = `
listeners:
  inline:
    intercept:
      interfaces: [g0]
      ports: [80, 8000-8100]
    source: client
    source_port: keep
    on_failure: closed
  mail:
    intercept:
      interfaces: [g0]
      ports: [25]
      method: redirect
    source: proxy
`

const onlyMail = `
listeners:
  mail:
    intercept:
      interfaces: [g0]
      ports: [25, 587]
      method: redirect
    source: proxy
`

const withoutClosed = `
listeners:
  inline:
    intercept:
      interfaces: [g0]
      ports: [80]
    source: client
`

func makePlan(h *Host, text string) (plan.Plan, error) {
	cfg, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		return plan.Plan{}, err
	}
	facts, err := h.Facts()
	if err != nil {
		return plan.Plan{}, err
	}
	return plan.Make(cfg, facts)
}

// rig is a gateway between a client and a server, with other programs' objects in its kernel, and a Host.
type rig struct {
	*testing.T
	net    *lab.Net
	gw     *lab.Host
	runDir string
	log    *bytes.Buffer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	n, err := lab.Test(t).Standard(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, net: n, gw: n.Gateway, runDir: filepath.Join(t.TempDir(), "run"), log: &bytes.Buffer{}}
	for _, tool := range []string{"nft", "ip", "sysctl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("skipped: %s is not installed", tool)
		}
	}
	// Others' objects, and settings that the kernel's switches for all interfaces would sweep away.
	r.run("nft", "add table inet firewall; add chain inet firewall in { type filter hook input priority 0; policy accept; }; add rule inet firewall in tcp dport 22 counter accept comment \"ssh\"")
	r.run("nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; add rule ip nat post oifname g1 masquerade")
	r.run("ip", "rule", "add", "pref", "5210", "fwmark", "0x80000/0xff0000", "lookup", "main")
	r.run("ip", "rule", "add", "pref", "810", "fwmark", "0x10000000/0x10000000", "iif", "g0", "lookup", "8110") // ours but for its protocol
	r.run("ip", "route", "add", "10.99.0.0/24", "via", "10.0.2.2", "table", "99")
	r.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0", "net.ipv4.conf.g1.forwarding=1", "net.ipv6.conf.g1.forwarding=1",
		"net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf.default.forwarding=1")
	return r
}

func (r *rig) open() *Host { return r.openAt(r.runDir) }

func (r *rig) openAt(runDir string) *Host {
	r.Helper()
	var h *Host
	err := r.gw.Do(func() (err error) {
		h, err = Open(Options{RunDir: runDir, Log: slog.New(slog.NewTextHandler(r.log, nil))})
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { h.Close() })
	return h
}

func (r *rig) plan(h *Host, text string) plan.Plan {
	r.Helper()
	p, err := makePlan(h, text)
	if err != nil {
		r.Fatal(err)
	}
	return p
}

func (r *rig) apply(h *Host, p plan.Plan) []Change {
	r.Helper()
	changes, err := h.Apply(p)
	if err != nil {
		r.Fatal(err)
	}
	return changes
}

// run runs a program in the gateway: tests may, to be somebody else.
func (r *rig) run(name string, args ...string) string {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := r.gw.Run(ctx, name, args...)
	if err != nil {
		r.Fatal(err)
	}
	return out
}

// again starts this test binary as another process in the gateway.
func (r *rig) again(what string, set func(*exec.Cmd)) (*lab.Process, *output) {
	r.Helper()
	exe, err := os.Executable()
	if err != nil {
		r.Fatal(err)
	}
	cmd, out := exec.Command(exe), &output{}
	cmd.Env = append(os.Environ(), childVariable+"="+what, "RUN_DIR="+r.runDir)
	cmd.Stdout, cmd.Stderr = out, out
	if set != nil {
		set(cmd)
	}
	p, err := r.gw.Start(cmd)
	if err != nil {
		r.Fatal(err)
	}
	return p, out
}

// counts are what changes by itself in a ruleset.
var counts = regexp.MustCompile(`packets \d+ bytes \d+|expires \w+`)

// snapshot is all that Salp might change in the gateway, byte for byte.
func (r *rig) snapshot() map[string]string {
	r.Helper()
	s := map[string]string{"nft": counts.ReplaceAllString(r.run("nft", "-a", "list", "ruleset"), "…")}
	for _, family := range []string{"-4", "-6"} {
		s["ip rule "+family] = r.run("ip", family, "rule", "show")
		s["ip route "+family] = r.run("ip", family, "route", "show", "table", "all")
	}
	err := r.gw.Do(func() error {
		for _, dir := range []string{"/proc/sys/net/ipv4", "/proc/sys/net/ipv6"} {
			err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				b, _ := os.ReadFile(path) // some cannot be read
				s[path] = string(b)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	return s
}

// same compares two snapshots.
func (r *rig) same(before, after map[string]string) {
	r.Helper()
	for name, was := range before {
		if now := after[name]; now != was {
			r.Errorf("%s was\n%s\nis now\n%s", name, was, now)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			r.Errorf("%s is new: %s", name, after[name])
		}
	}
}

func lines(changes []Change) string {
	var out []string
	for _, c := range changes {
		out = append(out, c.String())
	}
	return strings.Join(out, "\n")
}
