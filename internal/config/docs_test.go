package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every file in examples/ is one that Salp takes.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		if _, err := Load(file); err != nil {
			t.Errorf("%v", err)
		}
	}
}

// Every YAML block of the documentation is a whole file that Salp takes.
func TestDocumentation(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../../*.md")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := filepath.Glob("../../examples/*.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := 0
	for _, file := range append(append(files, more...), examples...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range yamlBlocks(string(text)) {
			blocks++
			if _, err := Parse(file, []byte(block)); err != nil {
				t.Errorf("a block of %s (lines count from its beginning):\n%v", file, err)
			}
		}
	}
	if blocks < 4 {
		t.Errorf("%d blocks found", blocks)
	}
}

// yamlBlocks returns what stands between ```yaml and ``` lines. The blanks that the first of them begins with, as in a list, are removed.
func yamlBlocks(text string) []string {
	var all []string
	var block strings.Builder
	indent, inside := "", false
	for line := range strings.Lines(text) {
		word := strings.TrimSpace(line)
		switch {
		case !inside && (word == "```yaml" || word == "```yml"):
			inside, indent = true, line[:strings.Index(line, "`")]
			block.Reset()
		case inside && word == "```":
			inside = false
			all = append(all, block.String())
		case inside:
			block.WriteString(strings.TrimPrefix(line, indent))
		}
	}
	return all
}

func TestYAMLBlocks(t *testing.T) {
	got := yamlBlocks("x\n```yaml\na: 1\n```\n```\nno\n```\n- y\n  ```yaml\n  b:\n    c: 1\n  ```\n")
	if len(got) != 2 || got[0] != "a: 1\n" || got[1] != "b:\n  c: 1\n" {
		t.Errorf("got %q", got)
	}
}
