package nft

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salp/internal/plan"
)

// gatewayTable is a table with every kind of expression, set and chain for routing and NAT.
func gatewayTable() plan.Table {
	r := func(es ...plan.Expr) plan.NFTRule { return plan.NFTRule{Exprs: es} }
	accept, drop := plan.Verdict{Word: "accept"}, plan.Verdict{Word: "drop"}
	prefix, addrPort := netip.MustParsePrefix, netip.MustParseAddrPort
	web, dns := []plan.PortRange{{First: 80, Last: 80}}, []plan.PortRange{{First: 53, Last: 53}, {First: 100, Last: 200}}
	tcp80, udp53 := plan.DPort{Ranges: web}, plan.DPort{Ranges: dns[:1], Proto: plan.UDP}
	hash4 := plan.JHash{Fields: plan.Fields{plan.IPSaddr}, Mod: 4, Seed: 7}
	jump := func(c string) plan.Expr { return plan.Jump{Chain: c} }
	ways := []plan.VerdictRange{{First: 0, Last: 1, Do: jump("a")}, {First: 2, Last: 2, Do: plan.Goto{Chain: "b"}}, {First: 3, Last: 3, Do: drop}}
	single := []plan.VerdictRange{{First: 0, Last: 0, Do: jump("a")}, {First: 1, Last: 1, Do: accept}}
	marks := []plan.VerdictRange{{First: 1 << 24, Last: 1 << 24, Do: jump("a")}, {First: 2 << 24, Last: 2 << 24, Do: jump("b")}}
	rate := plan.Rate{Count: 10, Per: "second", Burst: 20}
	service := plan.Fields{plan.IPDaddr, plan.L4ProtoKey, plan.THDPort}
	return plan.Table{Name: "salp-gate",
		Counters: []string{"c1", "c2"},
		Sets: []plan.Set{
			{Name: "lan4", Type: "ipv4_addr", Interval: true, Elements: []string{"192.168.0.0-192.168.3.7", "10.0.0.0/8", "192.0.2.1"}},
			{Name: "lan6", Type: "ipv6_addr", Interval: true, Elements: []string{"fd00::/8"}},
			{Name: "ports", Type: "inet_service", Interval: true, Elements: []string{"22", "80-90", "100", "200", "300", "400"}},
			{Name: "triple", Type: "ipv4_addr . inet_proto . inet_service", Elements: []string{"10.0.0.1 . tcp . 25"}},
			{Name: "dialled4", Type: "ipv4_addr . ipv4_addr . inet_proto . inet_service", Elements: []string{"10.0.0.1 . 10.0.2.2 . tcp . 25"}},
			{Name: "dialled6", Type: "ipv6_addr . ipv6_addr . inet_proto . inet_service", Elements: []string{"fd00::1 . fd00:2::2 . udp . 53"}},
			{Name: "pairs", Type: "ipv4_addr . inet_service", Interval: true, Elements: []string{"10.0.0.0/8 . 80-90"}},
			{Name: "clients", Type: "ipv4_addr", Dynamic: true, Runtime: true, Timeout: true, Lapse: 90 * time.Second, Size: 65535},
			{Name: "many", Type: "ipv6_addr", Dynamic: true, Runtime: true, Size: 1000},
			{Name: "named", Type: "mark", Elements: []string{"0x00000001", "0x00000100", "0x00000020"}},
			{Name: "servers4", Type: plan.NumberType(4), Data: "ip daddr . tcp dport", Elements: []string{"0 : 10.0.2.2 . 25", "1 : 10.0.2.3 . 25", "256 : 10.0.2.4 . 26", "2 : 10.0.2.3 . 25", "3 : 10.0.2.4 . 1", "4 : 10.0.2.9 . 2"}},
			{Name: "servers6", Type: plan.NumberType(4), Data: "ip6 daddr . udp dport", Elements: []string{"0 : fd00::2 . 25"}},
			{Name: "hosts4", Type: plan.NumberType(300), Data: "ip daddr", Elements: []string{"0 : 10.0.2.2", "1 : 10.0.2.3"}},
			{Name: "hosts6", Type: plan.NumberType(300), Data: "ip6 daddr", Elements: []string{"0 : fd00::2"}},
			{Name: "weights", Type: plan.NumberType(300), Data: "ip daddr . tcp dport", Interval: true, Elements: []string{"0-9 : 10.0.2.2 . 25", "10-299 : 10.0.2.3 . 25"}},
			{Name: "buckets", Type: plan.NumberType(256), Data: "verdict", Elements: []string{"0 : jump a", "1 : goto b", "255 : drop"}},
			{Name: "shares", Type: plan.NumberType(256), Data: "verdict", Interval: true, Elements: []string{"0-100 : jump a", "101-255 : goto b"}},
			{Name: "chosen", Type: plan.NumberType(256), Data: "meta mark", Elements: []string{"0 : 0x01000000", "1 : 0x02000000"}},
			{Name: "services", Type: "ipv4_addr . inet_proto . inet_service", Data: "verdict", Elements: []string{"10.0.0.1 . udp . 53 : goto b"}},
			{Name: "ways", Type: "ipv4_addr", Data: "verdict", Interval: true, Elements: []string{"10.0.0.0/8 : jump a", "10.128.0.0-10.130.0.9 : drop"}[:1]},
			{Name: "pins", Type: "ipv4_addr", Data: "mark", Interval: true, Elements: []string{"10.0.0.0/8 : 0x01000000", "192.0.2.1 : 0x02000000"}},
			{Name: "forwards", Type: "inet_service", Data: "ipv4_addr . inet_service", Elements: []string{"80 : 10.0.2.2 . 8080"}},
			{Name: "accounts", Type: "ipv4_addr . inet_service", Data: "counter", Elements: []string{`10.0.2.2 . 25 : "c1"`}},
		},
		Chains: []plan.Chain{
			{Name: "a", Rules: []plan.NFTRule{r(plan.Counter{Name: "c1"})}},
			{Name: "b", Rules: []plan.NFTRule{r(plan.CounterFrom{Key: plan.Fields{plan.IPDaddr, plan.TCPDPort}, Map: "accounts"}),
				r(plan.CounterFrom{Key: plan.Fields{plan.IPDaddr, plan.THDPort}, Map: "accounts"})}},
			{Name: "matches", Rules: []plan.NFTRule{
				r(plan.OIFName{Names: []string{"eth0"}}, accept), r(plan.OIFName{Names: []string{"wan0", "eth0"}, Not: true}, accept),
				r(plan.Saddr{Prefix: prefix("10.0.0.0/8")}, accept), r(plan.Saddr{Prefix: prefix("fe80::/10"), Not: true}, accept), r(plan.Saddr{Prefix: prefix("192.0.2.1/32")}, accept),
				r(plan.In{Key: plan.Fields{plan.IPSaddr}, Set: "lan4"}, plan.In{Key: plan.Fields{plan.IPDaddr}, Set: "lan4", Not: true}, accept),
				r(plan.In{Key: plan.Fields{plan.IP6Saddr}, Set: "lan6"}, plan.In{Key: plan.Fields{plan.IP6Daddr}, Set: "lan6"}, accept),
				r(plan.SPort{Ranges: []plan.PortRange{{First: 1, Last: 20}}}, accept), r(plan.DPort{Ranges: dns, Proto: plan.UDP}, accept),
				r(plan.SPort{Ranges: dns, Proto: plan.UDP}, udp53, accept),
				r(plan.In{Key: plan.Fields{plan.TCPDPort}, Set: "ports"}, accept), r(plan.In{Key: plan.Fields{plan.UDPSPort}, Set: "ports"}, accept),
				r(plan.In{Key: service, Set: "triple"}, accept), r(plan.In{Key: plan.Fields{plan.IPSaddr, plan.TCPDPort}, Set: "pairs"}, accept),
				r(plan.In{Key: plan.Fields{plan.IPOriginalDaddr, plan.IPSaddr, plan.L4ProtoKey, plan.THSPort}, Set: "dialled4"}, accept),
				r(plan.In{Key: plan.Fields{plan.IP6OriginalDaddr, plan.IP6Saddr, plan.L4ProtoKey, plan.THSPort}, Set: "dialled6"}, accept),
				r(plan.In{Key: plan.Fields{plan.MarkKey}, Set: "named"}, accept), r(plan.In{Key: plan.Fields{plan.CTMarkKey}, Set: "named", Not: true}, accept),
				r(plan.DSCP{Family: plan.IPv4, Value: 8}, accept), r(plan.DSCP{Family: plan.IPv6, Value: 0x2e}, accept), r(plan.DSCP{Family: plan.IPv4, Value: 3}, accept),
				r(plan.CTState{States: []string{"new"}}, accept), r(plan.CTState{States: []string{"related", "established"}}, accept),
				r(plan.CTState{States: []string{"new"}, Not: true}, accept), r(plan.CTState{States: []string{"invalid"}}, drop),
				r(plan.CTDirection{}, accept), r(plan.CTDirection{Reply: true}, accept),
				r(plan.CTStatus{Bits: []string{"dnat", "snat"}}, accept), r(plan.CTStatus{Bits: []string{"assured"}, Not: true}, accept),
				r(plan.SaddrType{Types: []string{"local"}, Not: true}, plan.Counter{}, drop),
				r(plan.TCPFlags{Mask: plan.SYN, Not: true}, plan.ClampMSS{}), r(plan.RateOver{Rate: rate}, drop), r(plan.RateUnder{Rate: plan.Rate{Count: 3, Per: "minute", Burst: 5}}, accept),
				r(plan.Meter{Set: "clients", Key: plan.Fields{plan.IPSaddr}, Rate: rate}, drop),
				r(plan.Meter{Set: "clients", Key: plan.Fields{plan.IPSaddr}, Update: true, Timeout: 2 * time.Minute, Rate: rate}, drop),
				r(plan.Meter{Set: "many", Key: plan.Fields{plan.IP6Saddr}, Connections: 5}, drop),
			}},
			{Name: "choices", Rules: []plan.NFTRule{
				r(plan.VMap{Key: plan.NumGen{Random: true, Mod: 4}, Entries: ways}), r(plan.VMap{Key: plan.NumGen{Mod: 2}, Entries: single}),
				r(plan.VMap{Key: hash4, Entries: ways}), r(plan.VMap{Key: plan.JHash{Fields: plan.Fields{plan.IPSaddr, plan.IPDaddr}, Mod: 4, Seed: 9}, Entries: ways}),
				r(plan.VMap{Key: plan.JHash{Fields: plan.Fields{plan.IP6Saddr, plan.IP6Daddr, plan.THSPort, plan.THDPort}, Mod: 4, Seed: 9}, Entries: ways}),
				r(plan.VMap{Key: plan.MaskedMark{Mask: 15 << 24}, Entries: marks}), r(plan.VMap{Key: plan.MaskedMark{CT: true, Mask: 15 << 24}, Entries: marks}),
				r(plan.VMap{Key: service, Map: "services"}), r(plan.VMap{Key: plan.Fields{plan.IPSaddr}, Map: "ways"}),
				r(plan.VMap{Key: plan.JHash{Fields: plan.Fields{plan.IPSaddr}, Mod: 256, Seed: 9}, Map: "buckets"}),
				r(plan.VMap{Key: plan.NumGen{Random: true, Mod: 256}, Map: "shares"}), r(plan.VMap{Key: plan.NumGen{Mod: 256}, Map: "shares"}),
				r(plan.SetMarkBits{Mask: 15 << 24, Value: 1 << 24}), r(plan.SetMarkBits{CT: true, Mask: 15 << 24, Value: 1 << 24}),
				r(plan.SetMarkBits{CT: true, Mask: 15 << 24}), r(plan.SetMarkBits{Mask: 15 << 24, Value: 15 << 24}),
				r(plan.SetMarkFrom{Key: plan.Fields{plan.IPSaddr}, Map: "pins"}), r(plan.SetMarkFrom{CT: true, Key: plan.NumGen{Mod: 2}, Map: "chosen"}),
				r(plan.Reject{}), r(plan.L4Proto{Protos: []byte{plan.UDP}}, plan.Reject{}), r(plan.L4Proto{Protos: []byte{plan.TCP, plan.UDP}}, accept), r(plan.Goto{Chain: "a"}),
			}},
			{Name: "zones", Type: "filter", Hook: "prerouting", Priority: -300, Rules: []plan.NFTRule{
				r(tcp80, plan.SetDirZone{Zone: 5}), r(tcp80, plan.SetDirZone{Reply: true, Zone: 6}), r(udp53, plan.NoTrack{})}},
			{Name: "pre", Type: "nat", Hook: "prerouting", Priority: -100, Rules: []plan.NFTRule{
				r(tcp80, plan.DNAT{Family: plan.IPv4, To: addrPort("10.0.2.2:25")}), r(plan.DNAT{Family: plan.IPv4, To: addrPort("10.0.2.2:0")}),
				r(udp53, plan.DNAT{Family: plan.IPv6, To: addrPort("[fd00::2]:25")}), r(plan.L4Proto{Protos: []byte{plan.TCP}}, plan.DNAT{Family: plan.IPv4, To: addrPort("10.0.2.2:25")}),
				r(plan.Daddr{Prefix: prefix("10.0.0.1/32")}, tcp80, plan.DNAT{Family: plan.IPv4, Key: hash4, Map: "servers4", Port: true}),
				r(plan.Daddr{Prefix: prefix("fd00::1/128")}, udp53, plan.DNAT{Family: plan.IPv6, Key: plan.JHash{Fields: plan.Fields{plan.IP6Saddr}, Mod: 4, Seed: 1}, Map: "servers6", Port: true}),
				r(tcp80, plan.DNAT{Family: plan.IPv4, Key: plan.NumGen{Mod: 300}, Map: "hosts4"}), r(plan.DNAT{Family: plan.IPv6, Key: plan.NumGen{Random: true, Mod: 300}, Map: "hosts6"}),
				r(tcp80, plan.DNAT{Family: plan.IPv4, Key: plan.NumGen{Random: true, Mod: 300}, Map: "weights", Port: true}),
				r(plan.Daddr{Prefix: prefix("10.0.0.1/32")}, plan.DNAT{Family: plan.IPv4, Key: plan.Fields{plan.TCPDPort}, Map: "forwards", Port: true}),
			}},
			{Name: "post", Type: "nat", Hook: "postrouting", Priority: 100, Rules: []plan.NFTRule{
				r(plan.OIFName{Names: []string{"wan0"}}, plan.Masquerade{}), r(plan.SNAT{To: netip.MustParseAddr("192.0.2.1")}), r(plan.SNAT{To: netip.MustParseAddr("fd00::1")}),
				r(plan.SNATPrefix{Pairs: []plan.PrefixPair{{From: prefix("fd00:1::/64"), To: prefix("2001:db8:1::/64")}, {From: prefix("fd00:2::/64"), To: prefix("2001:db8:2::/64")}}}),
				r(plan.SNATPrefix{Pairs: []plan.PrefixPair{{From: prefix("10.0.1.0/24"), To: prefix("10.9.1.0/24")}}}),
			}},
			{Name: "out", Type: "route", Hook: "output", Priority: -150},
			{Name: "natout", Type: "nat", Hook: "output", Priority: -100, Rules: []plan.NFTRule{r(udp53, plan.Redirect{Port: 5353})}},
			{Name: "natin", Type: "nat", Hook: "input", Priority: 100, Rules: []plan.NFTRule{r(udp53, plan.SNAT{To: netip.MustParseAddr("10.0.0.1")})}},
		}}
}

func TestGatewayTableReadsBack(t *testing.T) {
	want := gatewayTable()
	if err := (plan.Plan{Tables: []plan.Table{want}}).Validate(); err != nil {
		t.Fatal(err)
	}
	h := host(t)
	c := open(t, h, "/run/test")
	if _, err := c.Apply([]plan.Table{want}, nil); err != nil {
		t.Fatal(err)
	}
	if again, err := c.Apply([]plan.Table{want}, nil); err != nil || len(again) != 0 {
		t.Errorf("second apply changed %v, %v", again, err)
	}
	listed := runTime.ReplaceAllString(nft(t, h, "list", "table", "inet", want.Name), "")
	if printed := want.Text(); listed != printed {
		t.Errorf("nft lists another table than the plan prints:\n%s", firstDifference(listed, printed))
	}
}

// TestNFTWritesTheSame loads the printed text with nft: what that writes is what we would.
func TestNFTWritesTheSame(t *testing.T) {
	h := host(t)
	c := open(t, h, "/run/test")
	want := gatewayTable()
	file := filepath.Join(t.TempDir(), "table.nft")
	if err := os.WriteFile(file, []byte(want.Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	nft(t, h, "-f", file)
	live, err := read(c.reader, []string{want.Name})
	if err != nil {
		t.Fatal(err)
	}
	w := work{conn: c, tx: &transaction{}}
	compiled, err := w.compile(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.update(want, compiled, live[want.Name]); err != nil {
		t.Fatal(err)
	}
	for _, change := range w.changes {
		t.Errorf("nft writes something else: %s", change)
	}
}

func firstDifference(a, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out []string
	for i := range max(len(as), len(bs)) {
		one, two := "", ""
		if i < len(as) {
			one = as[i]
		}
		if i < len(bs) {
			two = bs[i]
		}
		if one != two {
			out = append(out, fmt.Sprintf("%d nft:  %q\n%d plan: %q", i+1, one, i+1, two))
		}
	}
	return strings.Join(out[:min(len(out), 8)], "\n")
}
