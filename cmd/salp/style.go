package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"salp/internal/config"
)

// paint colours text for a terminal; on anything else it leaves text as it is.
type paint bool

// painter returns how to write to w: in colour when it is a terminal and NO_COLOR is not set (no-color.org).
func painter(w io.Writer) paint {
	file, ok := w.(*os.File)
	return paint(ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd())))
}

func (p paint) code(sgr, text string) string {
	if !p {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

func (p paint) bold(text string) string   { return p.code("1", text) }
func (p paint) dim(text string) string    { return p.code("2", text) }
func (p paint) red(text string) string    { return p.code("31", text) }
func (p paint) green(text string) string  { return p.code("32", text) }
func (p paint) yellow(text string) string { return p.code("33", text) }

// printJSON prints a value for other programs.
func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// tellFaults prints every mistake of a configuration and returns errTold; other errors pass through.
func tellFaults(env *environment, err error) error {
	var faults config.Errors
	if !errors.As(err, &faults) {
		return err
	}
	p := painter(env.Stderr)
	for _, fault := range faults {
		head, rest, more := strings.Cut(fault.Error(), "\n")
		fmt.Fprintln(env.Stderr, p.bold(head))
		if more {
			fmt.Fprintln(env.Stderr, rest)
		}
	}
	return errTold
}
