package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"salp/internal/worker"
)

// workerControlFD is the descriptor that a keeper gives its worker.
const workerControlFD = 3

func newWorkerCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:    "worker",
		Short:  "Carry traffic for a keeper, which starts this; not for people",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Only the keeper ends a worker: a service manager that signals all processes of the service must not cut connections that
			// drain. When the keeper has died nobody reads standard error, and writing to it must not end the worker either.
			signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
			nameProcess("salp-worker")
			// The keeper reads these lines, and drops what its own level does not want.
			log := slog.New(slog.NewJSONHandler(env.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
			err := worker.Run(context.WithoutCancel(cmd.Context()), workerControlFD, log)
			if err != nil {
				log.Error("worker failed", "error", err.Error())
				return errTold
			}
			return nil
		},
	}
}

// nameProcess sets the name that top(1) shows (proc_pid_comm(5)): a keeper starts its worker by a link, whose name says nothing.
func nameProcess(name string) {
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0) // only for people; the work goes on without
}
