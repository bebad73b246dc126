package main

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"salp/internal/lab"
)

// TestMain runs the scripts in a network namespace of their own; in them `salp` is this binary's real command.
func TestMain(m *testing.M) {
	if len(os.Args) > 0 && os.Args[0] != "" && isCommand(os.Args[0]) {
		testscript.Main(m, commands)
		return
	}
	os.Exit(lab.Main(scripts{m}))
}

var commands = map[string]func(){"salp": func() { main() }}

// isCommand tells whether testscript runs this binary as one of its commands.
func isCommand(name string) bool {
	for command := range commands {
		if name == command || len(name) > len(command) && name[len(name)-len(command)-1:] == "/"+command {
			return true
		}
	}
	return false
}

type scripts struct{ m *testing.M }

// Run implements what lab.Main wants of a *testing.M.
func (s scripts) Run() int {
	testscript.Main(s.m, commands)
	return 0
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Condition: func(condition string) (bool, error) {
			return condition == "inside" && lab.Inside(), nil
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("NO_COLOR", "1")
			return nil
		},
	})
}

func TestEveryCommandExplainsItself(t *testing.T) {
	root := newRootCommand(&environment{Stdout: os.Stdout, Stderr: os.Stderr})
	for _, command := range root.Commands() {
		if command.Short == "" || !command.HasExample() && command.Long == "" && !command.Hidden && command.Name() == "run" {
			t.Errorf("salp %s has no description", command.Name())
		}
		if command.RunE == nil && command.Run == nil {
			t.Errorf("salp %s does nothing", command.Name())
		}
	}
}

func TestWrongUseIsTwo(t *testing.T) {
	for _, args := range [][]string{{"chek"}, {"check", "surplus"}, {"plan", "--jason"}, {"run", "-c"}} {
		var out, errs sink
		if code := execute(context.Background(), &environment{Stdout: &out, Stderr: &errs}, args); code != exitWrongUse {
			t.Errorf("salp %v: exit code %d, want %d; it said %q", args, code, exitWrongUse, errs)
		}
	}
}

type sink []byte

func (s *sink) Write(b []byte) (int, error) { *s = append(*s, b...); return len(b), nil }
