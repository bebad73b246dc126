package main

import (
	"math"
	"testing"
)

func TestPathShare(t *testing.T) {
	const report = `# Overhead  Symbol
# ........  ......
    40.00%  [k] pv_native_safe_halt
    30.00%  [k] tcp_sendmsg_locked
    12.00%  [k] nft_do_chain
     3.00%  [k] fib_rules_lookup
    10.00%  [.] nf_named.like.the.kernels
     5.00%  [k] ip_output
`
	got, err := pathShare(report)
	if err != nil || math.Abs(got-0.25) > 1e-9 {
		t.Errorf("share %v, error %v; want 15 of 60", got, err)
	}
	if q := byWay(sample{Way: 0.25}) / byWay(sample{Way: 0.1}); math.Abs(q-1.2) > 1e-9 {
		t.Errorf("0.75 of the time for what had 0.9 before: %v, want 1.2", q)
	}
	if _, err := pathShare("    100.00%  [k] intel_idle\n"); err == nil {
		t.Error("idleness is a profile")
	}
}

// Without -profile a table has no column of it, with it one more figure and its ratio.
func TestProfileColumns(t *testing.T) {
	r := &report{Profile: true, Peers: []described{{Name: masquerader}, {Name: "salp"}}}
	r.add(rows[0], links, masquerader, sample{Rate: 10, Machine: 10, Way: 0.1})
	r.add(rows[0], links, "salp", sample{Rate: 10, Machine: 11, Way: 0.25})
	line := r.line(rows[0], links, r.find(rows[0], links, "salp"))
	if len(line) != len(r.heading(rows[0], links)) || line[6] != "25.0" || line[7] != "1.20 (1.20–1.20)" || line[8] != "≤ 1.10 × masquerade: met" {
		t.Errorf("%q", line)
	}
}
