package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"salp/internal/config"
)

func newCheckCommand(env *environment) *cobra.Command {
	var file, runDir string
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
	cmd.Flags().BoolVar(&offline, "offline", false, "check the text alone, not whether this machine has the interfaces and addresses")
	return cmd
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
