package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"salp/internal/admin"
	"salp/internal/control"
)

// verbs are what may be done to a server.
var verbs = map[string]control.ServerState{"drain": control.ServerDrain, "maint": control.ServerMaint, "ready": control.ServerUp}

func newPoolCommand(env *environment) *cobra.Command {
	var runDir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "pool [POOL | [POOL/]SERVER [drain|maint|ready]]",
		Short: "Show the pools and their servers, drain a server or take it out for maintenance",
		Long: `Show the pools of the running gateway, or one of them, or one server: state, why and since when, the
last check, connections and errors. With a verb, change a server:

  drain  no new connections go there, but those of clients that stick to it; running ones go on
  maint  no new connections go there at all, and it is not checked; running ones go on
  ready  it is again what its checks say

A server is named as in the configuration; the port may be left out, and the pool when no other has it.
What was set stays over reloads, upgrades and restarts of the gateway, until it is set to ready.`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && verbs[args[1]] == "" {
				return usageError{fmt.Errorf("%q is none of drain, maint and ready", args[1])}
			}
			client, err := admin.Dial(runDir)
			if err != nil {
				return err
			}
			defer client.Close()
			if len(args) == 2 {
				change, err := client.SetServer(cmd.Context(), admin.ServerWish{Server: args[0], State: verbs[args[1]]})
				if err != nil {
					return err
				}
				fmt.Fprintf(env.Stdout, "%s/%s: %s; %d of %d servers of the pool are up\n", change.Pool, change.Server, args[1], change.Up, change.Servers)
				return nil
			}
			status, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			pools := status.Pools
			if len(args) == 1 {
				if pools = selected(pools, args[0]); len(pools) == 0 {
					return fmt.Errorf("there is no pool and no server %s: 'salp pool' lists them", args[0])
				}
			}
			if asJSON {
				return printJSON(env.Stdout, pools)
			}
			if len(pools) == 0 {
				fmt.Fprintln(env.Stdout, "no pools")
				return nil
			}
			printPools(env.Stdout, painter(env.Stdout), pools)
			return nil
		},
	}
	runDirFlag(cmd, &runDir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// selected returns the pool with that name, or what is left of the pools with the servers that the word names.
func selected(pools []admin.Pool, word string) []admin.Pool {
	var found []admin.Pool
	for _, p := range pools {
		if p.Name == word {
			return []admin.Pool{p}
		}
		p.Servers = slices.DeleteFunc(slices.Clone(p.Servers), func(s admin.PoolServer) bool {
			name := s.Name[:strings.LastIndexByte(s.Name, ':')]
			name = strings.Trim(name, "[]")
			return !slices.Contains([]string{s.Name, name, p.Name + "/" + s.Name, p.Name + "/" + name}, word)
		})
		if len(p.Servers) > 0 {
			found = append(found, p)
		}
	}
	return found
}

// checkWords tells how the last check ended.
func checkWords(c *admin.Checked) string {
	switch {
	case c == nil:
		return "-"
	case c.Error != "":
		return "failed"
	}
	return time.Duration(c.Took * float64(time.Second)).Round(10 * time.Microsecond).String()
}
