package kernel

import (
	"path/filepath"
	"strings"
	"testing"
)

const elsewhere = `
kernel:
  marks: 0x0f000000
  table: 8111
  priority: 811
  zone: 8111
  nft_table: salp-two
listeners:
  inline:
    intercept:
      interfaces: [g1]
      ports: [443]
    source: client
    source_port: keep
`

// TestTwoGateways: two Salps on one host leave each other alone, and the last one gives back what the first one found.
func TestTwoGateways(t *testing.T) {
	r := newRig(t)
	before := r.snapshot()
	one, two := r.open(), r.openAt(filepath.Join(filepath.Dir(r.runDir), "two"))
	p1, p2 := r.plan(one, everyMethod), r.plan(two, elsewhere)
	r.apply(one, p1)
	r.apply(two, p2)
	if d, err := one.Diff(p1); err != nil || len(d) > 0 {
		t.Errorf("the first differs: %s, %v", lines(d), err)
	}
	if _, err := one.Remove(); err != nil {
		t.Fatal(err)
	}
	d, err := two.Diff(p2)
	if err != nil || strings.Contains(lines(d), "nft") || strings.Contains(lines(d), "ip ") {
		t.Errorf("the second differs: %s, %v", lines(d), err)
	}
	r.apply(two, p2) // it sets the sysctls again that the first one gave back
	if _, err := two.Remove(); err != nil {
		t.Fatal(err)
	}
	r.same(before, r.snapshot())
}
