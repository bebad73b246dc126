// Package logformat parses the forms of access log lines, in Squid's notation, so that a configuration and a log agree on them.
//
// A code is written  %[QUOTE][-][0][WIDTH][.MAX][{ARGUMENT}]CODE[{ARGUMENT}]  as in Squid's logformat directive.
package logformat

import (
	"fmt"
	"slices"
	"strings"
)

// The predefined forms.
const (
	Squid    = `%ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt`
	Common   = `%>a %[ui %[un [%tl] "%rm %ru HTTP/%rv" %>Hs %<st`
	Combined = Common + ` "%"{Referer}>h" "%"{User-Agent}>h"`
)

// JSON is the name of the form that is one JSON object a line.
const JSON = "json"

// Quote says how what is hostile in a value is made harmless. Control characters never reach a log as they are.
type Quote byte

const (
	QuoteDefault Quote = 0    // blanks too are escaped, as %20: a value is one word
	QuoteString  Quote = '"'  // for use between double quotes: \" \\ \xHH
	QuoteLog     Quote = '['  // as Squid's native log: blanks, brackets and % as %HH
	QuoteURL     Quote = '#'  // everything that is not unreserved (RFC 3986) as %HH
	QuoteNone    Quote = '\'' // only control characters are escaped
)

// Item is a part of a line: text, or the value of a code.
type Item struct {
	Text  string // Code is "" then
	Code  string // as in Codes
	Arg   string
	Quote Quote
	Left  bool
	Zero  bool
	Width int // 0: as wide as it is
	Max   int // most bytes; 0: no bound
}

// Code is a code with its meaning, for the reference.
type Code struct{ Name, Meaning string }

// Codes are those that a line can have, sorted as they are explained.
var Codes = []Code{
	{"ts", "seconds since 1970 when the exchange ended"},
	{"tu", "the milliseconds of that second"},
	{"tl", "local time when it ended; the argument is a strftime form, without one it is %d/%b/%Y:%H:%M:%S %z"},
	{"tg", "the same in GMT"},
	{"tr", "how long it took, in milliseconds"},
	{">a", "the client's address"},
	{">p", "the client's port"},
	{">la", "the address that the client dialled"},
	{">lp", "the port that the client dialled"},
	{"<a", "the server's address"},
	{"<p", "the server's port"},
	{"un", "the authenticated user"},
	{"ul", "the same"},
	{"ui", "always -: nobody asks identd"},
	{"rm", "the method; CONNECT for a CONNECT, NONE for a connection that is not HTTP"},
	{"ru", "the URL; host:port for CONNECT and for a connection that is not HTTP"},
	{"rp", "the path and query of the URL"},
	{"rv", "the version of HTTP, as 1.1"},
	{">rs", "the scheme of the URL"},
	{">rd", "the host of the URL"},
	{">rP", "the port of the URL"},
	{">h", "a field of the request's header, {Name}"},
	{"<h", "a field of the response's header, {Name}"},
	{"mt", "the media type of the response"},
	{">Hs", "the status that the client got; 0 when there was none"},
	{"<Hs", "the status that the server sent"},
	{"<st", "bytes sent to the client, heads included"},
	{">st", "bytes received from the client, heads included"},
	{"st", "the two together"},
	{"<sh", "bytes of the response's head"},
	{">sh", "bytes of the request's head"},
	{"Ss", "Squid's word for what was done: TCP_MISS, TCP_DENIED, TCP_TUNNEL, NONE; with _ABORTED when the client left"},
	{"Sh", "Squid's word for where it went: HIER_DIRECT, HIER_NONE, ROUNDROBIN_PARENT for a pool's server"},
	{"err_code", "why Salp itself answered, or the connection failed"},
	{"ssl::>sni", "the name that the TLS client asked for"},
	{"sn", "the number of the line since the worker started"},
	{"salp::listener", "the name of the listener"},
	{"salp::pool", "the name of the pool"},
	{"salp::rule", "the access rule that decided, as LIST[INDEX]"},
}

// names are the codes, the longest first, so that >a is not taken for part of >la.
var names = func() []string {
	var all []string
	for _, c := range Codes {
		all = append(all, c.Name)
	}
	slices.SortStableFunc(all, func(a, b string) int { return len(b) - len(a) })
	return all
}()

// longest is the most bytes a form may have.
const longest = 4096

// Parse reads a form: the name of a predefined one, or a text with codes. For JSON it returns no items. Its error says what is wrong in
// a few words that go on a sentence.
func Parse(s string) ([]Item, error) {
	switch s {
	case JSON:
		return nil, nil
	case "squid":
		s = Squid
	case "common":
		s = Common
	case "combined":
		s = Combined
	}
	if len(s) > longest {
		return nil, fmt.Errorf("is longer than %d bytes", longest)
	}
	if !strings.Contains(s, "%") {
		return nil, fmt.Errorf("is not a form of log lines")
	}
	var items []Item
	for s != "" {
		text, rest, found := strings.Cut(s, "%")
		if text != "" {
			items = append(items, Item{Text: text})
		}
		if !found {
			break
		}
		if strings.HasPrefix(rest, "%") {
			items, s = append(items, Item{Text: "%"}), rest[1:]
			continue
		}
		item, after, err := parseCode(rest)
		if err != nil {
			return nil, err
		}
		items, s = append(items, item), after
	}
	return items, nil
}

// parseCode reads what follows a %.
func parseCode(s string) (Item, string, error) {
	whole := s
	var it Item
	if s != "" && strings.IndexByte("\"[#'", s[0]) >= 0 {
		it.Quote, s = Quote(s[0]), s[1:]
	}
	if strings.HasPrefix(s, "-") {
		it.Left, s = true, s[1:]
	}
	if strings.HasPrefix(s, "0") {
		it.Zero, s = true, s[1:]
	}
	it.Width, s = digits(s)
	if strings.HasPrefix(s, ".") {
		it.Max, s = digits(s[1:])
	}
	if it.Width > 1024 || it.Max > longest {
		return it, "", fmt.Errorf("has a width that is too large at %%%s", start(whole))
	}
	var err error
	if it.Arg, s, err = argument(s, whole); err != nil {
		return it, "", err
	}
	for _, name := range names {
		if rest, ok := strings.CutPrefix(s, name); ok {
			it.Code, s = name, rest
			break
		}
	}
	if it.Code == "" {
		return it, "", fmt.Errorf("has the unknown code %%%s", start(whole))
	}
	if it.Arg == "" {
		if it.Arg, s, err = argument(s, whole); err != nil {
			return it, "", err
		}
	}
	if isHeader := it.Code == ">h" || it.Code == "<h"; isHeader == (it.Arg == "") && it.Code != "tl" && it.Code != "tg" {
		if isHeader {
			return it, "", fmt.Errorf("has %%%s without the name of a field: write %%{Name}%s", it.Code, it.Code)
		}
		return it, "", fmt.Errorf("has an argument at %%%s, which takes none", start(whole))
	}
	return it, s, nil
}

func argument(s, whole string) (arg, rest string, err error) {
	if !strings.HasPrefix(s, "{") {
		return "", s, nil
	}
	arg, rest, ok := strings.Cut(s[1:], "}")
	if !ok || arg == "" {
		return "", s, fmt.Errorf("has a { without its } at %%%s", start(whole))
	}
	return arg, rest, nil
}

func digits(s string) (n int, rest string) {
	for s != "" && s[0] >= '0' && s[0] <= '9' && n < 100000 {
		n, s = n*10+int(s[0]-'0'), s[1:]
	}
	return n, s
}

// start is the beginning of what could not be read.
func start(s string) string {
	if len(s) > 12 {
		return s[:12] + "…"
	}
	return s
}

// Fields returns the names of header fields of requests and of responses that the items show.
func Fields(items []Item) (request, response []string) {
	for _, it := range items {
		switch it.Code {
		case ">h":
			request = append(request, it.Arg)
		case "<h":
			response = append(response, it.Arg)
		}
	}
	return request, response
}
