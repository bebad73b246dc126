package test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"salp/internal/lab"
)

// TestDemoLinks runs `salp demo links` with no program in its PATH, and interrupts it: all that the scene promises makes it fail when it is
// not so.
func TestDemoLinks(t *testing.T) {
	needTools(t)
	t.Parallel()
	slots <- struct{}{}
	defer func() { <-slots }()
	dir, err := os.MkdirTemp("", "salp")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	command := func(ctx context.Context) *exec.Cmd {
		cmd := exec.CommandContext(ctx, salpBin, "demo", "links")
		cmd.Env = []string{"PATH=/nonexistent", "TMPDIR=" + dir}
		return cmd
	}
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	cmd := command(ctx)
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	t.Logf("%v:\n%s", took, out.String())
	if err != nil || took > 15*time.Second*slowdown {
		t.Errorf("salp demo links: %v after %v", err, took)
	}
	for _, want := range []string{"Shares by weight", "A pin", "198.51.100.10:8080", "takes the link down", "all the same"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not show %q", want)
		}
	}
	wantNoLeftovers(t, dir)

	var cut lab.Log
	cmd = command(t.Context())
	cmd.Stdout, cmd.Stderr = &cut, &cut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(cut.String(), "interrupted") {
		t.Errorf("after ^C: %v\n%s", err, cut.String())
	}
	wantNoLeftovers(t, dir)
}
