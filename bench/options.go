package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// options is what the command line asks for.
type options struct {
	args     []string
	rows     []row
	modes    []mode
	peers    []string // names; empty: all
	rounds   int
	warm     time.Duration
	window   time.Duration
	quick    bool
	firewall bool
	profile  bool   // take samples of what the kernel does
	salp     string // the program to measure; empty: built from the sources here
	json     string
	write    string
	strict   bool
}

// Bounds of what may be asked for.
const (
	maxRounds = 100
	maxWindow = 30 * time.Second
)

func parseOptions(args []string, usage io.Writer) (options, error) {
	o := options{args: args}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(usage)
	rowNames := f.String("rows", "", "what to measure: some of "+names(rows, rowName)+" (all)")
	modeNames := f.String("modes", "", "how proxies are in the path: some of "+names(modes, modeName)+" (all)")
	peerNames := f.String("peers", "", "who: some of "+names(contenders(""), contenderName)+" (all that are installed)")
	f.IntVar(&o.rounds, "rounds", 5, "how often everything is measured")
	f.DurationVar(&o.warm, "warm", 500*time.Millisecond, "how long the load runs before a measurement")
	f.DurationVar(&o.window, "window", 2*time.Second, "how long a measurement lasts")
	f.BoolVar(&o.quick, "quick", false, "one short round in the transparent mode, under a minute: to see that it works, not for figures")
	f.BoolVar(&o.firewall, "firewall", false, "put a stateful firewall on the gateway, for all peers alike")
	f.BoolVar(&o.profile, "profile", false, "also tell what share of the machine's time packets take on their way through the kernel (needs perf)")
	f.StringVar(&o.salp, "salp", "", "the salp program to measure (built from ./cmd/salp)")
	f.StringVar(&o.json, "json", "", "also write all samples as JSON to this `file`, - for standard output")
	f.StringVar(&o.write, "write", "", "replace the tables between the markers in this Markdown `file`")
	f.BoolVar(&o.strict, "strict", false, "fail when Salp misses a goal")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is not expected: there are only flags (-help)", f.Arg(0))
	}
	var err1, err2, err3 error
	o.rows, err1 = choose("row", *rowNames, rows, rowName)
	o.modes, err2 = choose("mode", *modeNames, modes, modeName)
	var chosen []contender
	chosen, err3 = choose("peer", *peerNames, contenders(""), contenderName)
	if *peerNames != "" {
		for _, c := range chosen {
			o.peers = append(o.peers, c.name)
		}
	}
	if o.quick {
		o.hurry(*modeNames == "")
	}
	return o, errors.Join(err1, err2, err3, o.check())
}

// hurry makes a run short.
func (o *options) hurry(oneMode bool) {
	o.rounds, o.warm, o.window = 1, 100*time.Millisecond, 300*time.Millisecond
	if oneMode {
		o.modes = []mode{transparent}
	}
}

func (o *options) check() error {
	switch {
	case o.rounds < 1 || o.rounds > maxRounds:
		return fmt.Errorf("-rounds %d: 1 to %d are possible", o.rounds, maxRounds)
	case o.window < 100*time.Millisecond || o.window > maxWindow:
		return fmt.Errorf("-window %v: 100ms to %v are possible", o.window, maxWindow)
	case o.warm < 0 || o.warm > maxWindow:
		return fmt.Errorf("-warm %v: 0 to %v are possible", o.warm, maxWindow)
	}
	return profiled(o.profile)
}

func rowName(r row) string             { return r.name }
func modeName(m mode) string           { return string(m) }
func contenderName(c contender) string { return c.name }

func names[T any](all []T, name func(T) string) string {
	var list []string
	for _, v := range all {
		list = append(list, name(v))
	}
	return strings.Join(list, ",")
}

// choose picks the named ones, in the order they are known in.
func choose[T any](kind, text string, all []T, name func(T) string) ([]T, error) {
	if text == "" {
		return all, nil
	}
	wanted := strings.Split(text, ",")
	var chosen []T
	for _, v := range all {
		if i := slices.Index(wanted, name(v)); i >= 0 {
			chosen = append(chosen, v)
			wanted = slices.Delete(wanted, i, i+1)
		}
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("no %s %q; there are %s", kind, wanted[0], names(all, name))
	}
	return chosen, nil
}

// present returns the contenders that were asked for and can run here, and what to call at the end.
func (o options) present(ctx context.Context, progress io.Writer) (list []contender, done func(), err error) {
	done = func() {}
	salp := o.salp
	if salp == "" && slices.ContainsFunc(contenders(""), func(c contender) bool { return strings.HasPrefix(c.name, "salp") && o.wants(c.name) }) {
		if salp, done, err = buildSalp(ctx); err != nil {
			return nil, done, err
		}
	}
	for _, c := range contenders(salp) {
		if !o.wants(c.name) {
			continue
		}
		if c.missing != nil {
			if err := c.missing(); err != nil {
				fmt.Fprintf(progress, "left out: %s (%v)\n", c.name, err)
				continue
			}
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		done()
		return nil, done, errors.New("none of the peers can run here")
	}
	return list, done, nil
}

func (o options) wants(name string) bool { return len(o.peers) == 0 || slices.Contains(o.peers, name) }

// buildSalp builds the program from the sources in the current directory.
func buildSalp(ctx context.Context) (path string, done func(), err error) {
	dir, err := openDirectory()
	if err != nil {
		return "", func() {}, err
	}
	done = func() { os.RemoveAll(dir) }
	path = filepath.Join(dir, "salp")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "./cmd/salp")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		done()
		return "", func() {}, fmt.Errorf("building salp (run this at the top of the sources, or give -salp): %w\n%s", err, out)
	}
	return path, done, nil
}
