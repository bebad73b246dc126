// Command salp makes a Linux machine a transparent proxy gateway: one file per command.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"salp/internal/keeper"
)

// Exit codes.
const (
	exitGood     = 0
	exitFailed   = 1
	exitWrongUse = 2
)

// environment is what a command may touch of the outside, so that tests run the real commands in-process.
type environment struct {
	Stdout, Stderr io.Writer
}

// defaultFile and defaultRunDir are where an installed Salp has its configuration and its run-time state.
const (
	defaultFile   = "/etc/salp/salp.yaml"
	defaultRunDir = "/run/salp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(execute(ctx, &environment{Stdout: os.Stdout, Stderr: os.Stderr}, os.Args[1:]))
}

// execute runs one command line and returns its exit code. Errors go to env.Stderr.
func execute(ctx context.Context, env *environment, args []string) int {
	root := newRootCommand(env)
	root.SetArgs(args)
	defer func() {
		if r := recover(); r != nil {
			keeper.GoBack(fmt.Errorf("panic: %v", r))
			panic(r)
		}
	}()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitGood
	}
	keeper.GoBack(err)
	var use usageError
	if errors.As(err, &use) || isCobraUsage(err) {
		fmt.Fprintf(env.Stderr, "salp: %v\nTry 'salp --help'.\n", err)
		return exitWrongUse
	}
	if !errors.Is(err, errTold) {
		fmt.Fprintf(env.Stderr, "salp: %v\n", err)
	}
	return exitFailed
}

// usageError marks an error of the command line itself: exit code 2.
type usageError struct{ error }

// errTold is returned by a command that has already printed why it failed.
var errTold = errors.New("already told")

// isCobraUsage tells cobra's own complaints about a command line, which have no type: an unknown command and a wrong number of arguments.
func isCobraUsage(err error) bool {
	text := err.Error()
	return strings.HasPrefix(text, "unknown command") || strings.Contains(text, "arg(s)")
}

func newRootCommand(env *environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "salp",
		Short: "A transparent proxy gateway: diverts connections, carries them, and keeps the kernel side right",
		Long: `Salp makes a Linux machine a transparent proxy gateway: one binary, one file.

It diverts connections, carries them to their servers with whose address you choose, and sets up,
watches, repairs and removes every kernel object that this takes.

Start with 'sudo salp demo': it shows the whole in private network namespaces and leaves nothing behind.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		newRunCommand(env),
		newWorkerCommand(env),
		newMonitorCommand(env),
		newCheckCommand(env),
		newPlanCommand(env),
		newExplainCommand(env),
		newStatusCommand(env),
		newTopCommand(env),
		newFeaturesCommand(env),
		newReloadCommand(env),
		newPoolCommand(env),
		newLinkCommand(env),
		newUpgradeCommand(env),
		newDownCommand(env),
		newDemoCommand(env),
		newVersionCommand(env),
	)
	return root
}

// fileFlag adds -c to a command that reads a configuration.
func fileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", defaultFile, "configuration `file`")
}

// runningFileFlag adds -c to a command that may be about a running gateway.
func runningFileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "", "configuration `file` (default that of the running gateway, or "+defaultFile+")")
}

// runDirFlag adds --run-dir to a command that runs a gateway or talks to one.
func runDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "run-dir", defaultRunDir, "`directory` of the running gateway's socket and state")
}
