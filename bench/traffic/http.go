package traffic

import (
	"bytes"
	"fmt"
	"strconv"
	"syscall"
)

// The HTTP/1.1 of the bench: just enough that any proxy takes client and server for what they are. Field names are compared
// without regard to case, for proxies may spell them anew.

// mostHead bounds a head, in either direction.
const mostHead = 8 << 10

var (
	headEnd   = []byte("\r\n\r\n")
	closeWord = []byte("connection: close")
)

// appendRequest appends the request for a response of that many bytes. It is padded by a field to size bytes where that is more.
func appendRequest(b []byte, host string, response int64, last bool, size int) []byte {
	b = fmt.Appendf(b, "GET /%d HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench/1\r\nAccept: */*\r\n", response, host)
	if last {
		b = append(b, "Connection: close\r\n"...)
	}
	const padding = "X-Padding: "
	if missing := size - len(b) - len(padding) - len(headEnd); missing > 0 {
		b = append(append(b, padding...), bytes.Repeat([]byte{'x'}, missing)...)
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// appendResponse appends the head of a response with a body of that many bytes.
func appendResponse(b []byte, body int64, last bool) []byte {
	b = fmt.Appendf(b, "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: application/octet-stream\r\nCache-Control: no-store\r\nContent-Length: %d\r\n", body)
	if last {
		b = append(b, "Connection: close\r\n"...)
	}
	return append(b, "\r\n"...)
}

// head gathers the head of a message from what comes in.
type head struct{ got []byte }

// add takes bytes in. When they complete the head it returns it, and what came behind it; the next call begins a new head.
func (h *head) add(b []byte) (whole, rest []byte, err error) {
	from := max(0, len(h.got)-len(headEnd)+1)
	h.got = append(h.got, b...)
	i := bytes.Index(h.got[from:], headEnd)
	if i < 0 {
		if len(h.got) > mostHead {
			return nil, nil, fmt.Errorf("a head of more than %d bytes", mostHead)
		}
		return nil, nil, nil
	}
	end := from + i + len(headEnd)
	whole, rest = h.got[:end], h.got[end:]
	h.got = h.got[:0]
	return whole, rest, nil
}

// asked reads a request that appendRequest has made, whatever a proxy made of it: the path may be a whole URL.
func asked(head []byte) (response int64, last bool, err error) {
	line, _, _ := bytes.Cut(head, []byte("\r\n"))
	words := bytes.Fields(line)
	if len(words) != 3 || string(words[0]) != "GET" {
		return 0, false, fmt.Errorf("request line %q", line)
	}
	path := words[1][bytes.LastIndexByte(words[1], '/')+1:]
	response, err = strconv.ParseInt(string(path), 10, 64)
	if err != nil || response < 1 {
		return 0, false, fmt.Errorf("path %q", words[1])
	}
	last = string(words[2]) == "HTTP/1.0" || bytes.Contains(bytes.ToLower(head), closeWord)
	return response, last, nil
}

// promised reads the length of a response from its head.
func promised(head []byte) (int64, error) {
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		line, _, _ := bytes.Cut(head, []byte("\r\n"))
		return 0, fmt.Errorf("status line %q", line)
	}
	const field = "\r\ncontent-length:"
	lower := bytes.ToLower(head)
	i := bytes.Index(lower, []byte(field))
	if i < 0 {
		return 0, fmt.Errorf("a response without Content-Length")
	}
	value, _, _ := bytes.Cut(lower[i+len(field):], []byte("\r\n"))
	return strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
}

// takeHTTP takes bytes of a response in; c.left is what is still to come.
func (c *clientConn) takeHTTP(b []byte) error {
	if !c.heading {
		c.left -= int64(len(b))
		return nil
	}
	whole, rest, err := c.head.add(b)
	if err != nil || whole == nil {
		return err
	}
	length, err := promised(whole)
	c.heading, c.left = false, length-int64(len(rest))
	return err
}

// readHTTP takes bytes of requests in. It is false when the connection is to be ended.
func (l *serverLoop) readHTTP(c *serverConn, b []byte) bool {
	for len(b) > 0 {
		whole, rest, err := c.request.add(b)
		if err != nil {
			return false
		}
		if whole == nil {
			return true
		}
		body, last, err := asked(whole)
		if err != nil || c.owed > 0 { // a request behind one that is not answered yet: nobody here sends that
			return false
		}
		l.server.requests.Add(1)
		c.last, c.owed = last, body
		c.out = appendResponse(c.out[:0], body, last)
		b = append([]byte(nil), rest...)
	}
	return true
}

// sendHTTP sends what is owed of a head, with the beginning of its body behind it.
func (l *serverLoop) sendHTTP(c *serverConn) bool {
	n := copy(l.buf, c.out)
	all := n + int(min(c.owed, int64(len(l.buf)-n)))
	sent, errno := send(c.fd, l.buf[:all])
	if errno != 0 {
		return errno == syscall.EAGAIN
	}
	if sent < n {
		c.out = c.out[:copy(c.out, c.out[sent:])]
		return true
	}
	c.out, c.owed = c.out[:0], c.owed-int64(sent-n)
	return true
}
