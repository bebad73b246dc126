package config

import (
	"fmt"
	"strings"
	"unicode"
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
		line, pad := excerpt(e.Source, e.Column-1)
		fmt.Fprintf(&b, "\n    %s\n    %s^", line, pad)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "\n    %s", e.Hint)
	}
	return b.String()
}

// excerpt returns what a terminal can show of a source line around a column (from 0), and the blanks that lead to that column.
func excerpt(source string, column int) (line, pad string) {
	const before, width = 60, 120
	if len(source) > width && column > before {
		_, source = split(source, column-before)
		source, column = "…"+source, before+1
	}
	if start, rest := split(source, width); rest != "" {
		source = start + "…"
	}
	return printable(source), strings.Repeat(" ", max(column, 0))
}

// printable replaces what could disturb a terminal: tabs by blanks, other control characters by U+FFFD.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\t':
			return ' '
		case !unicode.IsPrint(c):
			return unicode.ReplacementChar
		}
		return c
	}, s)
}

// split cuts s after so many characters.
func split(s string, count int) (start, rest string) {
	for i := range s {
		if count == 0 {
			return s[:i], s[i:]
		}
		count--
	}
	return s, ""
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

// Fault makes an Error about the value at path, or about the nearest enclosing value that the file does hold; without a place when
// the file says nothing about it.
// Packages that find a mistake only with facts about the host (plan, keeper) use it to name the place.
func (c *Config) Fault(path Path, message, hint string) *Error {
	line, column := c.places.find(path)
	return c.places.fault(c.File, line, column, message, hint)
}

// Place returns line and column of the value at path, from 1, or of the nearest enclosing value that the file holds; 0, 0 when there is none.
func (c *Config) Place(path Path) (line, column int) { return c.places.find(path) }
