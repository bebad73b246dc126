package plan

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"salp/internal/lab"
)

// What is printed as nft text is what nft lists when it has read that text, to the last tab.
func TestNFTListsTheSameText(t *testing.T) {
	nft := program(t, "nft")
	if out, err := exec.Command(nft, "--version").Output(); err != nil || !strings.Contains(string(out), "v1.0.6") {
		t.Skipf("skipped: the text is that of nft 1.0.6, this is %s", strings.TrimSpace(string(out)))
	}
	network := lab.Test(t)
	everyPlan(t, func(t *testing.T, p Plan) {
		host, err := network.Host(t.Name())
		if err != nil {
			t.Fatal(err)
		}
		flowtables(t, host, p)
		file := filepath.Join(t.TempDir(), "plan.nft")
		if err := os.WriteFile(file, []byte(p.NFTText()), 0o600); err != nil {
			t.Fatal(err)
		}
		// A table with an owner lives as long as the process that made it, so the same process must list it.
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		got, err := host.Run(ctx, "sh", "-c", `printf 'include "%s"\nlist ruleset\n' "$1" | "$2" -i`, "sh", file, nft)
		if err != nil {
			t.Fatal(err)
		}
		got = sortedRows(strings.ReplaceAll(got, " # progname nft\n", "\n")) // whose the table is
		if want := sortedRows(p.NFTText()); got != want {
			t.Errorf("nft lists:\n%s\nprinted:\n%s", got, want)
		}
	})
}

// flowtables makes the devices of a plan's flowtables, which must be there, and skips the test where the kernel has no such thing.
func flowtables(t *testing.T, host *lab.Host, p Plan) {
	t.Helper()
	for _, table := range p.Tables {
		for _, f := range table.Flowtables {
			if _, err := host.Run(t.Context(), "nft", "add table inet t; add flowtable inet t f { hook ingress priority 0; devices = { lo }; }; delete table inet t"); err != nil {
				t.Skip("skipped: this kernel has no flowtables (CONFIG_NF_FLOW_TABLE_INET)")
			}
			for _, d := range f.Devices {
				if _, err := host.Run(t.Context(), "ip", "link", "add", d, "type", "veth"); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// sortedRows sorts the elements of concatenations, which the kernel returns in any order.
func sortedRows(text string) string {
	return rows.ReplaceAllStringFunc(text, func(set string) string {
		parts := rows.FindStringSubmatch(set)
		elements := strings.Split(parts[2], ",\n\t\t\t     ")
		slices.Sort(elements)
		return parts[1] + strings.Join(elements, ",\n\t\t\t     ") + " }"
	})
}

var rows = regexp.MustCompile(`(?s)(\t\ttype [a-z0-9_]+ \. [^\n]*\n(?:\t\tflags [^\n]*\n)?\t\telements = \{ )(.*?) \}`)

// The commands for ip and sysctl run, and do what the plan says.
func TestShellTakesTheCommands(t *testing.T) {
	program(t, "ip")
	program(t, "sysctl")
	network := lab.Test(t)
	host, err := network.Host("host")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"g0", "g1"} {
		other, err := network.Host(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := network.Join(host, name, other, "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	run := func(script string) string {
		t.Helper()
		out, err := host.Run(ctx, "sh", "-ec", script)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	f := standard()
	f.Interfaces[1].AcceptsRA = true
	cfg := parse(t, "listeners: {inline: {intercept: {interfaces: [g0], ports: [80]}, source: client}}\n")
	p := mustMake(t, cfg, f)
	run(p.IPText() + p.SysctlText())

	want := "810:\tfrom all fwmark 0x10000000/0x10000000 iif g0 lookup 8110 proto kernel\n" +
		"810:\tfrom all fwmark 0x10000000/0x10000000 iif g1 lookup 8110 proto kernel\n"
	for _, family := range []string{"-4", "-6"} {
		if got := run("ip -d " + family + " rule show pref 810"); strings.ReplaceAll(got, " \n", "\n") != want {
			t.Errorf("ip %s rule:\n%s\nwant:\n%s", family, got, want)
		}
		if got := run("ip " + family + " route show table 8110"); !strings.HasPrefix(got, "local default dev lo proto kernel") {
			t.Errorf("ip %s route: %s", family, got)
		}
	}
	if got := run("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/g0/accept_ra /proc/sys/net/ipv6/conf/all/forwarding"); got != "1\n2\n1\n" {
		t.Errorf("sysctls read %q", got)
	}
}

// program finds a program that the test compares with, or skips the test.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	return path
}

// everyPlan calls f with the plan of each file of testdata/plans.
func everyPlan(t *testing.T, f func(*testing.T, Plan)) {
	files, err := filepath.Glob("testdata/plans/*.txtar")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			cfg, facts := inputs(t, a)
			f(t, mustMake(t, cfg, facts))
		})
	}
}
