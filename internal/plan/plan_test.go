package plan

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"salp/internal/config"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// Each file of testdata/plans holds a configuration and facts about a host, and below them the plan they make.
func TestPlans(t *testing.T) {
	golden(t, "testdata/plans/*.txtar", 20, "plan", func(t *testing.T, cfg *config.Config, f Facts) string {
		return mustMake(t, cfg, f).Text()
	})
}

// Each file of testdata/errors holds a configuration that the host cannot give, and below it everything that is said about it.
func TestErrors(t *testing.T) {
	golden(t, "testdata/errors/*.txtar", 15, "errors", func(t *testing.T, cfg *config.Config, f Facts) string {
		p, err := Make(cfg, f)
		var errs config.Errors
		if !errors.As(err, &errs) || len(errs) == 0 {
			t.Fatalf("accepted, or refused without config.Errors: %v", err)
		}
		if !reflect.DeepEqual(p, Plan{}) {
			t.Error("there is a plan beside the errors")
		}
		return errs.Error() + "\n"
	})
}

// Every example makes a plan on the host that the examples are written for.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			cfg, err := config.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			got, path := mustMake(t, cfg, hostOf(cfg)).Text(), filepath.Join("testdata", "examples", name+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil || string(want) != got {
				t.Errorf("%v; got:\n%s\nwant what %s says; -update rewrites it", err, got, path)
			}
		})
	}
}

// golden reads configuration and facts from each file and compares what result makes of them with the section of that name.
func golden(t *testing.T, pattern string, least int, section string, result func(*testing.T, *config.Config, Facts) string) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) < least {
		t.Fatalf("%d files, want %d or more; %v", len(files), least, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			cfg, f := inputs(t, a)
			got := result(t, cfg, f)
			if *update {
				a.Files = append(a.Files[:2:2], txtar.File{Name: section, Data: []byte(got)})
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if len(a.Files) != 3 || a.Files[2].Name != section || string(a.Files[2].Data) != got {
				t.Errorf("got:\n%s\nwant what %s says; -update rewrites it", got, file)
			}
		})
	}
}

func inputs(t *testing.T, a *txtar.Archive) (*config.Config, Facts) {
	t.Helper()
	if len(a.Files) < 2 || a.Files[0].Name != "salp.yaml" || a.Files[1].Name != "facts.json" {
		t.Fatal("the file does not begin with salp.yaml and facts.json")
	}
	d := json.NewDecoder(strings.NewReader(string(a.Files[1].Data)))
	d.DisallowUnknownFields()
	var f Facts
	if err := d.Decode(&f); err != nil {
		t.Fatal(err)
	}
	return parse(t, string(a.Files[0].Data)), f
}

func parse(t *testing.T, yaml string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("salp.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// mustMake makes a plan and checks what is true of every plan.
func mustMake(t *testing.T, cfg *config.Config, f Facts) Plan {
	t.Helper()
	p, err := Make(cfg, f)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Errorf("not valid: %v", err)
	}
	again, err := Make(cfg, f)
	if err != nil || !reflect.DeepEqual(p, again) {
		t.Errorf("made twice, the plans differ: %v", err)
	}
	slices.Reverse(f.Interfaces)
	slices.Reverse(f.Listening)
	shuffled, err := Make(cfg, f)
	slices.Reverse(f.Interfaces)
	slices.Reverse(f.Listening)
	if err != nil || !reflect.DeepEqual(p, shuffled) {
		t.Errorf("the order of the facts matters: %v", err)
	}
	for _, table := range p.Tables {
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				if r.Comment == "" {
					t.Errorf("no comment says why: %s", r.Text())
				}
			}
		}
	}
	return p
}

// standard is the gateway of the test network: clients on g0, servers on g1.
func standard() Facts {
	return Facts{IPv6: true, TProxy: Yes, Interfaces: []Interface{
		{Name: "lo", Loopback: true, Up: true, Addresses: prefixes("127.0.0.1/8", "::1/128")},
		{Name: "g0", Up: true, Addresses: prefixes("10.0.1.1/24", "fd00:1::1/64", "fe80::1/64")},
		{Name: "g1", Up: true, Addresses: prefixes("10.0.2.1/24", "fd00:2::1/64", "fe80::2/64")},
	}}
}

// hostOf is the host that an example is written for: the standard one, or with links the gateway of an office.
func hostOf(cfg *config.Config) Facts {
	f := standard()
	if len(cfg.Links) == 0 {
		return f
	}
	f.Interfaces = append(f.Interfaces[:1], Interface{Name: "lan0", Up: true, Carrier: true, Addresses: prefixes("10.1.0.1/24")})
	for i, net := range []string{"192.0.2.", "198.51.100."} {
		name := fmt.Sprintf("wan%d", i+1)
		f.Interfaces = append(f.Interfaces, Interface{Name: name, Up: true, Carrier: true, Addresses: prefixes(net + "10/24")})
		f.Links = append(f.Links, LinkFacts{Name: cfg.Links[i].Name, Up: true, Weight: cfg.Links[i].Weight,
			IPv4: LinkRoute{Dev: name, Gateway: netip.MustParseAddr(net + "1"), Addresses: []netip.Addr{netip.MustParseAddr(net + "10")}}})
	}
	return f
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestExplicitWantsNothing(t *testing.T) {
	p := mustMake(t, parse(t, "listeners: {web: {listen: [\"10.0.1.1:80\"], pool: p}}\npools: {p: {servers: [\"10.0.2.2:80\"]}}\n"), standard())
	if !reflect.DeepEqual(p, Plan{}) || p.Text() != "" {
		t.Errorf("got %s", p.Text())
	}
}

// Programs read the JSON form: its names must not change by accident.
func TestJSON(t *testing.T) {
	cfg, err := config.Load("../../examples/inline.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listeners[0].OnFailure = config.OnFailureClosed
	f := standard()
	f.Interfaces[1].AcceptsRA = true
	got, err := json.MarshalIndent(mustMake(t, cfg, f), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const path = "testdata/inline.json"
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != string(got)+"\n" {
		t.Errorf("%v; got:\n%s\nwant what %s says; -update rewrites it", err, got, path)
	}
}
