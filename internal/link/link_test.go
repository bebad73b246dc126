package link

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"salp/internal/config"
	"salp/internal/health"
	"salp/internal/plan"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func second(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("salp.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

const two = `
links:
  fibre: {interface: wan1, gateway: 192.0.2.1, check: {ping: [203.0.113.10, 203.0.113.11, 203.0.113.12], quorum: 2, every: 1s, fall: 2, rise: 2}}
  cable: {interface: wan2, on_link_down: keep}
`

// host is what a kernel with both interfaces in order holds.
func host() ([]plan.Interface, []plan.Gateway) {
	return []plan.Interface{
			{Name: "wan1", Up: true, Carrier: true, Addresses: prefixes("192.0.2.10/24", "fe80::1/64")},
			{Name: "wan2", Up: true, Carrier: true, Addresses: prefixes("198.51.100.10/24", "198.51.100.11/24", "2001:db8:2::10/64")},
		}, []plan.Gateway{
			{Family: plan.IPv4, Table: 254, Dev: "wan2", Via: netip.MustParseAddr("198.51.100.1"), Src: netip.MustParseAddr("198.51.100.11"), Metric: 100},
			{Family: plan.IPv6, Table: 254, Dev: "wan2", Via: netip.MustParseAddr("fe80::2"), Metric: 1024},
		}
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// round observes all three targets of fibre at a second: a dot for each that answers.
func round(s *Set, at int, pattern string) (told []string) {
	for i, c := range pattern {
		sample := health.Sample{At: second(at), RTT: 10 * time.Millisecond}
		if c != '.' {
			sample.Error = "no answer within 500ms"
		}
		for _, c := range s.Sample("fibre", i, sample) {
			told = append(told, fmt.Sprintf("%s %s to %s: %s", c.Link, c.Was, c.State, c.Reason))
		}
	}
	return told
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// A link goes down when no quorum answers for so many rounds, and comes back likewise; two of three targets are enough.
func TestQuorumAndRounds(t *testing.T) {
	s := New(parse(t, two), nil, nil, start)
	s.Observe(first(host()), second2(host()), start)
	same(t, "good", round(s, 0, "..."), nil)
	same(t, "one target dead", round(s, 1, "x.."), nil)
	same(t, "first bad round", round(s, 2, "xx."), nil)
	same(t, "second bad round", round(s, 3, "xxx"), []string{"fibre up to down: 0 of 3 targets answer, 2 must: no answer within 500ms"})
	if f := s.Facts(); f[0].Up || !f[0].Reset || !f[0].IPv4.Usable() || !f[1].Up {
		t.Errorf("facts %+v", f)
	}
	same(t, "first good round", round(s, 4, "..x"), nil)
	same(t, "second good round", round(s, 5, "..x"), []string{"fibre down to up: "})
	l := s.Link("fibre")
	if len(l.History) != 2 || l.History[1].State != Up || !l.Since.Equal(second(5)) || !strings.Contains(l.Reason, "2 must") {
		t.Errorf("history %+v since %v because %q", l.History, l.Since, l.Reason)
	}
	if loss, latency, known := l.Loss(); !known || loss < 0.4 || loss > 0.45 || latency != 10*time.Millisecond {
		t.Errorf("loss %v, latency %v, known %v", loss, latency, known)
	}
	if targets := l.Targets(); len(targets) != 3 || targets[2].What != "ping 203.0.113.12" || targets[2].Error == "" || targets[0].Error != "" {
		t.Errorf("targets %+v", targets)
	}
}

func first(i []plan.Interface, _ []plan.Gateway) []plan.Interface { return i }
func second2(_ []plan.Interface, g []plan.Gateway) []plan.Gateway { return g }

// What the kernel lacks takes a link down at once and says what it is; probes do not count meanwhile, and must be good again afterwards.
func TestFaults(t *testing.T) {
	interfaces, gateways := host()
	s := New(parse(t, two), nil, nil, start)
	observe := func(at int, change func(i []plan.Interface, g []plan.Gateway) ([]plan.Interface, []plan.Gateway)) (told []string) {
		i, g := host()
		if change != nil {
			i, g = change(i, g)
		}
		for _, c := range s.Observe(i, g, second(at)) {
			told = append(told, fmt.Sprintf("%s %s: %s", c.Link, c.State, c.Reason))
		}
		return told
	}
	same(t, "in order", observe(0, nil), nil)
	round(s, 0, "...")
	same(t, "no carrier", observe(1, func(i []plan.Interface, g []plan.Gateway) ([]plan.Interface, []plan.Gateway) {
		i[0].Carrier = false
		return i, g
	}), []string{"fibre down: interface wan1 has no carrier"})
	same(t, "a late answer", round(s, 2, "..."), nil)
	same(t, "carrier back", observe(3, nil), nil)
	if got := s.Link("fibre"); got.State != Down || len(s.Jobs()) != 3 {
		t.Errorf("%s with %d jobs when the carrier is back", got.State, len(s.Jobs()))
	}
	round(s, 4, "...")
	same(t, "rises", round(s, 5, "..."), []string{"fibre down to up: "})
	for what, c := range map[string]struct {
		change func(i []plan.Interface, g []plan.Gateway) ([]plan.Interface, []plan.Gateway)
		want   string
	}{
		"gone": {func(i []plan.Interface, g []plan.Gateway) ([]plan.Interface, []plan.Gateway) { return i[:1], g }, "there is no interface wan2"},
		"off": {func(i []plan.Interface, g []plan.Gateway) ([]plan.Interface, []plan.Gateway) {
			i[1].Up = false
			return i, g
		}, "interface wan2 is down"},
		"lost": {func(i []plan.Interface, g []plan.Gateway) ([]plan.Interface, []plan.Gateway) {
			i[1].Addresses = nil
			return i, g
		}, "interface wan2 has no address"},
		"untold": {func(i []plan.Interface, g []plan.Gateway) ([]plan.Interface, []plan.Gateway) { return i, nil }, "no default route tells the gateway of wan2"},
	} {
		same(t, what, observe(6, c.change), []string{"cable down: " + c.want})
		same(t, what+" back", observe(7, nil), []string{"cable up: "})
	}
	s.Observe(interfaces, gateways, second(8))
	f := s.Facts()[1]
	want4 := plan.LinkRoute{Dev: "wan2", Gateway: netip.MustParseAddr("198.51.100.1"), Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.11"), netip.MustParseAddr("198.51.100.10")}}
	if fmt.Sprint(f.IPv4) != fmt.Sprint(want4) || f.IPv6.Gateway != netip.MustParseAddr("fe80::2") || f.Reset {
		t.Errorf("cable is %+v", f)
	}
}

// The gateway is learned from the main table before others, from the lowest metric; a given one goes before what is learned; a
// point-to-point interface needs none; tables of ours teach nothing.
func TestLearning(t *testing.T) {
	via := func(table uint32, metric uint32, a string) plan.Gateway {
		g := plan.Gateway{Family: plan.IPv4, Table: table, Dev: "wan1", Metric: metric}
		if a != "" {
			g.Via = netip.MustParseAddr(a)
		}
		return g
	}
	for what, c := range map[string]struct {
		link     string
		peer     bool
		gateways []plan.Gateway
		want     string
	}{
		"metric":        {"", false, []plan.Gateway{via(254, 20, "192.0.2.2"), via(254, 10, "192.0.2.3")}, "192.0.2.3"},
		"main first":    {"", false, []plan.Gateway{via(100, 0, "192.0.2.2"), via(254, 10, "192.0.2.3")}, "192.0.2.3"},
		"other table":   {"", false, []plan.Gateway{via(100, 7, "192.0.2.2"), via(100, 5, "192.0.2.4")}, "192.0.2.4"},
		"ours":          {"", false, []plan.Gateway{via(8121, 0, "192.0.2.9")}, "down"},
		"given":         {", gateway: 192.0.2.8", false, []plan.Gateway{via(254, 10, "192.0.2.3")}, "192.0.2.8"},
		"peer":          {"", true, nil, "invalid IP"},
		"peer by route": {"", true, []plan.Gateway{via(254, 0, "")}, "invalid IP"},
		"device route":  {"", false, []plan.Gateway{via(254, 0, "")}, "invalid IP"},
		"not for IPv4":  {", ipv4: false", false, []plan.Gateway{via(254, 0, "192.0.2.2")}, "down"},
		"no such":       {", addresses: [192.0.2.77]", false, []plan.Gateway{via(254, 0, "192.0.2.2")}, "down"},
	} {
		s := New(parse(t, "links: {a: {interface: wan1"+c.link+"}}\n"), nil, nil, start)
		s.Observe([]plan.Interface{{Name: "wan1", Up: true, Carrier: true, Peer: c.peer, Addresses: prefixes("192.0.2.10/24")}}, c.gateways, start)
		got := "down"
		if l := s.Link("a"); l.State == Up {
			got = l.Way(plan.IPv4).Gateway.String()
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
}

// An operator's wish counts until it is taken back, over what probes say, and outlives the process.
func TestWishes(t *testing.T) {
	cfg := parse(t, two)
	s := New(cfg, nil, nil, start)
	i, g := host()
	s.Observe(i, g, start)
	order := func(s *Set, w Wish) string {
		changes, err := s.Order("cable", w, second(1))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintln(len(changes), s.Link("cable").State, s.Facts()[1].Up, s.Facts()[1].Reset)
	}
	if got := order(s, WishDrain); got != "1 drain false false\n" {
		t.Error(got)
	}
	if got := order(s, WishDown); got != "1 down false false\n" { // on_link_down: keep
		t.Error(got)
	}
	again := New(cfg, s.Saved(), nil, second(2))
	again.Observe(i, g, second(2))
	if l := again.Link("cable"); l.State != Down || l.Wish != WishDown || !l.Since.Equal(second(1)) || len(l.History) != 2 {
		t.Errorf("%+v", l)
	}
	if got := order(again, WishReady); got != "1 up true false\n" {
		t.Error(got)
	}
	if _, err := s.Order("cabel", WishDrain, start); err == nil || !strings.Contains(err.Error(), "fibre, cable") {
		t.Errorf("%v", err)
	}
}

// A link that was down before a restart stays down until it has risen; one that was up stays up until it has fallen.
func TestRestart(t *testing.T) {
	cfg := parse(t, two)
	i, g := host()
	s := New(cfg, nil, nil, start)
	s.Observe(i, g, start)
	round(s, 1, "xxx") // the first round decides alone
	if s.Link("fibre").State != Down {
		t.Fatal("the first bad round does not count")
	}
	s = New(cfg, s.Saved(), nil, second(2))
	s.Observe(i, g, second(2))
	same(t, "one good round", round(s, 3, "..."), nil)
	same(t, "two", round(s, 4, "..."), []string{"fibre down to up: "})
	changed := parse(t, strings.Replace(two, "wan1", "wan3", 1))
	if l := New(changed, s.Saved(), nil, second(5)).Link("fibre"); len(l.History) != 0 {
		t.Errorf("another interface has the history %+v", l.History)
	}
}

// What goes up and down too often must be good for a fifth of the time of damping.
func TestDamping(t *testing.T) {
	s := New(parse(t, strings.Replace(two, "rise: 2", "rise: 1, damping: 50s", 1)), nil, nil, start)
	i, g := host()
	s.Observe(i, g, start)
	at := 0
	play := func(pattern string) (states string) {
		for _, c := range pattern {
			at++
			round(s, at, strings.Repeat(string(c), 3))
			states += string(s.Link("fibre").State[0])
		}
		return states
	}
	if got, want := play("."+"xx.xx.xx.xx"+"...x"+"..........."+".."), "u"+"uduuduuduud"+"dddd"+"dddddddddd"+"uuu"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A weight follows latency or load, bounded, by steps, and not too often.
func TestAdapt(t *testing.T) {
	cfg := parse(t, `
links:
  a: {interface: wan1, bandwidth: 100Mbit, adapt: load}
  b: {interface: wan2, bandwidth: 50Mbit, adapt: latency, check: {ping: [9.9.9.9], window: 4, rise: 1}}
`)
	s := New(cfg, nil, nil, start)
	i, g := host()
	s.Observe(i, g, start)
	bytes := uint64(0)
	load := func(from, to int, mbit uint64) (changes int) {
		for n := from; n < to; n++ {
			bytes += mbit * 1e6 / 8
			if s.Measure(map[string]Traffic{"wan1": {In: bytes}}, second(n)) {
				changes++
			}
		}
		return changes
	}
	weights := func() string { return fmt.Sprintf("%.0f %.0f", s.Links()[0].Weight(), s.Links()[1].Weight()) }
	if load(0, 20, 5); weights() != "1000 500" {
		t.Error("a light load counts:", weights())
	}
	if n := load(20, 60, 60); n == 0 || n > 3 || !strings.HasPrefix(weights(), "4") {
		t.Errorf("%d changes, weights %s under a load of 60 %%", n, weights())
	}
	load(60, 100, 500)
	if weights() != "250 500" {
		t.Error("overload goes beyond the bound:", weights())
	}
	for n := range 20 {
		s.Sample("b", 0, health.Sample{At: second(100 + n), RTT: 20 * time.Millisecond})
	}
	for n := range 20 {
		s.Sample("b", 0, health.Sample{At: second(120 + n), RTT: 40 * time.Millisecond})
	}
	s.Measure(nil, second(150))
	if weights() != "250 251" {
		t.Error("twice the latency:", weights())
	}
	if f := s.Facts(); f[0].Weight != 250*adaptScale || f[1].Weight < 250*adaptScale || f[1].Weight > 252*adaptScale {
		t.Errorf("weights in facts: %d, %d", f[0].Weight, f[1].Weight)
	}
}

// Probes go through the link itself: by its mark and its interface. Names are followed.
func TestJobs(t *testing.T) {
	cfg := parse(t, `
links:
  a: {interface: wan1, gateway: 192.0.2.1}
  b: {interface: wan2, check: {ping: [9.9.9.9], tcp: ["1.1.1.1:443"], http: ["https://Web.example/x?y=1", "http://192.0.2.80:81/"], dns: [9.9.9.9], every: 4s}}
`)
	s := New(cfg, nil, nil, start)
	if n := len(s.Jobs()); n != 4 { // nothing is known of interfaces yet; the name has no address
		t.Errorf("%d jobs", n)
	}
	if names := s.Names(); !slices.Equal(names, []string{"web.example"}) {
		t.Errorf("names %v", names)
	}
	s.Resolved(map[string][]netip.Addr{"web.example": {netip.MustParseAddr("203.0.113.7")}})
	var got []string
	for _, j := range s.Jobs() {
		name, n, ok := ParseJob(j.ID)
		p := j.Probe
		got = append(got, fmt.Sprintf("%s %d %v %v mark %#x dev %s every %v soon %v ping %v dns %v http %v tls %v", name, n, ok, p.Target, p.Mark, p.Device, j.Every, j.Soon,
			p.Ping != nil, p.DNS != nil, p.HTTP != nil, p.TLS != nil))
	}
	want := []string{
		"b 0 true 9.9.9.9:0 mark 0x2000000 dev wan2 every 4s soon 2s ping true dns false http false tls false",
		"b 1 true 1.1.1.1:443 mark 0x2000000 dev wan2 every 4s soon 2s ping false dns false http false tls false",
		"b 2 true 203.0.113.7:443 mark 0x2000000 dev wan2 every 4s soon 2s ping false dns false http true tls true",
		"b 3 true 192.0.2.80:81 mark 0x2000000 dev wan2 every 4s soon 2s ping false dns false http true tls false",
		"b 4 true 9.9.9.9:53 mark 0x2000000 dev wan2 every 4s soon 2s ping false dns true http false tls false",
	}
	same(t, "jobs", got, want)
	if web := s.Jobs()[2].Probe; web.HTTP.Host != "Web.example" || web.HTTP.Path != "/x?y=1" || web.TLS.Name != "Web.example" || !web.TLS.Verify {
		t.Errorf("%+v %+v", web.HTTP, web.TLS)
	}
	for _, id := range []string{"pool/a/0", "link/a", "link/a/b", "link/", ""} {
		if _, _, ok := ParseJob(id); ok {
			t.Errorf("%q is the ID of a link's job", id)
		}
	}
	s.Observe(nil, nil, start)
	if n := len(s.Jobs()); n != 0 {
		t.Errorf("%d jobs by interfaces that are not there", n)
	}
}
