package http1

import "bytes"

// Form is the form of a request target (RFC 9112 3.2).
type Form uint8

// The forms.
const (
	Origin    Form = iota // /path?query
	Absolute              // http://host/path?query
	Authority             // host:port, of CONNECT alone
	Asterisk              // *, of OPTIONS alone
)

// Request is the head of a request. It can be used again and again.
type Request struct {
	Head
	Method Span
	Target Span
	Form   Form
	Scheme Span   // of the absolute form
	Path   Span   // path and query; empty in the absolute form of http://host and of http://host?query, and for authority and asterisk
	Host   []byte // host and port as the target, or else the Host field, names them; empty when nobody does

	Connect  bool // the method is CONNECT
	HeadOnly bool // the method is HEAD
	Continue bool // Expect: 100-continue
}

// Parse reads the head that Scan has found: all of raw. The places are of raw, which must not change while they are used.
func (r *Request) Parse(raw []byte, limits *Limits) *Error {
	fields := r.Fields
	*r = Request{}
	r.Fields = fields
	r.reset(raw)
	end := bytes.IndexByte(raw, '\n') - 1
	r.First = Span{0, int32(end)}
	if err := r.line(raw[:end]); err != nil {
		return err
	}
	if err := r.fields(end+2, limits); err != nil {
		return err
	}
	if err := r.framing(); err != nil {
		return err
	}
	if r.Connect && (r.Chunked || r.Length > 0) { // it has none (RFC 9110 9.3.6); a server that refuses it may still take what follows for it
		return ErrConnectContent
	}
	r.Continue = r.Minor == 1 && equalFold(r.Known(Expect), "100-continue")
	return r.host()
}

// line reads the request line: exactly one blank between its parts.
func (r *Request) line(b []byte) *Error {
	if !text(b) {
		return whyNoText(b)
	}
	first := bytes.IndexByte(b, ' ')
	last := bytes.LastIndexByte(b, ' ')
	switch {
	case first <= 0:
		return ErrRequestLine
	case !all(b[:first], isToken):
		return ErrMethod
	case last == first: // HTTP/0.9 has no version
		return ErrNoVersion
	}
	r.Method = Span{0, int32(first)}
	r.Target = Span{int32(first) + 1, int32(last)}
	r.Version = Span{int32(last) + 1, int32(len(b))}
	var err *Error
	if r.Minor, err = version(b[last+1:]); err != nil {
		return err
	}
	method := b[:first]
	r.Connect = string(method) == "CONNECT"
	r.HeadOnly = string(method) == "HEAD"
	return r.target(b[first+1 : last])
}

// version reads HTTP/1.0 or HTTP/1.1. An HTTP/2 preface ends in HTTP/2.0.
func version(b []byte) (uint8, *Error) {
	if len(b) != 8 || string(b[:5]) != "HTTP/" || b[6] != '.' || class[b[5]]&class[b[7]]&isDigit == 0 {
		return 0, ErrRequestLine
	}
	if b[5] != '1' || b[7] > '1' {
		return 0, ErrVersion
	}
	return b[7] - '0', nil
}

func (r *Request) target(b []byte) *Error {
	if len(b) == 0 || !all(b, isTarget) {
		if bytes.IndexByte(b, ' ') >= 0 || len(b) == 0 {
			return ErrRequestLine
		}
		return ErrTarget
	}
	switch {
	case r.Connect:
		r.Form = Authority
		if host, port := SplitHost(b); len(host) == 0 || len(port) == 0 || !validHost(b) {
			return ErrTarget
		}
		r.Host = b
	case b[0] == '/':
		r.Form, r.Path = Origin, r.Target
	case len(b) == 1 && b[0] == '*':
		if string(r.Method.Of(r.Raw)) != "OPTIONS" {
			return ErrTarget
		}
		r.Form = Asterisk
	default:
		return r.absolute(b)
	}
	return nil
}

// absolute reads scheme://host:port/path?query. User and password in it are refused (RFC 9110 4.2.4).
func (r *Request) absolute(b []byte) *Error {
	colon := bytes.IndexByte(b, ':')
	if colon <= 0 || len(b) < colon+3 || b[colon+1] != '/' || b[colon+2] != '/' || b[0]|0x20 < 'a' || b[0]|0x20 > 'z' || !all(b[:colon], isToken) {
		return ErrTarget
	}
	start := colon + 3
	end := start
	for end < len(b) && b[end] != '/' && b[end] != '?' {
		end++
	}
	if end == start || !validHost(b[start:end]) {
		return ErrTarget
	}
	if host, _ := SplitHost(b[start:end]); len(host) == 0 {
		return ErrTarget
	}
	r.Form = Absolute
	at := r.Target.Start
	r.Scheme = Span{at, at + int32(colon)}
	r.Path = Span{at + int32(end), at + int32(len(b))}
	r.Host = b[start:end:end]
	return nil
}

// host holds the Host fields against each other and the target.
func (r *Request) host() *Error {
	at := r.first[Host]
	if at == 0 {
		if r.Minor == 1 {
			return ErrNoHost
		}
		return nil
	}
	for i := int(at); i < len(r.Fields); i++ {
		if r.Fields[i].Known == Host {
			return ErrManyHosts
		}
	}
	host := r.Fields[at-1].Value.Of(r.Raw)
	if !validHost(host) {
		return ErrHost
	}
	switch r.Form {
	case Authority: // the target alone counts, and Host is not passed on
	case Absolute:
		if !r.sameHost(host) {
			return ErrHostDiffers
		}
	default:
		r.Host = host
	}
	return nil
}

// sameHost compares the Host field with the target's, a port that the scheme has anyhow left out.
func (r *Request) sameHost(host []byte) bool {
	if sameFold(host, r.Host) {
		return true
	}
	a, p := SplitHost(host)
	b, q := SplitHost(r.Host)
	return sameFold(a, b) && string(r.portOr(p)) == string(r.portOr(q))
}

var port80, port443 = []byte("80"), []byte("443")

func (r *Request) portOr(p []byte) []byte {
	switch {
	case len(p) > 0:
		return p
	case equalFold(r.Scheme.Of(r.Raw), "https"):
		return port443
	}
	return port80
}

// SplitHost takes host and port apart, as in example.org:80 or [2001:db8::1]:80; the brackets stay. The port is empty when there is none.
func SplitHost(b []byte) (host, port []byte) {
	if i := bytes.LastIndexByte(b, ':'); i >= 0 && bytes.IndexByte(b[i:], ']') < 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// validHost checks uri-host [ ":" port ] (RFC 9110 7.2). An empty one is valid: the client knows no host.
func validHost(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	host, port := SplitHost(b)
	if !all(port, isDigit) || len(port) > 5 || len(host) == 0 {
		return false
	}
	if len(port) == 5 && string(port) > "65535" {
		return false
	}
	if host[0] != '[' {
		return all(host, isHost)
	}
	if len(host) < 4 || host[len(host)-1] != ']' {
		return false
	}
	for _, c := range host[1 : len(host)-1] {
		if class[c]&isHex == 0 && c != ':' && c != '.' {
			return false
		}
	}
	return true
}

// Body is how the request's body is framed.
func (r *Request) Body() Body {
	switch {
	case r.Connect:
		return Body{}
	case r.Chunked:
		return Body{kind: chunked}
	case r.Length > 0:
		return Body{kind: counted, left: r.Length}
	}
	return Body{}
}

// ValidTarget says whether b may be a path, with a query or without.
func ValidTarget(b []byte) bool { return all(b, isTarget) }
