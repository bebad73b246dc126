package httpproxy_test

import (
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"salp/internal/listen"
)

// badFields are header fields that no message may have, in whichever direction it goes, with what their sender is answered when it is a client.
var badFields = []struct {
	fields string
	status int
}{
	{"Content-Length: 1\r\nContent-Length: 1\r\n", 400},
	{"Content-Length: 1\r\ncontent-length: 2\r\n", 400},
	{"Content-Length: 1, 1\r\n", 400},
	{"Content-Length: 1,2\r\n", 400},
	{"Content-Length: +1\r\n", 400},
	{"Content-Length: -1\r\n", 400},
	{"Content-Length: 0x1\r\n", 400},
	{"Content-Length: 1 1\r\n", 400},
	{"Content-Length: 1.0\r\n", 400},
	{"Content-Length: \"1\"\r\n", 400},
	{"Content-Length:\r\n", 400},
	{"Content-Length: 18446744073709551617\r\n", 413}, // 1, in 64 bits
	{"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400},
	{"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", 400},
	{"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400},
	{"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400},
	{"Transfer-Encoding: chunked, chunked\r\n", 400},
	{"Transfer-Encoding: chunked, identity\r\n", 501},
	{"Transfer-Encoding: gzip, chunked\r\n", 501},
	{"Transfer-Encoding: identity\r\n", 501},
	{"Transfer-Encoding: xchunked\r\n", 501},
	{"Transfer-Encoding: \"chunked\"\r\n", 501},
	{"Transfer-Encoding: chunked;q=1\r\n", 501},
	{"Transfer-Encoding:\r\n", 400},
	{"Transfer-Encoding:\x0bchunked\r\n", 400},
	{"Transfer-Encoding:\xa0chunked\r\n", 501},
	{"Transfer-Encoding : chunked\r\n", 400},
	{"Transfer-Encoding\t: chunked\r\n", 400},
	{"Transfer-Encoding:\r\n chunked\r\n", 400},
	{"X: y\r\n Transfer-Encoding: chunked\r\n", 400},
	{"X: y\r\n\tz\r\n", 400},
	{" X: y\r\n", 400},
	{"X : y\r\n", 400},
	{"X: y\n", 400},
	{"X: y\rTransfer-Encoding: chunked\r\n", 400},
	{"X: y\r\r\n", 400},
	{"X: \x00\r\n", 400},
	{"X\x00: y\r\n", 400},
	{"X: \x01\r\n", 400},
	{"X: \x7f\r\n", 400},
	{"X\r\n", 400},
	{": y\r\n", 400},
	{"X[: y\r\n", 400},
	{"X\xff: y\r\n", 400},
	{"Connection: content-length\r\nContent-Length: 1\r\n", 400},
	{"Connection: transfer-encoding\r\n", 400},
	{"Connection: a b\r\n", 400},
	{"X: " + strings.Repeat("y", 70000) + "\r\n", 431},
	{strings.Repeat("X: y\r\n", 201), 431},
}

var badRequestLines = []struct {
	line   string
	status int
}{
	{"GET  / HTTP/1.1", 400}, {"GET /  HTTP/1.1", 400}, {"GET / HTTP/1.1 ", 400}, {" GET / HTTP/1.1", 400}, {"GET\t/\tHTTP/1.1", 400}, {"GET / x HTTP/1.1", 400},
	{"GET /", 400}, {"GET / HTTP/1.1\r", 400}, {"GET /\x00 HTTP/1.1", 400}, {"GET /\x7f HTTP/1.1", 400}, {"GET /#x HTTP/1.1", 400}, {"GET x HTTP/1.1", 400}, {"GET * HTTP/1.1", 400},
	{"GET / http/1.1", 400}, {"GET / HTTP/1.10", 400}, {"GET / HTTP/01.1", 400}, {"GET / HTTP/0.9", 505}, {"GET / HTTP/1.2", 505}, {"GET / HTTP/2.0", 505}, {"GET / HTTP/3.0", 505},
	{"GET http://b/ HTTP/1.1", 400}, {"GET http://a:81/ HTTP/1.1", 400}, {"GET http://a@a/ HTTP/1.1", 400}, {"GET http:///x HTTP/1.1", 400}, {"GET http://a\\b/ HTTP/1.1", 400},
	{"GET https://a/ HTTP/1.1", 501}, {"CONNECT a HTTP/1.1", 400}, {"CONNECT a:99999 HTTP/1.1", 400}, {"CONNECT /x HTTP/1.1", 400},
	{"GET /" + strings.Repeat("x", 17000) + " HTTP/1.1", 414},
}

// inPieces sends a text in pieces. What the other side does not take any more does not matter.
func (p *peer) inPieces(text string, size int) {
	for ; text != ""; text = text[min(size, len(text)):] {
		if _, err := p.Write([]byte(text[:min(size, len(text))])); err != nil {
			return
		}
	}
}

// Every rule of framing, from the client: the answer says what is wrong, the connection ends, and no byte goes to a server.
func TestRequestFraming(t *testing.T) {
	server := serve(t, func(p *peer) {
		if n, _ := io.Copy(io.Discard, p); n != 0 {
			t.Errorf("a server was sent %d bytes", n)
		}
	})
	r := start(t, explicit(server, ""), options{})
	refused := func(request string, status int) {
		t.Helper()
		for _, size := range []int{1 << 20, 1} {
			if size == 1 && len(request) > 1000 {
				continue
			}
			c := r.dial()
			c.inPieces(request+"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", size)
			got := c.wantStatus(status)
			if status == 501 && strings.Contains(request, "https:") { // it is well formed
				if c.Close(); got.Close {
					t.Errorf("%.80q: the connection ends", request)
				}
				break
			}
			if !got.Close {
				t.Errorf("%.80q: the answer has no Connection: close", request)
			}
			if rest, _ := io.ReadAll(c); len(rest) > 0 {
				t.Errorf("%.80q: and then %.80q", request, rest)
			}
			c.Close()
		}
	}
	for _, bad := range badFields {
		refused("POST / HTTP/1.1\r\nHost: a\r\n"+bad.fields+"\r\n", bad.status)
		refused("POST / HTTP/1.1\r\n"+bad.fields+"Host: a\r\n\r\n", bad.status)
	}
	for _, bad := range badRequestLines {
		if strings.Contains(bad.line, "https:") {
			continue // the smuggled request behind it would be answered
		}
		refused(bad.line+"\r\nHost: a\r\n\r\n", bad.status)
	}
	for _, bad := range []string{"", "Host: a\r\nHost: a\r\n", "Host: a\r\nhost: b\r\n", "Host: a b\r\n", "Host: a/b\r\n", "Host: a,b\r\n", "Host: u@a\r\n", "Host: a:x\r\n", "Host: a:65536\r\n", "Host: [::1\r\n", "Host: ::1\r\n", "Host : a\r\n", "Host: \x00\r\n"} {
		refused("GET / HTTP/1.1\r\n"+bad+"\r\n", 400)
	}
	refused("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400)
	refused("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 30\r\n\r\n", 400)
	refused("GET / HTTP/1.1\nHost: a\n\n", 400)
	refused("GET / HTTP/1.1\r\nHost: a\r\n\n", 400)
	r.idle()
}

// Every rule of framing, from the server: a 502, nothing of the response is shown, the client's connection goes on, and the server's is not used again.
func TestResponseFraming(t *testing.T) {
	var response atomic.Pointer[string]
	server := serve(t, func(p *peer) {
		p.head()
		p.send(*response.Load() + "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled")
		if p.head() != "" {
			t.Errorf("%.80q: the connection was used again", *response.Load())
		}
	})
	r := start(t, explicit(server, ""), options{})
	c := r.dial()
	refused := func(text string) {
		t.Helper()
		response.Store(&text)
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		answer, body := c.answer()
		if answer.StatusCode != 502 || answer.Close || strings.Contains(body, "smuggled") {
			t.Errorf("%.80q: %s, close %v, %.200q", text, answer.Status, answer.Close, body)
		}
	}
	asked := uint64(0)
	for _, bad := range badFields {
		refused("HTTP/1.1 200 OK\r\n" + bad.fields + "\r\n")
		refused("HTTP/1.1 200 OK\r\nServer: x\r\n" + bad.fields + "Server: y\r\n\r\n")
		refused("HTTP/1.1 103 Early\r\n" + bad.fields + "\r\n")
		asked += 3
	}
	for _, line := range []string{"HTTP/1.1  200 OK", "HTTP/1.1\t200 OK", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 099 OK", "HTTP/1.1 +20 OK", "HTTP/1.1 2x0 OK", "HTTP/2.0 200 OK", "HTTP/1.2 200 OK",
		"http/1.1 200 OK", "ICY 200 OK", "HTTP/1.1 200 O\x00K", "HTTP/1.1 200 OK\r", "HTTP/1.1 200 " + strings.Repeat("x", 70000)} {
		refused(line + "\r\n\r\n")
		asked++
	}
	for _, text := range []string{"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 204 No\r\nContent-Length: 8\r\n\r\n", "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 100 Go\r\nContent-Length: 8\r\n\r\n", "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "HTTP/1.1 200 OK\r\n\n"} {
		refused(text)
		asked++
	}
	if n := r.sum(); n.Errors[listen.BadResponse] != asked || n.Requests != asked {
		t.Errorf("%d responses were refused of %d", n.Errors[listen.BadResponse], asked)
	}
	c.Close()
	r.idle()
}

// badChunks are chunked bodies that are wrong. What a response may have all the same is marked.
var badChunks = []struct {
	text     string
	response bool // borne there
}{
	{text: "g\r\n"}, {text: "0x1\r\na\r\n"}, {text: "+1\r\na\r\n"}, {text: "-1\r\n"}, {text: " 1\r\na\r\n"}, {text: "1 \r\na\r\n", response: true}, {text: "1 ;x\r\na\r\n", response: true}, {text: "1 1\r\n"}, {text: "1_0\r\n"}, {text: ";x\r\n"}, {text: "\r\n"},
	{text: "1\na\n"}, {text: "1\r\na\n"}, {text: "1\r\nab\r\n"}, {text: "1\r\na\rb"}, {text: "1;\x00\r\na\r\n"}, {text: "1;x\ny\r\na\r\n"}, {text: "1;x\ry\r\na\r\n"}, {text: "1;" + strings.Repeat("x", 2000)},
	{text: "fffffffffffffffff\r\n"}, {text: "10000000000000001\r\na"}, {text: "00000000000000000000001\r\na"}, {text: "0\r\n\n"}, {text: "0\n\n"}, {text: "0\r\nX : y\r\n\r\n"}, {text: "0\r\n X: y\r\n\r\n"}, {text: "0\r\nX: y\n\r\n"},
	{text: "0\r\nX: y\r\n z\r\n\r\n"}, {text: "0\r\nX: \x00\r\n\r\n"}, {text: "0\r\nX\r\n\r\n"}, {text: "0\r\n: y\r\n\r\n"}, {text: "0\r\nX: " + strings.Repeat("y", 70000)}, {text: "0\r\n" + strings.Repeat("X: y\r\n", 201)},
}

// A chunked body that turns out to be wrong when a part of it is through already: a request is refused, and its server sees a reset, never a whole
// request; of a response the client sees a reset, never a whole response.
func TestBadChunks(t *testing.T) {
	const begun = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nz\r\n"
	shown := make(chan struct{}, 1)
	resets := make(chan error, 1)
	got := make(chan string, 1)
	server := serve(t, func(p *peer) {
		head := p.head()
		if strings.HasPrefix(head, "GET") {
			i := 0
			fmt.Sscanf(head, "GET /%d", &i)
			p.send(begun)
			<-shown
			p.inPieces(badChunks[i].text+"0\r\n\r\n", 1<<20)
			io.Copy(io.Discard, p)
			return
		}
		p.want("1\r\nz\r\n")
		got <- "z"
		_, err := io.ReadAll(p)
		resets <- err
	})
	r := start(t, explicit(server, ""), options{})
	for i, bad := range badChunks {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nz\r\n")
		<-got
		c.inPieces(bad.text, 1<<20)
		if answer, err := c.Peek(12); err != nil || string(answer[:10]) != "HTTP/1.1 4" {
			t.Errorf("%.60q: %q %v", bad.text, answer, err)
		} else if answer, _ := c.answer(); !answer.Close {
			t.Errorf("%.60q: the answer has no Connection: close", bad.text)
		}
		if err := <-resets; err == nil {
			t.Errorf("%.60q: the server saw an end like any other", bad.text)
		}
		c.Close()
		if bad.response {
			continue
		}
		c = r.dial()
		c.send(fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i))
		c.want(begun)
		shown <- struct{}{}
		c.wantReset()
		c.Close()
	}
	r.idle()
}
