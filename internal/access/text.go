package access

import (
	"net/netip"
	"regexp"
	"strings"

	"salp/internal/config"
)

// matcher is a compiled pattern.
type matcher struct {
	glob string
	re   *regexp.Regexp // nil: glob
}

// newMatcher compiles a pattern; config has made sure that it can be.
func newMatcher(p config.Pattern) matcher {
	if p.Regexp {
		return matcher{re: regexp.MustCompile(p.Text)}
	}
	return matcher{glob: p.Text}
}

func (m *matcher) matches(s string) bool {
	if m.re != nil {
		return m.re.MatchString(s)
	}
	return glob(m.glob, s)
}

// glob says whether a pattern, in which * is any run of bytes, fits all of s. It goes back to the last * alone, which is enough.
func glob(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// Host brings the host of a request or of SNI to the form that rules compare: lower case, without port, brackets and final dot. It returns
// s itself when that is its form already.
func Host(s string) string {
	if strings.HasPrefix(s, "[") {
		if end := strings.IndexByte(s, ']'); end > 0 {
			s = s[1:end]
		}
	} else if i := strings.LastIndexByte(s, ':'); i >= 0 && strings.IndexByte(s, ':') == i {
		s = s[:i]
	}
	s = strings.TrimSuffix(s, ".")
	if strings.IndexByte(s, ':') >= 0 {
		if a, err := netip.ParseAddr(s); err == nil {
			return a.Unmap().String()
		}
	}
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			return strings.ToLower(s)
		}
	}
	return s
}

// MediaType brings the value of Content-Type to the form that rules compare: without parameters, in lower case.
func MediaType(s string) string {
	if i := strings.IndexByte(s, ';'); i >= 0 {
		s = s[:i]
	}
	return strings.ToLower(strings.Trim(s, " \t"))
}

// Path brings a path to the form that rules compare: unreserved characters are not percent-encoded, hexadecimal digits are capital letters,
// dot segments are resolved and empty ones dropped, so that no other spelling of a path slips by a rule (RFC 3986 6.2.2, 5.2.4). It
// returns s itself when that is its form already.
func Path(s string) string {
	if i := strings.IndexByte(s, '?'); i >= 0 {
		s = s[:i]
	}
	if strings.IndexByte(s, '%') < 0 && !strings.Contains(s, "//") && !strings.Contains(s, "/.") && strings.IndexByte(s, '\\') < 0 {
		return s
	}
	return removeDots(decodeUnreserved(s))
}

func decodeUnreserved(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+2 >= len(s) {
			b.WriteByte(s[i])
			continue
		}
		high, low := unhex(s[i+1]), unhex(s[i+2])
		if high > 15 || low > 15 {
			b.WriteByte('%')
			continue
		}
		c := high<<4 | low
		if unreserved(c) || c == '/' || c == '\\' { // many servers take an encoded slash for one
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte("0123456789ABCDEF"[high])
			b.WriteByte("0123456789ABCDEF"[low])
		}
		i += 2
	}
	return b.String()
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

func removeDots(s string) string {
	s = strings.ReplaceAll(s, `\`, "/")
	if !strings.HasPrefix(s, "/") {
		return s
	}
	var kept []string
	segments := strings.Split(s[1:], "/")
	for i, segment := range segments {
		last := i == len(segments)-1
		switch {
		case segment == "" && !last:
		case segment == "." || segment == "..":
			if segment == ".." && len(kept) > 0 {
				kept = kept[:len(kept)-1]
			}
			if last {
				kept = append(kept, "")
			}
		default:
			kept = append(kept, segment)
		}
	}
	return "/" + strings.Join(kept, "/")
}
