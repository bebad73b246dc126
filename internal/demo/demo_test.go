package demo

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"salp/internal/config"
	"salp/internal/lab"
)

func TestConfigurationIsGood(t *testing.T) {
	c, err := config.Parse("demo", []byte(modesFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range acts {
		if c.Listener(a.listener) == nil {
			t.Errorf("no listener %q for %q", a.listener, a.title)
		}
		if lines := snippet(modesFile, a.listener); len(lines) < 3 || lines[0] != a.listener+":" || strings.Contains(strings.Join(lines, "\n"), "pools") {
			t.Errorf("the page would show %q of %s", lines, a.listener)
		}
	}
}

func TestUnknownScene(t *testing.T) {
	var unknown UnknownScene
	if err := Run(t.Context(), "nosuch", Options{}); !errors.As(err, &unknown) || !strings.Contains(err.Error(), "modes") {
		t.Errorf("error %v does not tell what there is", err)
	}
	names := map[string]bool{}
	for _, s := range Scenes() {
		if s.Name == "" || s.Summary == "" || names[s.Name] {
			t.Errorf("scene %+v", s)
		}
		names[s.Name] = true
	}
}

func TestJudge(t *testing.T) {
	client := netip.MustParseAddrPort("10.0.1.2:4000")
	for _, c := range []struct {
		want, saw string
		good      bool
	}{
		{"gateway", "10.0.2.1:99", true},
		{"gateway", "[fd00:2::1]:99", true},
		{"gateway", "10.0.1.2:4000", false},
		{"client", "10.0.1.2:99", true},
		{"client", "10.0.1.2:4000", true},
		{"client", "10.0.2.1:4000", false},
		{"client+port", "10.0.1.2:4000", true},
		{"client+port", "10.0.1.2:99", false},
		{"client", "192.0.2.1:4000", false},
	} {
		words, err := judge(c.want, client, lab.Peer{From: netip.MustParseAddrPort(c.saw)})
		if (err == nil) != c.good || c.good != (words != "") {
			t.Errorf("want %s, saw %s: %q, %v", c.want, c.saw, words, err)
		}
	}
}

func TestTableAligns(t *testing.T) {
	var out bytes.Buffer
	p := &page{out: &out}
	p.table([][]cell{{plain("a"), plain("→→"), plain("x")}, {plain("long"), plain("b"), plain("y")}})
	if got, want := out.String(), "    a      →→   x\n    long   b    y\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestColorOnlyWhenAsked(t *testing.T) {
	for _, color := range []bool{true, false} {
		var out bytes.Buffer
		p := &page{out: &out, color: color}
		p.heading(1, "Title", "Summary")
		p.line("%s", p.good("good"))
		if got := strings.Contains(out.String(), "\x1b["); got != color {
			t.Errorf("color %v, output %q", color, out.String())
		}
	}
}

func TestStateDifferences(t *testing.T) {
	before := state{"kept": "1", "changed": "1", "gone": "1"}
	now := state{"kept": "1", "changed": "2", "new": "1"}
	if got, want := before.differences(now), []string{"changed: changed: 1 → 2", "gone: gone", "new: new"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := before.differences(before); len(got) != 0 {
		t.Errorf("a state differs from itself: %q", got)
	}
}

func TestCallsAreSummedUp(t *testing.T) {
	start := time.Now()
	after := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	calls := []call{{at: after(30)}, {at: after(10), direct: true}, {at: after(20), direct: true, took: time.Second}}
	if d, found := first(calls, start, true); !found || d != 10*time.Millisecond {
		t.Errorf("first direct call after %v, %v", d, found)
	}
	if last := lastDirect(calls); last != after(20) {
		t.Errorf("last direct call at %v", last.Sub(start))
	}
	var out bytes.Buffer
	p := &page{out: &out}
	if err := p.tally(calls); err != nil || !strings.Contains(out.String(), "3 connections tried: 2 answered straight, 1 through Salp, 0 cut in the midst; the slowest took 1000 ms") {
		t.Errorf("%v, %q", err, out.String())
	}
	broken := call{err: errors.New("no answer")}
	if err := p.tally([]call{broken}); err == nil {
		t.Error("a failed connection with none that got through is no error")
	}
	broken.at = after(5)
	if err := p.tally(append(calls, broken)); err != nil {
		t.Errorf("a connection cut before others went straight: %v", err)
	}
	broken.at = after(50)
	if err := p.tally(append(calls, broken)); err == nil {
		t.Error("a connection that failed after others went straight is no error")
	}
}

// The scene shows the example as it is.
func TestWebIsTheExample(t *testing.T) {
	text, err := os.ReadFile("../../examples/office-web.yaml")
	if err != nil || string(text) != webFile {
		t.Errorf("webFile is not examples/office-web.yaml: %v", err)
	}
}
