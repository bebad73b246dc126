package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"salp/internal/kernel"
	"salp/internal/plan"
)

func newFeaturesCommand(env *environment) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "features",
		Short: "Show which features that Salp uses this kernel has",
		Long: `Ask the kernel for every feature that Salp uses: yes, no, or could not tell (mostly for want of root), and
what it means where one is missing. Changes nothing; what is tried is undone in the same transaction.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			features := kernel.Probe()
			if asJSON {
				return printJSON(env.Stdout, features)
			}
			p := painter(env.Stdout)
			table := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
			for _, f := range features {
				fmt.Fprintf(table, "%s\t%s\t%s\n", f.Name, paintSupport(p, f.Support), f.Message)
			}
			return table.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// paintSupport colours an answer; all answers get codes of one length, which keeps the table's columns straight.
func paintSupport(p paint, s plan.Support) string {
	switch s {
	case plan.Yes:
		return p.green(s.String())
	case plan.No:
		return p.red(s.String())
	default:
		return p.yellow(s.String())
	}
}
