package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"
)

// report is all that a run has found.
type report struct {
	Date     time.Time
	Command  string
	Machine  machine
	Peers    []described
	Rounds   int
	Window   time.Duration
	Quick    bool
	Firewall bool     // the gateway tracks connections for all peers
	Profile  bool     // what share of the time packets took on their way was measured too
	Failed   []string // measurements that were made again, and why
	Results  []*result
}

// described is a contender as the report names it.
type described struct{ Name, Note, Version string }

// result holds the samples of a row, a mode and a peer, one of each round.
type result struct {
	Row     string
	Mode    mode
	Peer    string
	Samples []sample
}

func newReport(ctx context.Context, o options, peers []contender) *report {
	r := &report{
		Date:     time.Now(),
		Command:  strings.Join(append([]string{"go run ./bench"}, o.args...), " "),
		Machine:  thisMachine(),
		Rounds:   o.rounds,
		Window:   o.window,
		Quick:    o.quick,
		Firewall: o.firewall,
		Profile:  o.profile,
	}
	for _, c := range peers {
		d := described{Name: c.name, Note: c.note}
		if c.version != nil {
			d.Version = c.version(ctx)
		}
		r.Peers = append(r.Peers, d)
	}
	return r
}

// add takes samples in the order of the rounds.
func (r *report) add(row row, m mode, peer string, s sample) {
	if found := r.find(row, m, peer); found != nil {
		found.Samples = append(found.Samples, s)
		return
	}
	r.Results = append(r.Results, &result{row.name, m, peer, []sample{s}})
}

func (r *report) find(row row, m mode, peer string) *result {
	for _, x := range r.Results {
		if x.Row == row.name && x.Mode == m && x.Peer == peer {
			return x
		}
	}
	return nil
}

// values picks a figure of all rounds; a result that is not there has none.
func (x *result) values(of func(sample) float64) []float64 {
	var list []float64
	if x != nil {
		for _, s := range x.Samples {
			list = append(list, of(s))
		}
	}
	return list
}

func cost(s sample) float64        { return s.Cost }
func rate(s sample) float64        { return s.Rate }
func wholeCPU(s sample) float64    { return s.Machine }
func way(s sample) float64         { return s.Way }
func kernelMem(s sample) float64   { return s.Kernel }
func descriptors(s sample) float64 { return s.Descriptors }

// verdict is how a goal was met.
type verdict struct {
	goal
	ratio ratio
}

// met judges by what the table shows, two digits after the point.
func (v verdict) met() bool { return v.ratio.Median < v.most+0.005 }

func (v verdict) String() string {
	word := "missed"
	if v.met() {
		word = "met"
	}
	return fmt.Sprintf("≤ %s × %s: %s", figure(v.most), v.peer, word)
}

// goalsOf returns what a peer is to reach in a row and mode, and by which figure it is judged: its own cost, or without a process the whole machine's.
func goalsOf(row row, m mode, peer string) ([]goal, func(sample) float64) {
	switch {
	case peer == "salp" && m == links:
		return linkGoals, wholeCPU
	case peer == "salp":
		return row.goals, cost
	case peer == "salp-kernel" && !row.job.Hold:
		return kernelGoals, wholeCPU
	}
	return nil, nil
}

// verdicts judges a peer in a row and mode, by the goals whose peer was measured too.
func (r *report) verdicts(row row, m mode, peer string) []verdict {
	goals, of := goalsOf(row, m, peer)
	if len(goals) == 0 {
		return nil
	}
	own := r.find(row, m, peer).values(of)
	var list []verdict
	for _, g := range goals {
		if other := r.find(row, m, g.peer).values(of); len(own) > 0 && len(other) > 0 {
			list = append(list, verdict{g, ratioOf(own, other)})
		}
	}
	return list
}

// missed counts the goals that were not met.
func (r *report) missed() int {
	n := 0
	for _, row := range rows {
		for _, m := range modes {
			for _, peer := range []string{"salp", "salp-kernel"} {
				for _, v := range r.verdicts(row, m, peer) {
					if !v.met() {
						n++
					}
				}
			}
		}
	}
	return n
}

// tables makes one of each row and mode that was measured.
func (r *report) tables() []table {
	var all []table
	for _, row := range rows {
		for _, m := range modes {
			t := table{title: fmt.Sprintf("%s, %s: %s", row.name, m, row.what), head: r.heading(row, m)}
			for _, p := range r.Peers {
				if x := r.find(row, m, p.Name); x != nil {
					t.rows = append(t.rows, r.line(row, m, x))
				}
			}
			if len(t.rows) > 0 {
				all = append(all, t)
			}
		}
	}
	return all
}

func (r *report) heading(row row, m mode) []string {
	times := "× " + m.reference() + " (min–max)"
	if row.job.Hold {
		return []string{"", row.cost, times, "descriptors", "kernel kB, all three hosts", "goal"}
	}
	head := []string{"", row.cost, times, row.rate, times, "machine " + row.cost}
	if r.Profile {
		head = append(head, "way %", "× "+m.bare()+" by it")
	}
	return append(head, "goal")
}

func (r *report) line(row row, m mode, x *result) []string {
	base := r.find(row, m, m.reference())
	line := []string{x.Peer, "", ""}
	if c := median(x.values(cost)); c != 0 || x.Peer != "direct" && x.Peer != masquerader { // without a process there is no cost to compare
		line[1], line[2] = figure(c), ratioOf(x.values(cost), base.values(cost)).String()
	}
	if row.job.Hold {
		line = append(line, figure(median(x.values(descriptors))), figure(median(x.values(kernelMem))))
	} else {
		line = append(line, figure(median(x.values(rate))), ratioOf(x.values(rate), base.values(rate)).String(), figure(median(x.values(wholeCPU))))
		if r.Profile {
			base := r.find(row, m, m.bare())
			line = append(line, figure(100*median(x.values(way))), ratioOf(x.values(byWay), base.values(byWay)).String())
		}
	}
	return append(line, r.goals(row, m, x.Peer))
}

func (r *report) goals(row row, m mode, peer string) string {
	var words []string
	for _, v := range r.verdicts(row, m, peer) {
		words = append(words, v.String())
	}
	return strings.Join(words, "; ")
}

// String writes a ratio for a table; one that could not be made is empty.
func (q ratio) String() string {
	if math.IsNaN(q.Median) {
		return ""
	}
	return fmt.Sprintf("%s (%s–%s)", figure(q.Median), figure(q.Min), figure(q.Max))
}

// figure writes a number with three significant digits or all those before the point.
func figure(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return ""
	case a >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// facts says under which circumstances the figures came about, a line each.
func (r *report) facts() []string {
	list := []string{
		fmt.Sprintf("%s by `%s`: medians of %d rounds, %v each", r.Date.Format("2006-01-02"), r.Command, r.Rounds, r.Window),
		r.Machine.String(),
	}
	for _, p := range r.Peers {
		var words []string
		for _, w := range []string{p.Version, p.Note} {
			if w != "" {
				words = append(words, w)
			}
		}
		list = append(list, p.Name+": "+strings.Join(words, "; "))
	}
	for _, m := range modes {
		list = append(list, fmt.Sprintf("%s: %s", m, modeWords[m]))
	}
	for _, f := range r.Failed {
		list = append(list, "failed and was measured again: "+f)
	}
	if r.Firewall {
		list = append(list, "a stateful firewall on the gateway: the kernel tracks connections for all peers")
	}
	if r.Profile {
		list = append(list, "way: what the processors spent, of all that they were busy with, on filters, connection tracking, translation and routing in the kernel")
	}
	if r.Quick {
		list = append(list, "a quick run: to see that it works, not for figures")
	}
	return list
}

// text writes the report for people at a terminal.
func (r *report) text(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.facts() {
		fmt.Fprintln(&b, f)
	}
	for _, t := range r.tables() {
		b.WriteString("\n")
		t.text(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeJSON writes everything, every sample of every round.
func (r *report) writeJSON(path string, out io.Writer) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if path == "-" {
		_, err = out.Write(text)
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// Between these lines of a Markdown file the tables stand.
const (
	recordBegin = "<!-- bench: begin -->"
	recordEnd   = "<!-- bench: end -->"
)

// record replaces what is between the markers of a Markdown file.
func (r *report) record(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(text), recordBegin)
	_, after, ok2 := strings.Cut(rest, recordEnd)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no place for the tables: the lines %q and %q", path, recordBegin, recordEnd)
	}
	var b strings.Builder
	b.WriteString(before + recordBegin + "\n\n")
	for _, f := range r.facts() {
		fmt.Fprintf(&b, "- %s\n", f)
	}
	for _, t := range r.tables() {
		b.WriteString("\n")
		t.markdown(&b)
	}
	b.WriteString("\n" + recordEnd + after)
	return os.WriteFile(path, []byte(b.String()), 0o644)
}
