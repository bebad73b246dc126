package kernel

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"salp/internal/lab"
	"salp/internal/plan"
)

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFacts(t *testing.T) {
	r := newRig(t)
	r.run("ip", "link", "add", "br0", "type", "bridge")
	r.run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	r.run("ip", "link", "set", "d0", "master", "br0")
	r.run("ip", "-6", "route", "add", "default", "via", "fd00:2::2", "dev", "g1", "proto", "ra")
	r.run("sysctl", "-qw", "net.ipv6.conf.g1.accept_ra=1")
	ours, err := r.gw.Serve("127.0.0.1:7001", lab.Hold)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	h := r.open()
	f, err := h.Facts()
	if err != nil {
		t.Fatal(err)
	}
	named := func(name string) plan.Interface {
		at := slices.IndexFunc(f.Interfaces, func(i plan.Interface) bool { return i.Name == name })
		if at < 0 {
			t.Fatalf("no interface %s in %v", name, f.Interfaces)
		}
		return f.Interfaces[at]
	}
	if lo := named("lo"); !lo.Loopback || !lo.Up {
		t.Errorf("lo: %+v", lo)
	}
	g1 := named("g1")
	if !g1.Up || g1.Loopback || g1.Enslaved || !g1.AcceptsRA || !slices.Contains(g1.Addresses, netip.MustParsePrefix("10.0.2.1/24")) ||
		!slices.Contains(g1.Addresses, netip.MustParsePrefix("fd00:2::1/64")) {
		t.Errorf("g1: %+v", g1)
	}
	if g0 := named("g0"); g0.AcceptsRA {
		t.Errorf("g0: %+v", g0)
	}
	if d0 := named("d0"); !d0.Enslaved || d0.Up || len(d0.Addresses) > 0 {
		t.Errorf("d0: %+v", d0)
	}
	if !f.IPv6 || f.TProxy != plan.Yes {
		t.Errorf("IPv6 %v, tproxy %v", f.IPv6, f.TProxy)
	}
	if slices.Contains(f.Listening, netip.MustParseAddrPort("127.0.0.1:7001")) {
		t.Errorf("our own socket is among %v", f.Listening)
	}
	r.apply(h, r.plan(h, everyMethod))
	again, err := h.Facts()
	if err != nil || again.Ports["inline"] != 61440 || again.Ports["mail"] != 61441 {
		t.Errorf("ports %v, %v", again.Ports, err)
	}
	r.run("sysctl", "-qw", "net.ipv6.conf.g1.accept_ra=0") // as systemd-networkd does: it listens itself
	if f, err = h.Facts(); err != nil || named("g1").AcceptsRA {
		t.Errorf("g1: %+v, %v", named("g1"), err)
	}
}

// TestAcceptRAStays: a plan that is made again keeps what it set, also while the interface has lost its route.
func TestAcceptRAStays(t *testing.T) {
	const accept = "net.ipv6.conf.g1.accept_ra"
	r := newRig(t)
	r.run("ip", "-6", "route", "add", "default", "via", "fd00:2::2", "dev", "g1", "proto", "ra")
	r.run("sysctl", "-qw", accept+"=1")
	h := r.open()
	first := r.plan(h, everyMethod)
	r.apply(h, first)
	for _, when := range []string{"nothing", "route gone"} {
		if when == "route gone" {
			r.run("ip", "-6", "route", "del", "default", "dev", "g1", "proto", "ra")
		}
		if again := r.plan(h, everyMethod); !slices.Equal(again.Sysctls, first.Sysctls) {
			t.Errorf("%s: %v, first %v", when, again.Sysctls, first.Sysctls)
		}
		r.apply(h, r.plan(h, everyMethod))
		if got := strings.TrimSpace(r.run("sysctl", "-n", accept)); got != "2" {
			t.Errorf("%s: %s is %s while the host forwards", when, accept, got)
		}
	}
	if _, err := h.Remove(); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(r.run("sysctl", "-n", accept)); got != "1" {
		t.Errorf("afterwards %s is %s", accept, got)
	}
}

func TestProbe(t *testing.T) {
	r := newRig(t)
	before := r.snapshot()
	var features []Feature
	if err := r.gw.Do(func() error { features = Probe(); return nil }); err != nil {
		t.Fatal(err)
	}
	r.same(before, r.snapshot())
	names := map[string]bool{}
	for _, f := range features {
		t.Logf("%-20s %-8v %s", f.Name, f.Support, f.Message)
		names[f.Name] = true
		if f.Message == "" || f.Support == plan.Unknown {
			t.Errorf("%s: %v %q: root can tell", f.Name, f.Support, f.Message)
		}
	}
	for _, name := range []string{"kernel version", "CAP_NET_ADMIN", "CAP_NET_RAW", "transparent sockets", "nft tproxy", "nft socket", "nft owner flag", "conntrack", "sock_destroy"} {
		if !names[name] {
			t.Errorf("%s is not told", name)
		}
	}
}

func TestDestroyTimeWait(t *testing.T) {
	r := newRig(t)
	for _, addr := range []string{"10.0.2.2:7000", "[fd00:2::2]:7000"} {
		server, err := r.net.Server().Serve(addr, lab.Echo)
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		c, err := r.gw.Dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		h := r.open()
		local, remote := lab.Local(c), lab.Remote(c)
		if err := h.DestroyTimeWait(local, remote); err == nil || err.Error() != "destroy TCP socket "+local.String()+" to "+remote.String()+": it is in state ESTABLISHED, not TIME_WAIT" {
			t.Errorf("a live connection: %v", err)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Errorf("the connection did not survive: %v", err)
		}
		if err := c.CloseWrite(); err != nil { // the side that closes first keeps the TIME_WAIT
			t.Fatal(err)
		}
		states := func() string { return r.run("ss", "-Htan", "sport", "=", fmt.Sprintf(":%d", local.Port())) }
		within(t, 3*time.Second, "the socket to be in TIME_WAIT", func() bool {
			b := make([]byte, 8)
			_, _ = c.Read(b)
			_ = c.Close()
			return len(states()) > 8 && states()[:9] == "TIME-WAIT"
		})
		if err := h.DestroyTimeWait(local, remote); err != nil {
			t.Errorf("destroy: %v", err)
		}
		if left := states(); left != "" {
			t.Errorf("still there: %s", left)
		}
		if err := h.DestroyTimeWait(local, remote); err != nil {
			t.Errorf("again, when it is gone: %v", err)
		}
	}
	listener, err := r.gw.Serve("10.0.1.1:7002", lab.Echo)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := r.open().DestroyTimeWait(listener.Addr(), netip.MustParseAddrPort("10.0.2.2:9")); err == nil {
		t.Error("a listener in the way of the look-up was taken for the socket")
	}
}

// TestHostWithoutIPv6: many hosts have it switched off by sysctl, and then no IPv6 route can be added.
func TestHostWithoutIPv6(t *testing.T) {
	r := newRig(t)
	r.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
	before := r.snapshot()
	h := r.open()
	if f, err := h.Facts(); err != nil || f.IPv6 {
		t.Errorf("IPv6 %v, %v", f.IPv6, err)
	}
	p := r.plan(h, everyMethod)
	r.apply(h, p)
	if again := r.apply(h, p); len(again) > 0 {
		t.Errorf("again: %s", lines(again))
	}
	if _, err := h.Remove(); err != nil {
		t.Fatal(err)
	}
	r.same(before, r.snapshot())
	p.Routes = append(p.Routes, plan.Route{Family: plan.IPv6, Table: 8110, Type: plan.RouteLocal, Dev: "lo"})
	if _, err := h.Apply(p); err == nil || !strings.Contains(err.Error(), "disable_ipv6") {
		t.Errorf("an IPv6 route: %v", err)
	}
	r.same(before, r.snapshot())
}
