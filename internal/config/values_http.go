package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
	"golang.org/x/net/idna"
)

// boolean is true or false.
func boolean() kind[bool] {
	return kind[bool]{shape: shape{words: "`true` or `false`", schema: map[string]any{"type": "boolean"}}, read: func(r *reader, n *yaml.Node, at Path) (bool, bool) {
		switch {
		case n.Kind != yaml.ScalarNode:
			r.wrongType(n, at, "true or false", "write true or false")
		case n.Value == "true" || n.Value == "false":
			return n.Value == "true", true
		case strings.EqualFold(n.Value, "yes") || strings.EqualFold(n.Value, "on") || strings.EqualFold(n.Value, "true"):
			r.bad(n, at, "is neither true nor false", "write  true")
		case strings.EqualFold(n.Value, "no") || strings.EqualFold(n.Value, "off") || strings.EqualFold(n.Value, "false"):
			r.bad(n, at, "is neither true nor false", "write  false")
		default:
			r.bad(n, at, "is neither true nor false", "write true or false")
		}
		return false, false
	}}
}

// sizeUnits are the units of a size, the largest first.
var sizeUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

var sizeForm = regexp.MustCompile(`^([0-9]{1,9})(GiB|MiB|KiB|B)$`)

// size is a number of bytes within bounds, as in 64KiB.
func size(least, most int64) kind[int64] {
	bounds := fmt.Sprintf("from %s to %s", sizeText(least), sizeText(most))
	s := shape{words: "size " + bounds, schema: map[string]any{"type": "string", "pattern": sizeForm.String()}}
	return kind[int64]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (int64, bool) {
		const form = "write a number with a unit (B, KiB, MiB, GiB), as in  64KiB"
		if n.Kind != yaml.ScalarNode {
			r.wrongType(n, at, "a size", form)
			return 0, false
		}
		m := sizeForm.FindStringSubmatch(n.Value)
		if m == nil {
			hint := form
			if _, err := strconv.ParseUint(n.Value, 10, 31); err == nil {
				hint = "write  " + n.Value + "B  for bytes, or another of KiB, MiB, GiB"
			}
			r.bad(n, at, "is not a size", hint)
			return 0, false
		}
		v, _ := strconv.ParseInt(m[1], 10, 64)
		for _, u := range sizeUnits {
			if u.name == m[2] {
				v *= u.bytes
			}
		}
		if v < least || v > most {
			r.bad(n, at, "is out of range", "write a size "+bounds)
			return 0, false
		}
		return v, true
	}}
}

// sizeText writes a size as this file does.
func sizeText(v int64) string {
	for _, u := range sizeUnits {
		if v >= u.bytes && v%u.bytes == 0 {
			return fmt.Sprintf("%d%s", v/u.bytes, u.name)
		}
	}
	return "0B"
}

// nameOf is the name of something of the kind; check sees to it that there is one.
func nameOf(what string) kind[string] {
	return word("name of "+what, map[string]any{"pattern": namePattern}, func(s string) (problem, hint string) {
		if !nameForm.MatchString(s) {
			return "cannot be the name of " + what, "a name is a letter, then up to 31 letters, digits, _ and -"
		}
		return "", ""
	})
}

// fileName names a file or directory.
func fileName(what string) kind[string] {
	return word("path of "+what, map[string]any{"minLength": 1, "maxLength": 4095}, func(s string) (problem, hint string) {
		switch {
		case s == "":
			return "names no file", "write a path, or remove the key"
		case len(s) > 4095:
			return "is too long for a path", ""
		case strings.HasPrefix(s, "~"):
			return "begins with ~, which is not expanded here", "write the whole path"
		}
		return "", ""
	})
}

var tokenForm = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$")

// token is a token of HTTP (RFC 9110 5.6.2).
func token(words, hint string) kind[string] {
	return word(words, map[string]any{"pattern": tokenForm.String()}, func(s string) (string, string) {
		if !tokenForm.MatchString(s) {
			return "is not a token as HTTP has them", hint
		}
		return "", ""
	})
}

// text is one line of printable ASCII, and not "".
func text(words string, most int) kind[string] {
	return word(words, map[string]any{"minLength": 1, "maxLength": most, "pattern": "^[ -~]+$"}, func(s string) (string, string) {
		if s == "" || len(s) > most || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) {
			return fmt.Sprintf("is not a line of up to %d printable ASCII characters", most), ""
		}
		return "", ""
	})
}

// listPrefix is how an item of a condition names a list.
const listPrefix = "list:"

// listItem reads list:NAME. is says that the text names a list, ok that it names it well.
func listItem(s string) (name, problem, hint string, is bool) {
	name, is = strings.CutPrefix(s, listPrefix)
	if is && !nameForm.MatchString(name) {
		return "", "names no list", "write  list:NAME  with a name from lists:", true
	}
	return name, "", "", is
}

// scalar is a kind that is read from the text of a scalar. parse says what is wrong with it.
func scalar[V any](words, want, pattern string, parse func(string) (v V, problem, hint string)) kind[V] {
	s := shape{words: words, schema: map[string]any{}}
	if pattern != "" {
		s.schema["pattern"] = pattern // which holds of text alone: 4 and mon are scalars of YAML alike
	}
	return kind[V]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (V, bool) {
		if n.Kind != yaml.ScalarNode {
			r.wrongType(n, at, want, "")
			return *new(V), false
		}
		v, problem, hint := parse(n.Value)
		if problem != "" {
			r.bad(n, at, problem, hint)
			return *new(V), false
		}
		return v, true
	}}
}

// addressItem is an address, a prefix or list:NAME.
func addressItem() kind[AddressItem] {
	return scalar("address, prefix or `list:NAME`", "an address or a prefix", `^([0-9a-fA-F.:]+(/[0-9]+)?|list:.+)$`, func(s string) (AddressItem, string, string) {
		if name, problem, hint, is := listItem(s); is {
			return AddressItem{List: name}, problem, hint
		}
		p, problem, hint := parsePrefix(s)
		return AddressItem{Prefix: p}, problem, hint
	})
}

// parsePrefix reads an address or a prefix.
func parsePrefix(s string) (p netip.Prefix, problem, hint string) {
	const form = `write an address or a prefix, as in  10.0.1.0/24  or  "fd00:1::/64"`
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" || a.Is4In6() {
			return p, "is not an address as used here", form
		}
		return netip.PrefixFrom(a, a.BitLen()), "", ""
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil && strings.Contains(s, "-"):
		return p, "is not an address or a prefix", "ranges are not understood: write prefixes"
	case err != nil && strings.Contains(s, "/255."):
		return p, "is not an address or a prefix", "write the length of the mask, as in  /24"
	case err != nil:
		return p, "is not an address or a prefix", form
	case p.Addr().Is4In6():
		return p, "is an IPv4 prefix written as IPv6", form
	case p.Masked() != p:
		return p, "has bits set behind its length", "write  " + p.Masked().String()
	}
	return p, "", ""
}

// hostItem is a name, .name for all below it too, or list:NAME.
func hostItem() kind[HostItem] {
	return scalar("host name, `.NAME` with all below it, or `list:NAME`", "a host name", `^\S+$`, func(s string) (HostItem, string, string) {
		if name, problem, hint, is := listItem(s); is {
			return HostItem{List: name}, problem, hint
		}
		name, suffix := strings.CutPrefix(s, ".")
		name, problem, hint := hostName(name, s)
		return HostItem{Name: name, Suffix: suffix}, problem, hint
	})
}

var hostForm = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

// hostName returns a host name or an address as it is compared: lower case, no final dot, IDNA as xn--. whole is what the file has.
func hostName(s, whole string) (name, problem, hint string) {
	const form = "write a host name, or  .NAME  for a name and all below it"
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.String(), "", ""
	}
	switch {
	case strings.HasPrefix(s, "*."):
		return "", "has a *", "write  " + s[1:]
	case strings.Contains(s, "/"):
		return "", "is not a host name", "a name alone, without scheme and path; paths have their own condition:  path"
	}
	if host, _, err := net.SplitHostPort(s); err == nil {
		return "", "has a port", "write  " + host + "  and the port as  ports"
	}
	name = strings.ToLower(strings.TrimSuffix(s, "."))
	if strings.ContainsFunc(name, func(c rune) bool { return c > 127 }) {
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil {
			return "", "is not a host name", form
		}
		name = ascii
	}
	if len(name) > 253 || !hostForm.MatchString(name) {
		return "", "is not a host name", form
	}
	return name, "", ""
}

// pattern is a text with * or, after a ~, a regular expression.
func pattern() kind[Pattern] {
	return scalar("pattern with `*`, or `~` and a regular expression", "a pattern", "", parsePattern)
}

func parsePattern(s string) (p Pattern, problem, hint string) {
	const most = 1024
	if len(s) > most {
		return p, fmt.Sprintf("has more than %d characters", most), "put many into several items"
	}
	expr, is := strings.CutPrefix(s, "~")
	if !is {
		return Pattern{Text: s}, "", ""
	}
	if err := regexpProblem(expr); err != "" {
		return p, err, "see https://pkg.go.dev/regexp/syntax"
	}
	return Pattern{Text: expr, Regexp: true}, "", ""
}

// regexpProblem says why an expression cannot be used. Go's expressions take time linear in the text, whatever they are.
func regexpProblem(expr string) string {
	if _, err := regexp.Compile(expr); err != nil {
		return "is not a regular expression: " + strings.TrimPrefix(err.Error(), "error parsing regexp: ")
	}
	return ""
}

// headerItem is "Name: pattern".
func headerItem() kind[HeaderItem] {
	return scalar("`\"Name: PATTERN\"`", "a header field and a pattern", `^[^\s:]+:.*$`, func(s string) (HeaderItem, string, string) {
		const form = `write  "Name: PATTERN", as in  "User-Agent: *curl*"`
		name, value, ok := strings.Cut(s, ":")
		if !ok || !tokenForm.MatchString(name) {
			return HeaderItem{}, "is not a header field and a pattern", form
		}
		p, problem, hint := parsePattern(strings.TrimSpace(value))
		return HeaderItem{Name: name, Value: p}, problem, hint
	})
}

// dscp is a DiffServ code point by number or by its name (RFC 2474, 2597, 3246, 8622).
func dscp() kind[*uint8] {
	return scalar("number from 0 to 63, or a name as `af21` or `ef`", "a DiffServ code point", "", func(s string) (*uint8, string, string) {
		var v uint8
		name := strings.ToLower(s)
		n, err := strconv.ParseUint(s, 10, 8)
		switch {
		case err == nil && n <= 63:
			v = uint8(n)
		case name == "ef":
			v = 46
		case name == "le":
			v = 1
		case len(name) == 3 && name[:2] == "cs" && name[2] >= '0' && name[2] <= '7':
			v = (name[2] - '0') * 8
		case len(name) == 4 && name[:2] == "af" && name[2] >= '1' && name[2] <= '4' && name[3] >= '1' && name[3] <= '3':
			v = (name[2]-'0')*8 + (name[3]-'0')*2
		default:
			return nil, "is not a DiffServ code point", "write a number from 0 to 63, or one of cs0 to cs7, af11 to af43, ef, le"
		}
		return &v, "", ""
	})
}

// markBits is the bits of a packet mark that are set.
func markBits() kind[uint32] {
	s := shape{words: "number of 32 bits, in hexadecimal or decimal", schema: map[string]any{"anyOf": []any{
		map[string]any{"type": "integer", "minimum": 1, "maximum": 0xffffffff},
		map[string]any{"type": "string", "pattern": "^0x[0-9a-fA-F]{1,8}$"}}}}
	return kind[uint32]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (uint32, bool) {
		const hint = "write bits that nobody else uses, as in  0x10"
		if n.Kind != yaml.ScalarNode {
			r.wrongType(n, at, "a mark", hint)
			return 0, false
		}
		base, digits := 10, n.Value
		if hex, ok := strings.CutPrefix(n.Value, "0x"); ok {
			base, digits = 16, hex
		}
		v, err := strconv.ParseUint(digits, base, 32)
		if err != nil || v == 0 || base == 10 && digits != strconv.FormatUint(v, 10) {
			r.bad(n, at, "is not a mark", hint)
			return 0, false
		}
		return uint32(v), true
	}}
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

var timeForm = regexp.MustCompile(`^(?:([a-z]{3})(?:-([a-z]{3}))?)?\s*(?:([0-2]?[0-9]):([0-5][0-9])-([0-2]?[0-9]):([0-5][0-9]))?(?:\s+([A-Za-z0-9_+/-]+))?$`)

// timeSpan is "mon-fri 08:00-18:00 Europe/Rome", of which days, hours or zone may be left out.
func timeSpan() kind[TimeSpan] {
	return scalar("days, hours and time zone, as in `mon-fri 08:00-18:00 Europe/Rome`", "days and hours", "", func(s string) (t TimeSpan, problem, hint string) {
		const form = "write  mon-fri 08:00-18:00,  sat,  22:00-06:00  or  mon 08:00-12:00 Europe/Rome"
		m := timeForm.FindStringSubmatch(s)
		if m == nil || m[1] == "" && m[3] == "" {
			return t, "is not a time of the week", form
		}
		t.Days, t.To = 1<<7-1, 24*60
		if m[1] != "" {
			first, last := weekday(m[1]), weekday(m[1])
			if m[2] != "" {
				last = weekday(m[2])
			}
			if first < 0 || last < 0 {
				return t, "is not a time of the week", "the days are sun, mon, tue, wed, thu, fri, sat"
			}
			t.Days = 0
			for d := first; ; d = (d + 1) % 7 {
				t.Days |= 1 << d
				if d == last {
					break
				}
			}
		}
		if m[3] != "" {
			t.From, t.To = minutes(m[3], m[4]), minutes(m[5], m[6])
			if t.From >= 24*60 || t.To > 24*60 || t.From == t.To {
				return t, "is not a time of the week", "hours go from 00:00 to 24:00, and a span has a length"
			}
		}
		if t.Zone = m[7]; t.Zone != "" {
			if _, err := time.LoadLocation(t.Zone); err != nil {
				return t, "names no time zone", "write it as in  Europe/Rome, or leave it out for this machine's own"
			}
		}
		return t, "", ""
	})
}

func weekday(name string) int {
	for i, d := range weekdays {
		if d == name {
			return i
		}
	}
	return -1
}

func minutes(h, m string) int {
	hours, _ := strconv.Atoi(h)
	mins, _ := strconv.Atoi(m)
	return hours*60 + mins
}
