package listen

import (
	"net/netip"
	"sync"
	"testing"

	"salp/internal/config"
)

func listener(connections, perClient int) *Listener {
	return NewListener(&config.Listener{Name: "l", Limits: config.Limits{Connections: connections, PerClient: perClient}})
}

// Many loops take and give back places at once: no more than the limit are ever out, and in the end none is.
func TestLimitsAcrossLoops(t *testing.T) {
	n := listener(100, 7)
	client := netip.MustParseAddr("10.0.0.1")
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			other := netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})
			var held []*Lease
			for range 10_000 {
				for _, a := range []netip.Addr{client, other} {
					if lease, _, ok := n.admit(a); ok {
						held = append(held, lease)
					}
				}
				if active := n.active.Load(); active > 100+4 { // each loop adds before it looks
					t.Errorf("%d are active", active)
				}
				for len(held) > 5 {
					n.leave(held[0])
					held = held[1:]
				}
			}
			for _, lease := range held {
				n.leave(lease)
			}
		})
	}
	wait.Wait()
	if active := n.active.Load(); active != 0 {
		t.Errorf("%d are active at the end", active)
	}
	for i := range n.clients.shard {
		if left := len(n.clients.shard[i].leases); left != 0 {
			t.Errorf("%d clients are remembered at the end", left)
		}
	}
}

// What a worker before has still open counts, for the listener and for each client.
func TestConnectionsElsewhere(t *testing.T) {
	n := listener(2, 0)
	n.Elsewhere(1, nil)
	if !n.admitOne() || n.admitOne() {
		t.Error("with one connection elsewhere there is room for one of two")
	}
	n.Elsewhere(0, nil)
	if !n.admitOne() || n.admitOne() {
		t.Error("the room that is free elsewhere is not used, or more is")
	}

	n = listener(0, 3)
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	n.Elsewhere(5, map[netip.Addr]int32{one: 2, two: 3})
	for client, room := range map[netip.Addr]int{one: 1, two: 0, netip.MustParseAddr("10.0.0.3"): 3} {
		for i := range room + 1 {
			if _, _, ok := n.admit(client); ok != (i < room) {
				t.Errorf("client %s: connection %d is admitted: %v, there is room for %d", client, i+1, ok, room)
			}
		}
	}
	has := map[netip.Addr]int32{}
	n.EachClient(func(client netip.Addr, active int32) { has[client] = active })
	if len(has) != 2 || has[one] != 1 {
		t.Errorf("clients have %v", has)
	}
	n.Elsewhere(0, nil)
	if _, _, ok := n.admit(two); !ok {
		t.Error("what has ended elsewhere still counts")
	}
}

func TestRefusedByLimitLeavesNoTrace(t *testing.T) {
	n := listener(0, 1)
	a := netip.MustParseAddr("fd00::1")
	lease, _, ok := n.admit(a)
	if !ok {
		t.Fatal("the first was refused")
	}
	for range 3 {
		if _, kind, ok := n.admit(a); ok || kind != LimitClient {
			t.Errorf("the second: %v, kind %d", ok, kind)
		}
	}
	n.leave(lease)
	if _, _, ok := n.admit(a); !ok {
		t.Error("refused after the first had left")
	}
}

// A refusal by the limit per client must give the place in the listener's limit back.
func TestBothLimits(t *testing.T) {
	n := listener(2, 1)
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	n.admit(a)
	n.admit(a)
	if _, _, ok := n.admit(b); !ok {
		t.Error("the second client was refused")
	}
	if _, kind, ok := n.admit(netip.MustParseAddr("10.0.0.3")); ok || kind != LimitListener {
		t.Errorf("the third: %v, kind %d", ok, kind)
	}
}

// Connections that come one by one are taken one a turn, without asking in vain; a queue is taken in growing bites, with a bound.
func TestQuota(t *testing.T) {
	a := &Acceptor{quota: 1}
	for turn := uint64(10); turn < 100; turn += 2 {
		if a.setQuota(turn); a.quota != 1 {
			t.Fatalf("quota %d for single connections", a.quota)
		}
	}
	var got []int
	for turn := uint64(200); turn < 212; turn++ {
		a.setQuota(turn)
		got = append(got, a.quota)
	}
	want := []int{1, 1, 1, 1, 2, 4, 8, 16, 32, 64, 64, 64}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("quotas %v, want %v", got, want)
		}
	}
	if a.setQuota(300); a.quota != 1 {
		t.Errorf("quota %d after a rest", a.quota)
	}
}

func BenchmarkLimitOfClient(b *testing.B) {
	n := listener(1000, 1000)
	hold, _, _ := n.admit(netip.MustParseAddr("10.0.0.1"))
	defer n.leave(hold)
	a := netip.MustParseAddr("10.0.0.1")
	b.ReportAllocs()
	for b.Loop() {
		lease, _, _ := n.admit(a)
		n.leave(lease)
	}
}
