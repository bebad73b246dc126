package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"salp/internal/admin"
)

func newReloadCommand(env *environment) *cobra.Command {
	var runDir string
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the running gateway read its configuration again",
		Long: `Have the running gateway read its configuration again, as SIGHUP does, and tell how it went: new
connections are served by the new configuration, those that run live on, and a bad file changes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := admin.Dial(runDir)
			if err != nil {
				return err
			}
			defer client.Close()
			generation, err := client.Reload(cmd.Context())
			if err != nil {
				return fmt.Errorf("refused, the configuration in force stays:\n%w", err)
			}
			fmt.Fprintf(env.Stdout, "generation %d is in force\n", generation)
			return nil
		},
	}
	runDirFlag(cmd, &runDir)
	return cmd
}
