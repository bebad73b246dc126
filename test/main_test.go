package test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// salpBin is the program under test.
var salpBin string

// slowdown stretches the bounds that the tests set on Salp, for machines where everything takes longer (SALP_TEST_SLOWDOWN).
var slowdown time.Duration = 1

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	salpBin = os.Getenv("SALP_BIN")
	if n, err := strconv.Atoi(os.Getenv("SALP_TEST_SLOWDOWN")); err == nil && n > 0 {
		slowdown = time.Duration(n)
	}
	if salpBin == "" && os.Geteuid() == 0 {
		dir, err := os.MkdirTemp("", "salp-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		salpBin = filepath.Join(dir, "salp")
		if err := build(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	code := m.Run()
	if nextBuilt.path != "" {
		os.Remove(nextBuilt.path)
	}
	return code
}

// build builds salp into a directory that every user may enter, as one test starts it without privileges.
func build(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-o", salpBin, "../cmd/salp")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building salp: %w\n%s", err, out)
	}
	return nil
}
