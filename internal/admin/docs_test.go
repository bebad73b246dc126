package admin

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/status.md")

const statusHead = `# The status in JSON

` + "`salp status --json`" + ` prints one object. Programs may rely on it: fields are added, and none is renamed, removed or given another meaning.
A field that is empty may be left out where the table says so. Times are RFC 3339. Counters count from the start of the gateway and never go back:
not by a reload, by a worker that ended, or by an upgrade.
`

// TestStatusIsDocumented makes docs/status.md from the types, their comments and what they are made of, and compares it with what is committed.
func TestStatusIsDocumented(t *testing.T) {
	types := map[string]*ast.TypeSpec{}
	docs := map[string]string{}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	files := token.NewFileSet()
	for _, name := range names {
		file, err := parser.ParseFile(files, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
				for _, s := range g.Specs {
					spec := s.(*ast.TypeSpec)
					types[spec.Name.Name], docs[spec.Name.Name] = spec, g.Doc.Text()
				}
			}
		}
	}
	var page bytes.Buffer
	page.WriteString(statusHead)
	documented := []string{"Status"}
	for i := 0; i < len(documented); i++ {
		name := documented[i]
		spec := types[name]
		fmt.Fprintf(&page, "\n## %s\n\n%s\n| Field | Type | What it is |\n|---|---|---|\n", name, docs[name])
		for _, f := range spec.Type.(*ast.StructType).Fields.List {
			tag := reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json")
			field, options, _ := strings.Cut(tag, ",")
			if field == "" || field == "-" {
				t.Errorf("%s.%s has no JSON name", name, f.Names[0].Name)
			}
			if part := madeOf(f.Type); types[part] != nil && !slices.Contains(documented, part) {
				if _, structured := types[part].Type.(*ast.StructType); structured {
					documented = append(documented, part)
				}
			}
			what := strings.TrimSpace(f.Comment.Text())
			if strings.Contains(options, "omitempty") {
				what = strings.TrimSpace(what + " (left out when empty)")
			}
			fmt.Fprintf(&page, "| `%s` | %s | %s |\n", field, typeWords(f.Type), strings.ReplaceAll(what, "|", "\\|"))
		}
	}
	page.WriteString("\nThe `counters` of a listener are in [control.go](../internal/control/control.go), type `Listener`; its kinds of errors are in [metrics.md](metrics.md).\n")
	const file = "../../docs/status.md"
	if *update {
		if err := os.WriteFile(file, page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, page.Bytes()) {
		t.Errorf("%s is not what the types make: run  go test ./internal/admin -update", file)
	}
}

// madeOf returns the name of the type of this package that a field holds, "" when it is none.
func madeOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.ArrayType:
		return madeOf(e.Elt)
	case *ast.StarExpr:
		return madeOf(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func typeWords(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.ArrayType:
		return "list of " + typeWords(e.Elt)
	case *ast.StarExpr:
		return typeWords(e.X)
	case *ast.MapType:
		return "object of " + typeWords(e.Value)
	case *ast.SelectorExpr:
		if e.Sel.Name == "Time" {
			return "time"
		}
		return e.Sel.Name
	case *ast.Ident:
		switch e.Name {
		case "uint64", "int", "uint16", "float64":
			return "number"
		case "string", "State", "WorkerState", "UpgradeState":
			return "string"
		}
		return e.Name
	}
	return "?"
}
