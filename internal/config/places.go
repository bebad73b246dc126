package config

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// place is a position in the text: line and column count from 1, columns in characters.
type place struct{ line, column int }

// places remembers where each value of a file stands. The zero value knows no place.
type places struct {
	lines  []string
	widths []int // of the lines, in characters
	at     map[string]place
}

// newPlaces splits text as YAML counts lines: at LF, CR LF and CR.
func newPlaces(text string) places {
	text = strings.TrimPrefix(text, "\ufeff")
	text = strings.ReplaceAll(text, "\r\n", "\n")
	text = strings.ReplaceAll(text, "\r", "\n")
	text = strings.TrimSuffix(text, "\n")
	p := places{lines: strings.Split(text, "\n"), at: map[string]place{}}
	for _, line := range p.lines {
		p.widths = append(p.widths, utf8.RuneCountInString(line))
	}
	return p
}

// id makes a map key of a path. Keys are quoted, so that no two paths have the same.
func (p Path) id() string {
	var b strings.Builder
	for _, step := range p {
		fmt.Fprintf(&b, "/%#v", step)
	}
	return b.String()
}

// with returns a new path that is one step longer.
func (p Path) with(step any) Path { return append(p[:len(p):len(p)], step) }

// key returns the last key of the path, without indexes.
func (p Path) key() string {
	for i := len(p) - 1; i >= 0; i-- {
		if s, ok := p[i].(string); ok {
			return s
		}
	}
	return "the file"
}

// mark notes where the value at path stands: at the value itself when it begins on its key's line, else at the key, so that a
// message about a whole block points to its name and not to the first thing in it.
func (p *places) mark(path Path, key, value *yaml.Node) {
	n := value
	if key != nil && value.Line != key.Line {
		n = key
	}
	p.at[path.id()] = place{n.Line, n.Column}
}

// has says whether the file holds a value at path.
func (p *places) has(path Path) bool {
	_, ok := p.at[path.id()]
	return ok
}

// find returns the place of the value at path, or of the nearest enclosing value the file holds; 0, 0 when there is none. The file as a
// whole is not taken for an enclosing value: its first line says nothing about a key that is not there.
func (p *places) find(path Path) (line, column int) {
	for n := len(path); n > 0 || n == len(path); n-- {
		if at, ok := p.at[path[:n].id()]; ok {
			return at.line, at.column
		}
	}
	return 0, 0
}

// fault makes an Error at a place, moved into the text when it lies beyond its end, as the end of a file does.
func (p *places) fault(file string, line, column int, message, hint string) *Error {
	e := &Error{File: file, Message: printable(message), Hint: printable(hint)}
	if line < 1 || len(p.lines) == 0 {
		return e
	}
	if line > len(p.lines) {
		line, column = len(p.lines), maxColumn
	}
	e.Line, e.Source = line, p.lines[line-1]
	e.Column = min(max(column, 1), p.widths[line-1]+1)
	return e
}

// maxColumn is beyond every line of a file of MaxSize.
const maxColumn = MaxSize + 1
