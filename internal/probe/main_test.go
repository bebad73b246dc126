package probe

import (
	"os"
	"testing"

	"salp/internal/lab"
)

// The tests run in a network namespace of their own when they may.
func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }
