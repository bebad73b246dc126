// Package errorpage makes the answers that Salp itself gives to HTTP clients: a short page with the cause and what the user can do, in the
// user's language, or problem details (RFC 9457) for programs.
//
// It does no I/O but when it reads the operator's own pages. What comes from the network is escaped and bounded.
package errorpage

import (
	"embed"
	"fmt"
	"html"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

// Cause is a reason for an answer of Salp's own. Its text is what logs have for it (err_code).
type Cause string

// The causes. Each has one usual status.
const (
	Denied         Cause = "denied"          // 403: an access rule
	ResponseDenied Cause = "response_denied" // 403: an access rule about the response
	BadRequest     Cause = "bad_request"     // 400
	TooLong        Cause = "too_long"        // 431; 414 for a line
	Timeout        Cause = "timeout"         // 408: the client was too slow
	NotImplemented Cause = "not_implemented" // 501
	TooMany        Cause = "too_many"        // 429: a limit of rate
	Auth           Cause = "auth"            // 407, or 401 when Salp is taken for the server
	Name           Cause = "name"            // 502: the host cannot be resolved
	Connect        Cause = "connect"         // 502: the server refuses or cannot be reached
	Reset          Cause = "reset"           // 502: the server broke off
	Response       Cause = "response"        // 502: the response is not HTTP, or beyond the limits
	ServerTimeout  Cause = "server_timeout"  // 504
	ServerTLS      Cause = "server_tls"      // 502: the server's certificate
	Unavailable    Cause = "unavailable"     // 503: no server of the pool is free
	Loop           Cause = "loop"            // 508: the request would come back here
	Internal       Cause = "internal"        // 500
)

var statuses = map[Cause]int{Denied: 403, ResponseDenied: 403, BadRequest: 400, TooLong: 431, Timeout: 408, NotImplemented: 501, TooMany: 429, Auth: 407, Name: 502,
	Connect: 502, Reset: 502, Response: 502, ServerTimeout: 504, ServerTLS: 502, Unavailable: 503, Loop: 508, Internal: 500}

// Status returns the usual status of the cause.
func (c Cause) Status() int {
	if s := statuses[c]; s != 0 {
		return s
	}
	return 500
}

// Asked is what a page is made for. Its strings come from the network.
type Asked struct {
	Cause          Cause
	Status         int    // 0: the usual one of the cause
	Accept         string // of the request
	AcceptLanguage string
	URL            string // "": not known
	Client         string // the client's address
	Rule           string // the access rule that decided; "": none
}

// Page is an answer's content.
type Page struct {
	Status      int
	ContentType string
	Language    string // Content-Language; "": none
	Body        []byte
}

// Pages makes pages. The zero value has the built-in ones; it may be used by all loops at once.
type Pages struct {
	own atomic.Pointer[map[string]string] // the operator's, by the name of the file
}

// languages are those of the built-in texts. The first is for everyone who asks for none of them.
var languages = []string{"en", "it", "pt", "es", "de", "fr", "zh"}

//go:embed texts/*.txt
var textFiles embed.FS

// words are a cause's title, what happened, and what the user can do.
type words struct{ title, what, do string }

var texts = func() map[string]map[Cause]words {
	all := map[string]map[Cause]words{}
	for _, language := range languages {
		data, err := textFiles.ReadFile("texts/" + language + ".txt")
		if err != nil {
			panic("errorpage: " + err.Error())
		}
		all[language] = map[Cause]words{}
		for line := range strings.Lines(string(data)) {
			f := strings.Split(strings.TrimSpace(line), " | ")
			if len(f) != 4 || statuses[Cause(f[0])] == 0 {
				panic("errorpage: a line of " + language + " is no text: " + line)
			}
			all[language][Cause(f[0])] = words{f[1], f[2], f[3]}
		}
	}
	return all
}()

// longestShown bounds what of a URL is shown.
const longestShown = 300

// Page makes the page for what was asked. It never fails.
func (p *Pages) Page(a *Asked) Page {
	status := a.Status
	if status == 0 {
		status = a.Cause.Status()
	}
	language := preferred(a.AcceptLanguage, languages)
	w, ok := texts[language][a.Cause]
	if !ok {
		w = texts[language][Internal]
	}
	shown := clip(strings.ToValidUTF8(a.URL, "\ufffd"), longestShown)
	if wantsJSON(a.Accept) {
		return Page{Status: status, ContentType: "application/problem+json", Language: language, Body: problem(status, a, w, shown)}
	}
	template, own := p.template(status, a.AcceptLanguage)
	if !own {
		template = builtIn
	}
	body := fill(template, map[string]string{
		"status": strconv.Itoa(status), "reason": http.StatusText(status), "cause": string(a.Cause), "title": w.title, "what": w.what, "do": w.do,
		"url": shown, "client": a.Client, "rule": a.Rule, "language": language,
	})
	if own {
		language = ""
	}
	return Page{Status: status, ContentType: "text/html; charset=utf-8", Language: language, Body: []byte(body)}
}

const builtIn = `<!DOCTYPE html>
<html lang="{{language}}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">
<title>{{status}} {{title}}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:38em;margin:12vh auto;padding:0 1em;color:#222;background:#fff}h1{font-size:1.4em}
small{color:#777;overflow-wrap:anywhere}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}}</style></head>
<body><h1>{{title}}</h1><p>{{what}}</p><p>{{do}}</p><p><small>{{url}}<br>{{status}} {{reason}} · {{cause}} {{rule}}</small></p></body></html>
`

// fill replaces {{name}} by values, escaped for HTML. What is no name stays.
func fill(template string, values map[string]string) string {
	var b strings.Builder
	b.Grow(len(template) + 512)
	for {
		text, rest, found := strings.Cut(template, "{{")
		b.WriteString(text)
		if !found {
			return b.String()
		}
		name, after, closed := strings.Cut(rest, "}}")
		value, known := values[strings.TrimSpace(name)]
		if !closed || !known {
			b.WriteString("{{")
			template = rest
			continue
		}
		b.WriteString(html.EscapeString(value))
		template = after
	}
}

// problem makes problem details (RFC 9457).
func problem(status int, a *Asked, w words, shown string) []byte {
	var b []byte
	b = append(b, `{"type":"about:blank","title":`...)
	b = quoteJSON(b, w.title)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, `,"detail":`...)
	b = quoteJSON(b, w.what+" "+w.do)
	b = append(b, `,"cause":`...)
	b = quoteJSON(b, string(a.Cause))
	if shown != "" {
		b = append(b, `,"instance":`...)
		b = quoteJSON(b, shown)
	}
	if a.Rule != "" {
		b = append(b, `,"rule":`...)
		b = quoteJSON(b, a.Rule)
	}
	return append(b, "}\n"...)
}

// quoteJSON appends a JSON string (RFC 8259 7). What could end a script element is escaped too.
func quoteJSON(b []byte, s string) []byte {
	b = append(b, '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c < ' ' || c == '<' || c == '>' || c == '&' || c == 0x7f || c == '\u2028' || c == '\u2029':
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = utf8.AppendRune(b, c)
		}
	}
	return append(b, '"')
}

// clip shortens s to at most n bytes, at the border of a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
