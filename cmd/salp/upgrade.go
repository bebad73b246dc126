package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"salp/internal/admin"
)

func newUpgradeCommand(env *environment) *cobra.Command {
	var runDir string
	cmd := &cobra.Command{
		Use:   "upgrade [BINARY]",
		Short: "Have another binary take the place of the running gateway, without losing a connection",
		Long: `Have the running gateway execute another binary in its place, as SIGUSR2 does, and tell how it went.
Without BINARY that is the file the gateway was started from, which a package or a build has replaced.

The new binary is first asked for its version, and whether it accepts the configuration and the state of the
running gateway: if not, nothing happens. Then it takes over in the same process, with all that the old one has
open, so that no rule, no listener and no connection is ever away; it starts a worker of its own, and the old
worker drains. If it cannot take over, the old one goes on.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			binary := ""
			if len(args) == 1 {
				var err error
				if binary, err = filepath.Abs(args[0]); err != nil {
					return err
				}
			}
			client, err := admin.Dial(runDir)
			if err != nil {
				return err
			}
			defer client.Close()
			done, err := client.Upgrade(cmd.Context(), binary)
			if err != nil {
				return tellUpgrade(done, err)
			}
			fmt.Fprintf(env.Stdout, "upgraded from %s to %s\n", done.From, done.To)
			return nil
		},
	}
	runDirFlag(cmd, &runDir)
	return cmd
}

// tellUpgrade says who serves after an upgrade that did not become whole.
func tellUpgrade(u admin.Upgrade, err error) error {
	switch u.State {
	case "":
		return fmt.Errorf("refused, nothing is changed: %w", err)
	case admin.UpgradeFailed:
		return fmt.Errorf("failed, see 'salp status' for who serves: %w", err)
	case admin.UpgradeHalf:
		return errors.New(u.Error)
	default:
		return err
	}
}
