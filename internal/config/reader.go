package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// maxKey is the most bytes a key may have. It bounds paths, and with them what many mistakes in one block cost.
const maxKey = 128

// maxErrors bounds what one file is told at once.
const maxErrors = 100

// reader carries what reading one file gathers: places and mistakes.
type reader struct {
	file   string
	places places
	table  []entry // all keys, to tell where a misplaced one belongs
	errs   Errors

	refused map[string]bool // paths of values that were refused by themselves
}

func newReader(file, text string) *reader {
	return &reader{file: file, places: newPlaces(text), refused: map[string]bool{}}
}

// fault reports a mistake at a node.
func (r *reader) fault(n *yaml.Node, message, hint string) {
	r.errs = append(r.errs, r.places.fault(r.file, n.Line, n.Column, message, hint))
}

// bad reports that a scalar's value will not do.
func (r *reader) bad(n *yaml.Node, at Path, problem, hint string) {
	r.fault(n, fmt.Sprintf("%s: %s %s", at.key(), quote(n.Value), problem), hint)
}

// wrongType reports a node that is not even of the right type. inspect has reported aliases and tags.
func (r *reader) wrongType(n *yaml.Node, at Path, want, hint string) {
	if n.Kind == yaml.AliasNode || n.Style&yaml.TaggedStyle != 0 {
		return
	}
	r.fault(n, fmt.Sprintf("%s must be %s, not %s", at.key(), want, typeWords(n)), hint)
}

// result returns the mistakes in the order of their places, or nil.
func (r *reader) result() error {
	if len(r.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(r.errs, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	if more := len(r.errs) - maxErrors; more > 0 {
		last := r.errs[maxErrors]
		r.errs = append(r.errs[:maxErrors:maxErrors], r.places.fault(r.file, last.Line, last.Column,
			fmt.Sprintf("%d more mistakes from here on", more), "mend those above first"))
	}
	return r.errs
}

// eachKey calls do for each key of a mapping. Keys that are not plain words, and repeated ones, have been reported by inspect.
func (r *reader) eachKey(n *yaml.Node, at Path, do func(key, value *yaml.Node, at Path)) bool {
	if n.Kind != yaml.MappingNode {
		r.wrongType(n, at, "a mapping", "write its keys below it, indented, or between { and }")
		return false
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" || seen[key.Value] {
			continue
		}
		seen[key.Value] = true
		if len(key.Value) > maxKey {
			r.fault(key, quote(key.Value)+" is too long for a key", "")
			continue
		}
		do(key, n.Content[i+1], at.with(key.Value))
	}
	return true
}

// hasValue reports a key that nothing follows.
func (r *reader) hasValue(key, value *yaml.Node) bool {
	if value.Kind != yaml.ScalarNode || value.ShortTag() != "!!null" {
		return true
	}
	r.fault(key, key.Value+" has no value", "give it one, or remove the key")
	return false
}

// unknown reports a key that is not in the table, and returns the one that was most likely meant, or "".
func (r *reader) unknown(key *yaml.Node, at Path, entries []entry) (meant string) {
	message := "unknown key " + quote(key.Value)
	if len(at) > 1 {
		message += " in " + clip(dotted(at[:len(at)-1]))
	}
	if len(r.errs) > 10*maxErrors {
		r.fault(key, message, "") // not worth a search: this one is hardly among those that are shown
		return ""
	}
	if owner := belongs(r.table, "", key.Value); owner != "" {
		r.fault(key, message, key.Value+" belongs in "+owner)
		return ""
	}
	if best := nearest(key.Value, entries); best != "" {
		r.fault(key, message, "did you mean "+best+"?")
		return best
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.key
	}
	r.fault(key, message, "the keys here are "+strings.Join(names, ", "))
	return ""
}

// dotted writes a path as people do: listeners.web.listen[0].
func dotted(path Path) string {
	var b strings.Builder
	for i, step := range path {
		switch step := step.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", step)
		default:
			if i > 0 {
				b.WriteByte('.')
			}
			fmt.Fprint(&b, step)
		}
	}
	return b.String()
}

// typeWords says what a node is.
func typeWords(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!bool":
		return clip(n.Value) + " (true or false)"
	case "!!int", "!!float":
		return "the number " + clip(n.Value)
	}
	return quote(n.Value)
}

// quote quotes a value of the file for a message, so that nothing in it can disturb a terminal, and shortens it.
func quote(s string) string { return clip(strconv.Quote(s)) }

// clip shortens what a message repeats from the file.
func clip(s string) string {
	const most = 60
	if start, rest := split(s, most-1); utf8.RuneCountInString(rest) > 1 {
		return start + "…"
	}
	return s
}
