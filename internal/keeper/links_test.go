package keeper

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/kernel"
	"salp/internal/kernel/route"
	"salp/internal/plan"
)

const twoLinks = `links:
  fibre: {interface: wan1, gateway: 192.0.2.1, weight: 2}
  cable: {interface: wan2, on_link_down: keep}
balance: {inside: {interfaces: [lan0]}}
`

// twoUplinks is a kernel with the interfaces of twoLinks in order.
func twoUplinks() *fakeKernel {
	f := newFakeKernel()
	for i, a := range []string{"192.0.2.10/24", "198.51.100.10/24"} {
		f.facts.Interfaces = append(f.facts.Interfaces, plan.Interface{Name: fmt.Sprintf("wan%d", i+1), Up: true, Carrier: true, Addresses: []netip.Prefix{netip.MustParsePrefix(a)}})
	}
	f.gateways = []plan.Gateway{{Family: plan.IPv4, Table: 254, Dev: "wan2", Via: netip.MustParseAddr("198.51.100.1")}}
	f.counts = map[string]kernel.Count{plan.LinkFlows("fibre"): {Packets: 20}, plan.LinkFlows("cable"): {Packets: 10}, plan.LinkLeaked("cable"): {Packets: 3}}
	f.traffic = map[string]route.Traffic{"wan1": {In: 1000, Out: 2000}}
	return f
}

// carrier sets whether an interface has one, and tells the keeper that something about interfaces has changed.
func (f *fakeKernel) carrier(name string, is bool) {
	f.mu.Lock()
	f.facts.Interfaces = slices.Clone(f.facts.Interfaces)
	for i := range f.facts.Interfaces {
		if f.facts.Interfaces[i].Name == name {
			f.facts.Interfaces[i].Carrier = is
		}
	}
	tell := f.tell
	f.mu.Unlock()
	tell(kernel.Event{What: "interface " + name + " changed", Facts: true})
}

func (f *fakeKernel) watched() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tell != nil
}

// linksAre waits for the states of the links, in the order of the file.
func (r *rig) linksAre(want ...string) admin.Status {
	r.t.Helper()
	return r.await(fmt.Sprint("links ", want), 5*time.Second, func(s admin.Status) bool {
		var got []string
		for _, l := range s.Links {
			got = append(got, l.State)
		}
		return s.State == admin.StateRunning && slices.Equal(got, want) && r.kernel.watched()
	})
}

// A gateway with links alone starts no worker. Carrier loss takes a link down at once: the plan follows, the flows of the link are forgotten
// where that is wanted, and status tells.
func TestLinksWithoutListeners(t *testing.T) {
	r := start(t, twoLinks, twoUplinks())
	s := r.linksAre("up", "up")
	if len(s.Workers) != 0 {
		t.Errorf("%d workers", len(s.Workers))
	}
	fibre, cable := s.Links[0], s.Links[1]
	if fibre.Flows != 20 || cable.Leaked != 3 || fmt.Sprintf("%.2f", fibre.Share) != "0.67" || fmt.Sprint(cable.Gateways, cable.Learned, cable.Addresses) != "[198.51.100.1] true [198.51.100.10]" || fibre.Learned {
		t.Errorf("%+v\n%+v", fibre, cable)
	}
	before := len(r.kernel.plans())
	r.kernel.carrier("wan1", false)
	s = r.linksAre("down", "up")
	if l := s.Links[0]; l.Reason != "interface wan1 has no carrier" || l.Share != 0 || l.Downs != 1 || len(l.History) != 1 || s.Links[1].Share != 1 {
		t.Errorf("%+v", l)
	}
	if plans := r.kernel.plans(); len(plans) == before {
		t.Error("no plan was applied")
	}
	waitFor(t, "flows of the link were forgotten", func() bool { return slices.Equal(r.kernel.forgot(), []uint32{0x01000000}) })
	r.kernel.carrier("wan2", false)
	r.linksAre("down", "down")
	r.kernel.carrier("wan1", true)
	r.linksAre("up", "down")
	if got := r.kernel.forgot(); len(got) != 1 {
		t.Errorf("flows of a link that keeps them were forgotten: %#x", got)
	}
}

func (f *fakeKernel) plans() []plan.Plan {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.applied)
}

func (f *fakeKernel) forgot() []uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.forgotten)
}

// What an operator wants of a link holds over a restart, and a stop leaves the links to the kernel: only who asks by the admin socket has
// them removed.
func TestLinkOrders(t *testing.T) {
	fake := twoUplinks()
	r := start(t, twoLinks, fake)
	r.linksAre("up", "up")
	g := &gateway{r.keeper}
	if a, err := g.SetLink(t.Context(), admin.LinkWish{Link: "cable", State: "drain"}); err != nil || a != (admin.LinkAnswer{State: "drain", Up: 1, Links: 2}) {
		t.Fatalf("%+v, %v", a, err)
	}
	for _, w := range []admin.LinkWish{{Link: "cabel", State: "drain"}, {Link: "cable", State: "maint"}} {
		if _, err := g.SetLink(t.Context(), w); err == nil {
			t.Errorf("%v is accepted", w)
		}
	}
	if s := r.linksAre("up", "drain"); s.Links[1].Wish != "drain" {
		t.Errorf("%+v", s.Links[1])
	}
	r.stop()
	if err := r.end(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if last := fake.plans(); fake.removed != 0 || last[len(last)-1].Empty() {
		t.Errorf("a stop removes the links: %d removals", fake.removed)
	}
	r.keeper.lock.release()
	again := startIn(t, filepath.Dir(r.file), twoLinks, fake)
	again.linksAre("up", "drain")
	if err := (&gateway{again.keeper}).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := again.end(5 * time.Second); err != nil || fake.removed != 1 {
		t.Errorf("%v, %d removals", err, fake.removed)
	}
}

// Flows of a link that goes down when no other is up stay: the last resort goes on using it. When another comes up they are forgotten.
func TestLastLinkDown(t *testing.T) {
	fake := twoUplinks()
	r := start(t, strings.Replace(twoLinks, ", on_link_down: keep", "", 1), fake)
	r.linksAre("up", "up")
	g := &gateway{r.keeper}
	order := func(name, state string, want ...string) {
		t.Helper()
		if _, err := g.SetLink(t.Context(), admin.LinkWish{Link: name, State: state}); err != nil {
			t.Fatal(err)
		}
		r.linksAre(want...)
	}
	order("fibre", "down", "down", "up")
	waitFor(t, "flows of the first were forgotten", func() bool { return slices.Equal(fake.forgot(), []uint32{0x01000000}) })
	order("cable", "down", "down", "down")
	time.Sleep(50 * time.Millisecond)
	if got := fake.forgot(); len(got) != 1 {
		t.Errorf("flows of a link that is still used were forgotten: %#x", got)
	}
	order("fibre", "ready", "up", "down")
	waitFor(t, "flows of the other were forgotten", func() bool { return slices.Equal(fake.forgot(), []uint32{0x01000000, 0x02000000}) })
}

// The flows of a link that has another number after a reload are forgotten, and a change of the mark bits is refused.
func TestReloadOfLinks(t *testing.T) {
	fake := twoUplinks()
	r := start(t, twoLinks, fake)
	r.linksAre("up", "up")
	g := &gateway{r.keeper}
	r.write(strings.Replace(twoLinks, "  cable", "  third: {interface: wan3}\n  cable", 1))
	if _, err := g.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.linksAre("up", "down", "up")
	waitFor(t, "flows of the link that has moved were forgotten", func() bool {
		got := fake.forgot()
		return slices.Contains(got, 0x02000000) && !slices.Contains(got, 0x01000000)
	})
	r.write(twoLinks + "kernel: {link_marks: 0x00f00000}\n")
	if _, err := g.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "mark bits of links") {
		t.Errorf("%v", err)
	}
}

// A program is run for each change, in their order, with what it must know in its environment; one that takes too long is killed with what
// it has started.
func TestHookPrograms(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	open := filepath.Dir(dir)
	for ; open != "/tmp" && open != "/"; open = filepath.Dir(open) {
		_ = os.Chmod(open, 0o755)
	}
	told, slow := filepath.Join(dir, "told"), filepath.Join(dir, "slow")
	text := strings.Replace(twoLinks, "weight: 2}", "weight: 2, on_change: {run: [/bin/sh, -c, \"echo $SALP_LINK $SALP_WAS $SALP_STATE $SALP_INTERFACE $SALP_ADDRESS $SALP_GATEWAY $1 $(id -u) >> "+told+"\", hook, argument]}}", 1)
	text = strings.Replace(text, "on_link_down: keep}", "on_change: {run: [/bin/sh, -c, \"(sleep 2; echo late > "+slow+") & sleep 9\"], timeout: 200ms}}", 1)
	r := start(t, text, twoUplinks())
	r.linksAre("up", "up")
	r.kernel.carrier("wan1", false)
	r.linksAre("down", "up")
	r.kernel.carrier("wan1", true)
	r.linksAre("up", "up")
	who, err := workerIdentity(&config.Config{})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("fibre up down wan1 argument %d\nfibre down up wan1 192.0.2.10 192.0.2.1 argument %d\n", who.uid, who.uid)
	waitFor(t, "the program was told", func() bool { b, _ := os.ReadFile(told); return len(b) >= len(want) })
	if got, _ := os.ReadFile(told); string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r.kernel.carrier("wan2", false)
	waitFor(t, "the slow program was killed", func() bool { return strings.Contains(r.log.String(), "its time was over") })
	time.Sleep(2 * time.Second)
	if _, err := os.Stat(slow); err == nil {
		t.Error("what the program started lives on")
	}
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for until := time.Now().Add(5 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("not within 5 s: " + what)
		}
	}
}

// A webhook that does not answer is called again, a few times, and then given up.
func TestWebhookTries(t *testing.T) {
	var sent []control.Call
	var later []func()
	var waits []time.Duration
	takes := true
	h := &hooks{log: slog.New(slog.NewTextHandler(io.Discard, nil)), calls: map[uint64]*call{},
		send:  func(c control.Call) bool { sent = append(sent, c); return takes },
		later: func(after time.Duration, f func()) { waits = append(waits, after); later = append(later, f) },
	}
	next := func() {
		f := later[0]
		later = later[1:]
		f()
	}
	hook := &config.LinkHook{Webhook: "http://x/", Timeout: time.Second}
	h.call(notice{Link: "fibre", State: "down"}, hook)
	if len(sent) != 1 || sent[0].URL != "http://x/" || !strings.Contains(string(sent[0].Body), `"link":"fibre","state":"down"`) {
		t.Fatalf("sent %+v", sent)
	}
	h.called(&control.Called{ID: 99, Error: "of nobody"})
	h.called(&control.Called{ID: sent[0].ID, Error: "500"})
	next()
	h.lost()
	next()
	takes = false
	h.lost()
	next() // the fourth try, which the monitor does not take
	if len(sent) != 4 || len(h.calls) != 0 || len(later) != 0 || fmt.Sprint(waits) != "[1s 4s 16s]" {
		t.Errorf("%d tries, %d calls left, waits %v", len(sent), len(h.calls), waits)
	}
	takes = true
	h.call(notice{Link: "fibre", State: "up"}, hook)
	h.called(&control.Called{ID: sent[4].ID})
	if len(h.calls) != 0 {
		t.Error("a call that was answered is not forgotten")
	}
	for range callsWaiting + 5 {
		h.call(notice{}, hook)
	}
	if len(h.calls) != callsWaiting {
		t.Errorf("%d calls wait", len(h.calls))
	}
}

// What a keeper left that cannot be read is not used.
func TestRecallLinks(t *testing.T) {
	dir := t.TempDir()
	if known, err := recallLinks(dir); known.Links != nil || known.Names != nil || err != nil {
		t.Errorf("%v, %v", known, err)
	}
	if err := errors.Join(os.WriteFile(linksFile(dir), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := recallLinks(dir); err == nil {
		t.Error("half a file is taken")
	}
}
