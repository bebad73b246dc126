package probe

import "testing"

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true},
		{"220 ", "220 mx.example.org ESMTP\r\n", true},
		{"220 ", "421 too busy\r\n", false},
		{"/", "a/b", true},
		{"/^220[ -]/", "220-hello", true},
		{"/^220[ -]/", "x 220-hello", false},
		{`/\x00\xff/`, "a\x00\u00ffb", true},
	} {
		p, err := ParsePattern(c.pattern)
		if err != nil || p.Match([]byte(c.text)) != c.want {
			t.Errorf("%q in %q: want %v, %v", c.pattern, c.text, c.want, err)
		}
	}
	for _, bad := range []string{"//", "/(/", string(make([]byte, maxPattern+1))} {
		if _, err := ParsePattern(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
