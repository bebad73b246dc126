package logformat

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	got, err := Parse(`x%%%-8>a %03>Hs %"{User-Agent}>h %.5ru %tl{%H:%M}%la`)
	if err == nil {
		t.Errorf("%%la is read as %v", got)
	}
	got, err = Parse(`x%%%-8>a %03>Hs %"{User-Agent}>h %.5ru %tl{%H:%M}|%{Via}<h`)
	want := []Item{{Text: "x"}, {Text: "%"}, {Code: ">a", Left: true, Width: 8}, {Text: " "}, {Code: ">Hs", Zero: true, Width: 3}, {Text: " "},
		{Code: ">h", Arg: "User-Agent", Quote: QuoteString}, {Text: " "}, {Code: "ru", Max: 5}, {Text: " "}, {Code: "tl", Arg: "%H:%M"}, {Text: "|"}, {Code: "<h", Arg: "Via"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
	request, response := Fields(got)
	if !reflect.DeepEqual(request, []string{"User-Agent"}) || !reflect.DeepEqual(response, []string{"Via"}) {
		t.Errorf("fields %v, %v", request, response)
	}
	for _, name := range []string{"squid", "common", "combined"} {
		if items, err := Parse(name); err != nil || len(items) < 10 {
			t.Errorf("%s: %v, %v", name, items, err)
		}
	}
	if items, err := Parse(JSON); items != nil || err != nil {
		t.Errorf("json: %v, %v", items, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for s, want := range map[string]string{
		"": "not a form", "plain": "not a form", "%": "unknown code", "%zz": "unknown code", "%>h": "without the name", "%{x>h": "without its }",
		"%{}>h": "without its }", "%{x}ru": "takes none", "%99999ru": "too large", "%" + strings.Repeat("x", longest): "longer",
	} {
		if items, err := Parse(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, %v; want an error with %q", s, items, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{Squid, Combined, `%-010.5{a}>h%'ru%{x}`, "%%%%%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		items, err := Parse(s)
		if err != nil {
			return
		}
		for _, it := range items {
			if (it.Text == "") == (it.Code == "") {
				t.Errorf("an item is text or a code: %+v", it)
			}
		}
	})
}

// The guide explains every code as this package does.
func TestCodesAreDocumented(t *testing.T) {
	guide, err := os.ReadFile("../../docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range Codes {
		if row := "| `%" + c.Name + "` | " + c.Meaning + " |\n"; !strings.Contains(string(guide), row) {
			t.Errorf("docs/http.md lacks the row\n%s", row)
		}
	}
}
