// Package salp_test holds the rules of the house: what every package of the project keeps to, enforced by reading the source.
package salp_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// source is one Go file of the project, tests left out.
type source struct {
	path    string // slash-separated, from the top
	pkg     string // directory
	file    *ast.File
	imports []string
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	files := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "testdata" || (strings.HasPrefix(entry.Name(), ".") && path != ".")) {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		s := source{path: filepath.ToSlash(path), pkg: filepath.ToSlash(filepath.Dir(path)), file: file}
		for _, spec := range file.Imports {
			s.imports = append(s.imports, strings.Trim(spec.Path.Value, `"`))
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("found only %d source files: is the test run from the top of the project?", len(all))
	}
	return all
}

func TestEveryPackageSaysItsPurpose(t *testing.T) {
	comment := map[string]string{}
	for _, s := range sources(t) {
		if s.file.Doc != nil {
			comment[s.pkg] += s.file.Doc.Text()
		} else if _, seen := comment[s.pkg]; !seen {
			comment[s.pkg] = ""
		}
	}
	for pkg, text := range comment {
		name := pkg[strings.LastIndex(pkg, "/")+1:]
		if !strings.HasPrefix(text, "Package "+name+" ") && !strings.HasPrefix(text, "Command ") {
			t.Errorf("%s: no package comment that begins with 'Package %s' and tells its purpose in one line", pkg, name)
		}
	}
}

// The byte path must stay free of the settings' side, or a bug in planning could stop traffic.
func TestImportDirections(t *testing.T) {
	bytePath := []string{"sock", "engine", "listen", "sniff", "policy", "relay", "dial", "http1", "httpproxy", "cache", "pool", "worker",
		"access", "accesslog", "errorpage", "htpasswd", "tlsproxy", "egress"}
	settings := []string{"salp/internal/kernel", "salp/internal/plan"}
	for _, s := range sources(t) {
		area := strings.Split(strings.TrimPrefix(s.pkg, "internal/"), "/")[0]
		for _, path := range s.imports {
			if slices.Contains(bytePath, area) && hasAnyPrefix(path, settings) {
				t.Errorf("%s imports %s: the byte path knows nothing of the kernel's state", s.path, path)
			}
			if (path == "salp/internal/keeper" || path == "salp/internal/worker") && !strings.HasPrefix(s.pkg, "cmd/") {
				t.Errorf("%s imports %s: only commands start processes", s.path, path)
			}
			if area == "plan" && hasAnyPrefix(path, []string{"os", "net/http", "golang.org/x/sys", "github.com"}) {
				t.Errorf("%s imports %s: a plan is a pure function of its inputs", s.path, path)
			}
		}
	}
}

func hasAnyPrefix(path string, prefixes []string) bool {
	for _, prefix := range prefixes {
		if path == prefix || strings.HasPrefix(path, prefix+"/") {
			return true
		}
	}
	return false
}

// System calls have few homes, so that a reader finds them and a change of kernel interface touches few files.
func TestSystemCallsLiveInFewPackages(t *testing.T) {
	homes := []string{"internal/sock", "internal/engine", "internal/kernel", "internal/lab", "internal/control", "internal/keeper", "internal/worker", "bench"}
	for _, s := range sources(t) {
		if slices.Contains(s.imports, "golang.org/x/sys/unix") && !hasAnyPrefix(s.pkg, homes) {
			t.Errorf("%s imports x/sys/unix: it lives in %s", s.path, strings.Join(homes, ", "))
		}
	}
}

// The kernel is spoken to by netlink: a program that is not installed, or prints differently, must not matter.
func TestNoOutsidePrograms(t *testing.T) {
	mayExecute := []string{"internal/keeper", "internal/lab", "internal/demo", "bench"}
	for _, s := range sources(t) {
		if slices.Contains(s.imports, "os/exec") && !hasAnyPrefix(s.pkg, mayExecute) {
			t.Errorf("%s imports os/exec: only %s start processes, and those are Salp's own", s.path, strings.Join(mayExecute, ", "))
		}
		if slices.Contains(s.imports, "C") {
			t.Errorf("%s uses cgo: the binary is static", s.path)
		}
	}
}

func TestPackageNamesSaySomething(t *testing.T) {
	for _, s := range sources(t) {
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "manager", "types", "misc"}, s.file.Name.Name) {
			t.Errorf("%s: package %s says nothing about its content", s.path, s.file.Name.Name)
		}
	}
}

// A function that needs scrolling to understand is two functions.
func TestFunctionsAndFilesAreShort(t *testing.T) {
	const longestFunction, longestFile = 80, 600
	for _, s := range sources(t) {
		text, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Count(text, []byte("\n")); lines > longestFile {
			t.Errorf("%s has %d lines, more than %d: is it one thing?", s.path, lines, longestFile)
		}
		for _, decl := range s.file.Decls {
			function, ok := decl.(*ast.FuncDecl)
			if !ok || function.Body == nil {
				continue
			}
			body := text[function.Body.Lbrace-s.file.FileStart : function.Body.Rbrace-s.file.FileStart]
			if lines := bytes.Count(body, []byte("\n")); lines > longestFunction {
				t.Errorf("%s: function %s has %d lines, more than %d", s.path, function.Name.Name, lines, longestFunction)
			}
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	for _, s := range sources(t) {
		for _, decl := range s.file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Name.IsExported() && decl.Doc == nil && exportedReceiver(decl) && !selfExplaining(decl.Name.Name) {
					t.Errorf("%s: %s is exported and has no doc comment", s.path, decl.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					if spec, ok := spec.(*ast.TypeSpec); ok && spec.Name.IsExported() && decl.Doc == nil && spec.Doc == nil && spec.Comment == nil {
						t.Errorf("%s: type %s is exported and has no doc comment", s.path, spec.Name.Name)
					}
				}
			}
		}
	}
}

// exportedReceiver tells a function, or a method of an exported type.
func exportedReceiver(decl *ast.FuncDecl) bool {
	if decl.Recv == nil {
		return true
	}
	receiver := decl.Recv.List[0].Type
	if star, ok := receiver.(*ast.StarExpr); ok {
		receiver = star.X
	}
	name, ok := receiver.(*ast.Ident)
	return ok && name.IsExported()
}

// selfExplaining names the methods that interfaces of the standard library define.
func selfExplaining(name string) bool {
	return slices.Contains([]string{"Error", "String", "Text", "Close", "Len", "Less", "Swap", "MarshalText", "UnmarshalText", "MarshalJSON", "UnmarshalJSON"}, name)
}

func TestGoModIsPlain(t *testing.T) {
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("replace ")) {
		t.Error("go.mod has a replace directive: a library we cannot use as it is published is not a well-kept one")
	}
}
