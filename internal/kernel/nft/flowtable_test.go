package nft

import (
	"strings"
	"testing"

	"salp/internal/kernel/diff"
	"salp/internal/plan"
)

// offloading is a table with a flowtable on these devices.
func offloading(devices ...string) plan.Table {
	return plan.Table{Name: "salp-off", Flowtables: []plan.Flowtable{{Name: "f", Devices: devices}}, Chains: []plan.Chain{
		{Name: "c", Type: "filter", Hook: "forward", Priority: 100, Rules: []plan.NFTRule{
			{Exprs: []plan.Expr{plan.L4Proto{Protos: []byte{plan.TCP}}, plan.FlowAdd{Flowtable: "f"}}}}}}}
}

// A flowtable is read back as it was written and printed, made again when its devices are others, and removed.
func TestFlowtable(t *testing.T) {
	h := host(t)
	c := open(t, h, "/run/test")
	for _, trial := range Trials() {
		if trial.Name == "nft flowtable" && c.Try(trial) != nil {
			t.Skip("skipped: this kernel has no flowtables (CONFIG_NF_FLOW_TABLE_INET)")
		}
	}
	for _, d := range []string{"a0", "b0"} {
		if _, err := h.Run(t.Context(), "ip", "link", "add", d, "type", "veth"); err != nil {
			t.Fatal(err)
		}
	}
	apply := func(want plan.Table) []diff.Change {
		t.Helper()
		if err := (plan.Plan{Tables: []plan.Table{want}}).Validate(); err != nil {
			t.Fatal(err)
		}
		changes, err := c.Apply([]plan.Table{want}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := c.Apply([]plan.Table{want}, nil); err != nil || len(again) != 0 {
			t.Errorf("a second time changed %v, %v", again, err)
		}
		if listed := nft(t, h, "list", "table", "inet", want.Name); listed != want.Text() {
			t.Errorf("nft lists another table than the plan prints:\n%s", firstDifference(listed, want.Text()))
		}
		return changes
	}
	apply(offloading("a0"))
	if changes := apply(offloading("a0", "b0")); !strings.Contains(changes[0].String(), "flowtable") {
		t.Errorf("another device: %v", changes)
	}
	if _, err := h.Run(t.Context(), "ip", "link", "del", "b0"); err != nil {
		t.Fatal(err)
	}
	if changes, err := c.Diff([]plan.Table{offloading("a0", "b0")}, nil, false); err != nil || len(changes) != 1 {
		t.Errorf("a device is gone: %v, %v", changes, err)
	}
	without := offloading()
	without.Flowtables, without.Chains[0].Rules = nil, nil
	apply(without)
}
