package main

import (
	"context"
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"salp/internal/monitor"
)

func newMonitorCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:    "monitor",
		Short:  "Probe servers and links for a keeper, which starts this; not for people",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE) // as for a worker: only the keeper ends it
			nameProcess("salp-monitor")
			log := slog.New(slog.NewJSONHandler(env.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
			if err := monitor.Run(context.WithoutCancel(cmd.Context()), workerControlFD, log); err != nil {
				log.Error("monitor failed", "error", err.Error())
				return errTold
			}
			return nil
		},
	}
}
