package config

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

var update = flag.Bool("update", false, "rewrite generated pages and golden files")

// The committed page and schema are those the table of keys makes.
func TestGenerated(t *testing.T) {
	for file, want := range map[string][]byte{
		"../../docs/configuration.md": Reference(),
		"../../docs/salp.schema.json": JSONSchema(),
	} {
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the table of keys makes: run  go test ./internal/config -update", file)
		}
	}
}

// Every key says what it does, and its example can be read where it stands.
func TestTable(t *testing.T) {
	count := 0
	walk(root.shape.keys, "", func(path string, e *entry) {
		count++
		if !strings.HasSuffix(e.doc, ".") {
			t.Errorf("%s: the doc is no sentence: %q", path, e.doc)
		}
		if e.shape.words == "" {
			t.Errorf("%s: no type", path)
		}
		var doc yaml.Node
		if err := yaml.Load([]byte(e.example), &doc); err != nil {
			t.Errorf("%s: example %q: %v", path, e.example, err)
			return
		}
		if m := doc.Content[0]; m.Kind != yaml.MappingNode || len(m.Content) != 2 || m.Content[0].Value != e.key {
			t.Errorf("%s: example %q does not show the key", path, e.example)
		}
	})
	if count < 25 {
		t.Errorf("%d keys walked over", count)
	}
}

// Every example of the table, put where its key belongs in an otherwise good file, is accepted by itself: whatever is still wrong with
// the file is said of another place.
func TestTableExamples(t *testing.T) {
	walk(root.shape.keys, "", func(path string, e *entry) {
		lines, indent := []string{}, ""
		steps := strings.Split(path, ".")
		for _, step := range steps[:len(steps)-1] {
			step, isList := strings.CutSuffix(step, "[]")
			lines = append(lines, indent+strings.ReplaceAll(step, "NAME", "web")+":")
			indent = strings.ReplaceAll(indent, "-", " ") + "  "
			if isList {
				indent += "- "
			}
		}
		if !strings.HasPrefix(path, "listeners") {
			lines = append([]string{"listeners: {other: {intercept: {interfaces: [eth0], ports: [80]}}}"}, lines...)
		}
		text := strings.Join(append(lines, indent+strings.ReplaceAll(e.example, "\n", "\n"+strings.ReplaceAll(indent, "-", " "))), "\n") + "\n"
		_, err := Parse("example", []byte(text))
		errs, _ := err.(Errors)
		for _, m := range errs {
			elsewhere := strings.Contains(m.Message, "needs ") || strings.Contains(m.Message, "there is no ") || strings.Contains(m.Message, "no pool") ||
				strings.Contains(m.Message, "nowhere to go") || strings.Contains(m.Message, "go together") || strings.Contains(m.Message, "neither") || strings.Contains(m.Message, " lacks ")
			if m.Line > len(lines) && !elsewhere {
				t.Errorf("%s: %v\nin\n%s", path, m, text)
			}
		}
	})
}
