package test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDemo runs `salp demo` to its end, interrupts it, and kills it. One after the other, as each looks for what the demo leaves.
func TestDemo(t *testing.T) {
	needTools(t)
	t.Parallel()
	slots <- struct{}{}
	defer func() { <-slots }()
	t.Run("whole", demoWhole)
	t.Run("interrupted", demoInterrupted)
}

// demoWhole runs the demo as a user would, with nothing else in its PATH: it must succeed in time and leave nothing behind.
func demoWhole(t *testing.T) {
	before := leftovers(t)
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, salpBin, "demo")
	cmd.Env = []string{"PATH=/nonexistent"}
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	t.Logf("%v:\n%s", took, out.String())
	if err != nil {
		t.Errorf("salp demo: %v", err)
	}
	if took > patience {
		t.Errorf("the demo took %v", took)
	}
	for _, want := range []string{"Explicit", "Inbound transparent", "Outbound transparent", "Fully transparent", "redirect", "IPv6", "worker", "keeper", "all the same"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not show %q", want)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("colours though the output is no terminal")
	}
	wantNoLeftovers(t, before)
}

// demoInterrupted sends the demo ^C early, in the midst and late, and at last a kill -9.
func demoInterrupted(t *testing.T) {
	before := leftovers(t)
	for _, after := range []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond} {
		var out syncBuffer
		cmd := exec.Command(salpBin, "demo")
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(patience); out.String() == "" && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		time.Sleep(after)
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill() // it may have ended just now
			t.Errorf("the demo goes on after ^C at %v:\n%s", after, out.String())
		}
		if code := cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("exit code %d after ^C at %v, want 1:\n%s", code, after, out.String())
		}
		wantNoLeftovers(t, before)
	}
	cmd := exec.Command(salpBin, "demo")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as wanted
	awaitNoProcesses(t, before)
}

// leftovers lists what a demo could leave: directories, and processes of the program under test.
func leftovers(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), "salp-demo-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		found[d] = true
	}
	for p := range demoProcesses(t) {
		found[p] = true
	}
	return found
}

// demoProcesses finds processes that have a demo's directory in their command line, or are workers of nobody.
func demoProcesses(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), "salp-demo-") {
			found[path] = true
		}
	}
	return found
}

func wantNoLeftovers(t *testing.T, before map[string]bool) {
	t.Helper()
	for what := range leftovers(t) {
		if !before[what] {
			t.Errorf("left behind: %s", what)
		}
	}
}

func awaitNoProcesses(t *testing.T, before map[string]bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		left := 0
		for p := range demoProcesses(t) {
			if !before[p] {
				left++
			}
		}
		if left == 0 {
			return
		}
	}
	t.Error("processes outlive a demo that was killed")
}
