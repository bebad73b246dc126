package accesslog

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"salp/internal/logformat"
)

// format makes lines of entries. It is immutable.
type format struct {
	items             []item   // nil: JSON
	request, response []string // names of the fields that are shown
}

// item is a part of a line, ready to be written.
type item struct {
	logformat.Item
	number func(*Entry) int64  // of a code that is a number
	text   func(*Entry) string // of one that is a word
	field  int                 // of >h and <h: the index of the value
}

func newFormat(text string) (*format, error) {
	items, err := logformat.Parse(text)
	if err != nil {
		return nil, err
	}
	f := &format{}
	f.request, f.response = logformat.Fields(items)
	request, response := 0, 0
	for _, it := range items {
		out := item{Item: it, number: numbers[it.Code], text: words[it.Code]}
		switch it.Code {
		case ">h":
			out.field = request
			request++
		case "<h":
			out.field = response
			response++
		}
		f.items = append(f.items, out)
	}
	return f, nil
}

// numbers are the codes whose values are numbers.
var numbers = map[string]func(*Entry) int64{
	"ts":  func(e *Entry) int64 { return e.End.Unix() },
	"tu":  func(e *Entry) int64 { return int64(e.End.Nanosecond() / 1e6) },
	"tr":  func(e *Entry) int64 { return max(e.End.Sub(e.Start).Milliseconds(), 0) },
	">p":  func(e *Entry) int64 { return int64(e.Client.Port()) },
	">lp": func(e *Entry) int64 { return int64(e.Dialled.Port()) },
	"<p":  func(e *Entry) int64 { return int64(e.Server.Port()) },
	">Hs": func(e *Entry) int64 { return int64(e.Status) },
	"<Hs": func(e *Entry) int64 { return int64(e.ServerStatus) },
	"<st": func(e *Entry) int64 { return e.BytesOut },
	">st": func(e *Entry) int64 { return e.BytesIn },
	"st":  func(e *Entry) int64 { return e.BytesIn + e.BytesOut },
	"<sh": func(e *Entry) int64 { return e.HeadOut },
	">sh": func(e *Entry) int64 { return e.HeadIn },
}

// words are the codes whose values are words.
var words = map[string]func(*Entry) string{
	"un":             func(e *Entry) string { return e.User },
	"ul":             func(e *Entry) string { return e.User },
	"ui":             func(*Entry) string { return "" },
	"rm":             func(e *Entry) string { return method(e) },
	"ru":             func(e *Entry) string { return e.URL },
	"rp":             func(e *Entry) string { _, _, _, path := split(e.URL); return path },
	"rv":             func(e *Entry) string { return e.Version },
	">rs":            func(e *Entry) string { scheme, _, _, _ := split(e.URL); return scheme },
	">rd":            func(e *Entry) string { _, host, _, _ := split(e.URL); return host },
	">rP":            func(e *Entry) string { _, _, port, _ := split(e.URL); return port },
	"mt":             func(e *Entry) string { return e.MediaType },
	"Ss":             (*Entry).action,
	"Sh":             (*Entry).hierarchy,
	"err_code":       func(e *Entry) string { return e.Cause },
	"ssl::>sni":      func(e *Entry) string { return e.SNI },
	"salp::listener": func(e *Entry) string { return e.Listener },
	"salp::pool":     func(e *Entry) string { return e.Pool },
	"salp::rule":     func(e *Entry) string { return e.Rule },
}

func method(e *Entry) string {
	if e.Method == "" {
		return "NONE"
	}
	return e.Method
}

// split takes a URL apart without judging it.
func split(url string) (scheme, host, port, path string) {
	rest := url
	if i := strings.Index(rest, "://"); i >= 0 {
		scheme, rest = rest[:i], rest[i+3:]
		if i := strings.IndexAny(rest, "/?"); i >= 0 {
			rest, path = rest[:i], rest[i:]
		}
	}
	host = rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		host, port = rest[:i], rest[i+1:]
	}
	switch {
	case port != "":
	case scheme == "http":
		port = "80"
	case scheme == "https":
		port = "443"
	}
	return scheme, host, port, path
}

// longestValue bounds what one value takes of a line, before it is escaped.
const longestValue = 8 << 10

// append adds the line of an entry, with its end.
func (f *format) append(b []byte, e *Entry, number uint64) []byte {
	if f.items == nil {
		return append(appendJSON(b, e), '\n')
	}
	var scratch [64]byte
	for i := range f.items {
		it := &f.items[i]
		switch {
		case it.Code == "":
			b = append(b, it.Text...)
		case it.number != nil:
			b = it.pad(b, strconv.AppendInt(scratch[:0], it.number(e), 10))
		case it.text != nil:
			b = it.word(b, it.text(e))
		default:
			b = f.other(b, it, e, number, scratch[:0])
		}
	}
	return append(b, '\n')
}

// other adds the codes that are neither simple numbers nor simple words.
func (f *format) other(b []byte, it *item, e *Entry, number uint64, scratch []byte) []byte {
	switch it.Code {
	case ">h":
		return it.word(b, value(e.Request, it.field))
	case "<h":
		return it.word(b, value(e.Response, it.field))
	case "tl":
		return it.pad(b, appendTime(scratch, e.End, it.Arg))
	case "tg":
		return it.pad(b, appendTime(scratch, e.End.UTC(), it.Arg))
	case "sn":
		return it.pad(b, strconv.AppendUint(scratch, number, 10))
	case ">a":
		return it.pad(b, appendAddr(scratch, e.Client.Addr()))
	case ">la":
		return it.pad(b, appendAddr(scratch, e.Dialled.Addr()))
	case "<a":
		return it.pad(b, appendAddr(scratch, e.Server.Addr()))
	}
	return append(b, '-')
}

func value(all []string, i int) string {
	if i < len(all) {
		return all[i]
	}
	return ""
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return append(b, '-')
	}
	return a.Unmap().AppendTo(b)
}

// word adds a text, escaped.
func (it *item) word(b []byte, s string) []byte {
	if s == "" {
		return it.pad(b, []byte{'-'})
	}
	if len(s) > longestValue {
		s = s[:longestValue]
	}
	if it.Width == 0 && it.Max == 0 {
		return escape(b, s, it.Quote)
	}
	return it.pad(b, escape(nil, s, it.Quote))
}

// pad adds a value that is safe, with the width that is asked for.
func (it *item) pad(b, v []byte) []byte {
	if it.Max > 0 && len(v) > it.Max {
		v = v[:it.Max]
	}
	blanks := it.Width - len(v)
	if it.Left {
		b = append(b, v...)
	}
	for ; blanks > 0; blanks-- {
		if it.Zero && !it.Left {
			b = append(b, '0')
		} else {
			b = append(b, ' ')
		}
	}
	if !it.Left {
		b = append(b, v...)
	}
	return b
}

const hex = "0123456789ABCDEF"

// escape adds s so that no reader of the log is misled by it. Bytes that are not printable ASCII never come through.
func escape(b []byte, s string, q logformat.Quote) []byte {
	for i := range len(s) {
		c := s[i]
		odd := c < ' ' || c >= 0x7f
		switch {
		case q == logformat.QuoteString && (c == '"' || c == '\\'):
			b = append(b, '\\', c)
		case odd && (q == logformat.QuoteString || q == logformat.QuoteNone):
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		case odd, c == ' ' && q != logformat.QuoteString && q != logformat.QuoteNone,
			q == logformat.QuoteLog && (c == '[' || c == ']' || c == '%'),
			q == logformat.QuoteURL && !unreserved(c):
			b = append(b, '%', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// appendTime adds a time in the form of strftime(3), of which it knows the usual conversions; others stay as they are.
func appendTime(b []byte, t time.Time, form string) []byte {
	if form == "" {
		form = "%d/%b/%Y:%H:%M:%S %z"
	}
	for i := 0; i < len(form); i++ {
		if form[i] != '%' || i+1 == len(form) {
			b = append(b, form[i])
			continue
		}
		i++
		if layout, ok := conversions[form[i]]; ok {
			b = t.AppendFormat(b, layout)
			continue
		}
		switch form[i] {
		case 's':
			b = strconv.AppendInt(b, t.Unix(), 10)
		case '%':
			b = append(b, '%')
		default:
			b = append(b, '%', form[i])
		}
	}
	return b
}

// conversions are those of strftime(3) that have a layout of package time.
var conversions = map[byte]string{
	'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'd': "02", 'D': "01/02/06", 'e': "_2", 'F': "2006-01-02", 'H': "15", 'I': "03", 'j': "002", 'm': "01",
	'M': "04", 'p': "PM", 'R': "15:04", 'S': "05", 'T': "15:04:05", 'y': "06", 'Y': "2006", 'z': "-0700", 'Z': "MST",
}
