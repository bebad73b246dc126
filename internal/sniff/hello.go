package sniff

import (
	"encoding/binary"
	"errors"
)

// MaxHello bounds the bytes of a ClientHello with its record headers. Those of today have 2 KB with keys that resist quantum computers.
const MaxHello = 32 << 10

// Hello is what a TLS client says in the clear.
type Hello struct {
	ServerName string   // in lower case; "": none. With ECH it is the outer name
	ALPN       []string // what the client would speak, in its order
	ECH        bool     // the real name is encrypted (RFC 9849), or the client only pretends so
}

// ErrHello is the error for bytes that begin like a ClientHello and are none, or one beyond MaxHello.
var ErrHello = errors.New("sniff: not a ClientHello")

const (
	extensionServerName = 0
	extensionALPN       = 16
	extensionECH        = 0xfe0d
)

// ReadHello reads a ClientHello that may lie in several records and several pieces. When b, all bytes of the connection so far, has
// only a part, need is how many bytes there must be before it is worth to read again, and more than len(b); else it is 0.
func ReadHello(b []byte) (h Hello, need int, err error) {
	message, need, err := handshake(b)
	if err != nil || need > 0 {
		return Hello{}, need, err
	}
	h, ok := parseHello(message)
	if !ok {
		return Hello{}, 0, ErrHello
	}
	return h, 0, nil
}

// handshake takes the first handshake message out of its records, without its header.
func handshake(b []byte) (message []byte, need int, err error) {
	var whole []byte // only when there are several records
	want := 0
	for at := 0; ; {
		if len(b) < at+5 {
			return nil, at + 6, nil
		}
		length := int(binary.BigEndian.Uint16(b[at+3:]))
		if b[at] != 0x16 || b[at+1] != 3 || length == 0 || length > 1<<14+256 {
			return nil, 0, ErrHello
		}
		payload := b[at+5 : min(at+5+length, len(b))]
		if whole == nil && at == 0 {
			message = payload
		} else {
			if whole == nil {
				whole = append(make([]byte, 0, len(b)), message...)
			}
			whole = append(whole, payload...)
			message = whole
		}
		if len(message) >= 4 && want == 0 {
			want = 4 + int(message[1])<<16 + int(message[2])<<8 + int(message[3])
		}
		switch {
		case len(message) > 0 && message[0] != 1, want > MaxHello, at+5+length > MaxHello+4096:
			return nil, 0, ErrHello
		case want > 0 && len(message) >= want:
			return message[4:want], 0, nil
		case len(payload) < length:
			missing := length - len(payload)
			if want > 0 {
				missing = min(missing, want-len(message))
			}
			return nil, len(b) + missing, nil
		}
		at += 5 + length
	}
}

// reader takes fields off the front of a message. After a field that is not there every other fails too.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.b, r.bad = nil, true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) number(size int) int {
	n := 0
	for _, c := range r.take(size) {
		n = n<<8 | int(c)
	}
	return n
}

// vector takes a field whose length stands before it in so many bytes.
func (r *reader) vector(size int) *reader { return &reader{b: r.take(r.number(size))} }

// parseHello reads the body of a ClientHello (RFC 8446 4.1.2).
func parseHello(b []byte) (h Hello, ok bool) {
	r := &reader{b: b}
	r.take(2 + 32) // version, random
	r.vector(1)    // session
	suites, compression := r.vector(2), r.vector(1)
	if r.bad || len(suites.b) < 2 || len(compression.b) < 1 {
		return h, false
	}
	if len(r.b) == 0 {
		return h, true // TLS 1.2 without extensions
	}
	extensions := r.vector(2)
	if r.bad || len(r.b) > 0 {
		return h, false
	}
	for len(extensions.b) > 0 {
		kind := extensions.number(2)
		body := extensions.vector(2)
		if extensions.bad {
			return h, false
		}
		switch kind {
		case extensionServerName:
			if h.ServerName, ok = serverName(body); !ok {
				return h, false
			}
		case extensionALPN:
			if h.ALPN, ok = protocols(body); !ok {
				return h, false
			}
		case extensionECH:
			h.ECH = true
		}
	}
	return h, true
}

// serverName reads a list of names, of which there is one kind (RFC 6066 3).
func serverName(r *reader) (string, bool) {
	list := r.vector(2)
	if r.bad || len(r.b) > 0 {
		return "", false
	}
	name := ""
	for len(list.b) > 0 {
		kind := list.number(1)
		value := list.vector(2)
		if list.bad {
			return "", false
		}
		if kind != 0 || name != "" {
			continue
		}
		if name = hostName(value.b); name == "" {
			return "", false
		}
	}
	return name, true
}

// hostName returns a name in lower case, or "" when it is none: it becomes part of logs and rules.
func hostName(b []byte) string {
	if len(b) == 0 || len(b) > 253 {
		return ""
	}
	out := make([]byte, len(b))
	for i, c := range b {
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.', c == '_', c == ':':
		default:
			return ""
		}
		out[i] = c
	}
	if out[len(out)-1] == '.' {
		out = out[:len(out)-1]
	}
	return string(out)
}

// mostProtocols bounds the names that are kept of ALPN.
const mostProtocols = 16

func protocols(r *reader) ([]string, bool) {
	list := r.vector(2)
	if r.bad || len(r.b) > 0 {
		return nil, false
	}
	var all []string
	for len(list.b) > 0 {
		name := list.vector(1)
		if list.bad || len(name.b) == 0 {
			return nil, false
		}
		if len(all) < mostProtocols {
			all = append(all, string(name.b))
		}
	}
	return all, true
}
