package errorpage

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
)

// Every cause has a text in every language, and no text is another language's.
func TestTexts(t *testing.T) {
	for _, language := range languages {
		for cause := range statuses {
			w, ok := texts[language][cause]
			if !ok || w.title == "" || !strings.HasSuffix(w.what, ".") && !strings.HasSuffix(w.what, "。") || !strings.HasSuffix(w.do, ".") && !strings.HasSuffix(w.do, "。") {
				t.Errorf("%s: %s: %+v", language, cause, w)
			}
			if language != "en" && w.what == texts["en"][cause].what {
				t.Errorf("%s: %s is English", language, cause)
			}
		}
	}
}

func TestPage(t *testing.T) {
	p := &Pages{}
	for accepts, want := range map[string]string{"": "en", "it": "it", "pt-BR,pt;q=0.9,en;q=0.8": "pt", "ja, de;q=0.5, fr;q=0.7": "fr", "zh-Hans-CN": "zh", "xx": "en", "es;q=0": "en", "de;q=x": "en", "*": "en"} {
		page := p.Page(&Asked{Cause: Denied, AcceptLanguage: accepts, Accept: "text/html", URL: "http://x.ads.example/", Rule: "office[2]"})
		body := string(page.Body)
		if page.Status != 403 || page.Language != want || page.ContentType != "text/html; charset=utf-8" || !strings.Contains(body, `lang="`+want+`"`) ||
			!strings.Contains(body, texts[want][Denied].title) || !strings.Contains(body, "http://x.ads.example/") || !strings.Contains(body, "office[2]") || strings.Contains(body, "{{") {
			t.Errorf("%q: %d %s\n%s", accepts, page.Status, page.Language, body)
		}
	}
	if page := p.Page(&Asked{Cause: "never heard of"}); page.Status != 500 || len(page.Body) == 0 {
		t.Errorf("an unknown cause: %+v", page)
	}
	if page := p.Page(&Asked{Cause: TooLong, Status: 414}); page.Status != 414 || !strings.Contains(string(page.Body), "414 Request URI Too Long") {
		t.Errorf("%s", page.Body)
	}
}

// What the network says never becomes a part of the page's language.
func TestEscaped(t *testing.T) {
	hostile := `http://a/"'><script>alert(1)</script>{{title}}` + "\x00\xff\u2028" + strings.Repeat("é", 500)
	for _, accept := range []string{"", "application/json"} {
		page := (&Pages{}).Page(&Asked{Cause: Denied, URL: hostile, Client: "<b>", Accept: accept, Rule: `"<`})
		if body := string(page.Body); strings.Contains(body, "<script") || strings.Contains(body, "<b>") || len(body) > 4000 {
			t.Errorf("%s", body)
		}
		if accept != "" && !json.Valid(page.Body) {
			t.Errorf("not JSON: %s", page.Body)
		}
	}
}

func TestProblem(t *testing.T) {
	for accept, want := range map[string]bool{"application/json": true, "application/problem+json, text/html;q=0.5": true, "text/html, application/json;q=0.9": false, "*/*": false, "": false, "text/html,application/json": false} {
		page := (&Pages{}).Page(&Asked{Cause: ServerTimeout, Accept: accept, AcceptLanguage: "it", URL: "http://a/"})
		if got := page.ContentType == "application/problem+json"; got != want {
			t.Errorf("%q: %s", accept, page.ContentType)
		}
		if !want {
			continue
		}
		var p struct {
			Type, Title, Detail, Cause, Instance string
			Status                               int
		}
		if err := json.Unmarshal(page.Body, &p); err != nil || p.Status != 504 || p.Title != texts["it"][ServerTimeout].title || p.Cause != "server_timeout" || p.Instance != "http://a/" || p.Type != "about:blank" {
			t.Errorf("%+v, %v", p, err)
		}
	}
}

func TestOwnPages(t *testing.T) {
	files := map[string]string{"403.html": "no {{url}} {{nothing}} {{", "403.it.html": "no, in italiano", "error.html": "all {{status}} {{reason}} {{ client }}", "style.css": "x", "200.html": "x"}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	p := &Pages{}
	if err := p.Read(names, func(name string) (io.Reader, error) { return strings.NewReader(files[name]), nil }); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cause          Cause
		language, want string
	}{{Denied, "", "no &lt;a {{nothing}} {{"}, {Denied, "it-IT", "no, in italiano"}, {Denied, "de", "no &lt;a {{nothing}} {{"}, {Connect, "it", "all 502 Bad Gateway 10.0.0.1"}} {
		if page := p.Page(&Asked{Cause: c.cause, AcceptLanguage: c.language, URL: "<a", Client: "10.0.0.1"}); string(page.Body) != c.want {
			t.Errorf("%s %s: %s", c.cause, c.language, page.Body)
		}
	}
	for content, want := range map[string]string{strings.Repeat("x", MaxFile+1): "more than", "\xff": "UTF-8"} {
		if err := p.Read([]string{"404.html"}, func(string) (io.Reader, error) { return strings.NewReader(content), nil }); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := p.Read([]string{"404.html"}, func(string) (io.Reader, error) { return nil, errors.New("gone") }); err == nil {
		t.Error("no error")
	}
}

func FuzzPage(f *testing.F) {
	f.Add("de;q=0.1,*", "text/html;q=0.3", "http://a/<")
	f.Add(",,;;q=", "application/json;q=1e9", "\xff{{url}}")
	f.Fuzz(func(t *testing.T, language, accept, url string) {
		page := (&Pages{}).Page(&Asked{Cause: Denied, AcceptLanguage: language, Accept: accept, URL: url})
		if page.ContentType == "application/problem+json" && !json.Valid(page.Body) {
			t.Errorf("%s", page.Body)
		}
		if len(page.Body) > 6000 {
			t.Errorf("%d bytes", len(page.Body))
		}
	})
}
