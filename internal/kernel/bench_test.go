package kernel

import (
	"testing"
	"time"

	"salp/internal/lab"
)

func benchHost(b *testing.B) *Host {
	b.Helper()
	n, err := lab.Test(b).Standard(1, 1)
	if err != nil {
		b.Fatal(err)
	}
	var h *Host
	if err := n.Gateway.Do(func() (err error) { h, err = Open(Options{RunDir: b.TempDir()}); return err }); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { h.Close() })
	p, err := makePlan(h, everyMethod)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := h.Apply(p); err != nil {
		b.Fatal(err)
	}
	return h
}

// BenchmarkAlive is what every half second costs.
func BenchmarkAlive(b *testing.B) {
	h := benchHost(b)
	for b.Loop() {
		if err := h.Alive(2 * time.Second); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkApplyNothing is what a look at an unchanged kernel costs.
func BenchmarkApplyNothing(b *testing.B) {
	h := benchHost(b)
	p := h.wanted.Load().plan
	for b.Loop() {
		if changes, err := h.Apply(p); err != nil || len(changes) > 0 {
			b.Fatal(changes, err)
		}
	}
}
