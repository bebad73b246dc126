package kernel

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"salp/internal/plan"
)

// TestGateways: default routes of every table and family are listed by next hop, those of routing daemons are not, and every change is told.
func TestGateways(t *testing.T) {
	r := newRig(t)
	h := r.open()
	r.run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1")
	r.run("ip", "link", "set", "p0", "up")
	r.run("ip", "link", "set", "p1", "up")
	r.apply(h, r.plan(h, everyMethod))
	events := make(chan Event, 64)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() { _ = h.Watch(ctx, func(e Event) { events <- e }) }()
	time.Sleep(100 * time.Millisecond) // until it listens
	for _, args := range []string{
		"-4 route add default via 10.0.2.2 dev g1 proto dhcp metric 100",
		"-4 route add default dev p0 proto static table 77 metric 9 src 10.0.2.1",
		"-4 route add default proto boot metric 200 nexthop via 10.0.2.3 dev g1 nexthop via 10.0.1.2 dev g0",
		"-4 route add default via 10.0.2.9 dev g1 proto bgp metric 1",
		"-4 route add unreachable default metric 5000",
		"-4 route add 10.9.0.0/16 via 10.0.2.2 dev g1",
		"-6 route add default via fd00:2::2 dev g1 proto ra metric 7",
	} {
		r.run("ip", strings.Fields(args)...)
	}
	all, err := h.Gateways()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range all {
		got = append(got, fmt.Sprintf("%s table %d dev %s via %v src %v metric %d proto %d", g.Family, g.Table, g.Dev, g.Via, g.Src, g.Metric, g.Protocol))
	}
	slices.Sort(got)
	want := []string{
		"ipv4 table 254 dev g0 via 10.0.1.2 src invalid IP metric 200 proto 3",
		"ipv4 table 254 dev g1 via 10.0.2.2 src invalid IP metric 100 proto 16",
		"ipv4 table 254 dev g1 via 10.0.2.3 src invalid IP metric 200 proto 3",
		"ipv4 table 77 dev p0 via invalid IP src 10.0.2.1 metric 9 proto 4",
		"ipv6 table 254 dev g1 via fd00:2::2 src invalid IP metric 7 proto 9",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for deadline := time.After(5 * time.Second); ; {
		select {
		case e := <-events:
			if e.Facts && e.What == "default route added" {
				return
			}
		case <-deadline:
			t.Fatal("no change of a default route was told")
		}
	}
}

// TestCarrier: an interface whose peer is down has no carrier, and says so.
func TestCarrier(t *testing.T) {
	r := newRig(t)
	h := r.open()
	r.run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1")
	r.run("ip", "link", "set", "p0", "up")
	carrier := func() (up, carrier bool) {
		f, err := h.Facts()
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(f.Interfaces, func(i plan.Interface) bool { return i.Name == "p0" })
		return f.Interfaces[i].Up, f.Interfaces[i].Carrier
	}
	if up, c := carrier(); !up || c {
		t.Errorf("up %v, carrier %v while the peer is down", up, c)
	}
	r.run("ip", "link", "set", "p1", "up")
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) { // the kernel says so up to a second later (net/core/link_watch.c)
		up, c := carrier()
		if up && c {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("up %v, carrier %v while the peer is up", up, c)
		}
	}
}
