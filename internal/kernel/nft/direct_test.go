package nft

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"salp/internal/plan"
)

// TestMapUpdatesTouchOnlyElements changes maps in every way: the rules are not written again, and what stays in a map is not touched.
func TestMapUpdatesTouchOnlyElements(t *testing.T) {
	h := host(t)
	c := open(t, h, "/run/test")
	want := gatewayTable()
	if _, err := c.Apply([]plan.Table{want}, nil); err != nil {
		t.Fatal(err)
	}
	handles := nft(t, h, "-a", "list", "chain", "inet", want.Name, "choices")
	at := func(name string) *plan.Set {
		for i := range want.Sets {
			if want.Sets[i].Name == name {
				return &want.Sets[i]
			}
		}
		t.Fatalf("no set %s", name)
		return nil
	}
	for _, step := range []struct {
		set      string
		elements []string
		want     string
	}{
		{"buckets", []string{"0 : goto b", "1 : goto b", "2 : accept"}, "~ nft set inet salp-gate buckets: "},
		{"buckets", nil, "~ nft set inet salp-gate buckets: "},
		{"servers4", []string{"0 : 10.0.2.2 . 25", "1 : 10.0.2.2 . 25", "256 : 10.0.2.4 . 26"}, "~ nft set inet salp-gate servers4: "},
		{"weights", []string{"0-99 : 10.0.2.2 . 25", "100-299 : 10.0.2.3 . 25"}, "~ nft set inet salp-gate weights: "},
		{"weights", []string{"0-99 : 10.0.2.2 . 25", "100-199 : 10.0.2.4 . 25", "200-299 : 10.0.2.3 . 25"}, "~ nft set inet salp-gate weights: "},
		{"lan4", []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0-192.168.3.7", "198.51.100.0/24"}, "~ nft set inet salp-gate lan4: "},
		{"lan4", []string{"10.0.0.0/9", "172.16.0.0/12", "192.168.0.0-192.168.3.7", "198.51.100.0/24"}, "~ nft set inet salp-gate lan4: "},
		{"pairs", []string{"10.0.0.0/8 . 80-91"}, "~ nft set inet salp-gate pairs: "},
		{"pins", []string{"10.0.0.0/8 : 0x03000000", "192.0.2.1 : 0x02000000"}, "~ nft set inet salp-gate pins: "},
		{"accounts", []string{`10.0.2.2 . 25 : "c2"`}, "~ nft set inet salp-gate accounts: "},
	} {
		at(step.set).Elements = step.elements
		changes, err := c.Apply([]plan.Table{want}, nil)
		if err != nil {
			t.Fatalf("%s %v: %v", step.set, step.elements, err)
		}
		if len(changes) != 1 || !strings.HasPrefix(changes[0].String(), step.want) {
			t.Errorf("%s %v: changed %v", step.set, step.elements, changes)
		}
		listed := runTime.ReplaceAllString(nft(t, h, "list", "table", "inet", want.Name), "")
		if printed := want.Text(); listed != printed {
			t.Errorf("%s %v: %s", step.set, step.elements, firstDifference(listed, printed))
		}
	}
	if now := nft(t, h, "-a", "list", "chain", "inet", want.Name, "choices"); now != handles {
		t.Errorf("rules were written again:\n%s", now)
	}
}

// TestSetElements is the way of a health change: no rule is read or written.
func TestSetElements(t *testing.T) {
	h := host(t)
	c := open(t, h, "/run/test")
	want := gatewayTable()
	if _, err := c.Apply([]plan.Table{want}, nil); err != nil {
		t.Fatal(err)
	}
	for i := range want.Sets {
		switch want.Sets[i].Name {
		case "buckets":
			want.Sets[i].Elements = []string{"0 : goto b", "1 : goto b"}
		case "shares":
			want.Sets[i].Elements = []string{"0-255 : goto b"}
		}
	}
	for range 2 {
		if err := c.SetElements(want.Name, want.Sets); err != nil {
			t.Fatal(err)
		}
		if changes, err := c.Diff([]plan.Table{want}, nil, true); err != nil || len(changes) > 0 {
			t.Errorf("afterwards there differs %v, %v", changes, err)
		}
	}
	if err := c.SetElements(want.Name, []plan.Set{{Name: "nothing", Type: "mark", Elements: []string{"1"}}}); err == nil {
		t.Error("a set that is not there")
	}
}

func TestCounters(t *testing.T) {
	h := host(t)
	c := open(t, h, "/run/test")
	want := plan.Table{Name: "salp", Counters: []string{"sent"}, Chains: []plan.Chain{{Name: "out", Type: "filter", Hook: "output",
		Rules: []plan.NFTRule{{Exprs: []plan.Expr{plan.Counter{Name: "sent"}, plan.Counter{}}, Comment: "all"}}}}}
	if _, err := c.Apply([]plan.Table{want}, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.Do(func() error { return ping() }); err != nil {
		t.Fatal(err)
	}
	named, err := c.Counters("salp")
	if err != nil || named["sent"].Packets == 0 || named["sent"].Bytes == 0 {
		t.Errorf("named: %v, %v", named, err)
	}
	rules, err := c.RuleCounts("salp", "out")
	if err != nil || rules["all"].Packets == 0 {
		t.Errorf("of rules: %v, %v", rules, err)
	}
	want.Counters = append(want.Counters, "more")
	if changes, err := c.Apply([]plan.Table{want}, nil); err != nil || len(changes) != 1 || changes[0].String() != "+ nft counter inet salp more" {
		t.Errorf("a counter more: %v, %v", changes, err)
	}
	if again, err := c.Counters("salp"); err != nil || again["sent"].Packets < named["sent"].Packets || len(again) != 2 {
		t.Errorf("after an update: %v, %v", again, err)
	}
	want.Counters, want.Chains[0].Rules[0].Exprs = nil, []plan.Expr{plan.Counter{}}
	if _, err := c.Apply([]plan.Table{want}, nil); err != nil {
		t.Errorf("without counters: %v", err)
	}
}

// TestHundredThousandElements writes, compares and changes large sets in a time in which nobody waits: two or three seconds on an idle machine.
// The bound is for a busy one with the race detector, and what takes the square of a set's size is still far beyond it.
func TestHundredThousandElements(t *testing.T) {
	h := host(t)
	c := open(t, h, "/run/test")
	prefixes := plan.Set{Name: "nets", Type: "ipv4_addr", Interval: true}
	hosts := plan.Set{Name: "hosts", Type: "ipv6_addr", Data: "verdict"}
	for i := range 100_000 {
		prefixes.Elements = append(prefixes.Elements, fmt.Sprintf("%d.%d.%d.0/25", 1+i>>16, i>>8&255, i&255))
		hosts.Elements = append(hosts.Elements, fmt.Sprintf("2001:db8::%x:%x : drop", i>>8+1, i&255+1))
	}
	want := plan.Table{Name: "salp", Sets: []plan.Set{prefixes, hosts}, Chains: []plan.Chain{{Name: "c"}}}
	took := func(what string, changes int) {
		t.Helper()
		start := time.Now()
		got, err := c.Apply([]plan.Table{want}, nil)
		if err != nil || len(got) != changes {
			t.Fatalf("%s: %d changes, %.300v", what, len(got), err)
		}
		if d := time.Since(start); d > time.Minute {
			t.Errorf("%s took %v", what, d)
		} else {
			t.Logf("%s took %v", what, d)
		}
	}
	took("writing", 1)
	took("comparing", 0)
	want.Sets[0].Elements = append(prefixes.Elements[:500:500], prefixes.Elements[501:]...)
	want.Sets[1].Elements = append(hosts.Elements[:500:500], hosts.Elements[501:]...)
	took("one less of each", 2)
	took("comparing again", 0)
}

func ping() error {
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		return err
	}
	_, err = c.Write([]byte("x"))
	return errors.Join(err, c.Close())
}
