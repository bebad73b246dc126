package nft

import (
	"context"
	"net/netip"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"salp/internal/lab"
	"salp/internal/plan"
)

// everything is a table with every kind of expression, set and chain that a plan can hold.
func everything(owner bool) plan.Table {
	r := func(comment string, es ...plan.Expr) plan.NFTRule { return plan.NFTRule{Exprs: es, Comment: comment} }
	accept, back := plan.Verdict{Word: "accept"}, plan.Verdict{Word: "return"}
	syn := plan.TCPFlags{Mask: 0x17, Value: 2}
	tcp := plan.L4Proto{Protos: []byte{6}}
	return plan.Table{Name: "salp", Owner: owner,
		Sets: []plan.Set{
			{Name: "alive", Type: "inet_proto", Timeout: true, Runtime: true},
			{Name: "ports", Type: "inet_service", Interval: true, Elements: []string{"22", "80-90", "60000-65535"}},
			{Name: "lan", Type: "ifname", Elements: []string{`"eth0"`}},
			{Name: "nets", Type: "ipv4_addr", Interval: true, Elements: []string{"10.0.0.0/8", "192.0.2.1"}},
			{Name: "hosts6", Type: "ipv6_addr", Elements: []string{"2001:db8::1"}},
		},
		Chains: []plan.Chain{
			{Name: "intercept-web", Rules: []plan.NFTRule{
				r("clients of the gateway itself", plan.DaddrType{Types: []string{"local", "broadcast", "multicast"}}, back),
				r("", plan.DaddrType{Types: []string{"local"}, Not: true}, accept),
				r("", plan.Daddr{Prefix: netip.MustParsePrefix("fe80::/10")}, back),
				r("", plan.Daddr{Prefix: netip.MustParsePrefix("fe80::/10"), Not: true}, back),
				r("", plan.Daddr{Prefix: netip.MustParsePrefix("10.0.0.0/8")}, back),
				r("", plan.Daddr{Prefix: netip.MustParsePrefix("192.0.2.1/32")}, back),
				r("", plan.Daddr{Prefix: netip.MustParsePrefix("172.16.0.0/12"), Not: true}, back),
				r("", plan.Daddr{Prefix: netip.MustParsePrefix("2001:db8::1/128")}, back),
				r("", syn, plan.InSet{Set: "alive", Not: true}, plan.SetCTMark{Bits: 1 << 31, Clear: true}, back),
				r("", syn, plan.SetCTMark{Bits: 1 << 31}),
				r("", plan.CTMark{Mask: 1 << 31, Value: 1 << 31}, plan.NFProto{Family: plan.IPv4}, tcp,
					plan.TProxy{To: netip.MustParseAddrPort("127.0.0.1:61440")}, plan.SetMark{Bits: 1 << 28}, accept),
				r("", plan.CTMark{Mask: 1 << 30, Value: 1 << 30}, plan.NFProto{Family: plan.IPv6}, tcp,
					plan.TProxy{To: netip.MustParseAddrPort("[::1]:61440")}, plan.SetMark{Bits: 1 << 28}, plan.Counter{}, accept),
			}},
			{Name: "zone-in", Type: "filter", Hook: "prerouting", Priority: -300, Rules: []plan.NFTRule{
				r("ours", plan.L4Proto{Protos: []byte{1, 6, 58}}, plan.SocketTransparent{}, plan.SocketMark{Mask: 1 << 30, Value: 1 << 30}, plan.SetZone{Zone: 8110}),
				r("", plan.L4Proto{Protos: []byte{1, 6, 58}}, plan.SocketTransparent{}, plan.SocketMark{Mask: 1 << 30}, back),
				r("", plan.SocketWildcard{}, back),
				r("", plan.IIFName{Names: []string{"eth0"}, Not: true}, plan.SetZone{Zone: 1}),
			}},
			{Name: "divert", Type: "filter", Hook: "prerouting", Priority: -150, Rules: []plan.NFTRule{
				r("", plan.TCPFlags{Mask: 0x17, Value: 2, Not: true}, plan.SocketTransparent{}, plan.SetMark{Bits: 1 << 28}, accept),
				r("", plan.L4Proto{Protos: []byte{1, 58}}, plan.SocketTransparent{}, plan.SetMark{Bits: 1 << 28}, accept),
				r("", plan.Mark{Mask: 1 << 29, Value: 1 << 29}, back),
				r("", plan.IIFName{Names: []string{"eth0", "wan1"}}, plan.DPort{Ranges: []plan.PortRange{{First: 80, Last: 80}}}, plan.Jump{Chain: "intercept-web"}),
				r("", plan.IIFName{Names: []string{"eth0"}}, plan.DPort{Ranges: []plan.PortRange{{First: 80, Last: 90}}}, plan.Jump{Chain: "intercept-web"}),
				r("", plan.DPort{Ranges: []plan.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}}}, plan.Jump{Chain: "intercept-web"}),
				r("", plan.DPort{Ranges: []plan.PortRange{{First: 1, Last: 20}, {First: 80, Last: 80}, {First: 60000, Last: 65535}}}, plan.Jump{Chain: "intercept-web"}),
			}},
			{Name: "redirect", Type: "nat", Hook: "prerouting", Priority: -100, Rules: []plan.NFTRule{
				r("", plan.DPort{Ranges: []plan.PortRange{{First: 80, Last: 80}}}, plan.InSet{Set: "alive"}, plan.SetCTMark{Bits: 1 << 31}, plan.Redirect{Port: 61441}),
			}},
			{Name: "direct", Type: "filter", Hook: "input", Rules: []plan.NFTRule{
				r("", plan.DPort{Ranges: []plan.PortRange{{First: 61441, Last: 61441}}}, plan.CTDNAT{Not: true}, plan.RejectReset{}),
				r("", plan.DPort{Ranges: []plan.PortRange{{First: 61441, Last: 61441}}}, plan.CTDNAT{}, plan.Counter{}, accept),
				r("", tcp, plan.RejectReset{}),
				r("", plan.Verdict{Word: "drop"}),
			}},
		}}
}

func host(t *testing.T) *lab.Host {
	t.Helper()
	h, err := lab.Test(t).Host("gw")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func open(t *testing.T, h *lab.Host, holder string) *Conn {
	t.Helper()
	var c *Conn
	if err := h.Do(func() (err error) { c, err = Open(holder); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// nft runs the nft program, which product code never does, as the judge of what is in the kernel.
func nft(t *testing.T, h *lab.Host, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("skipped: nft is not installed")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := h.Run(ctx, "nft", args...)
	if err != nil {
		t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return out
}

var runTime = regexp.MustCompile(` # progname \S+| packets \d+ bytes \d+`)

func TestApplyTwiceAndReadBack(t *testing.T) {
	h := host(t)
	c := open(t, h, "/run/test")
	want := []plan.Table{everything(true)}
	changes, err := c.Apply(want, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) != 1 || changes[0].String() != "+ nft table inet salp: 5 chains, 28 rules" {
		t.Errorf("changes: %v", changes)
	}
	again, err := c.Apply(want, nil)
	if err != nil || len(again) != 0 {
		t.Errorf("second apply changed %v, %v", again, err)
	}
	listed := runTime.ReplaceAllString(nft(t, h, "list", "table", "inet", "salp"), "")
	if printed := want[0].Text(); listed != printed {
		t.Errorf("nft lists\n%s\nthe plan prints\n%s", listed, printed)
	}
}
