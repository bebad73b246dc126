package config

import (
	"strings"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "1ms": time.Millisecond, "90s": 90 * time.Second, "1m30s": 90 * time.Second, "1d": 24 * time.Hour,
		"1h1m1s1ms": time.Hour + time.Minute + time.Second + time.Millisecond, "007s": 7 * time.Second,
	} {
		if d, problem, _ := parseDuration(text); problem != "" || d != want {
			t.Errorf("%s: %v, %q; want %v", text, d, problem, want)
		}
	}
	for _, text := range []string{"", "s", "1", "-1s", "+1s", "1.5s", "1 s", "1S", "1s1m", "1s1s", "1µs", "1000000000s", "999999999h", "1e3s", "０s"} {
		if d, problem, hint := parseDuration(text); problem == "" || hint == "" {
			t.Errorf("%q is read as %v", text, d)
		}
	}
}

// What short writes, parseDuration reads.
func TestShort(t *testing.T) {
	for _, d := range []time.Duration{0, time.Millisecond, time.Minute, 90 * time.Second, 25*time.Hour + 500*time.Millisecond, 124 * time.Minute} {
		if got, problem, _ := parseDuration(short(d)); problem != "" || got != d {
			t.Errorf("%v is written %s and read as %v, %s", d, short(d), got, problem)
		}
	}
}

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{
		"listner": "listeners", "Listeners": "listeners", "frontend": "listeners", "pool": "pools", "wrokers": "workers", "kernal": "kernel",
		"log": "logs", "": "", "x": "", "zzzzzz": "", "usre": "user", "u": "", strings.Repeat("listeners", 10): "",
	} {
		if got := nearest(word, root.shape.keys); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "ab", 1}, {"abc", "xabc", 1}, {"kitten", "sitting", 3}, {"ca", "abc", 3}} {
		if got := distance(c.a, c.b); got != c.want || distance(c.b, c.a) != c.want {
			t.Errorf("%q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// A message shows what surrounds the place, in one line that a terminal can hold, and its pointer is below the place.
func TestExcerpt(t *testing.T) {
	long := strings.Repeat("ä", 200) + "X" + strings.Repeat("ö", 200)
	for _, c := range []struct {
		source string
		column int
		under  string
	}{
		{"abc", 0, "a"}, {"abc", 2, "c"}, {"abc", 3, ""}, {"\tabc", 1, "a"}, {"ü\x1bbc", 1, "\ufffd"}, {long, 200, "X"}, {long, 0, "ä"}, {long, 400, "ö"}, {long, 401, ""}, {"", 0, ""},
	} {
		line, pad := excerpt(c.source, c.column)
		_, rest := split(line, len(pad))
		if under, _ := split(rest, 1); under != c.under || len([]rune(line)) > 122 || strings.Trim(pad, " ") != "" {
			t.Errorf("%.10q at %d: %q is under the pointer in %q, want %q", c.source, c.column, under, line, c.under)
		}
	}
}
