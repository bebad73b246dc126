package kernel

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"salp/internal/plan"
)

func TestStateKeepsTheFirstFormerValues(t *testing.T) {
	r := newRig(t)
	first := r.open()
	p := r.plan(first, everyMethod)
	r.apply(first, p)
	first.Close() // as after kill -9: nothing was given back
	second := r.open()
	r.apply(second, p)
	s := r.readState()
	former := map[string]string{}
	for _, k := range s.Sysctls {
		former[k.Name] = k.Former + "→" + k.Set
		for _, side := range k.Sides {
			former[side.Name] = side.Former
		}
	}
	for name, want := range map[string]string{"net/ipv4/ip_forward": "0→1", "net/ipv6/conf/all/forwarding": "0→1", "net/ipv4/conf/g1/forwarding": "1",
		"net/ipv6/conf/g1/forwarding": "1", "net/ipv4/conf/default/forwarding": "1", "net/ipv4/conf/all/accept_redirects": "0"} {
		if former[name] != want {
			t.Errorf("%s: former value %q, want %q", name, former[name], want)
		}
	}
	if !slices.Equal(s.Tables, []string{"salp", "salp-closed"}) || len(s.Rules) != 4 || len(s.Routes) != 2 || s.CTMark != 3<<30 || s.Ports["inline"] != 61440 || s.Ports["mail"] != 61441 {
		t.Errorf("state: %+v", s)
	}
}

func (r *rig) readState() *state {
	r.Helper()
	b, err := os.ReadFile(filepath.Join(r.runDir, "state.json"))
	if err != nil {
		r.Fatal(err)
	}
	s := &state{}
	if err := json.Unmarshal(b, s); err != nil {
		r.Fatal(err)
	}
	return s
}

func (r *rig) writeState(change func(*state)) {
	r.Helper()
	s := r.readState()
	change(s)
	b, err := json.Marshal(s)
	if err != nil {
		r.Fatal(err)
	}
	writeFile(r.T, filepath.Join(r.runDir, "state.json"), string(b))
}

// TestStateOfAnotherBoot: after a reboot the values on file are not this kernel's former ones, and nothing may be set to them.
func TestStateOfAnotherBoot(t *testing.T) {
	r := newRig(t)
	h := r.open()
	r.apply(h, r.plan(h, onlyMail))
	r.writeState(func(s *state) { s.Boot = "00000000-0000-0000-0000-000000000000" })
	h.Close()
	second := r.open()
	changes, err := second.Remove()
	if err != nil || len(changes) > 0 {
		t.Errorf("removed %s, %v", lines(changes), err)
	}
	if got := strings.TrimSpace(r.run("sysctl", "-n", "net.ipv4.ip_forward")); got != "1" {
		t.Errorf("ip_forward was set to %s", got)
	}
}

func TestStateOfAnotherNamespace(t *testing.T) {
	r := newRig(t)
	h := r.open()
	p := r.plan(h, onlyMail)
	r.apply(h, p)
	r.writeState(func(s *state) { s.Namespace = "net:[1]" })
	if _, err := h.Remove(); err == nil || !strings.Contains(err.Error(), "another network namespace") {
		t.Errorf("Remove: %v", err)
	}
	if _, err := h.Apply(p); err != nil {
		t.Errorf("Apply: %v", err)
	}
}

func TestBrokenState(t *testing.T) {
	r := newRig(t)
	h := r.open()
	p := r.plan(h, onlyMail)
	if err := os.MkdirAll(r.runDir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(r.runDir, "state.json"), `{"boot":`)
	before := r.snapshot()
	for name, do := range map[string]func() error{
		"Apply":  func() error { _, err := h.Apply(p); return err },
		"Remove": func() error { _, err := h.Remove(); return err },
		"Facts":  func() error { _, err := h.Facts(); return err },
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), "state.json") {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.same(before, r.snapshot())
}

// TestLostState: the marks on the tables still tell which are ours.
func TestLostState(t *testing.T) {
	r := newRig(t)
	h := r.open()
	r.apply(h, r.plan(h, everyMethod))
	h.Close()
	if err := os.Remove(filepath.Join(r.runDir, "state.json")); err != nil {
		t.Fatal(err)
	}
	changes, err := r.open().Remove()
	if err != nil || lines(changes) != "- nft table inet salp-closed: 1 chains, 3 rules" {
		t.Errorf("removed %s, %v", lines(changes), err)
	}
}

// TestUnwritableRunDir: without a state file the kernel is not touched.
func TestUnwritableRunDir(t *testing.T) {
	r := newRig(t)
	writeFile(t, filepath.Join(filepath.Dir(r.runDir), "file"), "")
	h := r.openAt(filepath.Join(filepath.Dir(r.runDir), "file", "run"))
	facts := r.open()
	before := r.snapshot()
	if _, err := h.Apply(r.plan(facts, everyMethod)); err == nil {
		t.Error("Apply succeeded")
	}
	r.same(before, r.snapshot())
}

func TestEmptyPlanTouchesNothing(t *testing.T) {
	r := newRig(t)
	h := r.open()
	before := r.snapshot()
	if changes, err := h.Apply(plan.Plan{}); err != nil || len(changes) > 0 {
		t.Errorf("%s, %v", lines(changes), err)
	}
	if err := h.Alive(1); err != nil {
		t.Errorf("Alive: %v", err)
	}
	if _, err := os.Stat(r.runDir); err == nil {
		t.Error("the run directory was made for nothing")
	}
	r.same(before, r.snapshot())
	p := r.plan(h, everyMethod)
	r.apply(h, p)
	changes, err := h.Apply(plan.Plan{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("going back to nothing:\n%s", lines(changes))
	r.same(before, r.snapshot())
	if _, err := os.Stat(filepath.Join(r.runDir, "state.json")); err == nil {
		t.Error("the state file is still there")
	}
}

// TestFailureKeepsTheOldPlan: after a plan that the kernel refuses the one before is in force, whole.
func TestFailureKeepsTheOldPlan(t *testing.T) {
	r := newRig(t)
	h := r.open()
	p := r.plan(h, withoutClosed)
	r.apply(h, p)
	before, file := r.snapshot(), r.readState()
	bad := r.plan(h, everyMethod)
	bad.Rules = append(slices.Clone(bad.Rules), plan.Rule{Family: plan.IPv4, Priority: 811, Mark: 1, Mask: 1, IIF: "g1", Table: 8111})
	bad.Routes = append(slices.Clone(bad.Routes), plan.Route{Family: plan.IPv4, Table: 8111, Type: plan.RouteLocal, Dev: "lo"})
	bad.Sysctls = append(slices.Clone(bad.Sysctls), plan.Sysctl{Name: "net/ipv4/conf/g0/rp_filter", Value: "2"})
	bad.Tables[1].Chains[0].Rules = []plan.NFTRule{{Exprs: []plan.Expr{plan.Jump{Chain: "nowhere"}}}}
	if _, err := h.Apply(bad); err == nil {
		t.Fatal("Apply succeeded")
	}
	r.same(before, r.snapshot())
	if now := r.readState(); len(now.Rules) != len(file.Rules) || len(now.Sysctls) != len(file.Sysctls) || now.Ports["mail"] != 0 {
		t.Errorf("state: %+v", now)
	}
	if again := r.apply(h, p); len(again) > 0 {
		t.Errorf("the old plan differs: %s", lines(again))
	}
}
