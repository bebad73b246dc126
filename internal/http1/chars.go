package http1

import "encoding/binary"

// Classes of characters (RFC 9110 5.6.2, RFC 3986 2 and 3.2.2), as bits of class.
const (
	isToken  = 1 << iota
	isText   // in a field value: HTAB, SP, VCHAR, obs-text
	isTarget // in a path or query: VCHAR but #, and obs-text, which browsers do send
	isHost   // in a host name or IPv4 address
	isDigit
	isHex
)

var class = func() (t [256]uint8) {
	for c := range 256 {
		b := byte(c)
		digit := b >= '0' && b <= '9'
		alpha := b|0x20 >= 'a' && b|0x20 <= 'z'
		if digit || alpha || indexByte("!#$%&'*+-.^_`|~", b) {
			t[c] |= isToken
		}
		if b == '\t' || b >= ' ' && b != 0x7f {
			t[c] |= isText
		}
		if b > ' ' && b != 0x7f && b != '#' {
			t[c] |= isTarget
		}
		if digit || alpha || indexByte("-._~%!$&'()*+;=", b) {
			t[c] |= isHost
		}
		if digit {
			t[c] |= isDigit
		}
		if digit || b|0x20 >= 'a' && b|0x20 <= 'f' {
			t[c] |= isHex
		}
	}
	return t
}()

func indexByte(s string, b byte) bool {
	for i := range len(s) {
		if s[i] == b {
			return true
		}
	}
	return false
}

// all says whether every byte is of the class.
func all(b []byte, of uint8) bool {
	for _, c := range b {
		if class[c]&of == 0 {
			return false
		}
	}
	return true
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// text says whether every byte may stand in a field value. It looks at eight at once, and closer only where one is below a blank or DEL.
func text(b []byte) bool {
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		del := x ^ 0x7f*ones
		if ((x-' '*ones)&^x|(del-ones)&^del)&highs != 0 && !all(b[:8], isText) {
			return false
		}
		b = b[8:]
	}
	return all(b, isText)
}

// equalFold compares with a text in lower case, ASCII letters without regard to case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func sameFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		d := b[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if d >= 'A' && d <= 'Z' {
			d |= 0x20
		}
		if c != d {
			return false
		}
	}
	return true
}

func blank(c byte) bool { return c == ' ' || c == '\t' }
