package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"salp/internal/demo"
)

func newDemoCommand(env *environment) *cobra.Command {
	var list bool
	cmd := &cobra.Command{
		Use:   "demo [SCENE]",
		Short: "Show the real gateway at work in a private network, and leave nothing behind",
		Long: `Build a private network in namespaces, run the real gateway in it, send real connections and show
what each side and the kernel saw. Needs root and no other program; touches nothing outside.`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: sceneNames(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if list {
				for _, s := range demo.Scenes() {
					fmt.Fprintf(env.Stdout, "%-10s %s\n", s.Name, s.Summary)
				}
				return nil
			}
			var scene string
			if len(args) > 0 {
				scene = args[0]
			}
			err := demo.Run(cmd.Context(), scene, demo.Options{Out: env.Stdout, Color: bool(painter(env.Stdout))})
			var unknown demo.UnknownScene
			if errors.As(err, &unknown) {
				return usageError{err}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&list, "list", false, "list the scenes")
	return cmd
}

func sceneNames() []string {
	var names []string
	for _, s := range demo.Scenes() {
		names = append(names, s.Name)
	}
	return names
}
