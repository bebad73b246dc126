package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"salp/internal/config"
	"salp/internal/kernel"
	"salp/internal/plan"
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
				if err := checkHost(cfg, runDir); err != nil {
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

// checkHost returns what in the configuration does not fit this machine.
func checkHost(cfg *config.Config, runDir string) error {
	host, err := kernel.Open(kernel.Options{RunDir: runDir})
	if err != nil {
		return err
	}
	defer host.Close()
	facts, err := hostFacts(host, runDir)
	if err != nil {
		return err
	}
	_, err = plan.Make(cfg, facts)
	return err
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
