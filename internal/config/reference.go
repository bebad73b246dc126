package config

import (
	_ "embed" // the parts of the reference page that are not about one key
	"fmt"
	"strings"
)

//go:embed reference.md.in
var referenceBegin string

//go:embed reference_end.md.in
var referenceEnd string

// Reference returns the reference page for operators in Markdown: docs/configuration.md.
func Reference() []byte {
	var b strings.Builder
	b.WriteString(referenceBegin)
	b.WriteString("## All keys at a glance\n\n| Key | Type | Default |\n|---|---|---|\n")
	walk(root.shape.keys, "", func(path string, e *entry) {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s | %s |\n", path, anchor(path), e.shape.words, e.defaultWords())
	})
	walk(root.shape.keys, "", func(path string, e *entry) {
		if !strings.Contains(path, ".") {
			fmt.Fprintf(&b, "\n## `%s`\n", path)
		} else {
			fmt.Fprintf(&b, "\n### `%s`\n", path)
		}
		e.section(&b)
	})
	b.WriteString("\n")
	b.WriteString(referenceEnd)
	return []byte(b.String())
}

// section writes what there is to say about a key.
func (e *entry) section(b *strings.Builder) {
	fmt.Fprintf(b, "\n%s\n\n", e.doc)
	fmt.Fprintf(b, "- Type: %s\n- Default: %s\n- Example: `%s`\n", e.shape.words, e.defaultWords(), e.example)
	if e.watch != "" {
		fmt.Fprintf(b, "\n**Watch out.** %s\n", e.watch)
	}
}

// defaultWords says what holds when the key is left out.
func (e *entry) defaultWords() string {
	switch {
	case e.required:
		return "none, the key is required"
	case e.def != "":
		return "`" + e.def + "`"
	case e.absent != "":
		return e.absent
	case e.shape.keys != nil && e.shape.name == "":
		return "the defaults of its keys"
	}
	return "none"
}

// walk calls do for every key of the table, parents first. The path has NAME for names of the operator's choice and [] for items.
func walk(entries []entry, prefix string, do func(path string, e *entry)) {
	for i := range entries {
		e := &entries[i]
		path := prefix + e.key
		do(path, e)
		s := &e.shape
		if s.name != "" {
			path += "." + s.name
		}
		if s.item != nil {
			s, path = s.item, path+"[]"
		}
		walk(s.keys, path+".", do)
	}
}

// anchor is the link target that Markdown viewers make of a heading.
func anchor(path string) string {
	return strings.ToLower(strings.NewReplacer(".", "", "[", "", "]", "").Replace(path))
}
