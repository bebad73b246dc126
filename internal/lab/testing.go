package lab

import (
	"errors"
	"os"
)

// TB is what Test needs of a *testing.T or *testing.B. The demo uses this package too and must not carry package testing.
type TB interface {
	Helper()
	Cleanup(func())
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// Test makes a lab that closes with the test. It skips the test, saying why, when this process may not make namespaces.
func Test(t TB) *Lab {
	t.Helper()
	l, err := New()
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("skipped: %v", err)
	}
	if err != nil {
		t.Fatalf("lab: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("closing the lab: %v", err)
		}
	})
	return l
}
