package http1

import "bytes"

// Scan is how far a head has been looked through for its end. The zero value is for a new head.
type Scan struct{ line, seek int32 }

// Next looks for the end of a head in b, which begins where the head does and holds at least what it held in the call before. It
// returns the head's length with its empty line, or 0 when more is needed. The limits hold of what there is so far, so
// that it makes no difference in which pieces the bytes come.
func (s *Scan) Next(b []byte, limits *Limits) (int, *Error) {
	for {
		i := bytes.IndexByte(b[s.seek:], '\n')
		if i < 0 {
			if s.line == 0 && len(b) > limits.Line+1 {
				return 0, ErrLineTooLong
			}
			if len(b) >= limits.Head {
				return 0, ErrHeadTooLarge
			}
			s.seek = int32(len(b))
			return 0, nil
		}
		end := int(s.seek) + i + 1
		length := end - int(s.line) - 2
		switch {
		case s.line == 0 && end-1 > limits.Line+1: // before the rest: this is known as soon as so many bytes are there
			return 0, ErrLineTooLong
		case end > limits.Head:
			return 0, ErrHeadTooLarge
		case length < 0 || b[end-2] != '\r':
			return 0, ErrBareLF
		case length == 0:
			return end, nil
		}
		s.line, s.seek = int32(end), int32(end)
	}
}

// EmptyLine says how many bytes at the beginning of b are an empty line before a request, which a server has to bear (RFC 9112 2.2).
func EmptyLine(b []byte) int {
	if len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
		return 2
	}
	return 0
}

// Field is a header field.
type Field struct {
	Line  Span // all of it, with its CRLF
	Name  Span
	Value Span // without the blanks around it
	Known Name
}

// Head is what requests and responses have in common. Its places are those of Raw.
type Head struct {
	Raw     []byte // from the first line to the empty line
	First   Span   // the first line without CRLF
	Version Span   // in the first line
	Minor   uint8  // 0 or 1
	Fields  []Field

	Length    int64 // the Content-Length; -1: there is none
	Chunked   bool  // Transfer-Encoding: chunked
	Close     bool  // Connection: close
	KeepAlive bool  // Connection: keep-alive
	Upgrades  bool  // Connection: upgrade, and an Upgrade field
	nominates bool  // Connection names fields

	first [names]int16 // index of the first field of that name and 1; 0: there is none
}

// Has says whether the head has a field of that name.
func (h *Head) Has(n Name) bool { return h.first[n] != 0 }

// Known returns the value of the first field of that name, nil when there is none.
func (h *Head) Known(n Name) []byte {
	if i := h.first[n]; i != 0 {
		return h.Fields[i-1].Value.Of(h.Raw)
	}
	return nil
}

// Get returns the value of the first field with that name, which is given in lower case, nil when there is none.
func (h *Head) Get(name string) []byte {
	for i := range h.Fields {
		if f := &h.Fields[i]; equalFold(f.Name.Of(h.Raw), name) {
			return f.Value.Of(h.Raw)
		}
	}
	return nil
}

// Persistent says whether the sender means to use the connection on after this message (RFC 9112 9.3).
func (h *Head) Persistent() bool {
	return !h.Close && (h.Minor == 1 || h.KeepAlive)
}

func (h *Head) reset(raw []byte) {
	*h = Head{Raw: raw, Fields: h.Fields[:0], Length: -1}
}

// maxFields is the most that first can count.
const maxFields = 1<<15 - 2

// fields reads the fields from start to the empty line.
func (h *Head) fields(start int, limits *Limits) *Error {
	b := h.Raw
	most := min(limits.Fields, maxFields)
	for {
		if b[start] == '\r' && start == len(b)-2 {
			return nil
		}
		if len(h.Fields) == most {
			return ErrTooManyFields
		}
		end := start + bytes.IndexByte(b[start:], '\n') + 1
		f, err := field(b, start, end-2)
		if err != nil {
			return err
		}
		h.Fields = append(h.Fields, f)
		if f.Known != Other && h.first[f.Known] == 0 {
			h.first[f.Known] = int16(len(h.Fields))
		}
		start = end
	}
}

// field reads the line from start to before its CRLF.
func field(b []byte, start, end int) (Field, *Error) {
	i := start
	for i < end && class[b[i]]&isToken != 0 {
		i++
	}
	if i == end || b[i] != ':' || i == start {
		return Field{}, whyNoField(b[start:end], i-start)
	}
	name := Span{int32(start), int32(i)}
	i++
	for i < end && blank(b[i]) {
		i++
	}
	last := end
	for last > i && blank(b[last-1]) {
		last--
	}
	if !text(b[i:last]) {
		return Field{}, whyNoText(b[i:end])
	}
	return Field{Line: Span{int32(start), int32(end + 2)}, Name: name, Value: Span{int32(i), int32(last)}, Known: known(name.Of(b))}, nil
}

// whyNoField says what is wrong with a line whose name ends at i without a colon.
func whyNoField(line []byte, i int) *Error {
	switch {
	case blank(line[0]):
		return ErrBlankBeforeName
	case !text(line):
		return whyNoText(line)
	case i < len(line) && blank(line[i]) && bytes.IndexByte(line, ':') >= 0 && i > 0:
		return ErrBlankBefore
	case bytes.IndexByte(line, ':') < 0:
		return ErrNoColon
	}
	return ErrFieldName
}

func whyNoText(b []byte) *Error {
	if bytes.IndexByte(b, '\r') >= 0 {
		return ErrBareCR
	}
	return ErrControl
}

// framing reads the fields that say where the message ends and what becomes of the connection (RFC 9112 6 and 9).
func (h *Head) framing() *Error {
	for i := range h.Fields {
		var err *Error
		switch f := &h.Fields[i]; f.Known {
		case ContentLength:
			if h.Length >= 0 {
				return ErrLengths
			}
			h.Length, err = length(f.Value.Of(h.Raw))
		case TransferEncoding:
			if h.Chunked {
				return ErrCodings
			}
			h.Chunked, err = coding(f.Value.Of(h.Raw))
		case Connection:
			err = h.connection(f.Value.Of(h.Raw))
		}
		if err != nil {
			return err
		}
	}
	switch {
	case h.Chunked && h.Length >= 0:
		return ErrBothFramings
	case h.Chunked && h.Minor == 0:
		return ErrCoding10
	}
	h.Upgrades = h.Upgrades && h.Has(Upgrade) && h.Minor == 1
	return nil
}

// maxDigits of a Content-Length fit an int64.
const maxDigits = 18

func length(b []byte) (int64, *Error) {
	if len(b) == 0 || !all(b, isDigit) {
		return 0, ErrLength
	}
	if len(b) > maxDigits {
		return 0, ErrLengthTooLarge
	}
	n := int64(0)
	for _, c := range b {
		n = n*10 + int64(c-'0')
	}
	return n, nil
}

func coding(b []byte) (bool, *Error) {
	switch {
	case equalFold(b, "chunked"):
		return true, nil
	case len(b) == 0:
		return false, ErrCodings
	case all(b, isToken):
		return false, ErrCoding
	case bytes.Count(bytes.ToLower(b), []byte("chunked")) > 1:
		return false, ErrCodings
	}
	return false, ErrCoding
}

// maxNominated bounds what taking out the fields that Connection names can cost.
const maxNominated = 32

// connection reads the options of a Connection field (RFC 9110 7.6.1).
func (h *Head) connection(b []byte) *Error {
	count := 0
	for len(b) > 0 {
		var option []byte
		option, b = element(b)
		switch {
		case len(option) == 0:
		case !all(option, isToken):
			return ErrConnection
		case equalFold(option, "close"):
			h.Close = true
		case equalFold(option, "keep-alive"):
			h.KeepAlive = true
		case equalFold(option, "upgrade"):
			h.Upgrades = true
		default:
			switch known(option) {
			case Host, ContentLength, TransferEncoding, Connection:
				return ErrNominated
			}
			h.nominates = true
		}
		if count++; count > maxNominated {
			return ErrConnection
		}
	}
	return nil
}

// element takes the next element off a list that is separated by commas, without the blanks around it.
func element(b []byte) (first, rest []byte) {
	if i := bytes.IndexByte(b, ','); i >= 0 {
		b, rest = b[:i], b[i+1:]
	}
	for len(b) > 0 && blank(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && blank(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b, rest
}

// nominated says whether Connection names the field.
func (h *Head) nominated(name []byte) bool {
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.Known != Connection {
			continue
		}
		for b := f.Value.Of(h.Raw); len(b) > 0; {
			var option []byte
			if option, b = element(b); sameFold(option, name) {
				return true
			}
		}
	}
	return false
}
