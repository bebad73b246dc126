package keeper

import (
	"strings"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/plan"
)

func planOf(t *testing.T, text string) plan.Plan {
	t.Helper()
	cfg, err := config.Parse("salp.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Make(cfg, newFakeKernel().facts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCarryKeepsWhatRunningConnectionsTake(t *testing.T) {
	const redirect = "listeners: {web: {intercept: {interfaces: [lan0], ports: [80], method: redirect}, source: proxy}}\n"
	keep := strings.Replace(intercept, "source: client", "source: client, source_port: keep, on_failure: closed", 1)
	for _, c := range []struct {
		name, old, next string
		want, not       []string
	}{
		{"tproxy to nothing", intercept, explicit,
			[]string{"chain divert {", "chain divert-socket {", "socket transparent 1", "iif lan0", "local default dev lo"},
			[]string{"tproxy", "chain intercept-web", "@alive", "ip_forward", "own way to a server, come round: never taken in again\"\n\t\tiifname"}},
		{"kept port to nothing", keep, explicit, []string{"chain zone-in {", "chain zone-out {", "ct original zone set", "ct reply zone set", "chain upstream-out {"}, []string{"tproxy", "reject"}},
		{"kept port to tproxy", keep, intercept, []string{"chain zone-in {", "chain zone-out {", "tproxy", "@alive"}, []string{"reject"}},
		{"redirect to nothing", redirect, explicit, []string{"type nat hook prerouting"}, []string{"redirect to", "reject", "redirect-guard"}},
		{"redirect to tproxy", redirect, intercept, []string{"type nat hook prerouting", "tproxy", "chain intercept-web"}, []string{"redirect to", "reject"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := carry(planOf(t, c.next), planOf(t, c.old)).Text()
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("lacks %q", want)
				}
			}
			for _, not := range c.not {
				if strings.Contains(got, not) {
					t.Errorf("has %q", not)
				}
			}
			if t.Failed() {
				t.Logf("carried:\n%s", got)
			}
		})
	}
}

func TestCarryOfTheSameChangesNothing(t *testing.T) {
	p := planOf(t, intercept)
	if got := carry(p, p); got.Text() != p.Text() {
		t.Errorf("changed to:\n%s", got.Text())
	}
}

// TestReloadCarriesUntilDrained has a reload end interception: the divert stays as long as the old worker has connections.
func TestReloadCarriesUntilDrained(t *testing.T) {
	needRoot(t)
	r := start(t, "# worker: busy\n"+intercept, newFakeKernel())
	r.ready()
	r.write(explicit)
	if _, err := r.reloadNow(); err != nil {
		t.Fatal(err)
	}
	last := func() string {
		r.kernel.mu.Lock()
		defer r.kernel.mu.Unlock()
		return r.kernel.applied[len(r.kernel.applied)-1].Text()
	}
	if text := last(); !strings.Contains(text, "socket transparent 1") || strings.Contains(text, "tproxy") {
		t.Errorf("after the reload:\n%s", text)
	}
	r.await("nothing is needed any more", 3*time.Second, func(s admin.Status) bool { return running(s) && !s.Kernel.Needed })
	if text := last(); text != "" {
		t.Errorf("after the drain:\n%s", text)
	}
}
