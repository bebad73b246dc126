// Package sniff tells from the first bytes of a connection what it is: HTTP, TLS with the name that is asked for, or something else.
//
// It looks at bytes that somebody peeked or holds, and never consumes any. It has no state: call it again with more bytes, all from the first one on,
// when it says how many it needs. What it says of a connection never changes with more bytes, and it decides within bounds.
package sniff

// Kind is what a connection begins with.
type Kind uint8

const (
	More  Kind = iota // too few bytes to tell: see Need
	HTTP              // HTTP/1, or something that a lenient server might take for it
	HTTP2             // the preface of HTTP/2 without TLS (RFC 9113 3.4)
	TLS               // a ClientHello follows: see Hello
	Other
)

const (
	// MaxLine bounds how much of a first line that has no known method is looked at.
	MaxLine = 2048
	// maxBlank bounds what may stand before a request line. One CRLF may (RFC 9112 2.2); lenient servers skip more.
	maxBlank = 64
	// maxMethod bounds an unknown method.
	maxMethod = 32
)

// methods are those of the registry that are in use, longest 17 bytes. They decide at once.
var methods = map[string]bool{
	"GET": true, "HEAD": true, "POST": true, "PUT": true, "DELETE": true, "CONNECT": true, "OPTIONS": true, "TRACE": true, "PATCH": true,
	"PROPFIND": true, "PROPPATCH": true, "MKCOL": true, "COPY": true, "MOVE": true, "LOCK": true, "UNLOCK": true, "REPORT": true, "SEARCH": true,
	"MKCALENDAR": true, "CHECKOUT": true, "MERGE": true, "M-SEARCH": true, "NOTIFY": true, "SUBSCRIBE": true, "UNSUBSCRIBE": true, "PURGE": true,
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Look tells what b, the first bytes of a connection, is. With More, need is how many bytes there must be before it is worth to look again.
//
// A rule of access by host must not be passed by writing HTTP badly: what a lenient server may take for a request counts as HTTP, so that
// the codec sees it, and refuses it.
func Look(b []byte) (k Kind, need int) {
	if len(b) == 0 {
		return More, 1
	}
	if b[0] == 0x16 {
		return lookTLS(b)
	}
	start := 0
	for start < len(b) && blank(b[start]) {
		start++
	}
	switch {
	case start > maxBlank:
		return Other, 0
	case start == len(b):
		return More, len(b) + 1
	}
	if b[start] == 'P' {
		switch lookPreface(b[start:]) {
		case HTTP2:
			return HTTP2, 0
		case More:
			return More, len(b) + 1
		}
	}
	return lookRequest(b[start:], len(b))
}

// lookTLS tells a record with a handshake message that is a ClientHello (RFC 8446 5.1, 4).
func lookTLS(b []byte) (Kind, int) {
	switch {
	case len(b) > 1 && b[1] != 3, len(b) > 2 && b[2] > 4, len(b) > 5 && b[5] != 1:
		return Other, 0
	case len(b) > 4 && int(b[3])<<8|int(b[4]) == 0:
		return Other, 0 // handshake records are not empty
	case len(b) < 6:
		return More, 6
	}
	return TLS, 0
}

func lookPreface(b []byte) Kind {
	n := min(len(b), len(preface))
	switch {
	case string(b[:n]) != preface[:n]:
		return Other
	case n < len(preface):
		return More
	}
	return HTTP2
}

// lookRequest tells a request line: a known method, in whatever case, or a token with " HTTP/" behind it in the same line.
func lookRequest(b []byte, have int) (Kind, int) {
	end := 0
	for end < len(b) && token(b[end]) {
		end++
	}
	switch {
	case end == 0 || end > maxMethod:
		return Other, 0
	case end == len(b):
		return More, have + 1
	case !blank(b[end]):
		return Other, 0
	}
	if methods[upper(b[:end])] {
		return HTTP, 0
	}
	for i := end; i < len(b) && i < MaxLine; i++ {
		switch {
		case b[i] == '\n' || b[i] == '\r':
			return Other, 0
		case i+6 <= len(b) && blank(b[i]) && upper(b[i+1:i+6]) == "HTTP/":
			return HTTP, 0
		}
	}
	if len(b) >= MaxLine {
		return Other, 0
	}
	return More, have + 1
}

func blank(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// token says whether a byte may be in a method (RFC 9110 5.6.2).
func token(c byte) bool {
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

func upper(b []byte) string {
	var out [maxMethod]byte
	n := copy(out[:], b)
	for i := range n {
		if c := out[i]; c >= 'a' && c <= 'z' {
			out[i] = c - 'a' + 'A'
		}
	}
	return string(out[:n])
}
