package kernel

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"salp/internal/plan"
)

// watched runs Watch and, as the keeper does, applies the plan again for each event.
type watched struct {
	mu      sync.Mutex
	events  []Event
	changes []Change
}

func (w *watched) has(match func(Event) bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.events, match)
}

func (w *watched) count() (events, changes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.events), len(w.changes)
}

func watching(t *testing.T, h *Host, p plan.Plan) *watched {
	t.Helper()
	w := &watched{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- h.Watch(ctx, func(e Event) {
			changes, err := h.Apply(p)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
			w.changes = append(w.changes, changes...)
			if err != nil {
				w.events = append(w.events, Event{What: "error: " + err.Error()})
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Watch: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Watch does not end with its context")
		}
	})
	time.Sleep(50 * time.Millisecond) // it listens by then
	return w
}

func TestOthersChangesAreRepairedWithinASecond(t *testing.T) {
	r := newRig(t)
	h := r.open()
	p := r.plan(h, everyMethod)
	r.apply(h, p)
	w := watching(t, h, p)
	for _, one := range []struct {
		do   []string
		what string
		by   string // the program, where the kernel tells
	}{
		{[]string{"ip", "rule", "del", "pref", "810", "fwmark", "0x10000000/0x10000000", "iif", "g0", "lookup", "8110", "protocol", "kernel"}, "ip rule removed: ", "process"},
		{[]string{"ip", "-6", "rule", "flush", "protocol", "kernel"}, "ip rule removed: ", ""}, // sent from its second socket, which has no number that tells
		{[]string{"ip", "route", "flush", "table", "8110"}, "ip route in table 8110 removed", "process"},
		{[]string{"ip", "-6", "route", "del", "local", "default", "dev", "lo", "table", "8110"}, "ip route in table 8110 removed", "process"},
		{[]string{"nft", "delete", "table", "inet", "salp-closed"}, "nft table inet salp-closed removed", "nft (process "},
		{[]string{"nft", "flush", "chain", "inet", "salp-closed", "refuse"}, "nft rule inet salp-closed refuse removed", "nft (process "},
		{[]string{"nft", "insert", "rule", "inet", "salp-closed", "refuse", "accept"}, "nft rule inet salp-closed refuse added", "nft (process "},
		{[]string{"nft", "add", "chain", "inet", "salp-closed", "more"}, "nft chain inet salp-closed more added", "nft (process "},
		{[]string{"nft", "flush", "ruleset"}, "nft table inet salp-closed removed", "nft (process "},
		{[]string{"sysctl", "-qw", "net.ipv4.ip_forward=0"}, "sysctl net/ipv4/ip_forward set from 1 to 0", ""},
		{[]string{"sysctl", "-qw", "net.ipv6.conf.all.forwarding=0"}, "sysctl net/ipv6/conf/all/forwarding set from 1 to 0", ""},
	} {
		t.Run(strings.Join(one.do, " "), func(t *testing.T) {
			time.Sleep(3 * restAfter) // all of the change before is told
			w.mu.Lock()
			w.events = nil
			w.mu.Unlock()
			_, before := w.count()
			r.run(one.do[0], one.do[1:]...)
			took := within(t, time.Second, "the repair", func() bool {
				_, now := w.count()
				differs, err := h.Diff(p)
				return err == nil && len(differs) == 0 && now > before
			})
			within(t, time.Second, "an event "+one.what+" by "+one.by, func() bool {
				return w.has(func(e Event) bool { return strings.HasPrefix(e.What, one.what) && strings.Contains(e.By, one.by) })
			})
			t.Logf("repaired in %v", took.Round(time.Millisecond))
		})
	}
	if list := r.run("nft", "list", "ruleset"); strings.Contains(list, "firewall") || !strings.Contains(list, "table inet salp {") {
		t.Errorf("after somebody's flush:\n%s", list)
	}
}

func TestWatchHearsNothingOfItself(t *testing.T) {
	r := newRig(t)
	h := r.open()
	p := r.plan(h, everyMethod)
	r.apply(h, p)
	time.Sleep(2 * pollEvery) // events of the network's making are over
	w := watching(t, h, p)
	for range 30 {
		if err := h.Alive(2 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Alive(0); err != nil {
		t.Fatal(err)
	}
	r.apply(h, r.plan(h, onlyMail))
	r.apply(h, p)
	r.run("nft", "add", "rule", "inet", "firewall", "in", "accept") // somebody's own affairs
	r.run("ip", "rule", "add", "pref", "5300", "lookup", "99")
	r.run("ip", "route", "add", "10.98.0.0/24", "via", "10.0.2.2")
	time.Sleep(2 * pollEvery)
	if events, changes := w.count(); events+changes > 0 {
		t.Errorf("told of itself: %v", w.events)
	}
}

func TestWatchTellsOfInterfaces(t *testing.T) {
	r := newRig(t)
	h := r.open()
	p := r.plan(h, everyMethod)
	r.apply(h, p)
	w := watching(t, h, p)
	r.run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	r.run("ip", "address", "add", "192.0.2.7/24", "dev", "d0")
	within(t, time.Second, "both events", func() bool {
		return w.has(func(e Event) bool { return e.Facts && e.What == "interface d0 changed" }) && w.has(func(e Event) bool { return e.Facts && e.What == "address 192.0.2.7/24 added" })
	})
}

func TestManyChangesAreFewEvents(t *testing.T) {
	r := newRig(t)
	h := r.open()
	p := r.plan(h, everyMethod)
	r.apply(h, p)
	w := watching(t, h, p)
	var script strings.Builder
	for range 2000 {
		script.WriteString("insert rule inet salp-closed refuse accept\n")
	}
	file := t.TempDir() + "/script"
	writeFile(t, file, script.String())
	r.run("nft", "-f", file)
	within(t, 2*time.Second, "the repair", func() bool { d, err := h.Diff(p); return err == nil && len(d) == 0 })
	if events, _ := w.count(); events > 3 {
		t.Errorf("%d events: %v", events, w.events)
	}
}
