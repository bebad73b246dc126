package accesslog

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// appendJSON adds an entry as one JSON object. Members that say nothing are left out.
func appendJSON(b []byte, e *Entry) []byte {
	b = append(b, `{"time":"`...)
	b = e.End.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	b = append(b, '"')
	b = number(b, "duration_ms", max(e.End.Sub(e.Start), 0)/time.Millisecond)
	b = text(b, "listener", e.Listener)
	b = address(b, "client", e.Client)
	b = address(b, "dialled", e.Dialled)
	b = address(b, "server", e.Server)
	b = text(b, "pool", e.Pool)
	b = text(b, "user", e.User)
	b = text(b, "method", e.Method)
	b = text(b, "url", e.URL)
	b = text(b, "version", e.Version)
	b = text(b, "sni", e.SNI)
	if e.Status != 0 {
		b = number(b, "status", e.Status)
	}
	if e.ServerStatus != 0 {
		b = number(b, "server_status", e.ServerStatus)
	}
	b = number(b, "bytes_in", e.BytesIn)
	b = number(b, "bytes_out", e.BytesOut)
	b = text(b, "media_type", e.MediaType)
	b = text(b, "action", e.action())
	b = text(b, "rule", e.Rule)
	b = text(b, "cause", e.Cause)
	return append(b, '}')
}

func key(b []byte, name string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

func number[N ~int | ~int64](b []byte, name string, n N) []byte {
	return strconv.AppendInt(key(b, name), int64(n), 10)
}

func address(b []byte, name string, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return b
	}
	b = append(key(b, name), '"')
	b = netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).AppendTo(b)
	return append(b, '"')
}

func text(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	if len(s) > longestValue {
		s = s[:longestValue]
	}
	b = append(key(b, name), '"')
	for _, c := range s { // bytes that are not UTF-8 become U+FFFD
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c < ' ' || c >= 0x7f && c < 0xa0 || c == '\u2028' || c == '\u2029':
			b = append(b, '\\', 'u', hex[c>>12], hex[c>>8&15], hex[c>>4&15], hex[c&15])
		default:
			b = utf8.AppendRune(b, c)
		}
	}
	return append(b, '"')
}
