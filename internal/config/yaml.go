package config

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// inspect reports the parts of YAML that a configuration does not use, and repeated keys, anywhere in the tree.
func (r *reader) inspect(n *yaml.Node) {
	if n.Anchor != "" || n.Kind == yaml.AliasNode {
		r.fault(n, "anchors (&) and aliases (*) are not used in this file", "write the value out where it is needed")
	}
	if n.Style&yaml.TaggedStyle != 0 {
		r.fault(n, "the tag "+clip(n.Tag)+" is not used in this file", "remove it")
	}
	if n.Kind != yaml.MappingNode {
		for _, c := range n.Content {
			r.inspect(c)
		}
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case key.Kind == yaml.AliasNode:
		case bareIPv6(n):
			r.fault(key, "an IPv6 address that is not in quotes", quotesForIPv6)
		case key.Kind != yaml.ScalarNode:
			r.fault(key, "a key must be a plain word, not "+typeWords(key), "put the text in quotes if it is a value")
		case key.ShortTag() == "!!merge":
			r.fault(key, "merge keys (<<) are not used in this file", "write the keys out where they are needed")
		case first[key.Value] > 0:
			r.fault(key, fmt.Sprintf("the key %s is here twice; the first is in line %d", quote(key.Value), first[key.Value]), "remove or rename one of them")
		default:
			first[key.Value] = key.Line
		}
		if key.Anchor != "" || key.Kind == yaml.AliasNode || key.Style&yaml.TaggedStyle != 0 {
			r.inspect(key)
		}
		r.inspect(n.Content[i+1])
	}
}

// syntax reports what stopped the YAML parser, in words for someone who does not know YAML's grammar.
func (r *reader) syntax(err error) {
	var le *yaml.LoadError
	if !errors.As(err, &le) {
		r.fault(&yaml.Node{Line: 1, Column: 1}, "not YAML: "+err.Error(), "")
		return
	}
	at := &yaml.Node{Line: max(le.Mark.Line, 1), Column: le.Mark.Column}
	if tab := r.tab(at.Line); tab > 0 {
		at.Column = tab
		r.fault(at, "a tab in the indentation", "indent with spaces")
		return
	}
	if at.Line <= len(r.places.lines) {
		source := r.places.lines[at.Line-1]
		if m := bareIPv6Form.FindStringSubmatchIndex(source); m != nil {
			at.Column = utf8.RuneCountInString(source[:m[2]]) + 1
			r.fault(at, "an IPv6 address that is not in quotes", quotesForIPv6)
			return
		}
	}
	for _, known := range syntaxErrors {
		if !strings.Contains(le.Message, known.contains) || !strings.Contains(le.ContextMsg, known.context) {
			continue
		}
		if known.atStart && le.ContextMark.Line > 0 {
			at.Line, at.Column = le.ContextMark.Line, le.ContextMark.Column
		}
		r.fault(at, known.message, known.hint)
		return
	}
	r.fault(at, "not YAML: "+clip(le.Message), "")
}

// tab returns the column of a tab in the indentation of a line, or 0.
func (r *reader) tab(line int) int {
	if line > len(r.places.lines) {
		return 0
	}
	source := r.places.lines[line-1]
	indent := source[:len(source)-len(strings.TrimLeft(source, " \t"))]
	return strings.IndexByte(indent, '\t') + 1
}

// syntaxErrors translates the YAML parser's messages. The first that fits counts.
var syntaxErrors = []struct {
	contains, context string
	atStart           bool // what began earlier and does not end is the better place
	message, hint     string
}{
	{contains: "nested too deeply", message: "nested too deeply", hint: "no key of this file is that deep"},
	{contains: "unknown anchor", message: "anchors (&) and aliases (*) are not used in this file", hint: `if a * is meant, put it in quotes`},
	{contains: "mapping values are not allowed", message: `a ":" that cannot stand here`,
		hint: `put a value with a ":" in quotes; or else the line above lacks its ":", or is indented differently`},
	{contains: "cannot start any token", message: "a character that cannot begin a value", hint: "put the value in quotes"},
	{contains: "end of stream", context: "quoted", atStart: true, message: "a quote that is never closed", hint: "add the closing quote"},
	{contains: "',' or ']'", atStart: true, message: "a [ that is never closed, or a missing comma", hint: "write a list as  [a, b]"},
	{contains: "',' or '}'", atStart: true, message: "a { that is never closed, or a missing comma", hint: "write a mapping as  {a: 1, b: 2}"},
	{contains: "node content", context: "flow node", message: "a value is missing here, or a [ or { is not closed", hint: "write a list as  [a, b]  and a mapping as  {a: 1, b: 2}"},
	{contains: "did not find expected key", message: "neither a key of the block above nor a part of its last value",
		hint: "give all keys of a block the same indentation, and quote a value that goes on after a closing quote"},
	{contains: "'-' indicator", message: "neither an item of the list above nor a key at its level", hint: "begin each item with - at the same indentation"},
	{contains: "could not find expected ':'", message: "a key without a :", hint: "write  key: value"},
	{contains: "incompatible YAML", message: "the %YAML line is not used in this file", hint: "remove it"},
}
