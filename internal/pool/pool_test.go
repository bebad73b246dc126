package pool

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"salp/internal/config"
)

func of4(n int) *config.Pool {
	c := &config.Pool{Name: "p", Retries: 2, Queue: config.Queue{Length: 10, Timeout: time.Second}}
	for i := range n {
		c.Servers = append(c.Servers, config.Server{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80), Weight: 1})
	}
	return c
}

func addresses(list ...string) *config.Pool {
	c := &config.Pool{Name: "p"}
	for _, a := range list {
		c.Servers = append(c.Servers, config.Server{Address: netip.MustParseAddrPort(a)})
	}
	return c
}

func client(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)})
}

func pick(t testing.TB, p *Pool, w Want) *Endpoint {
	t.Helper()
	e, outcome := p.Pick(&w, &Tried{})
	if e == nil {
		t.Fatalf("nothing chosen: outcome %d", outcome)
	}
	return e
}

// members are those of a configuration, all up.
func members(c *config.Pool) []Member {
	var all []Member
	for i := range c.Servers {
		all = append(all, Member{Server: c.Servers[i].String(), Address: c.Servers[i].Address})
	}
	return all
}

func TestRoundRobin(t *testing.T) {
	p := New(addresses("10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"), 1, nil)
	var got []string
	for range 5 {
		got = append(got, pick(t, p, Want{}).Address().Addr().String())
	}
	if want := []string{"10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.1", "10.0.0.2"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// The order of nginx for weights 5, 1, 1: nobody has more turns in a row than the weights ask for.
func TestSmooth(t *testing.T) {
	got := smooth([]int64{5, 1, 1}, 7)
	if want := []uint16{0, 0, 1, 0, 2, 0, 0}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	got = spread([]int64{2, 1, 1}, 4)
	count := map[uint16]int{}
	for _, i := range got {
		count[i]++
	}
	if count[0] != 2 || count[1] != 1 || count[2] != 1 {
		t.Errorf("spread made %v", got)
	}
}

func TestManyServersOfOddWeights(t *testing.T) {
	c := of4(1024)
	for i := range c.Servers {
		c.Servers[i].Weight = 1 + i%config.MaxWeight
	}
	begin := time.Now()
	p := New(c, 1, nil)
	if took := time.Since(begin); took > time.Second {
		t.Errorf("a pool of 1024 servers took %v to make", took)
	}
	g := &p.current.Load().groups[anyFamily]
	if len(g.schedule) > 2*longestSchedule {
		t.Errorf("%d turns", len(g.schedule))
	}
	count := make([]int, 1024)
	for _, i := range g.schedule {
		count[i]++
	}
	for i, n := range count {
		want := float64(c.Servers[i].Weight) * float64(len(g.schedule)) / float64(g.total/100)
		if math.Abs(float64(n)-want) > 1 {
			t.Fatalf("server %d of weight %d has %d turns of %d, want %.1f", i, c.Servers[i].Weight, n, len(g.schedule), want)
		}
	}
}

// A connection that carries the client's address can only go to a server of the client's family, and each family has its own turns.
func TestFamily(t *testing.T) {
	p := New(addresses("10.0.0.1:80", "[fd00::1]:80", "10.0.0.2:80"), 1, nil)
	for _, test := range []struct{ client, want string }{
		{"10.9.9.9", "10.0.0.1:80"}, {"fd00::9", "[fd00::1]:80"}, {"10.9.9.9", "10.0.0.2:80"}, {"10.9.9.9", "10.0.0.1:80"}, {"fd00::9", "[fd00::1]:80"},
	} {
		if e := pick(t, p, Want{Client: netip.MustParseAddr(test.client), SameFamily: true}); e.Address().String() != test.want {
			t.Errorf("for %s: %s, want %s", test.client, e.Address(), test.want)
		}
	}
	one := New(addresses("10.0.0.1:80"), 1, nil)
	if e, outcome := one.Pick(&Want{Client: netip.MustParseAddr("fd00::9"), SameFamily: true}, &Tried{}); e != nil || outcome != NoServer {
		t.Errorf("an IPv6 client got %v, outcome %d", e, outcome)
	}
	if one.Counts().NoServer != 1 {
		t.Errorf("counts %+v", one.Counts())
	}
}

// Each way gives every server its share, by weight: over 12,000 connections that are short, made by four loops at once. The ways that look at
// loads are asked by one loop alone: where another is stopped in the middle of a choice, its server has a connection more, and rightly gets fewer.
func TestShares(t *testing.T) {
	weights := []int{1, 2, 3}
	for _, test := range []struct {
		balance config.Balance
		loops   int
		within  float64
	}{
		{config.BalanceRoundRobin, 4, 0.001}, {config.BalanceSource, 4, 0.08}, {config.BalanceLeastConnections, 1, 0.001}, {config.BalanceRandom, 1, 0.08},
	} {
		t.Run(string(test.balance), func(t *testing.T) {
			for i, got := range shares(t, test.balance, weights, test.loops) {
				want := 12000 * float64(weights[i]) / 6
				if math.Abs(float64(got)-want) > want*test.within+1 {
					t.Errorf("server %d of weight %d has %d of 12000, want %.0f", i, weights[i], got, want)
				}
			}
		})
	}
}

// However many loops choose at once, each connection has its place on one server and leaves it again.
func TestSharesOfManyLoops(t *testing.T) {
	for _, balance := range []config.Balance{config.BalanceLeastConnections, config.BalanceRandom} {
		t.Run(string(balance), func(t *testing.T) {
			var sum int64
			for _, got := range shares(t, balance, []int{1, 2, 3}, 4) {
				sum += got
			}
			if sum != 12000 {
				t.Errorf("%d of 12000 connections have a server", sum)
			}
		})
	}
}

// shares says how many of 12,000 connections, each ended before its loop makes the next, each server has had.
func shares(t *testing.T, balance config.Balance, weights []int, loops int) []int64 {
	c := of4(len(weights))
	c.Balance = balance
	for i, w := range weights {
		c.Servers[i].Weight = w
	}
	p := New(c, loops, nil)
	counts := make([]atomic.Int64, len(weights))
	var wait sync.WaitGroup
	for loop := range loops {
		wait.Go(func() {
			for i := range 12000 / loops {
				e, outcome := p.Pick(&Want{Client: client(loop*12000/loops + i)}, &Tried{})
				if e == nil {
					t.Errorf("no server: outcome %d", outcome)
					return
				}
				counts[e.Address().Addr().As4()[3]].Add(1)
				e.Release()
			}
		})
	}
	wait.Wait()
	had := make([]int64, len(weights))
	for i, e := range p.Endpoints() {
		had[i] = counts[i].Load()
		if e.Active() != 0 {
			t.Errorf("server %d has %d connections when all have ended", i, e.Active())
		}
	}
	return had
}

// Connections that stay are spread by weight to within one.
func TestLeastConnectionsLevels(t *testing.T) {
	c := of4(3)
	c.Balance = config.BalanceLeastConnections
	c.Servers[0].Weight = 2
	p := New(c, 1, nil)
	for range 400 {
		pick(t, p, Want{})
	}
	for i, e := range p.Endpoints() {
		if want := []int64{200, 100, 100}[i]; e.Active() < want-1 || e.Active() > want+1 {
			t.Errorf("server %d has %d, want %d", i, e.Active(), want)
		}
	}
	p.Endpoints()[1].active.Add(-50) // its connections ended
	for range 50 {
		if e := pick(t, p, Want{}); e != p.Endpoints()[1] {
			t.Fatalf("%s was chosen though another has far fewer", e.Address())
		}
	}
}

// One server of n that is lost moves its own clients and no others; it comes back to exactly those.
func TestSourceMovement(t *testing.T) {
	for _, n := range []int{3, 10, 50} {
		for _, even := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d servers, even %v", n, even), func(t *testing.T) {
				const clients = 5000
				c := of4(n)
				c.Balance = config.BalanceSource
				if !even {
					c.Servers[1].Weight = 3
				}
				p := New(c, 1, nil)
				before := make([]*Endpoint, clients)
				for i := range before {
					before[i] = pick(t, p, Want{Client: client(i)})
					before[i].Release()
				}
				all := members(c)
				all[0].State = Down
				p.Set(all, time.Now())
				gone, moved := p.Endpoints()[0], 0
				for i := range before {
					e := pick(t, p, Want{Client: client(i)})
					e.Release()
					if e != before[i] {
						moved++
						if before[i] != gone {
							t.Fatalf("client %d moved from %s, which is up", i, before[i].Address())
						}
					}
				}
				if most := 1.2 * clients / float64(n); float64(moved) > most {
					t.Errorf("%d of %d clients moved, want at most %.0f", moved, clients, most)
				}
				all[0].State = Up
				p.Set(all, time.Now())
				for i := range before {
					e := pick(t, p, Want{Client: client(i)})
					e.Release()
					if e != before[i] {
						t.Fatalf("client %d is not back at %s", i, before[i].Address())
					}
				}
			})
		}
	}
}

// The same client gets the same server from another worker's pool, and IPv6 clients are spread too.
func TestSourceIsTheSameEverywhere(t *testing.T) {
	c := of4(7)
	c.Balance = config.BalanceSource
	a, b := New(c, 1, nil), New(c, 1, nil)
	seen := map[netip.AddrPort]int{}
	for i := range 2000 {
		w := Want{Client: netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)})}
		x, y := pick(t, a, w), pick(t, b, w)
		if x.Address() != y.Address() {
			t.Fatalf("client %d: %s and %s", i, x.Address(), y.Address())
		}
		seen[x.Address()]++
	}
	for address, n := range seen {
		if math.Abs(float64(n)-2000.0/7) > 2000.0/7*0.25 {
			t.Errorf("%s has %d of 2000", address, n)
		}
	}
}

// With a bound on the overload, no server has more than that share of connections that stay, however few clients there are.
func TestOverload(t *testing.T) {
	c := of4(4)
	c.Balance, c.Overload = config.BalanceSource, 125
	p := New(c, 1, nil)
	for i := range 2000 {
		pick(t, p, Want{Client: client(i % 3)})
	}
	for _, e := range p.Endpoints() {
		if e.Active() > 2000/4*125/100+1 {
			t.Errorf("%s has %d of 2000 connections", e.Address(), e.Active())
		}
	}
}

func TestFirstFillsInOrder(t *testing.T) {
	c := of4(3)
	c.Balance = config.BalanceFirst
	for i := range c.Servers {
		c.Servers[i].MaxConnections = 10
	}
	p := New(c, 1, nil)
	for i := range 25 {
		if e := pick(t, p, Want{}); e != p.Endpoints()[i/10] {
			t.Fatalf("connection %d went to %s", i, e.Address())
		}
	}
}

func TestBackups(t *testing.T) {
	c := of4(3)
	c.Servers[2].Backup = true
	p := New(c, 1, nil)
	for range 10 {
		if e := pick(t, p, Want{}); e == p.Endpoints()[2] {
			t.Fatal("the backup was chosen while others are up")
		}
	}
	all := members(c)
	all[0].State, all[1].State = Down, Maint
	p.Set(all, time.Now())
	if e := pick(t, p, Want{}); e.Server() != c.Servers[2].String() {
		t.Errorf("%s was chosen, want the backup", e.Address())
	}
	all[2].State = Down
	p.Set(all, time.Now())
	if e, outcome := p.Pick(&Want{}, &Tried{}); e != nil || outcome != NoServer {
		t.Errorf("%v was chosen with all down, outcome %d", e, outcome)
	}
}

// A name's addresses come and go; what is on one that went stays counted.
func TestAddressesOfAName(t *testing.T) {
	c := &config.Pool{Name: "p", Servers: []config.Server{{Host: "mx.example.org", Port: 25, Weight: 1}}}
	p := New(c, 1, nil)
	if e, outcome := p.Pick(&Want{}, &Tried{}); e != nil || outcome != NoServer {
		t.Fatalf("%v was chosen before the name has an address, outcome %d", e, outcome)
	}
	one, two := netip.MustParseAddrPort("10.0.0.1:25"), netip.MustParseAddrPort("10.0.0.2:25")
	p.Set([]Member{{Server: "mx.example.org:25", Address: one}}, time.Now())
	former := pick(t, p, Want{})
	p.Set([]Member{{Server: "mx.example.org:25", Address: two}}, time.Now())
	if e := pick(t, p, Want{}); e.Address() != two {
		t.Errorf("%s was chosen after the name moved", e.Address())
	}
	if !slices.Contains(p.Endpoints(), former) || former.Active() != 1 {
		t.Errorf("the connection to the former address is forgotten")
	}
	p.Set([]Member{{Server: "mx.example.org:25", Address: one}, {Server: "mx.example.org:25", Address: two}}, time.Now())
	if !slices.Contains(p.Endpoints(), former) {
		t.Error("an address that came back is another endpoint")
	}
}

// While a server starts slowly it has a tenth at first, half at half time, and all of it in the end.
func TestSlowStart(t *testing.T) {
	c := of4(2)
	c.SlowStart = 100 * time.Second
	c.Servers[1].MaxConnections = 100
	p := New(c, 1, nil)
	since := time.Now()
	all := members(c)
	all[1].Since, all[1].Recovered = since, true
	p.Set(all, since)
	share := func() float64 {
		slow := 0
		for range 2200 {
			e := pick(t, p, Want{})
			if e == p.Endpoints()[1] {
				slow++
			}
			e.Release()
		}
		return float64(slow) / 2200
	}
	for _, test := range []struct {
		after time.Duration
		want  float64
		limit int64
	}{{0, 0.1 / 1.1, 10}, {50 * time.Second, 0.5 / 1.5, 50}, {100 * time.Second, 0.5, 100}} {
		p.Tick(since.Add(test.after))
		if got := share(); math.Abs(got-test.want) > 0.005 {
			t.Errorf("after %v it has %.3f of the connections, want %.3f", test.after, got, test.want)
		}
		if limit := p.current.Load().groups[anyFamily].choices[1].limit; limit != test.limit {
			t.Errorf("after %v it may have %d connections, want %d", test.after, limit, test.limit)
		}
	}
	if p.current.Load().growing {
		t.Error("the pool looks at the time for ever")
	}
}

// All loops choose, wait and give back at once: the bound of a server is never passed, and nobody waits for ever.
func TestBoundAcrossLoops(t *testing.T) {
	c := of4(2)
	c.Queue.Length = 1000
	for i := range c.Servers {
		c.Servers[i].MaxConnections = 3
	}
	p := New(c, 4, nil)
	var now, served atomic.Int64
	var wait sync.WaitGroup
	use := func(e *Endpoint) {
		if n := now.Add(1); n > 6 {
			t.Errorf("%d connections at once", n)
		}
		now.Add(-1)
		served.Add(1)
		e.Release()
	}
	for range 8 {
		wait.Go(func() {
			for range 2000 {
				w, tried := &Want{}, &Tried{}
				e, outcome := p.Pick(w, tried)
				if outcome == Full {
					got := make(chan *Endpoint, 1)
					if !p.Wait(&Waiter{Want: w, Tried: tried, Grant: func(e *Endpoint) { got <- e }}) {
						t.Error("the queue is full")
						return
					}
					select {
					case e = <-got:
					case <-time.After(10 * time.Second):
						t.Error("nobody gave a place in 10 s")
						return
					}
				}
				use(e)
			}
		})
	}
	wait.Wait()
	if served.Load() != 16000 || p.Counts().Queued != 0 {
		t.Errorf("%d were served, counts %+v", served.Load(), p.Counts())
	}
	for _, e := range p.Endpoints() {
		if e.Active() != 0 {
			t.Errorf("%s has %d places taken at the end", e.Address(), e.Active())
		}
	}
}

// First come, first served; the queue is bounded; one who leaves is passed over; who came later does not get in before.
func TestQueue(t *testing.T) {
	c := of4(1)
	c.Servers[0].MaxConnections, c.Queue.Length = 1, 3
	p := New(c, 1, nil)
	e := pick(t, p, Want{})
	var order []int
	waiters := make([]*Waiter, 4)
	for i := range waiters {
		waiters[i] = &Waiter{Want: &Want{}, Tried: &Tried{}, Grant: func(*Endpoint) { order = append(order, i) }}
		if got := p.Wait(waiters[i]); got != (i < 3) {
			t.Fatalf("waiter %d: %v", i, got)
		}
	}
	if !p.Leave(waiters[1], true) || p.Leave(waiters[1], true) {
		t.Error("a waiter leaves once")
	}
	if _, outcome := p.Pick(&Want{}, &Tried{}); outcome != Full {
		t.Errorf("outcome %d while others wait", outcome)
	}
	e.Release()
	e.Release()
	if !slices.Equal(order, []int{0, 2}) {
		t.Errorf("served %v", order)
	}
	if p.Leave(waiters[0], false) {
		t.Error("one who was served is no more in the queue")
	}
	if got := p.Counts(); got != (Counts{QueueFull: 1, QueueTimeouts: 1}) {
		t.Errorf("counts %+v", got)
	}
}

// What other workers have counts towards the bound, and those who wait are served when it goes.
func TestElsewhere(t *testing.T) {
	c := of4(1)
	c.Servers[0].MaxConnections = 2
	p := New(c, 1, nil)
	p.Elsewhere(map[netip.AddrPort]int64{c.Servers[0].Address: 1})
	pick(t, p, Want{})
	got := make(chan *Endpoint, 1)
	if _, outcome := p.Pick(&Want{}, &Tried{}); outcome != Full {
		t.Fatalf("outcome %d", outcome)
	}
	p.Wait(&Waiter{Want: &Want{}, Tried: &Tried{}, Grant: func(e *Endpoint) { got <- e }})
	p.Elsewhere(nil)
	select {
	case <-got:
	default:
		t.Error("the place that is free elsewhere was not given")
	}
}

func newTable(clients int) *Table { return OpenTable(make([]atomic.Uint64, TableWords(clients))) }

// A client stays where it was, also from another worker's pool, while the server is up or drained; then it gets another and stays there.
func TestStick(t *testing.T) {
	c := of4(5)
	c.Stick = &config.Stick{For: time.Hour, Size: 10000}
	table := newTable(10000)
	p := New(c, 1, table)
	had := make([]*Endpoint, 2000)
	for i := range had {
		had[i] = pick(t, p, Want{Client: client(i)})
	}
	next := New(c, 1, table) // the worker after a reload
	all := members(c)
	all[0].State = Drain
	next.Set(all, time.Now())
	for i := range had {
		if e := pick(t, next, Want{Client: client(i)}); e.Address() != had[i].Address() {
			t.Fatalf("client %d went to %s, it had %s", i, e.Address(), had[i].Address())
		}
	}
	for i := range 100 {
		if e := pick(t, next, Want{Client: client(100_000 + i)}); e.Address() == c.Servers[0].Address {
			t.Fatal("a new client went to a server that drains")
		}
	}
	all[0].State = Maint
	next.Set(all, time.Now())
	moved := map[int]*Endpoint{}
	for i := range had {
		e := pick(t, next, Want{Client: client(i)})
		if had[i].Address() == c.Servers[0].Address {
			moved[i] = e
		} else if e.Address() != had[i].Address() {
			t.Fatalf("client %d left %s, which is up", i, had[i].Address())
		}
	}
	all[0].State = Up
	next.Set(all, time.Now())
	for i, e := range moved {
		if again := pick(t, next, Want{Client: client(i)}); again != e {
			t.Fatalf("client %d went back from %s to %s", i, e.Address(), again.Address())
		}
	}
}

func TestTableBoundsAndForgets(t *testing.T) {
	table := newTable(64)
	for i := range 10_000 {
		table.put(client(i), uint32(i), uint32(1000+i))
	}
	kept := 0
	for i := range 10_000 {
		if id, ok := table.get(client(i), 500); ok {
			kept++
			if id != uint32(i) {
				t.Errorf("client %d has server %d", i, id)
			}
		}
	}
	if kept < 64 || kept > 96 {
		t.Errorf("%d are remembered, want 64 and not many more", kept)
	}
	if _, ok := table.get(client(9999), 11_000); ok {
		t.Error("a client is remembered after its time")
	}
	larger := newTable(1000)
	larger.Copy(table)
	if id, ok := larger.get(client(9999), 500); !ok || id != 9999 {
		t.Errorf("after the copy the last client has %d, %v", id, ok)
	}
}

// As many clients as the table is for are all remembered: nobody is forgotten while there is room.
func TestTableHoldsAll(t *testing.T) {
	for _, clients := range []int{64, 1000, 100_000} {
		table := newTable(clients)
		for i := range clients {
			table.put(client(i), uint32(i), 1000)
		}
		lost := 0
		for i := range clients {
			if id, ok := table.get(client(i), 1); !ok || id != uint32(i) {
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("%d of %d clients are forgotten", lost, clients)
		}
	}
}

// Whatever two processes write at once, a reader sees what one of them wrote for that client or nothing.
func TestTableUnderFire(t *testing.T) {
	table := newTable(64)
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for i := range 50_000 {
				n := i % 300
				table.put(client(n), uint32(n), 1<<31)
				if id, ok := table.get(client(n), 1); ok && id != uint32(n) {
					t.Errorf("client %d has server %d", n, id)
					return
				}
			}
		})
	}
	wait.Wait()
}

// Set, Tick and choices go on at once.
func TestSetUnderFire(t *testing.T) {
	for _, balance := range []config.Balance{config.BalanceRoundRobin, config.BalanceLeastConnections, config.BalanceSource, config.BalanceRandom} {
		c := of4(6)
		c.Balance, c.SlowStart = balance, time.Second
		c.Servers[0].MaxConnections = 50
		p := New(c, 4, nil)
		stop := make(chan struct{})
		var wait sync.WaitGroup
		for range 4 {
			wait.Go(func() {
				for i := range 5000 {
					e, _ := p.Pick(&Want{Client: client(i)}, &Tried{})
					if e == nil {
						t.Error("nothing was chosen, though some are always up")
						return
					}
					e.Release()
				}
			})
		}
		wait.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				all := members(c)
				all[i%6].State = Down
				all[(i+1)%6].Since, all[(i+1)%6].Recovered = time.Now(), true
				p.Set(all, time.Now())
				p.Tick(time.Now())
			}
		})
		time.Sleep(20 * time.Millisecond)
		close(stop)
		wait.Wait()
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	for _, balance := range []config.Balance{config.BalanceRoundRobin, config.BalanceLeastConnections, config.BalanceSource, config.BalanceRandom, config.BalanceFirst} {
		c := of4(8)
		c.Balance, c.Stick = balance, &config.Stick{For: time.Hour}
		p := New(c, 1, newTable(1000))
		i := 0
		if n := testing.AllocsPerRun(100, func() {
			i++
			e, _ := p.Pick(&Want{Client: client(i)}, &Tried{})
			e.Release()
		}); n != 0 {
			t.Errorf("%s: %v allocations", balance, n)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, balance := range []config.Balance{config.BalanceRoundRobin, config.BalanceLeastConnections, config.BalanceSource, config.BalanceRandom} {
		for _, n := range []int{3, 100} {
			b.Run(fmt.Sprintf("%s-%d", balance, n), func(b *testing.B) {
				c := of4(n)
				c.Balance = balance
				p := New(c, 2, nil)
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					i := 0
					for pb.Next() {
						i++
						e, _ := p.Pick(&Want{Client: client(i)}, &Tried{})
						e.Release()
					}
				})
			})
		}
	}
}
