package config

import (
	"fmt"
	"strings"
)

// Error is one mistake in a configuration file.
type Error struct {
	File         string
	Line, Column int    // from 1; 0 when the mistake has no place in the text
	Source       string // the line of the file
	Message      string // what is wrong
	Hint         string // what to write instead, or ""
}

// Error returns the mistake as file:line:column: message, the source line with a pointer, and the hint.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	fmt.Fprintf(&b, ": %s", e.Message)
	if e.Line > 0 && e.Source != "" {
		pad := strings.Repeat(" ", max(e.Column-1, 0))
		fmt.Fprintf(&b, "\n    %s\n    %s^", e.Source, pad)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "\n    %s", e.Hint)
	}
	return b.String()
}

// Errors are all mistakes of a file, in the order of their places.
type Errors []*Error

func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Fault makes an Error about the value at path, or about the nearest enclosing value that the file does hold.
// Packages that find a mistake only with facts about the host (plan, keeper) use it to name the place.
func (c *Config) Fault(path Path, message, hint string) *Error {
	line, column := c.places.find(path)
	return c.places.fault(c.File, line, column, message, hint)
}
