package demo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// gateway is a running `salp run` in the gateway's namespace.
type gateway struct {
	process *lab.Process
	runDir  string
	file    string
	log     *lab.Log
}

// startGateway starts the gateway with a configuration and waits until it takes connections.
func (s *stage) startGateway(ctx context.Context, configuration string) (*gateway, error) {
	g := &gateway{runDir: filepath.Join(s.dir, "run"), file: filepath.Join(s.dir, "salp.yaml"), log: &lab.Log{}}
	if err := os.WriteFile(g.file, []byte(configuration), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.Command(s.binary, "run", "-c", g.file, "--run-dir", g.runDir)
	cmd.Dir = s.dir // where a log without a path goes
	cmd.Stdout, cmd.Stderr = g.log, g.log
	var err error
	if g.process, err = s.net.Gateway.Start(cmd); err != nil {
		return nil, err
	}
	if _, err := g.await(ctx, func(st *admin.Status) bool { return st.State == admin.StateRunning && st.Alive }); err != nil {
		return nil, fmt.Errorf("the gateway did not start: %w", err)
	}
	return g, nil
}

// await polls the gateway's status until it is as wanted.
func (g *gateway) await(ctx context.Context, wanted func(*admin.Status) bool) (*admin.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		status, err := g.status(ctx)
		if err == nil && wanted(status) {
			return status, nil
		}
		select {
		case <-g.process.Done():
			return nil, fmt.Errorf("it ended (%v):\n%s", g.process.Wait(), g.log)
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%v); its log:\n%s", ctx.Err(), err, g.log)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (g *gateway) status(ctx context.Context) (*admin.Status, error) {
	client, err := admin.Dial(g.runDir)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return client.Status(ctx)
}

// worker returns the process that takes new connections now.
func worker(status *admin.Status) (pid int, found bool) {
	for _, w := range status.Workers {
		if w.State == admin.WorkerRunning {
			return w.PID, true
		}
	}
	return 0, false
}

// plan returns the lines of `salp plan`: what the kernel holds, when the gateway is in sync.
func (s *stage) plan(ctx context.Context, g *gateway) ([]string, error) {
	text, err := s.net.Gateway.Run(ctx, s.binary, "plan", "--no-diff", "-c", g.file, "--run-dir", g.runDir)
	if err != nil {
		return nil, err
	}
	var lines []string
	for l := range strings.Lines(text) {
		lines = append(lines, strings.TrimSpace(l))
	}
	return lines, nil
}

// down runs `salp down` and returns what it printed.
func (s *stage) down(ctx context.Context, g *gateway) (string, error) {
	return s.net.Gateway.Run(ctx, s.binary, "down", "--run-dir", g.runDir)
}
