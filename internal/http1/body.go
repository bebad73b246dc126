package http1

type framing uint8

const (
	none framing = iota
	counted
	chunked
	untilClose
)

// Body follows a body through the bytes of a connection. The zero value is a message without one.
type Body struct {
	left   int64 // bytes of the body, or of the chunk
	lines  int32 // bytes of the line that is under way, or of the trailer section
	fields int16 // trailer fields so far
	kind   framing
	state  state
	digits uint8
	answer bool // of a response, where blanks behind a chunk size are borne: old servers pad it
	over   bool
}

type state uint8

const (
	size      state = iota // in the chunk size
	padding                // in blanks behind it
	extension              // behind the ; that follows it
	sizeLF                 // before the LF of that line
	data
	dataCR // before the CR behind a chunk's data
	dataLF
	trailer      // at the beginning of a line of the trailer section
	trailerName  // in a field name
	trailerValue // in a field value
	trailerLF    // before the LF of a trailer field
	lastLF       // before the LF that ends the body
)

// Done says whether the body is over. One that lasts until the connection is closed never is.
func (b *Body) Done() bool { return b.kind == none || b.over || b.kind == counted && b.left == 0 }

// UntilClose says that the body lasts until its sender closes the connection.
func (b *Body) UntilClose() bool { return b.kind == untilClose }

// Chunked says that the body has the chunked coding.
func (b *Body) Chunked() bool { return b.kind == chunked }

// Left is how many bytes of the body are sure to come next, without a need to look at them: the rest of a body with a Content-Length or
// of a chunk, or all there ever may be when it lasts until the connection is closed.
func (b *Body) Left() int64 {
	switch {
	case b.kind == untilClose:
		return 1<<63 - 1
	case b.kind == counted, b.kind == chunked && b.state == data:
		return b.left
	}
	return 0
}

// Skip notes that n bytes of the body, at most Left, went past unseen.
func (b *Body) Skip(n int64) {
	if b.kind == untilClose {
		return
	}
	b.left -= n
	if b.kind == chunked && b.left == 0 {
		b.state = dataCR
	}
}

// Bounds of a chunked body. A chunk's first line is small, and its size fits an int64 by far.
const (
	maxChunkLine  = 1024
	maxSizeDigits = 15
)

// Next takes the bytes that are at hand and says how many at their beginning belong to the body: all of them, unless it ends
// there, which Done then says. With content it also calls for every piece of the body's content, without the chunked coding.
func (b *Body) Next(p []byte, limits *Limits, content func([]byte)) (int, *Error) {
	switch {
	case b.Done():
		return 0, nil
	case b.kind != chunked:
		n := len(p)
		if b.kind == counted {
			n = int(min(int64(n), b.left))
			b.left -= int64(n)
		}
		if content != nil && n > 0 {
			content(p[:n])
		}
		return n, nil
	}
	i := 0
	for i < len(p) && !b.over {
		if b.state == data {
			n := int(min(int64(len(p)-i), b.left))
			if content != nil {
				content(p[i : i+n])
			}
			i += n
			if b.left -= int64(n); b.left == 0 {
				b.state = dataCR
			}
			continue
		}
		var err *Error
		if b.state >= trailer {
			err = b.trailer(p[i], limits)
		} else {
			err = b.line(p[i])
		}
		if err != nil {
			return i, err
		}
		i++
	}
	return i, nil
}

// line takes one byte around a chunk's data (RFC 9112 7.1).
func (b *Body) line(c byte) *Error {
	if b.lines++; b.lines > maxChunkLine {
		return ErrChunkLine
	}
	switch b.state {
	case size:
		return b.size(c)
	case padding:
		return b.afterSize(c)
	case extension:
		switch {
		case c == '\r':
			b.state = sizeLF
		case class[c]&isText == 0:
			return ErrControl
		}
	case sizeLF:
		if c != '\n' {
			return ErrBareCR
		}
		b.lines, b.digits = 0, 0
		if b.state = data; b.left == 0 {
			b.state = trailer
		}
	case dataCR:
		if c != '\r' {
			return ErrChunkEnd
		}
		b.state = dataLF
	case dataLF:
		if c != '\n' {
			return ErrChunkEnd
		}
		b.state, b.lines = size, 0
	}
	return nil
}

func (b *Body) size(c byte) *Error {
	if class[c]&isHex == 0 {
		if b.digits == 0 {
			return ErrChunkSize
		}
		return b.afterSize(c)
	}
	if b.digits++; b.digits > maxSizeDigits {
		return ErrChunkTooLarge
	}
	if c > '9' {
		c = c&^0x20 - 'A' + '0' + 10
	}
	b.left = b.left<<4 | int64(c-'0')
	return nil
}

func (b *Body) afterSize(c byte) *Error {
	switch {
	case c == ';':
		b.state = extension
	case c == '\r':
		b.state = sizeLF
	case blank(c) && b.answer: // before an extension a sender must not put one, and a recipient may bear it (RFC 9112 7.1.1): net/http does not
		b.state = padding
	case c == '\n':
		return ErrBareLF
	default:
		return ErrChunkSize
	}
	return nil
}

// trailer takes one byte of the trailer section (RFC 9112 7.1.2), whose lines are as those of a head.
func (b *Body) trailer(c byte, limits *Limits) *Error {
	if b.lines++; int(b.lines) > limits.Head {
		return ErrTrailerLarge
	}
	switch b.state {
	case trailer:
		if c == '\r' {
			b.state = lastLF
			return nil
		}
		if class[c]&isToken == 0 {
			return whyNoTrailer(c)
		}
		if b.fields++; int(b.fields) > min(limits.Fields, maxFields) {
			return ErrTrailerLarge
		}
		b.state = trailerName
	case trailerName:
		if c == ':' {
			b.state = trailerValue
		} else if class[c]&isToken == 0 {
			return whyNoTrailer(c)
		}
	case trailerValue:
		if c == '\r' {
			b.state = trailerLF
		} else if class[c]&isText == 0 {
			return whyNoTrailer(c)
		}
	case trailerLF:
		if c != '\n' {
			return ErrBareCR
		}
		b.state = trailer
	case lastLF:
		if c != '\n' {
			return ErrBareCR
		}
		b.over = true
	}
	return nil
}

func whyNoTrailer(c byte) *Error {
	switch {
	case c == '\n':
		return ErrBareLF
	case class[c]&isText == 0:
		return ErrControl
	}
	return ErrTrailer
}
