package worker

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// Lines as the kernel writes them, on a little-endian machine.
func TestOnLink(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("skipped: the lines are those of a little-endian machine")
	}
	for _, test := range []struct {
		parse      func(string) (netip.Prefix, string, bool)
		line, want string
	}{
		{onLink4, "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT", ""},
		{onLink4, "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0", ""},
		{onLink4, "g1\t0000090A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0", "10.9.0.0/24 g1"},
		{onLink4, "g1\t0000090A\t0102000A\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0", ""},
		{onLink4, "*\t0000090A\t00000000\t0201\t0\t0\t0\t00FFFFFF\t0\t0\t0", ""},
		{onLink4, "g1\t000000E0\t00000000\t0001\t0\t0\t0\t000000F0\t0\t0\t0", ""},
		{onLink4, "g1\t05000A0A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0", "10.10.0.5/32 g1"},
		{onLink4, "g1\tnothing", ""},
		{onLink6, "fd000009000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0", "fd00:9::/64 eth0"},
		{onLink6, "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0", ""},
		{onLink6, "fd000001000000000000000000000002 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000003 00000000 80200001       lo", ""},
		{onLink6, "ff000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000004 00000000 00000001     eth0", ""},
		{onLink6, "short", ""},
	} {
		p, name, ok := test.parse(test.line)
		got := ""
		if ok {
			got = p.String() + " " + name
		}
		if got != test.want {
			t.Errorf("%s\ngives %q, want %q", test.line, got, test.want)
		}
	}
}
