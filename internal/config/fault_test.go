package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const twoListeners = `# a comment
listeners:
  web:
    listen: ["10.0.1.1:80", "10.0.1.2:80"]
    pool: web
  inline:
    intercept:
      interfaces:
        - eth0
        - eth1
      ports: [1-65535]
pools:
  web:
    servers:
      - address: "10.0.2.2:80"
`

// Fault points to the value, or to the nearest block around it that the file holds. What is there by default has no place.
func TestFault(t *testing.T) {
	cfg, err := Parse("f.yaml", []byte(twoListeners))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path         Path
		line, column int
	}{
		{Path{"listeners", "web", "listen", 1}, 4, 29},
		{Path{"listeners", "web", "listen"}, 4, 13},
		{Path{"listeners", "web", "listen", 7}, 4, 13},
		{Path{"listeners", "web", "source"}, 3, 3},
		{Path{"listeners", "web"}, 3, 3},
		{Path{"listeners", "inline", "intercept", "interfaces", 1}, 10, 11},
		{Path{"listeners", "inline", "intercept", "port"}, 7, 5},
		{Path{"listeners", "inline", "intercept", "ports", 0}, 11, 15},
		{Path{"pools", "web", "servers", 0, "address"}, 15, 18},
		{Path{"pools", "web", "servers", 0}, 15, 9},
		{Path{"kernel", "table"}, 0, 0},
		{Path{"user"}, 0, 0},
		{Path{}, 1, 1},
		{nil, 1, 1},
	} {
		e := cfg.Fault(c.path, "message", "hint")
		if e.File != "f.yaml" || e.Line != c.line || e.Column != c.column || e.Message != "message" || e.Hint != "hint" {
			t.Errorf("%v: %d:%d, want %d:%d", c.path, e.Line, e.Column, c.line, c.column)
		}
		if want := strings.Split("\n"+twoListeners, "\n")[c.line]; e.Source != want {
			t.Errorf("%v: source line %q, want %q", c.path, e.Source, want)
		}
	}
}

// A Config that no file made, as tests write it, has no places and Fault says so by leaving them out.
func TestFaultWithoutFile(t *testing.T) {
	e := (&Config{File: "f.yaml"}).Fault(Path{"listeners", "web"}, "message", "hint")
	if got, want := e.Error(), "f.yaml: message\n    hint"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The lookups find what is there by name and nothing else.
func TestLookups(t *testing.T) {
	cfg, err := Parse("f.yaml", []byte(twoListeners))
	if err != nil {
		t.Fatal(err)
	}
	if l := cfg.Listener("inline"); l == nil || l.Name != "inline" || cfg.Listener("web") == l {
		t.Errorf("listener inline is %v", l)
	}
	if p := cfg.Pool("web"); p == nil || p.Name != "web" {
		t.Errorf("pool web is %v", p)
	}
	if cfg.Listener("none") != nil || cfg.Pool("inline") != nil {
		t.Error("found what is not there")
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if cfg, err := Load(write("good.yaml", twoListeners, 0o600)); err != nil || cfg.File != filepath.Join(dir, "good.yaml") {
		t.Errorf("%v", err)
	}
	cases := map[string]string{
		filepath.Join(dir, "none.yaml"): "there is no such file",
		dir:                             "cannot be read: is a directory",
		write("large.yaml", strings.Repeat("#", MaxSize+1), 0o600):   "is larger than 1024 KiB",
		write("wrong.yaml", "wrokers: 1\n", 0o600):                   ":1:1: unknown key",
		filepath.Join(write("file", "", 0o600), "below-a-file.yaml"): "cannot be read: not a directory",
	}
	if os.Geteuid() != 0 {
		cases[write("secret.yaml", twoListeners, 0)] = "cannot be read: permission denied"
	}
	for path, want := range cases {
		cfg, err := Load(path)
		var errs Errors
		if !errors.As(err, &errs) || cfg != nil || !strings.Contains(err.Error(), want) || errs[0].File != path {
			t.Errorf("%s: %v; want %q", path, err, want)
		}
	}
	if _, err := Load(write("limit.yaml", twoListeners+strings.Repeat("#", MaxSize-len(twoListeners)), 0o600)); err != nil {
		t.Errorf("a file of just the largest size: %v", err)
	}
}
