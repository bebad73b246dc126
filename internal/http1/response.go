package http1

import "bytes"

// Response is the head of a response. It can be used again and again.
type Response struct {
	Head
	Status int
	Reason Span
}

// Parse reads the head that Scan has found: all of raw. The places are of raw, which must not change while they are used.
func (r *Response) Parse(raw []byte, limits *Limits) *Error {
	r.Status, r.Reason = 0, Span{}
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
	if (r.Status < 200 || r.Status == 204) && (r.Chunked || r.Length > 0) {
		return ErrFramedNoContent
	}
	return nil
}

// line reads the status line: HTTP/1.1 200 OK. The reason may be missing, and then some servers leave out the blank before it, too.
func (r *Response) line(b []byte) *Error {
	if !text(b) {
		return whyNoText(b)
	}
	if len(b) < 12 || b[8] != ' ' {
		return ErrStatusLine
	}
	minor, err := version(b[:8])
	if err != nil {
		return ErrStatusLine
	}
	code := b[9:12]
	if !all(code, isDigit) || code[0] == '0' || len(b) > 12 && b[12] != ' ' {
		return ErrStatusLine
	}
	r.Version, r.Minor = Span{0, 8}, minor
	r.Status = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')
	r.Reason = Span{int32(min(13, len(b))), int32(len(b))}
	return nil
}

// Body is how the body of this answer to the request is framed (RFC 9112 6.3).
func (r *Response) Body(to *Request) Body {
	switch {
	case to.HeadOnly || r.Status < 200 || r.Status == 204 || r.Status == 304:
		return Body{}
	case to.Connect && r.Status < 300:
		return Body{}
	case r.Chunked:
		return Body{kind: chunked, answer: true}
	case r.Length > 0:
		return Body{kind: counted, left: r.Length}
	case r.Length == 0:
		return Body{}
	}
	return Body{kind: untilClose}
}
