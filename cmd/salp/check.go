package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"salp/internal/config"
	"salp/internal/keeper"
	"salp/internal/worker"
)

func newCheckCommand(env *environment) *cobra.Command {
	var file, runDir, state string
	var offline bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration, against this machine too, and change nothing",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := config.Load(file)
			if err != nil {
				return tellFaults(env, err)
			}
			if state != "" {
				if err := canTakeOver(state); err != nil {
					return tellFaults(env, err)
				}
			}
			if !offline && state == "" { // before an upgrade it is for the new worker to read files: root does not
				unread, err := worker.CheckFiles(cfg)
				for _, name := range unread {
					fmt.Fprintf(env.Stderr, "%s was not read: permission denied\n", name)
				}
				if err != nil {
					return tellFaults(env, err)
				}
			}
			if !offline {
				if _, err := makePlan(cfg, runDir, false); err != nil {
					return tellFaults(env, err)
				}
			}
			fmt.Fprintf(env.Stdout, "%s: good: %s\n", file, summary(cfg))
			return nil
		},
	}
	fileFlag(cmd, &file)
	runDirFlag(cmd, &runDir)
	cmd.Flags().StringVar(&state, "takes-over", "", "`file` with the state of a running gateway: check, too, that this program could take its place")
	_ = cmd.Flags().MarkHidden("takes-over") // the running gateway asks this before an upgrade; the flag is there
	cmd.Flags().BoolVar(&offline, "offline", false, "check the text alone, not whether this machine has the interfaces, addresses and files")
	return cmd
}

func canTakeOver(state string) error {
	file, err := os.Open(state)
	if err != nil {
		return err
	}
	defer file.Close()
	return keeper.CanTakeOver(file)
}

// summary counts what a configuration holds, for people.
func summary(cfg *config.Config) string {
	return fmt.Sprintf("%s, %s", count(len(cfg.Listeners), "listener"), count(len(cfg.Pools), "pool"))
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
