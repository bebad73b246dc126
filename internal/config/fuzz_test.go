package config

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzParse feeds Parse any text: it must not panic, must say where in the text each mistake is, in order, and must take what it took
// once again to the same effect.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/errors/*.txtar", "testdata/good/*.txtar"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("no seeds: %v", err)
		}
		for _, file := range files {
			text, _ := readCase(f, file)
			f.Add([]byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := Parse("f", text)
		if err == nil {
			checkConfig(t, cfg)
			return
		}
		var errs Errors
		if !errors.As(err, &errs) || len(errs) == 0 || cfg != nil {
			t.Fatalf("refused without Errors: %v", err)
		}
		checkPlaces(t, text, errs)
	})
}

// checkConfig looks for what Parse promises of every Config.
func checkConfig(t *testing.T, cfg *Config) {
	if len(cfg.Listeners)+len(cfg.Links) == 0 {
		t.Error("accepted without a listener or a link")
	}
	checkLinks(t, cfg)
	for _, l := range cfg.Listeners {
		if (len(l.Listen) > 0) == (l.Intercept != nil) || !nameForm.MatchString(l.Name) {
			t.Errorf("listener %q with listen %v and intercept %v", l.Name, l.Listen, l.Intercept)
		}
		if l.Pool != "" && cfg.Pool(l.Pool) == nil || l.Pool == "" && l.Intercept == nil && l.Protocol != ProtocolHTTP && len(l.Routes) == 0 {
			t.Errorf("listener %q without its pool %q", l.Name, l.Pool)
		}
		if l.Intercept != nil && (len(l.Intercept.Interfaces) == 0 || len(l.Intercept.Ports) == 0) {
			t.Errorf("listener %q takes in nothing", l.Name)
		}
	}
	for i, a := range cfg.Listeners {
		for _, b := range cfg.Listeners[:i] {
			if collide(a, b) {
				t.Errorf("listeners %q and %q collide", a.Name, b.Name)
			}
		}
	}
	for _, p := range cfg.Pools {
		if len(p.Servers) == 0 {
			t.Errorf("pool %q without servers", p.Name)
		}
		for _, s := range p.Servers {
			if byAddress, byName := s.Address.IsValid() && s.Address.Port() > 0, s.Host != "" && s.Port > 0; byAddress == byName {
				t.Errorf("pool %q with server %v", p.Name, s)
			}
		}
	}
}

// checkLinks looks for what Parse promises of links.
func checkLinks(t *testing.T, cfg *Config) {
	for _, l := range cfg.Links {
		if l.Interface == "" || l.Weight < 1 || l.OnDown == "" || !l.IPv4 && !l.IPv6 || l.Check != nil && (l.Check.Targets() < l.Check.Quorum || l.Check.Timeout <= 0) {
			t.Errorf("link %+v", l)
		}
	}
	there := func(name string) bool { return name == LinkBlackhole || len(cfg.LinksOf(name)) > 0 }
	for _, r := range cfg.Balance.Rules {
		if len(r.Links) == 0 || slices.ContainsFunc(r.Links, func(name string) bool { return !there(name) }) {
			t.Errorf("rule for %q", r.Links)
		}
	}
	if len(cfg.Links) > 0 && !there(cfg.Balance.Default) {
		t.Errorf("default %q", cfg.Balance.Default)
	}
}

// collide says, in the plainest way, that a connection could belong to both listeners.
func collide(a, b *Listener) bool {
	for _, x := range a.Listen {
		if slices.Contains(b.Listen, x) {
			return true
		}
	}
	if a.Intercept == nil || b.Intercept == nil {
		return false
	}
	sharePort := false
	for _, x := range a.Intercept.Ports {
		for _, y := range b.Intercept.Ports {
			sharePort = sharePort || x.First <= y.Last && y.First <= x.Last
		}
	}
	return sharePort && slices.ContainsFunc(a.Intercept.Interfaces, func(name string) bool { return slices.Contains(b.Intercept.Interfaces, name) })
}

// Any set of ranges that do overlap is refused, and any that do not is taken.
func TestOverlapsRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for range 2000 {
		var b strings.Builder
		b.WriteString("listeners:\n")
		cfg := &Config{}
		want := false
		for i := range 1 + random.IntN(5) {
			first := 1 + random.IntN(40)
			l := &Listener{Intercept: &Intercept{
				Interfaces: []string{fmt.Sprintf("e%d", random.IntN(2))},
				Ports:      []PortRange{{uint16(first), uint16(first + random.IntN(10))}},
			}}
			for _, other := range cfg.Listeners {
				want = want || collide(l, other)
			}
			cfg.Listeners = append(cfg.Listeners, l)
			p := l.Intercept.Ports[0]
			fmt.Fprintf(&b, "  l%d: {intercept: {interfaces: [%s], ports: [%d-%d]}}\n", i, l.Intercept.Interfaces[0], p.First, p.Last)
		}
		if _, err := Parse("f", []byte(b.String())); (err != nil) != want {
			t.Fatalf("%s: %v, want refused: %v", b.String(), err, want)
		}
		if want {
			refused++
		}
	}
	if refused < 200 || refused > 1800 {
		t.Errorf("%d of 2000 refused: the test does not try both", refused)
	}
}

// checkPlaces looks whether every mistake has a place within the text and they are in order.
func checkPlaces(t *testing.T, text []byte, errs Errors) {
	if len(text) > MaxSize {
		return
	}
	lines := strings.Count(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n") + strings.Count(string(text), "\r") + 1
	last := &Error{}
	for _, e := range errs {
		if e.Line < 1 || e.Line > lines || e.Column < 1 || e.Column > utf8.RuneCountInString(e.Source)+1 {
			t.Errorf("%d:%d is not in the text: %s", e.Line, e.Column, e.Message)
		}
		if e.Line < last.Line || e.Line == last.Line && e.Column < last.Column {
			t.Errorf("%d:%d comes after %d:%d", e.Line, e.Column, last.Line, last.Column)
		}
		if strings.ContainsFunc(e.Error(), func(c rune) bool { return c < ' ' && c != '\n' || c >= 0x7f && c < 0xa0 }) {
			t.Errorf("a control character in %q", e.Error())
		}
		if e.Message == "" || strings.HasPrefix(e.Message, "not YAML") && e.Message == "not YAML: " {
			t.Errorf("%d:%d: nothing said", e.Line, e.Column)
		}
		last = e
	}
}

// TestHostile gives Parse large files of the kinds that cost parsers most. Each must be done with in seconds.
func TestHostile(t *testing.T) {
	const size = MaxSize / 4 // enough to show what grows faster than the file, and still quick with the race detector
	fill := func(unit string) string { return strings.Repeat(unit, size/len(unit)) }
	within := func(head, unit, tail string) string {
		return head + strings.Repeat(unit, (size-len(head)-len(tail))/len(unit)) + tail
	}
	counted := func(head, format, tail string) string {
		var b strings.Builder
		b.WriteString(head)
		for i := 0; ; i++ {
			next := fmt.Sprintf(format, i)
			if b.Len()+len(next)+len(tail) > size {
				return b.String() + tail
			}
			b.WriteString(next)
		}
	}
	for name, text := range map[string]string{
		"brackets":               fill("["),
		"braces":                 fill("{"),
		"dashes":                 fill("- "),
		"question marks":         fill("? "),
		"colons":                 fill(": "),
		"quotes":                 fill(`"`),
		"quoted pieces":          fill(`"a" `),
		"one quoted scalar":      within(`user: "`, "a", `"`),
		"long scalar":            within("user: ", "a", ""),
		"long key":               within("", "a", ": 1"),
		"long listener name":     counted("listeners: {"+strings.Repeat("a", size/2)+": {", "k%d: 1, ", "}}"),
		"comments":               fill("#\n"),
		"blank lines":            fill("\n"),
		"blanks":                 fill(" "),
		"anchors":                counted("", "- &a%d x\n", ""),
		"aliases":                within("a: &a x\nb: [", "*a,", "]"),
		"unknown keys":           counted("", "k%d: 1\n", ""),
		"unknown keys, one line": counted("{", "k%d: 1, ", "}"),
		"same key":               fill("a: 1\n"),
		"listeners":              counted("listeners:\n", "  l%d: {intercept: {interfaces: [e%[1]d], ports: [80]}}\n", ""),
		"bad servers, one line":  within("pools: {p: {servers: [", "{}, ", "]}}"),
		"ports":                  within("listeners: {a: {intercept: {interfaces: [e], ports: [", "0,", "]}}}"),
		"pools of bad servers":   counted("pools: {", "p%d: {servers: [{}, [], 1, {a: [b]}]}, ", "}"),
		"keys in a listener":     counted("listeners: {"+strings.Repeat("a", maxKey)+": {", "k%d: 1, ", "}}"),
		"one pool of servers":    counted("pools: {p: {servers: [", "10.%[1]d.1.1:80, ", "]}}"),
		"tags":                   fill("- !!a b\n"),
		"folded":                 within("user: >\n", "  a\n", ""),
		"multi-line plain":       within("user: a\n", "  a\n", ""),
		"documents":              fill("---\n"),
		"directives":             fill("%TAG ! !a\n"),
		"tabs":                   fill("\t"),
		"flow keys":              within("{", "a,", "}"),
		"explicit keys":          fill("? a\n"),
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, err := Parse("f", []byte(text))
			var errs Errors
			if !errors.As(err, &errs) {
				t.Fatalf("accepted or refused without Errors: %v", err)
			}
			said := err.Error()
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %v", took)
			} else if took > time.Second/2 {
				t.Logf("took %v", took)
			}
			if len(errs) > maxErrors+1 || len(said) > 100_000 {
				t.Errorf("%d mistakes told in %d bytes", len(errs), len(said))
			}
			checkPlaces(t, []byte(text), errs)
		})
	}
}
