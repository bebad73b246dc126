package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newExplainCommand(env *environment) *cobra.Command {
	var file, runDir string
	var request requestFlags
	var flow flowFlags
	cmd := &cobra.Command{
		Use:   "explain {SRC DST[:PORT] | --client ADDRESS --url URL}",
		Short: "Tell which link a flow takes, or which access rule decides about a request, and why",
		Long: `With two addresses: tell which Internet link a flow takes, which rule of balance decides about it and why each
one before it does not, and what the kernel's routing answers. SRC is a client, or this machine.

With --client and --url: ask the access rules of a configuration about a request, without a running gateway, and
print which rule decides and why each one before it does not.`,
		Example: `  salp explain 10.1.0.50 203.0.113.10:443
  salp explain 10.1.0.50 203.0.113.10:5060 --proto udp --dscp 46
  salp explain --client 10.0.1.5 --url http://www.example/a
  salp explain --client 10.0.1.5 --url mail.example:25 --method CONNECT --at "2026-11-25 22:30"`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 2 && request.client == "" && request.url == "":
				return explainFlow(env, fileOf(file, runDir), runDir, args[0], args[1], &flow, request.json)
			case len(args) > 0:
				return usageError{errors.New("explain needs SRC and DST:PORT, or --client ADDRESS and --url URL")}
			case request.client == "" || request.url == "":
				return usageError{errors.New("explain needs --client ADDRESS and --url URL, or SRC and DST:PORT")}
			}
			return explainRequest(env, fileOf(file, runDir), &request)
		},
	}
	runningFileFlag(cmd, &file)
	runDirFlag(cmd, &runDir)
	request.add(cmd)
	flow.add(cmd)
	return cmd
}
