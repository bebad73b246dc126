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
running connections live on. SIGUSR1 opens the access log anew, after a rotation. SIGUSR2 does what 'salp upgrade' does. SIGTERM or ^C takes no more connections, lets the running ones end, and removes
all that Salp has in the kernel; a second one does not wait for them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			nameProcess("salp") // the name that an upgrade gives it says nothing
			orders, stop := orderSignals(cmd.Context())
			defer stop()
			return tellFaults(env, keeper.Run(orders.stop, keeper.Options{
				ConfigFile: file,
				RunDir:     runDir,
				Version:    versionText(),
				Log:        env.Stderr,
				Reload:     orders.reload,
				Upgrade:    orders.upgrade,
				Rotate:     orders.rotate,
				Hurry:      orders.hurry,
				Exec:       orders.exec,
			}))
		},
	}
	fileFlag(cmd, &file)
	runDirFlag(cmd, &runDir)
	return cmd
}

// orders are what signals mean for a gateway.
type orders struct {
	stop                           context.Context // over when it is to end
	reload, rotate, upgrade, hurry chan struct{}
	signals                        chan os.Signal
}

// orderSignals turns signals into orders: the first to end the gateway ends orders.stop, the next ones hurry. The function returned lets go of
// the signals.
func orderSignals(parent context.Context) (*orders, func()) {
	ctx, cancel := context.WithCancel(parent)
	o := &orders{stop: ctx, reload: make(chan struct{}, 1), rotate: make(chan struct{}, 1), upgrade: make(chan struct{}, 1), hurry: make(chan struct{}, 1), signals: make(chan os.Signal, 8)}
	o.listen()
	go func() {
		ending := false
		for s := range o.signals {
			to := o.hurry
			switch {
			case s == syscall.SIGHUP:
				to = o.reload
			case s == syscall.SIGUSR1:
				to = o.rotate
			case s == syscall.SIGUSR2:
				to = o.upgrade
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
	return o, func() {
		signal.Stop(o.signals)
		close(o.signals)
		cancel()
	}
}

func (o *orders) listen() {
	signal.Notify(o.signals, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM, os.Interrupt)
}

// exec executes another program in this process. Until that listens itself, a signal to reload or upgrade must not end the process, and nothing
// is lost with it: the program reads the configuration at its start.
func (o *orders) exec(path string, args, environment []string) error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	err := syscall.Exec(path, args, environment)
	o.listen()
	return err
}
