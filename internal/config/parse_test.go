package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// Each file of testdata/errors holds a file that is refused, and below it everything that is said about it.
func TestErrors(t *testing.T) {
	golden(t, "testdata/errors/*.txtar", 60, "errors", func(t *testing.T, text []byte) string {
		cfg, err := Parse("salp.yaml", text)
		var errs Errors
		if !errors.As(err, &errs) || len(errs) == 0 || cfg != nil {
			t.Fatalf("accepted, or refused without Errors: %v", err)
		}
		return errs.Error() + "\n"
	})
}

// Each file of testdata/good holds a file that is accepted, and below it the Config it makes.
func TestGood(t *testing.T) {
	golden(t, "testdata/good/*.txtar", 10, "config", func(t *testing.T, text []byte) string {
		cfg, err := Parse("salp.yaml", text)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.File != "salp.yaml" || string(cfg.Text) != string(text) {
			t.Error("the Config does not keep the text it was read from")
		}
		var b strings.Builder
		dump(&b, "", reflect.ValueOf(*cfg))
		return b.String()
	})
}

// golden runs make on the salp.yaml of each file and compares what it returns with the section of that file.
func golden(t *testing.T, pattern string, least int, section string, result func(*testing.T, []byte) string) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) < least {
		t.Fatalf("%d files, want %d or more; %v", len(files), least, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			text, want := readCase(t, file)
			got := "-- " + section + " --\n" + result(t, []byte(text))
			if *update {
				want = got
				if err := os.WriteFile(file, []byte(caseHead+text+got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got != want {
				t.Errorf("got:\n%s\nwant what %s says; -update rewrites it", got, file)
			}
		})
	}
}

// caseHead is the first line of a case: a txtar archive of two files.
const caseHead = "-- salp.yaml --\n"

// readCase returns the input of a case and what follows it, from its own head on.
func readCase(t testing.TB, file string) (text, result string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text, ok := strings.CutPrefix(string(data), caseHead)
	if !ok {
		t.Fatalf("%s does not begin with %q", file, caseHead)
	}
	for _, section := range []string{"-- errors --\n", "-- config --\n"} {
		if i := strings.Index(text, section); i >= 0 {
			return text[:i], text[i:]
		}
	}
	return text, ""
}

// dump writes every exported value of a Config as a line: its path and the value.
func dump(b *strings.Builder, path string, v reflect.Value) {
	switch x := v.Interface().(type) {
	case time.Duration:
		fmt.Fprintf(b, "%s = %s\n", path, short(x))
		return
	case netip.Addr:
		fmt.Fprintf(b, "%s = %s\n", path, x)
		return
	case netip.Prefix:
		fmt.Fprintf(b, "%s = %s\n", path, x)
		return
	case netip.AddrPort:
		fmt.Fprintf(b, "%s = %s\n", path, x)
		return
	case PortRange:
		fmt.Fprintf(b, "%s = %d-%d\n", path, x.First, x.Last)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			fmt.Fprintf(b, "%s = nil\n", path)
			return
		}
		dump(b, path, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.IsExported() && f.Name != "Text" && f.Name != "File" {
				dump(b, strings.TrimPrefix(path+"."+f.Name, "."), v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			dump(b, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
	case reflect.String:
		fmt.Fprintf(b, "%s = %q\n", path, v.String())
	default:
		fmt.Fprintf(b, "%s = %v\n", path, v.Interface())
	}
}
