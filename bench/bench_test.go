package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == roleArgument { // a measurement re-executes the program it is in
		fail(playRole(os.Args[2:]))
		return
	}
	os.Exit(m.Run())
}

func TestMedian(t *testing.T) {
	tests := []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	}
	for _, tt := range tests {
		if got := median(tt.values); got != tt.want {
			t.Errorf("median of %v is %v; want %v", tt.values, got, tt.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v", got)
	}
}

// Ratios are made round by round, so that a change of the machine's speed between rounds does not matter.
func TestRatio(t *testing.T) {
	if got, want := ratioOf([]float64{10, 40, 90}, []float64{20, 40, 60}), (ratio{1, 0.5, 1.5}); got != want {
		t.Errorf("%v; want %v", got, want)
	}
	if got, want := ratioOf([]float64{1, 2, 3}, []float64{2, 0}), (ratio{0.5, 0.5, 0.5}); got != want {
		t.Errorf("with a missing and a zero value: %v; want %v", got, want)
	}
	if got := ratioOf(nil, []float64{1}); !math.IsNaN(got.Median) || got.String() != "" {
		t.Errorf("ratio of nothing: %v", got)
	}
}

func TestFigure(t *testing.T) {
	tests := map[float64]string{0: "0.00", 0.349: "0.35", 9.99: "9.99", 9.996: "10.0", 42.04: "42.0", 99.96: "100", 123456.7: "123457", math.NaN(): ""}
	for v, want := range tests {
		if got := figure(v); got != want {
			t.Errorf("%v is written %q; want %q", v, got, want)
		}
	}
}

const wantText = `title
       µs/request  goal
  a          1.00
  bcd      100000  met
`

const wantMarkdown = `### title

|     | µs/request | goal |
|-----|-----------:|------|
| a   |       1.00 |      |
| bcd |     100000 | met  |
`

func TestTable(t *testing.T) {
	table := table{"title", []string{"", "µs/request", "goal"}, [][]string{{"a", "1.00", ""}, {"bcd", "100000", "met"}}}
	var text, markdown strings.Builder
	table.text(&text)
	table.markdown(&markdown)
	if text.String() != wantText {
		t.Errorf("text:\n%s\nwant:\n%s", text.String(), wantText)
	}
	if markdown.String() != wantMarkdown {
		t.Errorf("markdown:\n%s\nwant:\n%s", markdown.String(), wantMarkdown)
	}
}

// sampleReport is a report of two rounds with invented figures.
func sampleReport() *report {
	r := &report{
		Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Command: "go run ./bench", Rounds: 2, Window: 2 * time.Second,
		Machine: machine{"a processor", 2, 4, "6.1", "go1"},
		Peers:   []described{{Name: "direct", Note: "no proxy"}, {Name: "haproxy", Version: "2.6"}, {Name: "salp", Version: "1"}},
	}
	connect, idle := rows[2], rows[5]
	for _, cost := range []float64{40, 20} {
		r.add(connect, transparent, "direct", sample{Rate: 30000, Machine: 50})
		r.add(connect, transparent, "haproxy", sample{Cost: cost, Rate: 10000, Machine: 100})
		r.add(connect, transparent, "salp", sample{Cost: cost * 0.8, Rate: 12000, Machine: 90})
		r.add(idle, explicit, "haproxy", sample{Cost: 4, Descriptors: 2, Kernel: 9})
		r.add(idle, explicit, "salp", sample{Cost: 2, Descriptors: 2, Kernel: 9})
	}
	return r
}

const wantReport = `2026-01-02 by ` + "`go run ./bench`" + `: medians of 2 rounds, 2s each
2 processors (a processor), 4 GiB, Linux 6.1, go1
direct: no proxy
haproxy: 2.6
salp: 1
transparent: clients dial the server, the server sees the client's address
explicit: clients dial the proxy, the server sees the proxy's address
pools: clients dial the gateway, which spreads them over three servers, in turn; these see the client's address (direct: clients dial one server)
links: the gateway forwards, no proxy: by two ways of which each flow is given one (salp), or by one; the goal is about the whole machine's time

connect, transparent: a connection for each 1 KiB response, 64 at once
           µs/connection  × haproxy (min–max)  connections/s  × haproxy (min–max)  machine µs/connection  goal
  direct                                               30000     3.00 (3.00–3.00)                   50.0
  haproxy           30.0     1.00 (1.00–1.00)          10000     1.00 (1.00–1.00)                    100
  salp              24.0     0.80 (0.80–0.80)          12000     1.20 (1.20–1.20)                   90.0  ≤ 0.95 × haproxy: met

idle, explicit: 3,800 connections that are silent after one request
           kB/connection  × haproxy (min–max)  descriptors  kernel kB, all three hosts  goal
  haproxy           4.00     1.00 (1.00–1.00)         2.00                        9.00
  salp              2.00     0.50 (0.50–0.50)         2.00                        9.00  ≤ 0.25 × haproxy: missed
`

func TestReportText(t *testing.T) {
	var b strings.Builder
	if err := sampleReport().text(&b); err != nil {
		t.Fatal(err)
	}
	if b.String() != wantReport {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), wantReport)
	}
	if n := sampleReport().missed(); n != 1 {
		t.Errorf("%d goals missed; want 1", n)
	}
}

// A measurement that fails is made again, and the report says so.
func TestFailuresAreTold(t *testing.T) {
	o, err := parseOptions([]string{"-quick", "-rows", "echo"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		t.Skip("skipped: network namespaces need root")
	}
	r := sampleReport()
	broken := contender{name: "broken", modes: modes, make: func() peer { return &broken{} }}
	err = measureAll(context.Background(), o, []contender{broken}, r, io.Discard)
	if err == nil || len(r.Failed) != attempts || !strings.Contains(r.Failed[0], "echo, transparent, broken: starting it: it is broken") {
		t.Errorf("%v, failures %q", err, r.Failed)
	}
	if !strings.Contains(strings.Join(r.facts(), "\n"), r.Failed[0]) {
		t.Errorf("the failure is not among the facts: %q", r.facts())
	}
}

// broken does not start.
type broken struct{ direct }

func (*broken) start(context.Context, *network, mode) error { return errors.New("it is broken") }

// The tables go between the markers, once and again, and nothing around them changes.
func TestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# Page\n" + recordBegin + "\nold\n" + recordEnd + "\nThe rest.\n")
	for range 2 {
		if err := sampleReport().record(path); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(got)
	if !strings.HasPrefix(text, "# Page\n"+recordBegin+"\n") || !strings.HasSuffix(text, recordEnd+"\nThe rest.\n") ||
		strings.Contains(text, "old") || strings.Count(text, "### connect, transparent") != 1 || !strings.Contains(text, "| salp ") {
		t.Errorf("the page became:\n%s", text)
	}
	write("# Page without markers\n")
	if err := sampleReport().record(path); err == nil || !strings.Contains(err.Error(), recordBegin) {
		t.Errorf("error %v; want one that names the marker", err)
	}
}

// Another program can read everything back.
func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := sampleReport().writeJSON("-", &b); err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if got := back.find(rows[2], transparent, "salp").values(cost); len(got) != 2 || got[0] != 32 || got[1] != 16 {
		t.Errorf("costs read back: %v", got)
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-rows", "idle,echo", "-modes", "explicit", "-peers", "salp,haproxy", "-rounds", "7"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if names(o.rows, rowName) != "echo,idle" || names(o.modes, modeName) != "explicit" || o.rounds != 7 || !o.wants("salp") || o.wants("nginx") {
		t.Errorf("%+v", o)
	}
	if o, err = parseOptions([]string{"-quick"}, io.Discard); err != nil || o.rounds != 1 || len(o.modes) != 1 || len(o.rows) != len(rows) {
		t.Errorf("quick: %+v, %v", o, err)
	}
	bad := map[string][]string{
		`no row "nope"; there are keepalive,`: {"-rows", "echo,nope"},
		`no mode "x"`:                         {"-modes", "x"},
		`no peer "apache"`:                    {"-peers", "apache"},
		"-rounds 0":                           {"-rounds", "0"},
		"-window 1h0m0s":                      {"-window", "1h"},
		`"more" is not expected`:              {"more"},
	}
	for want, args := range bad {
		if _, err := parseOptions(args, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v; want one with %q", args, err, want)
		}
	}
}

func TestJobsOfRowsAreValid(t *testing.T) {
	for _, r := range rows {
		job := r.job
		job.Target, job.Loops = netip.MustParseAddrPort("10.0.2.2:80"), 1
		if err := job.Check(); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
	}
}

// A run of everything, with a real network, real peers and a real Salp, is opt-in: it needs root and most of a minute of an idle machine.
func TestQuick(t *testing.T) {
	if os.Getenv("SALP_BENCH") == "" {
		t.Skip("skipped: set SALP_BENCH=1 to run a quick bench (most of a minute)")
	}
	if os.Getuid() != 0 {
		t.Skip("skipped: network namespaces need root")
	}
	t.Chdir("..")
	o, err := parseOptions([]string{"-quick", "-json", "-"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var out, progress bytes.Buffer
	began := time.Now()
	if err := bench(context.Background(), o, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	if d := time.Since(began); d > time.Minute {
		t.Errorf("it took %v; a quick run is for less than a minute", d)
	}
	for _, r := range rows {
		for _, peer := range []string{"direct", "salp"} {
			if !strings.Contains(out.String(), `"Peer": "`+peer+`"`) || !strings.Contains(out.String(), r.name+", transparent") {
				t.Errorf("%s of %s is missing in:\n%s", r.name, peer, out.String())
			}
		}
	}
}
