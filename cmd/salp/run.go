package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"salp/internal/keeper"
)

func newRunCommand(env *environment) *cobra.Command {
	var file, runDir string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the gateway in the foreground",
		Long: `Run the gateway in the foreground; its log goes to standard error and says "ready" when connections are taken.

SIGHUP reads the configuration again: it is checked and made ready first, a bad one changes nothing, and
running connections live on. SIGTERM or ^C takes no more connections, lets the running ones end, and removes
all that Salp has in the kernel; a second one does not wait for them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, reload, hurry, stop := runSignals(cmd.Context())
			defer stop()
			return tellFaults(env, keeper.Run(ctx, keeper.Options{
				ConfigFile: file,
				RunDir:     runDir,
				Version:    versionText(),
				Log:        env.Stderr,
				Reload:     reload,
				Hurry:      hurry,
			}))
		},
	}
	fileFlag(cmd, &file)
	runDirFlag(cmd, &runDir)
	return cmd
}

// runSignals turns signals into what they mean for a gateway: the first to end it ends ctx, the next ones hurry.
func runSignals(parent context.Context) (ctx context.Context, reload, hurry <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, os.Interrupt)
	reloads, hurries := make(chan struct{}, 1), make(chan struct{}, 1)
	go func() {
		ending := false
		for s := range signals {
			to := hurries
			switch {
			case s == syscall.SIGHUP:
				to = reloads
			case !ending:
				ending = true
				cancel()
				continue
			}
			select {
			case to <- struct{}{}:
			default: // one is waiting already
			}
		}
	}()
	return ctx, reloads, hurries, func() {
		signal.Stop(signals)
		close(signals)
		cancel()
	}
}
