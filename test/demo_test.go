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

	"salp/internal/lab"
)

// TestDemo runs `salp demo` to its end, interrupts it, and kills it. One after the other, as each looks for what the demo leaves.
func TestDemo(t *testing.T) {
	needTools(t)
	t.Parallel()
	slots <- struct{}{}
	defer func() { <-slots }()
	dir, err := os.MkdirTemp("", "salp") // short: it holds a Unix socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir) // a demo that was killed cannot remove its own
	t.Run("whole", func(t *testing.T) { demoWhole(t, dir) })
	t.Run("web", func(t *testing.T) { demoWeb(t, dir) })
	t.Run("mail", func(t *testing.T) { demoMail(t, dir) })
	t.Run("interrupted", func(t *testing.T) { demoInterrupted(t, dir) })
}

// demoMail runs the scene of the mail cluster: all that it promises makes it fail when it is not so.
func demoMail(t *testing.T, dir string) {
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	cmd := demoCommand(ctx, dir, "mail")
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	t.Logf("%v:\n%s", took, out.String())
	if err != nil {
		t.Errorf("salp demo mail: %v", err)
	}
	if took > patience {
		t.Errorf("the demo took %v", took)
	}
	for _, want := range []string{"connect from 10.0.1.33", "no new session failed", "upgraded from", "via: kernel"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not show %q", want)
		}
	}
	wantNoLeftovers(t, dir)
}

// demoCommand is `salp demo` with its temporary files in dir and no program in its PATH.
func demoCommand(ctx context.Context, dir string, scene ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, salpBin, append([]string{"demo"}, scene...)...)
	cmd.Env = []string{"PATH=/nonexistent", "TMPDIR=" + dir}
	return cmd
}

// demoWhole runs the demo as a user would, with nothing else in its PATH: it must succeed in time and leave nothing behind.
func demoWhole(t *testing.T, dir string) {
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	cmd := demoCommand(ctx, dir)
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
	wantNoLeftovers(t, dir)
}

// demoInterrupted sends the demo ^C early, in the midst and late, and at last a kill -9.
func demoInterrupted(t *testing.T, dir string) {
	for i, after := range []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond, time.Second} {
		var out lab.Log
		cmd := demoCommand(t.Context(), dir, []string{"modes", "modes", "modes", "mail"}[i])
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
		wantNoLeftovers(t, dir)
	}
	cmd := demoCommand(t.Context(), dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as wanted
	awaitNoProcesses(t, dir)
}

// demoProcesses finds the processes that have a file in dir in their command line.
func demoProcesses(t *testing.T, dir string) (found []string) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), dir) {
			found = append(found, path)
		}
	}
	return found
}

func wantNoLeftovers(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left behind: %s", e.Name())
	}
	for _, p := range demoProcesses(t, dir) {
		t.Errorf("left behind: %s", p)
	}
}

func awaitNoProcesses(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if len(demoProcesses(t, dir)) == 0 {
			return
		}
	}
	t.Error("processes outlive a demo that was killed")
}

// demoWeb runs the scene with HTTP.
func demoWeb(t *testing.T, dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := demoCommand(ctx, dir)
	cmd.Args = append(cmd.Args, "web")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("salp demo web: %v\n%s", err, out)
	}
	for _, want := range []string{"Non consentito", "SSH-2.0-demo", "TCP_TUNNEL/200", "TCP_DENIED/403", "Nothing of this network is left"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the demo does not show %q:\n%s", want, out)
		}
	}
}
