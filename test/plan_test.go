package test

import (
	"fmt"
	"strings"
	"testing"

	"salp/internal/lab"
)

func itoa(n int) string { return fmt.Sprint(n) }

// TestPlanIsWhatIsThere compares what `salp plan` prints with what nft, ip and sysctl read back from the kernel.
func TestPlanIsWhatIsThere(t *testing.T) {
	closed := modeNamed("inbound")
	closed.name, closed.more = "inbound-closed", "    on_failure: closed\n"
	for _, m := range append([]mode{closed}, modes...) {
		t.Run(m.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.serve(portTell, lab.Tell)
			s := r.start(m.config(portTell, portEnd))
			r.tell(m.to(families[0], portTell))
			text, code := r.command("plan", "-c", s.file, "--run-dir", s.dir)
			if code != 0 {
				r.Fatalf("salp plan: exit code %d:\n%s", code, text)
			}
			if !strings.Contains(text, "as planned") {
				r.Errorf("the machine is not as planned:\n%s", text)
			}
			tables := 0
			for _, l := range strings.Split(strings.TrimSpace(r.gw("nft", "list", "tables")), "\n") {
				if name, ok := strings.CutPrefix(l, "table inet "); ok {
					tables++
					r.wantTable(text, name)
				}
			}
			if planned := strings.Count("\n"+text, "\ntable "); planned != tables {
				r.Errorf("the plan has %d tables, the kernel %d", planned, tables)
			}
			r.wantRules(text)
			r.wantSysctls(text)
		})
	}
}

// wantTable compares one table.
func (r *rig) wantTable(text, name string) {
	r.Helper()
	listed := tableText(r.gw("nft", "-s", "list", "table", "inet", name), name)
	planned := tableText(text, name)
	if listed == "" || listed != planned {
		r.Errorf("table %s: the plan says\n%s\nand nft\n%s", name, planned, listed)
	}
}

// tableText cuts one table out of a text in nft syntax. The elements of sets that change at run time and nft's note on who owns the
// table are left out.
func tableText(text, name string) string {
	var lines []string
	inside, elements := false, false
	for _, l := range strings.Split(text, "\n") {
		if strings.HasPrefix(l, "table inet "+name+" {") {
			inside, l = true, "table inet "+name+" {"
		}
		if !inside {
			continue
		}
		trimmed := strings.TrimSpace(l)
		if strings.HasPrefix(trimmed, "elements = {") && strings.Contains(trimmed, "timeout") {
			elements = true
		}
		if !elements {
			lines = append(lines, strings.TrimRight(l, " "))
		}
		if elements && strings.HasSuffix(trimmed, "}") {
			elements = false
			continue
		}
		if l == "}" {
			break
		}
	}
	return strings.Join(lines, "\n")
}

// wantRules compares the ip rules and routes.
func (r *rig) wantRules(text string) {
	r.Helper()
	for _, family := range []string{"-4", "-6"} {
		for _, l := range strings.Split(r.gw("ip", family, "rule", "list"), "\n") {
			fields := strings.Fields(l)
			if len(fields) == 0 || fields[0] != "810:" {
				continue
			}
			for _, word := range []string{"fwmark", "iif", "lookup"} {
				if !strings.Contains(l, word) {
					r.Errorf("rule %q has no %s", l, word)
				}
			}
			iif := fields[indexOf(fields, "iif")+1]
			if !strings.Contains(text, "iif "+iif) {
				r.Errorf("the kernel has %q, the plan no rule for %s:\n%s", l, iif, text)
			}
		}
	}
	ruleLines := strings.Count(text, "rule add")
	inKernel := strings.Count(r.gw("ip", "-4", "rule", "list")+r.gw("ip", "-6", "rule", "list"), "810:\t")
	if ruleLines != inKernel {
		r.Errorf("the plan has %d ip rules, the kernel %d:\n%s", ruleLines, inKernel, text)
	}
}

// wantSysctls compares the settings.
func (r *rig) wantSysctls(text string) {
	r.Helper()
	for l := range strings.Lines(text) {
		assignment, isSysctl := strings.CutPrefix(l, "sysctl -w ")
		if !isSysctl {
			continue
		}
		name, rest, _ := strings.Cut(assignment, "=")
		want := strings.Fields(rest)[0]
		if got, err := r.net.Gateway.ReadSysctl(name); err != nil || got != want {
			r.Errorf("the plan sets %s to %s, and it is %q (%v)", name, want, got, err)
		}
	}
}

func indexOf(list []string, word string) int {
	for i, w := range list {
		if w == word {
			return i
		}
	}
	return -1
}

// TestPlanShowsDrift has another program change what is Salp's; the next plan must tell the difference until it is repaired.
func TestPlanShowsDrift(t *testing.T) {
	r := newRig(t, 1)
	file := r.writeConfig(modeNamed("full-keep").config(portTell))
	dir := r.dir + "/run"
	before := r.look()
	text, code := r.command("plan", "-c", file, "--run-dir", dir)
	if code != 0 || !strings.Contains(text, "differs") || !strings.Contains(text, "ip_forward") {
		r.Errorf("before the start plan does not show what would change; exit code %d:\n%s", code, text)
	}
	r.wantAsBefore(before)
}
