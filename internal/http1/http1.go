// Package http1 reads and edits HTTP/1.0 and HTTP/1.1 messages as a pure codec: bytes in, what they mean out, and no I/O.
//
// A head is found with Scan, which goes on where it stopped when more has come in, and read with Request.Parse or Response.Parse,
// which keep nothing but places (Span) in the caller's bytes. A body is followed with Body.Next, which tells how many of the bytes
// at hand belong to it. A message is passed on as the very bytes that came, but for a list of Edits: order and spelling of
// fields are never touched. Nothing is allocated once a Request or Response has been used before.
//
// It refuses whatever two readers of HTTP could understand differently (RFC 9112, section 11.2): bare CR and LF, NUL and other
// control characters, obs-fold, blanks before the colon, more than one Content-Length or Transfer-Encoding, both together, a transfer
// coding other than chunked, several hosts or none, chunk sizes with junk. Where RFC 9112 lets a recipient mend a message, it is refused.
package http1

// Span is a place in a head: from Start to before End.
type Span struct{ Start, End int32 }

// Len is the number of bytes.
func (s Span) Len() int { return int(s.End - s.Start) }

// Of returns the bytes at that place.
func (s Span) Of(b []byte) []byte { return b[s.Start:s.End:s.End] }

// Limits bound a message. All must be positive.
type Limits struct {
	Line   int // bytes of the first line, its CRLF not counted
	Head   int // bytes of the whole head, and of a trailer section
	Fields int // fields of a head, and of a trailer section
}

// Error says why a message is refused. It is compared by address: all that there are, are this package's.
type Error struct {
	Status int    // what the sender of a request is answered; a response that is refused is 502 to the client
	Reason string // in the words of RFC 9110 and 9112
}

func (e *Error) Error() string { return e.Reason }

// What a head can be refused for.
var (
	ErrBareCR          = &Error{400, "a CR that no LF follows"}
	ErrBareLF          = &Error{400, "a line that ends with LF alone"}
	ErrControl         = &Error{400, "a control character"}
	ErrLineTooLong     = &Error{414, "the request line is too long"}
	ErrHeadTooLarge    = &Error{431, "the head is too large"}
	ErrTooManyFields   = &Error{431, "too many header fields"}
	ErrMethod          = &Error{400, "the method is not a token"}
	ErrRequestLine     = &Error{400, "the request line is not: method, blank, target, blank, version"}
	ErrTarget          = &Error{400, "the request target is malformed"}
	ErrVersion         = &Error{505, "the version is neither HTTP/1.0 nor HTTP/1.1"}
	ErrNoVersion       = &Error{400, "the request line has no version"}
	ErrFieldName       = &Error{400, "a field name is not a token"}
	ErrBlankBeforeName = &Error{400, "a header line begins with a blank (obs-fold)"}
	ErrBlankBefore     = &Error{400, "a blank before the colon of a header field"}
	ErrNoColon         = &Error{400, "a header line without a colon"}
	ErrNoHost          = &Error{400, "an HTTP/1.1 request without Host"}
	ErrManyHosts       = &Error{400, "more than one Host"}
	ErrHost            = &Error{400, "the Host is malformed"}
	ErrHostDiffers     = &Error{400, "the Host is not that of the request target"}
	ErrLength          = &Error{400, "the Content-Length is not a number"}
	ErrLengths         = &Error{400, "more than one Content-Length"}
	ErrLengthTooLarge  = &Error{413, "the Content-Length is too large"}
	ErrBothFramings    = &Error{400, "Content-Length together with Transfer-Encoding"}
	ErrCodings         = &Error{400, "more than one Transfer-Encoding, or an empty one"}
	ErrCoding          = &Error{501, "a transfer coding other than chunked"}
	ErrCoding10        = &Error{400, "Transfer-Encoding in HTTP/1.0"}
	ErrConnection      = &Error{400, "the Connection field is malformed"}
	ErrNominated       = &Error{400, "the Connection field names one that is not the connection's"}
	ErrConnectContent  = &Error{400, "a CONNECT with content"}
	ErrStatusLine      = &Error{502, "the status line is malformed"}
	ErrFramedNoContent = &Error{502, "a status that has no content, with a length of content"}
)

// What a body can be refused for.
var (
	ErrChunkSize     = &Error{400, "a chunk size is not a hexadecimal number"}
	ErrChunkTooLarge = &Error{413, "a chunk size is too large"}
	ErrChunkLine     = &Error{400, "a chunk's first line is too long"}
	ErrChunkEnd      = &Error{400, "a chunk is not followed by CRLF"}
	ErrTrailer       = &Error{400, "a trailer field is malformed"}
	ErrTrailerLarge  = &Error{431, "the trailer section is too large"}
)
