package nft

import (
	"fmt"
	"strings"
	"testing"

	"salp/internal/plan"
)

// large is a table of many rules, each with a set of its own.
func large(rules int, last plan.Expr) plan.Table {
	c := plan.Chain{Name: "c"}
	for i := range rules {
		ports := plan.DPort{Ranges: []plan.PortRange{{First: uint16(i + 1), Last: uint16(i + 1)}, {First: 20000, Last: 30000}}}
		c.Rules = append(c.Rules, plan.NFTRule{Exprs: []plan.Expr{ports, last}, Comment: fmt.Sprintf("rule %d", i)})
	}
	return plan.Table{Name: "salp", Owner: true, Chains: []plan.Chain{c}}
}

// TestLargeTable writes more than a socket's buffer holds by default.
func TestLargeTable(t *testing.T) {
	c := open(t, host(t), "/run/test")
	want := []plan.Table{large(2000, plan.Verdict{Word: "accept"})}
	if _, err := c.Apply(want, nil); err != nil {
		t.Fatal(err)
	}
	if again, err := c.Apply(want, nil); err != nil || len(again) > 0 {
		t.Errorf("again: %d changes, %v", len(again), err)
	}
	want[0].Chains[0].Rules = want[0].Chains[0].Rules[1:]
	if changes, err := c.Apply(want, nil); err != nil || len(changes) != 1 {
		t.Errorf("one rule less: %d changes, %v", len(changes), err)
	}
}

// TestLargeSets writes more members than one message holds.
func TestLargeSets(t *testing.T) {
	h := host(t)
	c := open(t, h, "/run/test")
	var single, ranges plan.DPort
	hosts := plan.Set{Name: "hosts", Type: "ipv4_addr", Interval: true}
	for i := range 5000 {
		single.Ranges = append(single.Ranges, plan.PortRange{First: uint16(2*i + 1), Last: uint16(2*i + 1)})
		ranges.Ranges = append(ranges.Ranges, plan.PortRange{First: uint16(5*i + 1), Last: uint16(5*i + 3)})
		hosts.Elements = append(hosts.Elements, fmt.Sprintf("10.0.%d.%d", i/100, 2*(i%100)))
	}
	accept := plan.Verdict{Word: "accept"}
	want := []plan.Table{{Name: "salp", Sets: []plan.Set{hosts}, Chains: []plan.Chain{{Name: "c",
		Rules: []plan.NFTRule{{Exprs: []plan.Expr{single, accept}}, {Exprs: []plan.Expr{ranges, accept}}}}}}}
	if _, err := c.Apply(want, nil); err != nil {
		t.Fatalf("%.500v", err)
	}
	if again, err := c.Apply(want, nil); err != nil || len(again) > 0 {
		t.Errorf("again: %d changes, %v", len(again), err)
	}
	if list := nft(t, h, "list", "table", "inet", "salp"); strings.Count(list, "-") != 5000 || !strings.Contains(list, "9999 }") || !strings.Contains(list, "10.0.49.198") {
		t.Errorf("nft lists %d ranges", strings.Count(list, "-"))
	}
}

// TestLargeRefusal gets more refusals than the answer's buffer holds: it must still be an error, and nothing be left.
func TestLargeRefusal(t *testing.T) {
	h := host(t)
	c := open(t, h, "/run/test")
	_, err := c.Apply([]plan.Table{large(4000, plan.Jump{Chain: "nowhere"})}, nil)
	if err == nil || !strings.Contains(err.Error(), "jump nowhere") {
		t.Errorf("error: %.300v", err)
	}
	if n := strings.Count(fmt.Sprint(err), "\n"); n > 20 {
		t.Errorf("the error has %d lines", n)
	}
	if list := nft(t, h, "list", "ruleset"); list != "" {
		t.Errorf("left: %.300s", list)
	}
	if _, err := c.Apply([]plan.Table{everything(true)}, nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
