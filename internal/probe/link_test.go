package probe

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"salp/internal/lab"
)

// links builds a gateway with two links to routers that both have the same address beyond, 203.0.113.9 and fd00:9::9, on their loopback. Mark 1 leads out by the
// first, mark 2 by the second; without a mark there is no way.
func links(t *testing.T) (gateway *lab.Host, routers [2]*lab.Host) {
	t.Helper()
	l := lab.Test(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	run := func(h *lab.Host, command string) {
		t.Helper()
		words := strings.Fields(command)
		if out, err := h.Run(t.Context(), words[0], words[1:]...); err != nil {
			t.Fatal(command, out, err)
		}
	}
	var err error
	gateway, err = l.Host("gateway")
	must(err)
	for i, name := range []string{"wan1", "wan2"} {
		r, err := l.Host(name)
		must(err)
		must(l.Join(gateway, name, r, "in0"))
		n := string(rune('1' + i))
		run(gateway, "ip addr add 192.0."+n+".2/24 dev "+name)
		run(gateway, "ip -6 addr add fd00:"+n+"::2/64 nodad dev "+name)
		run(r, "ip addr add 192.0."+n+".1/24 dev in0")
		run(r, "ip -6 addr add fd00:"+n+"::1/64 nodad dev in0")
		run(r, "ip addr add 203.0.113.9/32 dev lo")
		run(r, "ip -6 addr add fd00:9::9/128 nodad dev lo")
		run(gateway, "ip route add 203.0.113.9 via 192.0."+n+".1 table 10"+n)
		run(gateway, "ip -6 route add fd00:9::9 via fd00:"+n+"::1 table 10"+n)
		run(gateway, "ip rule add fwmark "+n+" lookup 10"+n)
		run(gateway, "ip -6 rule add fwmark "+n+" lookup 10"+n)
		routers[i] = r
	}
	return gateway, routers
}

// TestPingByMark pings the same address through either link: by its mark, from its address, and by its interface.
func TestPingByMark(t *testing.T) {
	gateway, routers := links(t)
	ask := func(s Spec) (r Result) {
		s.Timeout = 5 * time.Second
		if err := gateway.Do(func() error { r = Run(context.Background(), &s); return nil }); err != nil {
			t.Fatal(err)
		}
		return r
	}
	v4, v6 := netip.MustParseAddrPort("203.0.113.9:0"), netip.MustParseAddrPort("[fd00:9::9]:0")
	check(t, ask(Spec{Target: v4, Ping: &Ping{}}), "network is unreachable")
	for _, target := range []netip.AddrPort{v4, v6} {
		for mark := range uint32(2) {
			check(t, ask(Spec{Target: target, Ping: &Ping{}, Mark: mark + 1}), "")
		}
	}
	check(t, ask(Spec{Target: netip.MustParseAddrPort("192.0.1.1:0"), Ping: &Ping{}, Device: "wan1", Source: netip.MustParseAddr("192.0.1.2")}), "")
	check(t, ask(Spec{Target: netip.MustParseAddrPort("192.0.1.1:0"), Ping: &Ping{}, Device: "wan9"}), "setsockopt SO_BINDTODEVICE wan9: no such device")

	// One router falls silent: only the probe by its mark notices.
	if err := routers[0].Sysctl("net/ipv4/icmp_echo_ignore_all", "1"); err != nil {
		t.Fatal(err)
	}
	silent := Spec{Target: v4, Ping: &Ping{}, Mark: 1, Timeout: 300 * time.Millisecond}
	if err := gateway.Do(func() error { check(t, Run(context.Background(), &silent), "no answer within 300ms"); return nil }); err != nil {
		t.Fatal(err)
	}
	check(t, ask(Spec{Target: v4, Ping: &Ping{}, Mark: 2}), "")

	// TCP and DNS go the same way.
	if _, err := routers[1].Serve("203.0.113.9:80", lab.Tell); err != nil {
		t.Fatal(err)
	}
	d, err := routers[1].ServeDNS("203.0.113.9:53")
	if err != nil {
		t.Fatal(err)
	}
	d.Set("a.test", time.Minute, "10.0.0.1")
	for mark, want := range map[uint32]string{1: "connection refused", 2: ""} {
		check(t, ask(Spec{Target: netip.MustParseAddrPort("203.0.113.9:80"), Mark: mark, Expect: "192.0.2.2:"}), want)
	}
	for mark, want := range map[uint32]string{1: "no DNS server runs", 2: ""} {
		check(t, ask(Spec{Target: netip.MustParseAddrPort("203.0.113.9:53"), Mark: mark, DNS: &DNS{Name: "a.test"}}), want)
	}
}
