package policy_test

import (
	"net/netip"
	"slices"
	"testing"

	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/listen"
	"salp/internal/policy"
)

const threeLinks = `
listeners: {web: {listen: ["10.1.0.1:80"], pool: far, link: fibre}}
pools: {far: {servers: ["203.0.113.1:80"]}}
lists: {few: {addresses: few.txt}}
links:
  fibre: {interface: wan1}
  cable: {interface: wan2, on_link_down: keep}
  radio: {interface: wan3}
balance:
  rules:
    - {to: [list:few], link: radio, strict: true}
    - {to: [198.51.100.0/24], link: blackhole}
  default: cable
kernel: {link_marks: 0x00f00000}
`

func told(up ...bool) *control.Links {
	m := &control.Links{Local: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}, Lists: map[string][]netip.Prefix{"few": {netip.MustParsePrefix("203.0.113.9/32")}}}
	for i, u := range up {
		m.Links = append(m.Links, control.Link{Name: []string{"fibre", "cable", "radio"}[i], Up: u, Dead: !u, Weight: 1, IPv4: true})
	}
	return m
}

// The link of a connection is chosen for its server, by what is known of the links now, and is told by its mark.
func TestLinks(t *testing.T) {
	cfg, err := config.Parse("salp.yaml", []byte(threeLinks))
	if err != nil {
		t.Fatal(err)
	}
	if policy.NewLinks(&config.Config{}, nil) != nil {
		t.Error("links of a configuration without")
	}
	links := policy.NewLinks(cfg, told(true, true, true))
	client := netip.MustParseAddr("10.1.0.7")
	check := func(what, wish, server string, mark uint32, others []uint32, good bool) {
		t.Helper()
		w, ok := links.Choose(&policy.Origin{Listener: "web", Wish: wish}, client, netip.AddrPort{}, netip.MustParseAddrPort(server))
		if w.Mark != mark || !slices.Equal(w.Others, others) || ok != good {
			t.Errorf("%s: %#x, others %#x, %v; want %#x, %#x, %v", what, w.Mark, w.Others, ok, mark, others, good)
		}
	}
	check("the listener's wish", "fibre", "203.0.113.1:80", 0x100000, []uint32{0x200000, 0x300000}, true)
	check("the default", "", "203.0.113.1:80", 0x200000, []uint32{0x100000, 0x300000}, true)
	check("a list", "", "203.0.113.9:80", 0x300000, nil, true)
	check("a blackhole", "", "198.51.100.1:80", 0, nil, false)
	check("a network of the host", "fibre", "10.1.0.9:80", 0, nil, true)

	if links.Set(told(true, true, true)) {
		t.Error("nothing went down")
	}
	if !links.Set(told(true, false, false)) {
		t.Error("two went down, and it does not say so")
	}
	check("by another link", "cable", "203.0.113.1:80", 0x100000, nil, true)
	check("strict", "", "203.0.113.9:80", 0, nil, false)
	for mark, want := range map[uint32][2]bool{0: {}, 0x100000: {}, 0x200000: {true, false}, 0x300000: {true, true}, 0x0f3f00f0: {true, true}, 0xf00000: {}} {
		if got := [2]bool{links.Down(mark), links.Dead(mark)}; got != want {
			t.Errorf("mark %#x: down and dead %v, want %v", mark, got, want)
		}
	}
	drained := told(true, true, true)
	drained.Links[0].Up = false
	if !links.Set(drained) || !links.Down(0x100000) || links.Dead(0x100000) {
		t.Error("a drained link is dead, or not down")
	}
	if links.Set(told(true)) || !links.Down(0x100000) {
		t.Error("what is told of another configuration is taken in")
	}
}

// A listener's connections ask the links; an access rule's wish takes the place of the listener's.
func TestLinkWishes(t *testing.T) {
	cfg, err := config.Parse("salp.yaml", []byte(threeLinks))
	if err != nil {
		t.Fatal(err)
	}
	links := policy.NewLinks(cfg, nil)
	r := policy.New(cfg, nil, links)["web"]
	d, _, _ := r.Decide(&flowToNowhere)
	if d.Links != links || d.Origin != (policy.Origin{Listener: "web", Wish: "fibre"}) {
		t.Errorf("%+v", d)
	}
	r.Mark(&d, &config.Marking{Link: "radio"})
	if d.Origin.Wish != "radio" {
		t.Errorf("%+v", d.Origin)
	}
}

var flowToNowhere = listen.Flow{Client: netip.MustParseAddrPort("10.1.0.7:4000"), Original: netip.MustParseAddrPort("10.1.0.1:80")}
