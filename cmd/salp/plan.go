package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"salp/internal/config"
	"salp/internal/keeper"
	"salp/internal/kernel"
	"salp/internal/plan"
)

func newPlanCommand(env *environment) *cobra.Command {
	var file, runDir string
	var asJSON, noDiff bool
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Print what Salp would write into the kernel, and how this machine differs from it now",
		Long: `Print, in nft, ip and sysctl syntax, exactly what 'salp run' writes into the kernel for a
configuration, then every difference between that and this machine now. Changes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := config.Load(fileOf(file, runDir))
			if err != nil {
				return tellFaults(env, err)
			}
			report, err := makePlan(cfg, runDir, !noDiff)
			if err != nil {
				return tellFaults(env, err)
			}
			if asJSON {
				return printJSON(env.Stdout, report)
			}
			report.print(env.Stdout)
			return nil
		},
	}
	runningFileFlag(cmd, &file)
	runDirFlag(cmd, &runDir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&noDiff, "no-diff", false, "do not compare with this machine (that needs root)")
	return cmd
}

// planReport is what `salp plan` prints.
type planReport struct {
	Plan    plan.Plan       `json:"plan"`
	Differs []kernel.Change `json:"differs"` // what Apply would do now
	Diffed  bool            `json:"diffed"`  // Differs was looked for
}

func makePlan(cfg *config.Config, runDir string, diff bool) (*planReport, error) {
	host, err := kernel.Open(kernel.Options{RunDir: runDir})
	if err != nil {
		return nil, err
	}
	defer host.Close()
	facts, err := hostFacts(host, runDir)
	if err != nil {
		return nil, err
	}
	if err := keeper.KnowLinks(&facts, cfg, runDir, host); err != nil {
		return nil, err
	}
	p, err := plan.Make(cfg, facts)
	if err != nil {
		return nil, err
	}
	report := &planReport{Plan: p, Diffed: diff}
	if diff {
		report.Differs, err = host.Diff(p)
	}
	return report, err
}

func (r *planReport) print(w io.Writer) {
	p := painter(w)
	text := r.Plan.Text()
	if text == "" {
		text = "# nothing: these listeners need no kernel state\n"
	}
	fmt.Fprint(w, text)
	if !r.Diffed {
		return
	}
	fmt.Fprintln(w)
	if len(r.Differs) == 0 {
		fmt.Fprintln(w, p.green("# this machine is as planned"))
		return
	}
	fmt.Fprintln(w, p.bold("# what differs on this machine now"))
	for _, change := range r.Differs {
		fmt.Fprintln(w, paintChange(p, change))
	}
}

// paintChange returns a change as a line of a diff.
func paintChange(p paint, change kernel.Change) string {
	switch text := change.String(); text[0] {
	case '+':
		return p.green(text)
	case '-':
		return p.red(text)
	default:
		return p.yellow(text)
	}
}
