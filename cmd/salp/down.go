package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"salp/internal/admin"
	"salp/internal/kernel"
)

func newDownCommand(env *environment) *cobra.Command {
	var runDir string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the running gateway and leave the machine as it was",
		Long: `Stop the gateway that runs, let it drain, and remove all that Salp wrote into the kernel: its tables,
rules and routes, and put sysctls back to what they were. Works from the run directory's state file when
the gateway was killed. Nothing to remove is success.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := stopGateway(cmd.Context(), env, runDir); err != nil {
				return err
			}
			return removeState(env, runDir)
		},
	}
	runDirFlag(cmd, &runDir)
	return cmd
}

// stopGateway asks the gateway to stop, if one runs, and waits until it has.
func stopGateway(ctx context.Context, env *environment, runDir string) error {
	client, err := admin.Dial(runDir)
	if errors.Is(err, admin.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Stop(ctx); err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout, "draining …")
	for {
		probe, err := admin.Dial(runDir)
		if errors.Is(err, admin.ErrNotRunning) {
			return nil
		}
		if err == nil {
			probe.Close()
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted while the gateway drains: it goes on and then ends by itself")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// removeState removes what a gateway that was killed has left.
func removeState(env *environment, runDir string) error {
	host, err := kernel.Open(kernel.Options{RunDir: runDir})
	if err != nil {
		return err
	}
	defer host.Close()
	changes, err := host.Remove()
	p := painter(env.Stdout)
	for _, change := range changes {
		fmt.Fprintln(env.Stdout, paintChange(p, change))
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout, "down: nothing of Salp is left in the kernel")
	return nil
}
