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
	return pool.New(c, 4, nil)
}

func TestRoundRobin(t *testing.T) {
	p := of("10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80")
	var got []string
	for range 5 {
		e, _ := p.Pick(&pool.Want{}, &pool.Tried{})
		if e == nil {
			t.Fatal("no server")
		}
		got = append(got, e.Address().Addr().String())
	}
	if want := []string{"10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.1", "10.0.0.2"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A connection that carries the client's address can only go to a server of the client's family.
func TestFamily(t *testing.T) {
	p := of("10.0.0.1:80", "[fd00::1]:80", "10.0.0.2:80")
	for _, test := range []struct{ client, want string }{
		{"10.9.9.9", "10.0.0.1:80"}, {"10.9.9.9", "10.0.0.2:80"}, {"10.9.9.9", "10.0.0.1:80"},
		{"fd00::9", "[fd00::1]:80"}, {"fd00::9", "[fd00::1]:80"},
	} {
		e, _ := p.Pick(&pool.Want{Client: netip.MustParseAddr(test.client), SameFamily: true}, &pool.Tried{})
		if e == nil || e.Address().String() != test.want {
			t.Errorf("for %s: %v, want %s", test.client, e, test.want)
		}
	}
	if e, _ := of("10.0.0.1:80").Pick(&pool.Want{Client: netip.MustParseAddr("fd00::9"), SameFamily: true}, &pool.Tried{}); e != nil {
		t.Errorf("an IPv6 client got %s", e.Address())
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
				e, _ := p.Pick(&pool.Want{}, &pool.Tried{})
				mutex.Lock()
				count[e.Address()]++
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
