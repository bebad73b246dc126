package pool_test

import (
	"net/netip"
	"slices"
	"sync"
	"testing"

	"salp/internal/config"
	"salp/internal/pool"
)

func of(addrs ...string) *pool.Pool {
	c := &config.Pool{Balance: config.BalanceRoundRobin}
	for _, a := range addrs {
		c.Servers = append(c.Servers, config.Server{Address: netip.MustParseAddrPort(a)})
	}
	return pool.New(c)
}

func TestRoundRobin(t *testing.T) {
	p := of("10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80")
	var got []string
	for range 5 {
		a, ok := p.Pick()
		if !ok {
			t.Fatal("no server")
		}
		got = append(got, a.Addr().String())
	}
	if want := []string{"10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.1", "10.0.0.2"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A connection that carries the client's address can only go to a server of the client's family.
func TestPickFor(t *testing.T) {
	p := of("10.0.0.1:80", "[fd00::1]:80", "10.0.0.2:80")
	for _, test := range []struct{ client, want string }{
		{"10.9.9.9", "10.0.0.1:80"}, {"10.9.9.9", "10.0.0.2:80"}, {"10.9.9.9", "10.0.0.1:80"},
		{"fd00::9", "[fd00::1]:80"}, {"fd00::9", "[fd00::1]:80"},
	} {
		if a, ok := p.PickFor(netip.MustParseAddr(test.client)); !ok || a.String() != test.want {
			t.Errorf("for %s: %s %v, want %s", test.client, a, ok, test.want)
		}
	}
	if a, ok := of("10.0.0.1:80").PickFor(netip.MustParseAddr("fd00::9")); ok {
		t.Errorf("an IPv6 client got %s", a)
	}
}

// All loops pick at once, and still every server gets its share exactly.
func TestFairAcrossLoops(t *testing.T) {
	p := of("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
	var mutex sync.Mutex
	count := make(map[netip.AddrPort]int)
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			for range 1000 {
				a, _ := p.Pick()
				mutex.Lock()
				count[a]++
				mutex.Unlock()
			}
		})
	}
	wait.Wait()
	for a, n := range count {
		if n != 1000 {
			t.Errorf("%s got %d of 3000", a, n)
		}
	}
}
