package egress

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"

	"salp/internal/access"
	"salp/internal/config"
)

const office = `
listeners:
  web: {intercept: {interfaces: [lan0], ports: [80]}}
lists:
  banks: {addresses: banks.txt}
links:
  fibre: {interface: wan1, weight: 2}
  cable: {interface: wan2, weight: 1}
  lte: {interface: wwan0, weight: 1, metered: true}
balance:
  inside: {interfaces: [lan0, guest0], networks: [10.1.0.0/16, "fd00:1::/64"]}
  groups:
    wired: {links: [fibre, cable], spread: client}
  rules:
    - {to: [198.18.0.0/15], link: blackhole}                                  # 0
    - {from: [10.1.0.50], link: cable}                                        # 1
    - {ports: [25, 465-587], protocol: tcp, link: [cable, fibre], strict: true} # 2
    - {to: [list:banks, shop.example], link: lte}                             # 3
    - {dscp: ef, protocol: udp, link: fibre}                                  # 4
    - {interfaces: [guest0], link: wired}                                     # 5
    - {listener: web, link: wired}                                            # 6
  default: balanced
`

func rules(t *testing.T, change ...string) *Rules {
	t.Helper()
	cfg, err := config.Parse("salp.yaml", []byte(strings.NewReplacer(change...).Replace(office)))
	if err != nil {
		t.Fatal(err)
	}
	return New(cfg, map[string]*access.AddressSet{"banks": access.NewAddressSet([]netip.Prefix{netip.MustParsePrefix("203.0.113.80/28")})})
}

// state is links that are up in both families, but those that are named.
func state(down ...int) *State {
	s := &State{Names: map[string][]netip.Addr{"shop.example": {netip.MustParseAddr("203.0.113.7")}}, Local: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/24")}}
	for i, weight := range []int{2, 1, 1} {
		l := Link{Up: true, Weight: weight, IPv4: true, IPv6: i == 0}
		for _, d := range down {
			l.Up = l.Up && d != i+1
		}
		s.Links = append(s.Links, l)
	}
	return s
}

func flow(from, to string) *Flow {
	f := &Flow{To: netip.MustParseAddrPort(to), Protocol: config.TransportTCP, Interface: "lan0"}
	if from != "" {
		f.From = netip.MustParseAddr(from)
		f.Client = f.From
	}
	return f
}

func with(f *Flow, change func(*Flow)) *Flow { change(f); return f }

// What the rules say, whoever is up.
func TestChoose(t *testing.T) {
	r := rules(t)
	for _, c := range []struct {
		what string
		flow *Flow
		wish string
		down []int
		want string
	}{
		{"inside", flow("10.1.0.1", "10.1.3.4:80"), "", nil, "local rule -1"},
		{"a network of the host", flow("10.1.0.1", "10.2.0.4:80"), "", nil, "local rule -1"},
		{"blackhole", flow("10.1.0.50", "198.18.0.1:80"), "", nil, "blackhole rule 0"},
		{"pinned machine", flow("10.1.0.50", "203.0.113.1:80"), "", nil, "link 2 rule 1 others [1 3]"},
		{"its link is down", flow("10.1.0.50", "203.0.113.1:80"), "", []int{2}, "link 1 rule 1 others [3] fallback"},
		{"mail", flow("10.1.0.1", "203.0.113.1:587"), "", nil, "link 2 rule 2 others [1]"},
		{"second of an order", flow("10.1.0.1", "203.0.113.1:25"), "", []int{2}, "link 1 rule 2"},
		{"strict", flow("10.1.0.1", "203.0.113.1:25"), "", []int{1, 2}, "reject rule 2"},
		{"mail by UDP is no mail", with(flow("10.1.0.1", "203.0.113.7:25"), func(f *Flow) { f.Protocol = config.TransportUDP }), "", nil, "link 3 rule 3 others [1 2]"},
		{"list", flow("10.1.0.1", "203.0.113.85:443"), "", nil, "link 3 rule 3 others [1 2]"},
		{"name", flow("10.1.0.1", "203.0.113.7:443"), "", nil, "link 3 rule 3 others [1 2]"},
		{"voice", with(flow("10.1.0.1", "203.0.113.1:5060"), func(f *Flow) { f.Protocol, f.DSCP = config.TransportUDP, 46 }), "", nil, "link 1 rule 4 others [2 3]"},
		{"guest, one of the group down", with(flow("10.1.9.1", "203.0.113.1:80"), func(f *Flow) { f.Interface = "guest0" }), "", []int{1}, "link 2 rule 5 others [3]"},
		{"guest, the group down", with(flow("10.1.9.1", "203.0.113.1:80"), func(f *Flow) { f.Interface = "guest0" }), "", []int{1, 2}, "link 3 rule 5 fallback"},
		{"listener", with(flow("", "203.0.113.1:80"), func(f *Flow) { f.Listener, f.Interface = "web", "" }), "", []int{2}, "link 1 rule 6 others [3]"},
		{"its own wish", with(flow("10.1.0.50", "203.0.113.1:80"), func(f *Flow) { f.Listener = "web" }), "lte", nil, "link 3 rule -1 others [1 2]"},
		{"metered last", flow("10.1.0.1", "203.0.113.1:80"), "", []int{1, 2}, "link 3 rule -1"},
		{"IPv6 has one way", with(flow("fd00:1::5", "[2001:db8::1]:80"), func(f *Flow) {}), "cable", nil, "link 1 rule -1 fallback"},
		{"all down", flow("10.1.0.50", "203.0.113.1:80"), "", []int{1, 2, 3}, "link 2 rule 1 assumed"},
		{"all down, IPv6", flow("fd00:1::5", "[2001:db8::1]:80"), "", []int{1, 2, 3}, "link 1 rule -1 assumed"},
	} {
		if got := text(r.Choose(c.flow, state(c.down...), c.wish)); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
	all := flow("10.1.0.1", "203.0.113.1:80")
	if got := text(rules(t, "default: balanced", "last_resort: main").Choose(all, state(1, 2, 3), "")); got != "main rule -1" {
		t.Error(got)
	}
	if got := text(rules(t, "default: balanced", "last_resort: reject").Choose(all, state(1, 2, 3), "")); got != "reject rule -1" {
		t.Error(got)
	}
	none := state()
	none.Links[0].IPv6 = false
	if got := text(r.Choose(flow("fd00:1::5", "[2001:db8::1]:80"), none, "")); got != "main rule -1" {
		t.Error(got)
	}
}

func text(c Choice) string {
	s := string(c.Action)
	if c.Link > 0 {
		s += fmt.Sprint(" ", c.Link)
	}
	s += fmt.Sprint(" rule ", c.Rule)
	if len(c.Others) > 0 {
		s += fmt.Sprint(" others ", c.Others)
	}
	if c.Fallback {
		s += " fallback"
	}
	if c.Assumed {
		s += " assumed"
	}
	return s
}

// Flows are spread by weight within 2 %, what is to stay together stays, and a link that goes moves only what it had.
func TestSpread(t *testing.T) {
	const flows = 10000
	for _, by := range []config.Spread{config.SpreadFlow, config.SpreadClient, config.SpreadPair, config.SpreadDestination} {
		r := rules(t, "default: balanced", "default: balanced\n  spread: "+string(by), "metered: true", "metered: false")
		shares, moved := map[int]int{}, 0
		for i := range flows {
			f := flow(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String(), netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i), byte(i >> 8)}), 443).String())
			one := r.Choose(f, state(), "").Link
			shares[one]++
			if by == config.SpreadFlow {
				continue
			}
			f.To = netip.AddrPortFrom(f.To.Addr(), 80)
			if again := r.Choose(f, state(), "").Link; again != one {
				t.Fatalf("%s: %v takes link %d, then %d", by, f, one, again)
			}
			if without := r.Choose(f, state(2), "").Link; without != one {
				if moved++; one != 2 {
					t.Fatalf("%s: %v moves from link %d to %d when 2 goes", by, f, one, without)
				}
			}
		}
		for n, want := range map[int]float64{1: 0.5, 2: 0.25, 3: 0.25} {
			if got := float64(shares[n]) / flows; math.Abs(got-want) > 0.02 {
				t.Errorf("%s: link %d has %.1f %%, want %.0f %%", by, n, 100*got, 100*want)
			}
		}
		if by != config.SpreadFlow && moved != shares[2] {
			t.Errorf("%s: %d flows moved, link 2 had %d", by, moved, shares[2])
		}
	}
}

func TestNames(t *testing.T) {
	if got := Names(rules(t).cfg); len(got) != 1 || got[0] != "shop.example" {
		t.Errorf("%v", got)
	}
}

func BenchmarkChoose(b *testing.B) {
	cfg, err := config.Parse("salp.yaml", []byte(office))
	if err != nil {
		b.Fatal(err)
	}
	r, s, f := New(cfg, nil), state(), flow("10.1.0.1", "203.0.113.1:80")
	b.ReportAllocs()
	for b.Loop() {
		r.Choose(f, s, "")
	}
}
