package main

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"

	"salp/bench/procstat"
	"salp/bench/traffic"
)

// What is taken for proof that a proxy was in the path, and what is not.
func TestEvidence(t *testing.T) {
	client, gateway := netip.MustParseAddr("10.0.1.10"), netip.MustParseAddr("10.0.2.1")
	good := func() evidence {
		return evidence{
			mode: transparent, answered: 100, steady: true, clientHalf: 100, serverHalf: 100,
			gateway: procstat.Counters{ActiveOpens: 100, PassiveOpens: 100},
			seen:    traffic.Seen{Addresses: map[string]int64{client.String(): 100}},
			clients: []netip.Addr{client}, outside: gateway,
		}
	}
	tests := []struct {
		name    string
		change  func(*evidence)
		proxied string // what proxied says; "" when it is content
	}{
		{"as it should be", func(*evidence) {}, ""},
		{"forwarded past", func(e *evidence) { e.gateway = procstat.Counters{Forwarded: 5000} }, "accepted 0 of 100"},
		{"answered by the proxy itself", func(e *evidence) { e.gateway = procstat.Counters{PassiveOpens: 500} }, "made 0"},
		{"partly past", func(e *evidence) { e.gateway.Forwarded = 300 }, "300 packets were forwarded past"},
		{"sockets of another program", func(e *evidence) { e.clientHalf = 0 }, "holds 0 sockets to clients"},
		{"no sockets to the server", func(e *evidence) { e.serverHalf = 3 }, "3 to the server"},
		{"address not kept", func(e *evidence) { e.seen.Addresses = map[string]int64{gateway.String(): 100} }, "saw 10.0.2.1"},
		{"address kept where it should not be", func(e *evidence) { e.mode = explicit }, "saw 10.0.1.10"},
		{"explicit", func(e *evidence) { e.mode = explicit; e.seen.Addresses = map[string]int64{gateway.String(): 100} }, ""},
		{"the server was not reached", func(e *evidence) { e.seen.Addresses[client.String()] = 1 }, "saw 1 of 100"},
	}
	reused := func(e *evidence) { // fewer connections to the server than of clients, and a request for each response
		e.http, e.exchanges, e.seen.Requests, e.serverHalf, e.gateway.ActiveOpens = true, 5000, 5010, 7, 7
		e.seen.Addresses[client.String()] = 7
	}
	tests = append(tests, []struct {
		name    string
		change  func(*evidence)
		proxied string
	}{
		{"HTTP, connections reused", reused, ""},
		{"HTTP, answered from a cache", func(e *evidence) { reused(e); e.seen.Requests = 100 }, "100 of 5000 requests"},
		{"HTTP, address not kept", func(e *evidence) { reused(e); e.seen.Addresses[gateway.String()] = 1 }, "saw 10.0.2.1"},
		{"HTTP, forwarded past", func(e *evidence) { reused(e); e.gateway.Forwarded = 3000 }, "3000 packets"},
	}...)
	for _, tt := range tests {
		e := good()
		tt.change(&e)
		err := e.proxied()
		if tt.proxied == "" && err != nil || tt.proxied != "" && (err == nil || !strings.Contains(err.Error(), tt.proxied)) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.proxied)
		}
	}
	e := good()
	if err := e.forwarded(); err == nil {
		t.Error("a proxied measurement passes for direct forwarding")
	}
	e.gateway = procstat.Counters{Forwarded: 1000}
	if err := e.forwarded(); err != nil {
		t.Errorf("direct forwarding: %v", err)
	}
	if err := e.proxied(); err == nil {
		t.Error("direct forwarding passes for a proxied measurement")
	}
}

// What is taken for proof that flows were spread over two ways.
func TestEvidenceOfWays(t *testing.T) {
	one, two := netip.MustParseAddr("10.0.2.1"), netip.MustParseAddr("10.0.3.1")
	tests := []struct {
		name     string
		answered int64
		by       map[string]int64
		want     string // what routed says; "" when it is content
	}{
		{"halves", 100, map[string]int64{one.String(): 48, two.String(): 52}, ""},
		{"one connection has one way", 1, map[string]int64{two.String(): 1}, ""},
		{"many by one way", 100, map[string]int64{one.String(): 100}, "0 of 100 connections came by 10.0.3.1"},
		{"hardly any by the second", 100, map[string]int64{one.String(): 90, two.String(): 10}, "10 of 100"},
		{"by another address", 1, map[string]int64{"10.0.1.10": 1}, "saw 10.0.1.10"},
	}
	for _, tt := range tests {
		e := evidence{answered: tt.answered, gateway: procstat.Counters{Forwarded: 1000}, seen: traffic.Seen{Addresses: tt.by}}
		err := e.routed(one, two)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
}

// bypassed is a peer that claims to be a proxy and does nothing, as nft's tproxy without a listener.
type bypassed struct{ direct }

func (*bypassed) prove(e evidence) error { return e.proxied() }

// A measurement whose traffic went past the proxy must fail on a real network too, and direct forwarding must pass.
func TestBypassIsFound(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: network namespaces need root")
	}
	o, err := parseOptions([]string{"-quick"}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []row{rows[0], rows[2]} {
		s, err := o.measure(context.Background(), r, transparent, contender{name: "direct", make: func() peer { return &direct{} }})
		if err != nil || s.Rate <= 0 || s.Failures != 0 {
			t.Errorf("%s: direct forwarding: %+v, %v", r.name, s, err)
		}
		_, err = o.measure(context.Background(), r, transparent, contender{name: "bypassed", make: func() peer { return &bypassed{} }})
		if err == nil || !strings.Contains(err.Error(), "not in the path") {
			t.Errorf("%s: a proxy that is not in the path: %v", r.name, err)
		}
	}
}
