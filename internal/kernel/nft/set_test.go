package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"salp/internal/plan"
)

func TestIntervals(t *testing.T) {
	for _, tc := range []struct{ elements, want string }{
		{"80", "<0000 0050 <0051"},
		{"80-90", "<0000 0050 <005b"},
		{"80 81", "<0000 0050 <0052"},
		{"85-95 80-90 91", "<0000 0050 <0060"},
		{"1-10 3-4 8", "<0000 0001 <000b"},
		{"0-20", "0000 <0015"},
		{"60000-65535", "<0000 ea60!"},
		{"0-65535 80", "0000!"},
		{"65535", "<0000 ffff!"},
		{"443 22", "<0000 0016 <0017 01bb <01bc"},
	} {
		es, err := elements(plan.Set{Name: "s", Type: "inet_service", Interval: true, Elements: strings.Fields(tc.elements)})
		if err != nil {
			t.Fatal(err)
		}
		var words []string
		for _, e := range es {
			word := fmt.Sprintf("%x", e.key)
			if e.end {
				word = "<" + word
			}
			if e.open {
				word += "!"
			}
			words = append(words, word)
		}
		if got := strings.Join(words, " "); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.elements, got, tc.want)
		}
	}
}

func TestBadElements(t *testing.T) {
	for _, s := range []plan.Set{
		{Type: "inet_service", Elements: []string{"http"}},
		{Type: "inet_service", Elements: []string{"80-90"}},
		{Type: "inet_service", Interval: true, Elements: []string{"90-80"}},
		{Type: "inet_service", Elements: []string{"70000"}},
		{Type: "ipv4_addr", Elements: []string{"2001:db8::1"}},
		{Type: "ipv6_addr", Elements: []string{"10.0.0.1"}},
		{Type: "ifname", Elements: []string{"a-name-that-is-too-long"}},
		{Type: "inet_proto", Elements: []string{"carrier-pigeon"}},
		{Type: "weather", Elements: []string{"rain"}},
		{Type: "ipv4_addr . weather", Elements: []string{"10.0.0.1 . rain"}},
		{Type: "ipv4_addr . inet_service", Elements: []string{"10.0.0.1"}},
		{Type: "ipv4_addr . inet_service", Elements: []string{"10.0.0.1 . 80-90"}},
		{Type: "mark", Interval: true, Elements: []string{"1-2"}},
		{Type: "mark", Elements: []string{"1 : accept"}},
		{Type: "mark", Data: "verdict", Elements: []string{"1"}},
		{Type: "mark", Data: "verdict", Elements: []string{"1 : jump"}},
		{Type: "mark", Data: "ipv4_addr . inet_service", Elements: []string{"1 : 10.0.0.1 . 80-90"}},
	} {
		s.Name = "s"
		if es, err := elements(s); err == nil {
			t.Errorf("%v: %v", s, es)
		}
	}
}

func TestBadRules(t *testing.T) {
	for _, e := range []plan.Expr{
		plan.IIFName{}, plan.IIFName{Names: []string{"a-name-that-is-too-long"}}, plan.L4Proto{}, plan.DPort{},
		plan.DPort{Ranges: []plan.PortRange{{First: 9, Last: 8}}}, plan.DaddrType{}, plan.DaddrType{Types: []string{"sideways"}},
		plan.Daddr{}, plan.Saddr{}, plan.Verdict{Word: "maybe"}, plan.SPort{}, plan.OIFName{},
		plan.In{Set: "s"}, plan.In{Key: plan.Fields{"ip colour"}, Set: "s"}, plan.VMap{Map: "m"}, plan.VMap{Key: plan.NumGen{Mod: 2}, Entries: []plan.VerdictRange{{Do: plan.Counter{}}}},
		plan.CTState{States: []string{"old"}}, plan.CTState{}, plan.CTStatus{Bits: []string{"fine"}}, plan.SaddrType{}, plan.DSCP{Family: plan.IPv4, Value: 64},
		plan.DNAT{Family: plan.IPv4, To: netip.MustParseAddrPort("[::1]:1")}, plan.DNAT{Family: plan.IPv4, Map: "m"}, plan.SNATPrefix{},
		plan.SNATPrefix{Pairs: []plan.PrefixPair{{From: netip.MustParsePrefix("fd00::/64"), To: netip.MustParsePrefix("10.0.0.0/8")}}},
		plan.RateOver{}, plan.RateUnder{Rate: plan.Rate{Count: 1, Per: "year", Burst: 1}}, plan.Meter{Set: "s", Key: plan.Fields{plan.IPSaddr}}, plan.Meter{Set: "s", Connections: 1},
	} {
		if r, err := compile(plan.NFTRule{Exprs: []plan.Expr{e}}, nil); err == nil {
			t.Errorf("%#v became %v", e, r.canonical())
		}
	}
	if _, err := compile(plan.NFTRule{Comment: strings.Repeat("x", 129)}, nil); err == nil {
		t.Error("a comment longer than nft allows")
	}
}

// TestCanonicalTellsRulesApart compiles rules that differ in one detail: no two may look the same.
func TestCanonicalTellsRulesApart(t *testing.T) {
	seen := map[string]string{}
	note := func(e ...plan.Expr) {
		r, err := compile(plan.NFTRule{Exprs: e}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if other, twice := seen[r.canonical()]; twice {
			t.Errorf("%s and %s have the same form", r.text, other)
		}
		seen[r.canonical()] = r.text
	}
	for _, not := range []bool{false, true} {
		note(plan.IIFName{Names: []string{"eth0"}, Not: not})
		note(plan.IIFName{Names: []string{"eth0", "eth1"}, Not: not})
		note(plan.InSet{Set: "alive", Not: not})
		note(plan.DaddrType{Types: []string{"local"}, Not: not})
		note(plan.CTDNAT{Not: not})
		note(plan.TCPFlags{Mask: 0x17, Value: 2, Not: not})
		for _, p := range []string{"0.0.0.0/1", "10.0.0.0/8", "10.0.0.0/9", "10.0.0.0/32", "fe80::/10", "fe80::/16", "::/3"} {
			note(plan.Daddr{Prefix: netip.MustParsePrefix(p), Not: not})
		}
	}
	note(plan.IIFName{Names: []string{"eth1"}})
	note(plan.IIFName{Names: []string{"eth0", "eth2"}})
	note(plan.TCPFlags{Mask: 0x17})
	note(plan.Mark{Mask: 1, Value: 1})
	note(plan.Mark{Mask: 1})
	note(plan.Mark{Mask: 256, Value: 256})
	note(plan.CTMark{Mask: 1, Value: 1})
	note(plan.SocketMark{Mask: 1, Value: 1})
	note(plan.SetMark{Bits: 1})
	note(plan.SetCTMark{Bits: 1})
	note(plan.SetCTMark{Bits: 1, Clear: true})
	note(plan.SetZone{Zone: 1})
	note(plan.SetZone{Zone: 256})
	note(plan.TProxy{To: netip.MustParseAddrPort("127.0.0.1:1")})
	note(plan.TProxy{To: netip.MustParseAddrPort("127.0.0.1:256")})
	note(plan.TProxy{To: netip.MustParseAddrPort("[::1]:1")})
	note(plan.Redirect{Port: 1})
	note(plan.Redirect{Port: 256})
	note(plan.RejectReset{})
	note(plan.Counter{})
	note(plan.Jump{Chain: "a"})
	note(plan.Jump{Chain: "b"})
	for word := range verdicts {
		note(plan.Verdict{Word: word})
	}
	for _, r := range slices.Concat(gatewayTable().Chains[2].Rules, gatewayTable().Chains[3].Rules, gatewayTable().Chains[5].Rules, gatewayTable().Chains[6].Rules) {
		note(r.Exprs...)
	}
	for _, ranges := range [][]plan.PortRange{{{First: 80, Last: 80}}, {{First: 80, Last: 81}}, {{First: 80, Last: 80}, {First: 81, Last: 81}}, {{First: 80, Last: 80}, {First: 90, Last: 99}}} {
		note(plan.DPort{Ranges: ranges})
	}
}

func TestCommentOf(t *testing.T) {
	for _, tc := range []struct {
		data []byte
		want string
	}{
		{nil, ""}, {commentUserdata("why"), "why"}, {[]byte{1, 1, 7, 0, 2, 'a', 0}, "a"}, {[]byte{0, 200, 'a'}, ""}, {[]byte{0}, ""}, {[]byte{0, 0}, ""},
	} {
		if got := commentOf(tc.data); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.data, got, tc.want)
		}
	}
}

func TestHolder(t *testing.T) {
	if got, ok := holderOf(markOf("/run/salp")); got != "/run/salp" || !ok {
		t.Errorf("%q, %v", got, ok)
	}
	for _, data := range [][]byte{nil, {0, 3, 'h', 'i', 0}, {markType}, {markType, 9, 's'}, {markType, 4, 's', 'a', 'l', 't'}} {
		if got, ok := holderOf(data); ok {
			t.Errorf("%v is taken for ours: %q", data, got)
		}
	}
}
