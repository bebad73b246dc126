package route

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"salp/internal/kernel/diff"
	"salp/internal/lab"
	"salp/internal/plan"
)

type rig struct {
	*testing.T
	gw *lab.Host
	c  *Conn
}

func newRig(t *testing.T) *rig {
	t.Helper()
	n, err := lab.Test(t).Standard(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("skipped: ip is not installed")
	}
	r := &rig{T: t, gw: n.Gateway}
	if err := r.gw.Do(func() (err error) { r.c, err = Open(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.c.Close() })
	return r
}

func (r *rig) ip(line string) string {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := r.gw.Run(ctx, "ip", strings.Fields(line)...)
	if err != nil {
		r.Fatal(err)
	}
	return out
}

func (r *rig) all() string {
	r.Helper()
	return r.ip("-4 rule") + r.ip("-6 rule") + r.ip("-4 route show table all") + r.ip("-6 route show table all")
}

// both has, for both families, what makes packets local and a rule of each kind.
func both() State {
	var s State
	for _, f := range []plan.Family{plan.IPv4, plan.IPv6} {
		s.Rules = append(s.Rules, plan.Rule{Family: f, Priority: 810, Mark: 0x10000000, Mask: 0x10000000, IIF: "g0", Table: 8110},
			plan.Rule{Family: f, Priority: 811, Mark: 1, Mask: 3, IIF: "absent0", Table: 77})
		s.Routes = append(s.Routes, local(f, 8110), local(f, 77))
	}
	return s
}

func local(f plan.Family, table uint32) plan.Route {
	return plan.Route{Family: f, Table: table, Type: plan.RouteLocal, Dev: "lo"}
}

// every has each kind of rule and route that a plan can say, on the standard network's gateway.
func every() State {
	s := both()
	for _, f := range []plan.Family{plan.IPv4, plan.IPv6} {
		via, src, net, host := "10.0.2.2", "10.0.2.1", "10.7.0.0/16", "10.7.7.7/32"
		if f == plan.IPv6 {
			via, src, net, host = "fd00:2::2", "fd00:2::1", "fd07::/32", "fd07::7/128"
		}
		from, to := netip.MustParsePrefix(net), netip.MustParsePrefix(host)
		s.Rules = append(s.Rules,
			plan.Rule{Family: f, Priority: 820, Table: plan.MainTable, SuppressDefault: true},
			plan.Rule{Family: f, Priority: 821, OIF: "g1", Table: 9000},
			plan.Rule{Family: f, Priority: 821, OIF: "absent0", Table: 9000},
			plan.Rule{Family: f, Priority: 822, From: from, To: to, Table: 9000},
			plan.Rule{Family: f, Priority: 823, Mark: 0x01000000, Mask: 0x0f000000, Table: 9001},
			plan.Rule{Family: f, Priority: 824, IIF: "lo", Mask: 0x0f000000, Table: 9001},
			plan.Rule{Family: f, Priority: 825, From: from, Action: plan.RuleUnreachable},
			plan.Rule{Family: f, Priority: 826, To: to, Action: plan.RuleBlackhole},
			plan.Rule{Family: f, Priority: 827, IIF: "g1", Action: plan.RuleProhibit})
		s.Routes = append(s.Routes,
			plan.Route{Family: f, Table: 9000, Type: plan.RouteUnicast, Via: netip.MustParseAddr(via), Dev: "g1", Src: netip.MustParseAddr(src), MTU: 1400},
			plan.Route{Family: f, Table: 9000, Type: plan.RouteUnicast, To: from, Via: netip.MustParseAddr(via), Dev: "g1", OnLink: true, Metric: 7},
			plan.Route{Family: f, Table: 9000, Type: plan.RouteUnreachable, Metric: 1 << 31},
			plan.Route{Family: f, Table: 9001, Type: plan.RouteUnicast, Dev: "g0"},
			plan.Route{Family: f, Table: 9001, Type: plan.RouteBlackhole, To: from},
			plan.Route{Family: f, Table: 9001, Type: plan.RouteThrow, To: to})
	}
	return s
}

// TestPlanTextIsWhatIsWritten runs the commands that the plan prints: Missing must take what they make for ours.
func TestPlanTextIsWhatIsWritten(t *testing.T) {
	r := newRig(t)
	empty, want := r.all(), every()
	for _, one := range want.Routes {
		r.ip(strings.TrimPrefix(one.Text(), "ip "))
	}
	for _, one := range want.Rules {
		r.ip(strings.TrimPrefix(one.Text(), "ip "))
	}
	byIP := r.all()
	missing, err := r.c.Missing(want, State{})
	if err != nil || len(missing.Rules)+len(missing.Routes) > 0 {
		t.Errorf("missing %+v, %v", missing, err)
	}
	if changes, waiting, err := r.c.Add(want); err != nil || len(changes) > 0 || len(waiting) > 0 {
		t.Errorf("added %v, waiting %v, %v", changes, waiting, err)
	}
	all := len(want.Rules) + len(want.Routes)
	if changes, err := r.c.Remove(want); err != nil || len(changes) != all || r.all() != empty {
		t.Errorf("removed %v, %v; was\n%s\nis\n%s", changes, err, empty, r.all())
	}
	if changes, waiting, err := r.c.Add(want); err != nil || len(changes) != all || changes[0].Op != diff.Add || len(waiting) > 0 {
		t.Errorf("added %v, waiting %v, %v", changes, waiting, err)
	}
	if ours := r.all(); ours != byIP {
		t.Errorf("ip made\n%s\nwe make\n%s", byIP, ours)
	}
}

// TestRoutesComeAndGoWithInterfaces: a route waits without an error while its interface or source is gone, and takes the place of
// what the kernel has made of it.
func TestRoutesComeAndGoWithInterfaces(t *testing.T) {
	r := newRig(t)
	want := every()
	want.Routes = append(want.Routes, plan.Route{Family: plan.IPv4, Table: 9002, Type: plan.RouteUnicast, Via: netip.MustParseAddr("10.9.9.9"), Dev: "absent0"})
	add := func(when string, waits int) {
		t.Helper()
		missing, err := r.c.Missing(want, want)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if _, waiting, err := r.c.Add(missing); err != nil || len(waiting) != waits {
			t.Errorf("%s: waiting %v, %v", when, waiting, err)
		}
	}
	add("as it is", 1)
	whole := r.all()
	r.ip("link set g1 down")
	add("down", 5)
	r.ip("link set g1 up")
	r.ip("-6 addr add fd00:2::1/64 dev g1 nodad")
	add("up again", 1)
	r.ip("-4 addr del 10.0.2.1/24 dev g1")
	r.ip("-6 addr del fd00:2::1/64 dev g1")
	add("without addresses", 3) // an onlink gateway and an IPv6 route without its source's check may stay
	r.ip("-4 addr add 10.0.2.1/24 dev g1")
	r.ip("-6 addr add fd00:2::1/64 dev g1 nodad")
	add("with addresses again", 1)
	if is := r.all(); is != whole {
		t.Errorf("was\n%s\nis\n%s", whole, is)
	}
	other := want
	other.Routes = slices.Clone(want.Routes)
	for i, one := range other.Routes {
		if one.Table == 9000 && one.Src.IsValid() {
			other.Routes[i].Via, other.Routes[i].Src, other.Routes[i].MTU = one.Via.Next(), netip.Addr{}, 1300
		}
	}
	missing, err := r.c.Missing(other, want)
	if err != nil || len(missing.Routes) != 3 {
		t.Errorf("missing %v, %v", missing.Routes, err)
	}
	if changes, _, err := r.c.Add(missing); err != nil || len(changes) != 2 {
		t.Errorf("added %v, %v", changes, err)
	}
	if old, err := r.c.Present(want.Without(other).WithoutReplaced(missing)); err != nil || len(old.Routes)+len(old.Rules) > 0 {
		t.Errorf("left of the old: %v, %v", old, err)
	}
	r.ip("link del g0")
	if _, err := r.c.Remove(other); err != nil {
		t.Error(err)
	}
	if left := r.all(); regexp.MustCompile(`(?m)(table|lookup) 900|^82\d*:`).MatchString(left) {
		t.Errorf("left:\n%s", left)
	}
}

// TestLikeRulesAreNotOurs: rules that differ from ours in one thing are neither taken for ours nor removed.
func TestLikeRulesAreNotOurs(t *testing.T) {
	r := newRig(t)
	for _, line := range []string{
		"pref 811 fwmark 0x10000000/0x10000000 iif g0 lookup 8110 protocol kernel",
		"pref 810 fwmark 0x20000000/0x20000000 iif g0 lookup 8110 protocol kernel",
		"pref 810 fwmark 0x10000000/0x30000000 iif g0 lookup 8110 protocol kernel",
		"pref 810 fwmark 0x10000000/0x10000000 iif g1 lookup 8110 protocol kernel",
		"pref 810 fwmark 0x10000000/0x10000000 lookup 8110 protocol kernel",
		"pref 810 fwmark 0x10000000/0x10000000 iif g0 lookup 8111 protocol kernel",
		"pref 810 fwmark 0x10000000/0x10000000 iif g0 lookup 8110 protocol static",
		"pref 810 not fwmark 0x10000000/0x20000000 iif g0 lookup 8110 protocol kernel",
		"pref 810 fwmark 0x10000000/0x10000000 iif g0 blackhole protocol kernel",
	} {
		r.ip("rule add " + line)
	}
	before := r.all()
	ours := State{Rules: []plan.Rule{{Family: plan.IPv4, Priority: 810, Mark: 0x10000000, Mask: 0x10000000, IIF: "g0", Table: 8110}}}
	if missing, err := r.c.Missing(ours, State{}); err != nil || len(missing.Rules) != 1 {
		t.Errorf("missing %+v, %v", missing, err)
	}
	if present, err := r.c.Present(ours); err != nil || len(present.Rules) != 0 {
		t.Errorf("present %+v, %v", present, err)
	}
	if changes, _, err := r.c.Add(ours); err != nil || len(changes) != 1 {
		t.Errorf("added %v, %v", changes, err)
	}
	if changes, err := r.c.Remove(ours); err != nil || len(changes) != 1 {
		t.Errorf("removed %v, %v", changes, err)
	}
	if after := r.all(); after != before {
		t.Errorf("was\n%s\nis\n%s", before, after)
	}
}

func TestTakenTable(t *testing.T) {
	for _, route := range []string{"10.99.0.0/24 via 10.0.2.2", "default via 10.0.2.2", "local 10.98.0.1 dev lo proto kernel", "blackhole 10.97.0.0/16", "local default dev lo proto static"} {
		t.Run(route, func(t *testing.T) {
			r := newRig(t)
			r.ip("route add " + route + " table 8110")
			_, err := r.c.Missing(both(), State{})
			var taken *TakenError
			if !errors.As(err, &taken) || taken.Table != 8110 || taken.Count != 1 || !strings.Contains(err.Error(), "kernel.table") {
				t.Errorf("error: %v", err)
			}
			if present, err := r.c.Present(both()); err != nil || len(present.Routes) > 0 {
				t.Errorf("present %+v, %v", present, err)
			}
		})
	}
}

// TestRuleWithMoreConditionsIsNotOurs: the kernel says of our rule that it exists when one exists that has a condition more.
func TestRuleWithMoreConditionsIsNotOurs(t *testing.T) {
	for _, more := range []string{"from 10.0.0.0/8", "ipproto tcp"} {
		r := newRig(t)
		r.ip("rule add pref 810 fwmark 0x10000000/0x10000000 iif g0 " + more + " lookup 8110 protocol kernel")
		ours := State{Rules: []plan.Rule{{Family: plan.IPv4, Priority: 810, Mark: 0x10000000, Mask: 0x10000000, IIF: "g0", Table: 8110}}}
		if changes, _, err := r.c.Add(ours); err != nil || len(changes) != 1 {
			t.Errorf("%s: added %v, %v", more, changes, err)
		}
		if missing, err := r.c.Missing(ours, State{}); err != nil || len(missing.Rules) > 0 {
			t.Errorf("%s: missing %+v, %v", more, missing, err)
		}
		if again, _, err := r.c.Add(ours); err != nil || len(again) > 0 {
			t.Errorf("%s: again %v, %v", more, again, err)
		}
	}
}

// TestManyRoutesOfOthers lists among more routes than one answer of the kernel holds, and after Close, when it must not look elsewhere.
func TestManyRoutesOfOthers(t *testing.T) {
	r := newRig(t)
	var batch strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&batch, "route add fd01:0:0:%x::/64 via fd00:2::2\n", i)
	}
	file := filepath.Join(t.TempDir(), "batch")
	if err := os.WriteFile(file, []byte(batch.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r.ip("-6 -batch " + file)
	r.ip("-6 route add default via fd00:2::2 dev g1 proto ra")
	began := time.Now()
	list, err := r.c.Interfaces()
	took := time.Since(began)
	if err != nil || !slices.ContainsFunc(list, func(i plan.Interface) bool { return i.Name == "g1" && i.AcceptsRA }) {
		t.Errorf("%v, %v", list, err)
	}
	if missing, err := r.c.Missing(both(), State{}); err != nil || len(missing.Routes) != 4 {
		t.Errorf("missing %v, %v", missing, err)
	}
	t.Logf("interfaces in %v, routes in %v", took, time.Since(began)-took)
	r.c.Close()
	if _, err := r.c.Interfaces(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
