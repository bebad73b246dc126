package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// pieces are the ways to cut what comes in: by the bits of a number, again and again.
func pieces(b []byte, cuts uint64, next func([]byte) bool) {
	start := 0
	for i := range b {
		if cuts>>(i%64)&1 != 0 || i == len(b)-1 {
			if !next(b[start : i+1]) {
				return
			}
			start = i + 1
		}
	}
}

// end is where the head ends, given the bytes in pieces as they might come from a socket.
func end(b []byte, cuts uint64) (n int, err *Error) {
	var s Scan
	have := 0
	pieces(b, cuts, func(p []byte) bool {
		have += len(p)
		n, err = s.Next(b[:have], &limits)
		return n == 0 && err == nil
	})
	return n, err
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST http://a.example:80/x?y HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\nConnection: keep-alive, X-Y\r\nX-Y: z\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
		"CONNECT [::1]:443 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic eA==\r\n\r\n",
		"OPTIONS * HTTP/1.0\r\n\r\n",
		"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nExpect: 100-continue\r\n\r\n",
	} {
		f.Add([]byte(s), uint64(0x10))
	}
	f.Fuzz(func(t *testing.T, b []byte, cuts uint64) {
		n, err := end(b, 0)
		m, other := end(b, cuts)
		if n != m || err != other {
			t.Fatalf("in one piece %d %v, in several %d %v", n, err, m, other)
		}
		if err != nil || n == 0 {
			return
		}
		var r Request
		if r.Parse(b[:n:n], &limits) != nil {
			return
		}
		sameAsGo(t, &r, b)
		forwarded(t, &r)
	})
}

// sameAsGo wants Go's parser to understand what we accept as we do.
func sameAsGo(t *testing.T, r *Request, b []byte) {
	g, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		if goRefuses(r, err) {
			return
		}
		t.Fatalf("Go refuses %q: %v", r.Raw, err)
	}
	if g.Method != string(r.Method.Of(r.Raw)) || g.RequestURI != string(r.Target.Of(r.Raw)) || g.ProtoMinor != int(r.Minor) {
		t.Fatalf("%q: Go reads %q %q HTTP/1.%d", r.Raw, g.Method, g.RequestURI, g.ProtoMinor)
	}
	if g.Host != string(r.Host) && !goUnescapes(r.Host) {
		t.Fatalf("%q: Go goes to %q, we to %q", r.Raw, g.Host, r.Host)
	}
	if chunked := slices.Equal(g.TransferEncoding, []string{"chunked"}); chunked != r.Chunked {
		t.Fatalf("%q: chunked %v for Go, %v for us", r.Raw, chunked, r.Chunked)
	}
	if want := max(r.Length, 0); !r.Chunked && g.ContentLength != want {
		t.Fatalf("%q: Go reads %d bytes of content, we %d", r.Raw, g.ContentLength, want)
	}
	if g.Close == r.Persistent() && !r.Connect {
		t.Fatalf("%q: Go closes %v, we keep %v", r.Raw, g.Close, r.Persistent())
	}
	sameFields(t, &r.Head, g.Header, "Host", "Content-Length", "Transfer-Encoding", "Trailer", "Connection", "Pragma", "Cache-Control")
	sameBody(t, r.Body(), b[len(r.Raw):], g.Body)
}

// goRefuses lists what Go refuses for reasons that are its own: it takes URLs apart, which we pass on as they are.
func goRefuses(r *Request, err error) bool {
	if e := new(url.Error); asURL(err, e) {
		return true
	}
	text := err.Error()
	return strings.Contains(text, "bad trailer key") || // a Trailer field is passed on, whatever it says
		strings.Contains(text, "malformed Host header") && bytes.ContainsAny(r.Host, "%[") ||
		r.Form == Authority && strings.Contains(text, "invalid") ||
		strings.Contains(text, "suspiciously long trailer") || strings.Contains(text, "unexpected EOF")
}

func asURL(err error, e *url.Error) bool {
	u, ok := err.(*url.Error)
	if ok {
		*e = *u
	}
	return ok || strings.HasPrefix(err.Error(), "parse ") || strings.Contains(err.Error(), "invalid URI for request")
}

// goUnescapes says that Go shows the host of a URL otherwise than it stands there.
func goUnescapes(host []byte) bool { return bytes.ContainsAny(host, "%[") }

func sameFields(t *testing.T, h *Head, fields http.Header, but ...string) {
	want := make(http.Header)
	for i := range h.Fields {
		f := &h.Fields[i]
		name := textproto.CanonicalMIMEHeaderKey(string(f.Name.Of(h.Raw)))
		want[name] = append(want[name], string(f.Value.Of(h.Raw)))
	}
	for _, name := range but {
		delete(want, name)
		fields.Del(name)
	}
	for name, values := range want {
		if !slices.Equal(values, fields[name]) {
			t.Fatalf("%q: %s is %q for Go, %q for us", h.Raw, name, fields[name], values)
		}
	}
	if len(want) != len(fields) {
		t.Fatalf("%q: Go reads %v, we %v", h.Raw, fields, want)
	}
}

// sameBody wants Go to read the same content where we find a whole body.
func sameBody(t *testing.T, body Body, b []byte, g io.Reader) {
	var content []byte
	if _, err := body.Next(b, &limits, func(p []byte) { content = append(content, p...) }); err != nil || !body.Done() {
		return
	}
	got, err := io.ReadAll(g)
	if err != nil && !strings.Contains(err.Error(), "bad trailer") && !strings.Contains(err.Error(), "malformed MIME") {
		t.Fatalf("%q is a body for us, for Go: %v", b, err)
	}
	if err == nil && !bytes.Equal(got, content) {
		t.Fatalf("%q: content is %q for Go, %q for us", b, got, content)
	}
}

// forwarded wants that what is passed on is a request, and again the same one.
func forwarded(t *testing.T, r *Request) {
	if r.Connect || r.Minor == 0 && !r.Has(Host) && len(r.Host) == 0 {
		return
	}
	var e Edits
	r.Forward(&e, ToServer{Upgrade: true, Consume: true, Host: r.Host})
	out := e.Append(nil, r.Raw)
	if len(out) != e.Size(r.Raw) {
		t.Fatalf("%d bytes, Size says %d", len(out), e.Size(r.Raw))
	}
	var again Request
	wide := Limits{Line: 8000, Head: 16000, Fields: 30}
	if err := again.Parse(out, &wide); err != nil {
		t.Fatalf("%q becomes %q: %v", r.Raw, out, err)
	}
	if again.Chunked != r.Chunked || again.Length != r.Length || again.Minor != 1 || again.Form == Absolute || again.nominates ||
		again.Has(KeepAlive) || again.Has(TE) || again.Has(ProxyConnection) || again.Has(ProxyAuthorization) || again.Has(Upgrade) && !again.Upgrades {
		t.Fatalf("%q becomes %q", r.Raw, out)
	}
	e.Reset()
	if again.Forward(&e, ToServer{Upgrade: true}); !e.Empty() {
		t.Fatalf("%q becomes %q, and then %q", r.Raw, out, e.Append(nil, out))
	}
}

func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.0 404 Not Found\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\nConnection: x\r\nX: y\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
		"HTTP/1.1 304 N\r\nContent-Length: 9\r\n\r\n",
	} {
		f.Add([]byte(s), uint64(0x10), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, cuts uint64, head bool) {
		n, err := end(b, 0)
		m, other := end(b, cuts)
		if n != m || err != other {
			t.Fatalf("in one piece %d %v, in several %d %v", n, err, m, other)
		}
		if err != nil || n == 0 {
			return
		}
		var r Response
		if r.Parse(b[:n:n], &limits) != nil {
			return
		}
		q := Request{HeadOnly: head}
		method := "GET"
		if head {
			method = "HEAD"
		}
		g, goErr := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), &http.Request{Method: method})
		if goErr != nil {
			if strings.Contains(goErr.Error(), "bad trailer key") {
				return
			}
			t.Fatalf("Go refuses %q: %v", r.Raw, goErr)
		}
		if g.StatusCode != r.Status || g.ProtoMinor != int(r.Minor) {
			t.Fatalf("%q: Go reads %d HTTP/1.%d", r.Raw, g.StatusCode, g.ProtoMinor)
		}
		sameFields(t, &r.Head, g.Header, "Content-Length", "Transfer-Encoding", "Trailer", "Connection", "Pragma", "Cache-Control")
		if r.Status >= 200 { // Go's client leaves interim responses to its caller, and reads bodies from them
			body := r.Body(&q)
			body.answer = false
			sameBody(t, body, b[n:], g.Body)
		}
		var e Edits
		r.Forward(&e, ToClient{Close: true})
		var again Response
		wide := Limits{Line: 8000, Head: 16000, Fields: 30}
		if err := again.Parse(e.Append(nil, r.Raw), &wide); err != nil || !again.Close && !(again.Status == 426 && again.Upgrades) {
			t.Fatalf("%q becomes %q: %v", r.Raw, e.Append(nil, r.Raw), err)
		}
	})
}

// A chunked body is the same however it comes in, and its content is what Go reads.
func FuzzChunked(f *testing.F) {
	for _, s := range []string{"5\r\nhello\r\n0\r\n\r\n", "5;x=y\r\nhello\r\n00a\r\n0123456789\r\n0\r\nA: b\r\n\r\nGET", "0\r\n\r\n", "1 \r\na\r\n0\r\n\r\n", "fffffff\r\nx"} {
		f.Add([]byte(s), uint64(0x10), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, cuts uint64, answer bool) {
		whole := Body{kind: chunked, answer: answer}
		var content []byte
		n, err := whole.Next(b, &limits, func(p []byte) { content = append(content, p...) })
		split := Body{kind: chunked, answer: answer}
		var parts []byte
		m := 0
		var other *Error
		pieces(b, cuts, func(p []byte) bool {
			k, e := split.Next(p, &limits, func(p []byte) { parts = append(parts, p...) })
			m, other = m+k, e
			return e == nil && k == len(p) && !split.Done()
		})
		if n != m || err != other || !bytes.Equal(content, parts) || whole != split {
			t.Fatalf("in one piece %d %v %q, in several %d %v %q", n, err, content, m, other, parts)
		}
		if !answer {
			request := append([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), b...)
			g, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
			if err != nil {
				t.Fatal(err)
			}
			sameBody(t, Body{kind: chunked}, b, g.Body)
		}
	})
}
