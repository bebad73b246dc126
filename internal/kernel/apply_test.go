package kernel

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/lab"
	"salp/internal/plan"
)

func TestApplyTwiceChangesNothing(t *testing.T) {
	r := newRig(t)
	h := r.open()
	p := r.plan(h, everyMethod)
	differs, err := h.Diff(p)
	if err != nil {
		t.Fatal(err)
	}
	changes := r.apply(h, p)
	if lines(differs) != lines(changes) || len(changes) == 0 {
		t.Errorf("Diff told\n%s\nApply did\n%s", lines(differs), lines(changes))
	}
	t.Logf("changes:\n%s", lines(changes))
	for _, do := range []func(plan.Plan) ([]Change, error){h.Apply, h.Diff} {
		if again, err := do(p); err != nil || len(again) > 0 {
			t.Errorf("after Apply there differs\n%s, %v", lines(again), err)
		}
	}
	if again := r.plan(h, everyMethod); again.Text() != p.Text() {
		t.Errorf("a plan made anew is\n%s\ninstead of\n%s", again.Text(), p.Text())
	}
}

func TestListReadsAsPlanPrints(t *testing.T) {
	r := newRig(t)
	h := r.open()
	p := r.plan(h, everyMethod)
	r.apply(h, p)
	for _, table := range p.Tables {
		listed := progname.ReplaceAllString(r.run("nft", "list", "table", "inet", table.Name), "")
		if listed != table.Text() {
			t.Errorf("nft lists\n%s\nthe plan prints\n%s", listed, table.Text())
		}
	}
}

var progname = regexp.MustCompile(` # progname \S+`)

// TestUpdateMissesNoConnection changes the plan back and forth while a client connects: every connection is redirected, for
// nobody listens at the server, and the alive element is never gone.
func TestUpdateMissesNoConnection(t *testing.T) {
	r := newRig(t)
	h := r.open()
	both := r.plan(h, everyMethod)
	r.apply(h, both)
	mail := r.plan(h, onlyMail)
	if err := h.Alive(time.Minute); err != nil {
		t.Fatal(err)
	}
	server, err := r.gw.Serve(":61441", lab.Echo)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	stop, dialled := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { dialled <- n }()
		for ; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			c, err := r.net.Client().Dial("10.0.2.2:25")
			if err != nil {
				t.Errorf("connection %d passed by: %v", n, err)
				return
			}
			_ = lab.Reset(c)
		}
	}()
	for range 25 {
		for _, p := range []plan.Plan{mail, both} {
			if changes := r.apply(h, p); len(changes) == 0 {
				t.Error("the plans are the same")
			}
			if list := r.run("nft", "list", "set", "inet", "salp", "alive"); !strings.Contains(list, "tcp timeout 1m") {
				t.Fatalf("the alive element is gone:\n%s", list)
			}
		}
	}
	close(stop)
	if n := <-dialled; n < 50 {
		t.Errorf("only %d connections were made", n)
	} else {
		t.Logf("%d connections during 50 updates", n)
	}
}

func TestRemoveLeavesHostAsItWas(t *testing.T) {
	r := newRig(t)
	before := r.snapshot()
	h := r.open()
	r.apply(h, r.plan(h, everyMethod))
	r.apply(h, r.plan(h, onlyMail))
	r.apply(h, r.plan(h, everyMethod))
	changes, err := h.Remove()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("removed:\n%s", lines(changes))
	r.same(before, r.snapshot())
	if _, err := os.Stat(filepath.Join(r.runDir, "state.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state file is still there: %v", err)
	}
	if again, err := h.Remove(); err != nil || len(again) > 0 {
		t.Errorf("a second Remove: %v, %v", again, err)
	}
}

func TestKillNineThenRemoveByAnother(t *testing.T) {
	r := newRig(t)
	before := r.snapshot()
	for round := range 2 { // the second gateway starts on what the first one left
		p, out := r.again("apply", nil)
		out.await(t, "applied")
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait()
		if list := r.run("nft", "list", "tables"); strings.Contains(list, "inet salp\n") || !strings.Contains(list, "inet salp-closed") {
			t.Errorf("round %d: after kill -9 there are the tables\n%s", round, list)
		}
		if rules := r.run("ip", "rule"); !strings.Contains(rules, "810:") {
			t.Errorf("the ip rules went with the process:\n%s", rules)
		}
	}
	p, out := r.again("remove", nil)
	if err := p.Wait(); err != nil {
		t.Fatalf("remove: %v: %s", err, out)
	}
	t.Logf("removed:\n%s", out)
	r.same(before, r.snapshot())
}

func TestLiveOwnerIsNamed(t *testing.T) {
	r := newRig(t)
	p, out := r.again("apply", nil)
	out.await(t, "applied")
	same, other := r.open(), r.openAt(filepath.Join(t.TempDir(), "other"))
	want := r.plan(same, everyMethod)
	if differs, err := same.Diff(want); err != nil || len(differs) > 0 {
		t.Errorf("beside the living one of the same run directory there differs\n%s, %v", lines(differs), err)
	}
	before := r.snapshot()
	_, sameErr := same.Apply(want)
	_, removeErr := same.Remove()
	_, otherErr := other.Apply(r.plan(other, everyMethod))
	for _, err := range []error{sameErr, removeErr, otherErr} {
		if err == nil || !strings.Contains(err.Error(), "alive") || !strings.Contains(err.Error(), r.runDir) {
			t.Errorf("the error does not name the living one: %v", err)
		}
	}
	r.same(before, r.snapshot())
	_ = p.Signal(syscall.SIGKILL)
	_ = p.Wait()
	if _, err := same.Remove(); err != nil {
		t.Error(err)
	}
}

func TestForeignObjectsAreErrors(t *testing.T) {
	r := newRig(t)
	h := r.open()
	p := r.plan(h, everyMethod)
	r.run("nft", "add", "table", "inet", "salp")
	before := r.snapshot()
	if _, err := h.Apply(p); err == nil || !strings.Contains(err.Error(), "kernel.nft_table") {
		t.Errorf("a foreign table of our name: %v", err)
	}
	r.same(before, r.snapshot())
	r.run("nft", "delete", "table", "inet", "salp")
	r.run("ip", "-6", "route", "add", "2001:db8::/32", "dev", "g1", "table", "8110")
	before = r.snapshot()
	if _, err := h.Apply(p); err == nil || !strings.Contains(err.Error(), "kernel.table") {
		t.Errorf("a foreign route in our routing table: %v", err)
	}
	r.same(before, r.snapshot())
}

func TestOwnerlessLeftoverIsReplaced(t *testing.T) {
	r := newRig(t)
	h := r.open()
	p := r.plan(h, everyMethod)
	leftover := p
	leftover.Tables = slices.Clone(p.Tables)
	leftover.Tables[0].Owner = false
	r.apply(h, leftover)
	h.Close()
	second := r.open()
	changes := r.apply(second, p)
	if got := lines(changes); !strings.HasPrefix(got, "~ nft table inet salp: ") || len(changes) != 1 {
		t.Errorf("changes: %s", got)
	}
	if again := r.apply(second, p); len(again) > 0 {
		t.Errorf("again: %s", lines(again))
	}
}

func TestSysctlChangedByOthersIsLeft(t *testing.T) {
	r := newRig(t)
	h := r.open()
	r.apply(h, plan.Plan{Sysctls: []plan.Sysctl{{Name: "net/ipv4/ip_forward", Value: "1"}, {Name: "net/ipv6/conf/g0/accept_ra", Value: "2"}}})
	r.run("sysctl", "-qw", "net.ipv6.conf.g0.accept_ra=0")
	changes, err := h.Remove()
	if err != nil || lines(changes) != "~ sysctl net/ipv4/ip_forward: 1 → 0" {
		t.Errorf("%s, %v", lines(changes), err)
	}
	if got := strings.TrimSpace(r.run("sysctl", "-n", "net.ipv6.conf.g0.accept_ra")); got != "0" {
		t.Errorf("somebody else's value was overwritten with %s", got)
	}
	if !strings.Contains(r.log.String(), "somebody else changed it since") {
		t.Errorf("nobody was told: %s", r.log)
	}
}

func TestFailedApplyIsTakenBack(t *testing.T) {
	r := newRig(t)
	h := r.open()
	before := r.snapshot()
	p := r.plan(h, everyMethod)
	p.Tables[0].Chains = append(slices.Clone(p.Tables[0].Chains), plan.Chain{Name: "bad", Rules: []plan.NFTRule{{Exprs: []plan.Expr{plan.Jump{Chain: "nowhere"}}}}})
	_, err := h.Apply(p)
	if err == nil || !strings.Contains(err.Error(), "add nft rule inet salp bad: jump nowhere: no such file or directory (ENOENT)") {
		t.Errorf("error: %v", err)
	}
	r.same(before, r.snapshot())
	if _, err := os.Stat(filepath.Join(r.runDir, "state.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state file stayed: %v", err)
	}
}

func TestWithoutPrivilege(t *testing.T) {
	r := newRig(t)
	r.runDir = "/nonexistent"
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	readable, err := os.MkdirTemp("/tmp", "salp-kernel-test-") // one that another user can execute
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(readable) })
	copied := filepath.Join(readable, "child")
	if err := errors.Join(os.Chmod(readable, 0o755), os.WriteFile(copied, b, 0o755)); err != nil {
		t.Fatal(err)
	}
	p, out := r.again("diff", func(cmd *exec.Cmd) {
		cmd.Path, cmd.Dir = copied, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	})
	if p.Wait() == nil || !strings.Contains(out.String(), "EPERM") || !strings.Contains(out.String(), "CAP_NET_ADMIN") {
		t.Errorf("an ordinary user is told: %s", out)
	}
}
