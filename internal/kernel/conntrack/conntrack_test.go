package conntrack

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"salp/internal/lab"
)

func TestFlushTakesOnlyItsBit(t *testing.T) {
	n, err := lab.Test(t).Standard(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("skipped: nft is not installed")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	// Three connections with our bit (one in a zone, one of IPv6, one with a zone for its answers), one with others' bits only.
	if _, err := n.Gateway.Run(ctx, "nft", `add table inet t
		add chain inet t zone { type filter hook prerouting priority -300; }
		add rule inet t zone tcp dport 7001 ct zone set 8110
		add rule inet t zone tcp dport 7004 ct reply zone set 8110
		add chain inet t c { type filter hook prerouting priority -150; }
		add rule inet t c tcp dport { 7001, 7002, 7004 } ct mark set 0x80000001
		add rule inet t c tcp dport 7003 ct mark set 0x7fffffff`); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"10.0.1.1:7001", "[fd00:1::1]:7002", "10.0.1.1:7003", "10.0.1.1:7004"} {
		s, err := n.Gateway.Serve(addr, lab.Hold)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		c, err := n.Client().Dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	var c *Conn
	if err := n.Gateway.Do(func() (err error) { c, err = Open(); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Reachable(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	// Answers do not come by the zones, so that nobody seems to have answered there.
	if got, err := c.FlushUnanswered(1<<31, 1<<31); err != nil || got != 2 {
		t.Errorf("two have not been answered, and %d were removed, %v", got, err)
	}
	for i, want := range []int{1, 0} {
		if got, err := c.Flush(1 << 31); err != nil || got != want {
			t.Errorf("flush %d removed %d, %v; want %d", i, got, err, want)
		}
	}
	for _, bad := range [][2]uint32{{0, 0xff}, {0x100, 0xff}, {1, 3}} { // nothing, a value outside its mask, a value that nobody has
		if got, err := c.FlushMarked(bad[0], bad[1], always); err != nil || got != 0 {
			t.Errorf("%x: removed %d, %v", bad, got, err)
		}
	}
	if got, err := c.Flush(0); err != nil || got != 0 {
		t.Errorf("no bit: removed %d, %v", got, err)
	}
	if got, err := c.FlushMarked(0x7f, 0xff, always); err != nil || got != 0 {
		t.Errorf("not the whole value: removed %d, %v", got, err)
	}
	if got, err := c.Flush(3); err != nil || got != 1 {
		t.Errorf("the other connection's entry: removed %d, %v", got, err)
	}
}
