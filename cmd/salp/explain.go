package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newExplainCommand(env *environment) *cobra.Command {
	var file string
	var request requestFlags
	cmd := &cobra.Command{
		Use:   "explain --client ADDRESS --url URL",
		Short: "Tell which access rule decides about a request, and why",
		Long: `Ask the access rules of a configuration about a request, without a running gateway, and print which rule
decides and why each one before it does not.`,
		Example: `  salp explain --client 10.0.1.5 --url http://www.example/a
  salp explain --client 10.0.1.5 --url mail.example:25 --method CONNECT --at "2026-11-25 22:30"`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if request.client == "" || request.url == "" {
				return usageError{errors.New("explain needs --client ADDRESS and --url URL")}
			}
			return explainRequest(env, file, &request)
		},
	}
	fileFlag(cmd, &file)
	request.add(cmd)
	return cmd
}
