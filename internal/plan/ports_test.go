package plan

import (
	"maps"
	"net/netip"
	"testing"

	"salp/internal/config"
)

func TestPortsWhenNoneIsFree(t *testing.T) {
	cfg := parse(t, "listeners:\n  a: {intercept: {interfaces: [g0], ports: [80]}}\n  b: {intercept: {interfaces: [g0], ports: [81], port: 7}}\n  c: {intercept: {interfaces: [g0], ports: [82]}}\n")
	f := standard()
	for p := 61440; p < 65535; p++ {
		f.Listening = append(f.Listening, netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(p)))
	}
	if got, want := Ports(cfg, f), map[string]uint16{"a": 65535, "b": 7}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	_, err := Make(cfg, f)
	errs, ok := err.(config.Errors)
	if !ok || len(errs) != 1 || errs[0].Line != 4 {
		t.Errorf("got %v, want one error about c", err)
	}
}

// A running listener keeps its port whoever else comes to listen on it elsewhere; not when the file gives the port away.
func TestPortsStay(t *testing.T) {
	f := standard()
	f.Ports = map[string]uint16{"a": 61440}
	f.Listening = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:61440")}
	kept := parse(t, "listeners:\n  a: {intercept: {interfaces: [g0], ports: [80]}}\n")
	if got := Ports(kept, f); got["a"] != 61440 {
		t.Errorf("got %v", got)
	}
	given := parse(t, "listeners:\n  a: {intercept: {interfaces: [g0], ports: [80]}}\n  b: {intercept: {interfaces: [g0], ports: [81], port: 61440}}\n")
	if got, want := Ports(given, f), (map[string]uint16{"a": 61441, "b": 61440}); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestMarksIn(t *testing.T) {
	for mask, want := range map[uint32]Marks{
		0xf0000000: {Divert: 1 << 28, Upstream: 1 << 29, Zone: 1 << 30, Intercepted: 1 << 31},
		0x80808001: {Divert: 1, Upstream: 1 << 15, Zone: 1 << 23, Intercepted: 1 << 31},
	} {
		if got := MarksIn(mask); got != want {
			t.Errorf("%#x: got %+v", mask, got)
		}
	}
}

// Texts that no plan has today, each as nft 1.0.6 lists it.
func TestExprText(t *testing.T) {
	for want, e := range map[string]Expr{
		`iifname != { "g0", "eth9", "eth10" }`: IIFName{Names: []string{"eth10", "eth9", "g0"}, Not: true},
		"tcp flags ! fin,syn,rst,ack":          TCPFlags{Mask: FIN | SYN | RST | ACK},
		"tcp flags fin,ack / fin,syn,rst,ack":  TCPFlags{Mask: FIN | SYN | RST | ACK, Value: FIN | ACK},
		"meta mark 0x40000000/4":               Mark{0xf0000000, 0x40000000},
		"meta mark & 0x00000001 == 0x00000000": Mark{1, 0},
		"ct status dnat":                       CTDNAT{},
		"meta l4proto @alive":                  InSet{Set: "alive"},
		"fib daddr type != local":              DaddrType{Types: []string{"local"}, Not: true},
		"ip daddr != 10.0.0.0/8":               Daddr{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Not: true},
		"ip daddr 10.0.0.1":                    Daddr{Prefix: netip.MustParsePrefix("10.0.0.1/32")},
		"ct mark set ct mark & 0xfffffffe":     SetCTMark{Bits: 1, Clear: true},
		"tcp dport { 1-3, 80, 65000-65535 }":   DPort{Ranges: []PortRange{{65000, 65535}, {80, 80}, {1, 3}}},
	} {
		if e.Text() != want {
			t.Errorf("got %q, want %q", e.Text(), want)
		}
	}
	for priority, want := range map[int]string{-300: "raw", -150: "mangle", -151: "mangle - 1", 0: "filter", 10: "filter + 10", 11: "11", 51: "security + 1", -100: "dstnat", 300: "300"} {
		if got := priorityText("prerouting", priority); got != want {
			t.Errorf("priority %d: got %q, want %q", priority, got, want)
		}
	}
	if got := priorityText("output", -100); got != "-100" {
		t.Errorf("priority -100 of output: got %q", got)
	}
}

func TestSetText(t *testing.T) {
	s := Set{Name: "ports", Type: "inet_service", Interval: true, Timeout: true, Elements: []string{"80", "90-100"}}
	want := "\tset ports {\n\t\ttype inet_service\n\t\tflags interval,timeout\n\t\telements = { 80, 90-100 }\n\t}\n"
	if got := s.text(); got != want {
		t.Errorf("got:\n%s", got)
	}
	if s.Runtime = true; s.text() == want {
		t.Error("elements that are run-time state are printed")
	}
}
