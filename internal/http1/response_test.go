package http1

import (
	"strings"
	"testing"
)

func response(t testing.TB, text string, r *Response) *Error {
	t.Helper()
	var s Scan
	n, err := s.Next([]byte(text), &limits)
	if err != nil {
		return err
	}
	if n == 0 {
		t.Fatalf("%q has no end", text)
	}
	return r.Parse([]byte(text)[:n], &limits)
}

func TestResponsesThatAreRefused(t *testing.T) {
	for _, test := range []struct {
		text string
		want *Error
	}{
		{"HTTP/1.1 200 OK\n\n", ErrBareLF},
		{"HTTP/1.1 200 OK\r\nA: b\n\r\n", ErrBareLF},
		{"HTTP/1.1 200 O\rK\r\n\r\n", ErrBareCR},
		{"HTTP/1.1 200 O\x00K\r\n\r\n", ErrControl},
		{"HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n", ErrControl},
		{"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", ErrBlankBefore},
		{"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", ErrBlankBeforeName},
		{"HTTP/1.1 200 OK\r\nA\r\n\r\n", ErrNoColon},
		{"HTTP/1.1  200 OK\r\n\r\n", ErrStatusLine},
		{"HTTP/1.1\t200 OK\r\n\r\n", ErrStatusLine},
		{"HTTP/1.1 20 OK\r\n\r\n", ErrStatusLine},
		{"HTTP/1.1 2000 OK\r\n\r\n", ErrStatusLine},
		{"HTTP/1.1 099 OK\r\n\r\n", ErrStatusLine},
		{"HTTP/1.1 +20 OK\r\n\r\n", ErrStatusLine},
		{"HTTP/1.1 2xx OK\r\n\r\n", ErrStatusLine},
		{"HTTP/2.0 200 OK\r\n\r\n", ErrStatusLine},
		{"HTTP/1.2 200 OK\r\n\r\n", ErrStatusLine},
		{"http/1.1 200 OK\r\n\r\n", ErrStatusLine},
		{"ICY 200 OK\r\n\r\n", ErrStatusLine},
		{"220 mail ESMTP\r\n\r\n", ErrStatusLine},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", ErrBothFramings},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", ErrLengths},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", ErrLength},
		{"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n", ErrLength},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", ErrCoding},
		{"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ErrCoding10},
		{"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", ErrFramedNoContent},
		{"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", ErrFramedNoContent},
		{"HTTP/1.1 100 Go\r\nContent-Length: 5\r\n\r\n", ErrFramedNoContent},
		{"HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\n", ErrNominated},
		{"HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 21) + "\r\n", ErrTooManyFields},
		{"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 5000) + "\r\n\r\n", ErrHeadTooLarge},
	} {
		var r Response
		if got := response(t, test.text, &r); got != test.want {
			t.Errorf("%.80q: %v, want %v", test.text, got, test.want)
		}
	}
}

// How long the body is depends on the method of the request, too.
func TestResponseFraming(t *testing.T) {
	const (
		none = iota
		five
		chunks
		close
	)
	for _, test := range []struct {
		method, text string
		want         int
	}{
		{"GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", five},
		{"GET", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", five},
		{"GET", "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n", five},
		{"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", none},
		{"GET", "HTTP/1.1 200 OK\r\n\r\n", close},
		{"GET", "HTTP/1.0 200 OK\r\n\r\n", close},
		{"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunks},
		{"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", none},
		{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", none},
		{"HEAD", "HTTP/1.1 200 OK\r\n\r\n", none},
		{"GET", "HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n", none},
		{"GET", "HTTP/1.1 304 Not\r\nTransfer-Encoding: chunked\r\n\r\n", none},
		{"GET", "HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", none},
		{"GET", "HTTP/1.1 204 No\r\n\r\n", none},
		{"GET", "HTTP/1.1 100 Go\r\n\r\n", none},
		{"GET", "HTTP/1.1 101 Switch\r\n\r\n", none},
		{"GET", "HTTP/1.1 999 Odd\r\nContent-Length: 5\r\n\r\n", five},
		{"CONNECT", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", none},
		{"CONNECT", "HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\n", five},
	} {
		var q Request
		target := "/"
		if test.method == "CONNECT" {
			target = "a:443"
		}
		if err := request(t, test.method+" "+target+" HTTP/1.1\r\nHost: a\r\n\r\n", &q); err != nil {
			t.Fatal(err)
		}
		var r Response
		if err := response(t, test.text, &r); err != nil {
			t.Errorf("%q: %v", test.text, err)
			continue
		}
		body, got := r.Body(&q), none
		switch {
		case body.Chunked():
			got = chunks
		case body.UntilClose():
			got = close
		case body.Left() == 5:
			got = five
		case !body.Done():
			got = -1
		}
		if got != test.want {
			t.Errorf("%s %q: %d, want %d", test.method, test.text, got, test.want)
		}
	}
}

func TestResponsesThatArePassedOn(t *testing.T) {
	for _, test := range []struct {
		options   ToClient
		text, new string
	}{
		{ToClient{}, "HTTP/1.1 200 OK\r\nsERVER:  x\r\nB:a\r\n\r\n", "HTTP/1.1 200 OK\r\nsERVER:  x\r\nB:a\r\n\r\n"},
		{ToClient{}, "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n\r\n"},
		{ToClient{}, "HTTP/1.0 200 OK\r\nConnection: close\r\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n\r\n"},
		{ToClient{Close: true}, "HTTP/1.1 200 OK\r\nA: b\r\nConnection: CLOSE\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\nConnection: CLOSE\r\n\r\n"},
		{ToClient{Close: true}, "HTTP/1.1 200 OK\r\nConnection: close\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"},
		{ToClient{Close: true}, "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\n"},
		{ToClient{KeepAlive: true}, "HTTP/1.1 200 OK\r\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\nConnection: keep-alive\r\n\r\n"},
		{ToClient{}, "HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n\r\n"},
		{ToClient{Switching: true}, "HTTP/1.1 101 S\r\nUpgrade: w\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 101 S\r\nUpgrade: w\r\nConnection: upgrade\r\n\r\n"},
		{ToClient{}, "HTTP/1.1 426 U\r\nUpgrade: w\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 426 U\r\nUpgrade: w\r\nConnection: upgrade\r\n\r\n"},
		{ToClient{Dechunk: true, Close: true}, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\nConnection: trailer\r\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\n"},
	} {
		var r Response
		if err := response(t, test.text, &r); err != nil {
			t.Errorf("%q: %v", test.text, err)
			continue
		}
		var e Edits
		r.Forward(&e, test.options)
		if got := string(e.Append(nil, r.Raw)); got != test.new || e.Size(r.Raw) != len(got) {
			t.Errorf("%q becomes\n%q, want\n%q", test.text, got, test.new)
		}
	}
}
