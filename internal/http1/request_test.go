package http1

import (
	"strings"
	"testing"
)

var limits = Limits{Line: 1000, Head: 4000, Fields: 20}

// request reads a request head, in one piece.
func request(t testing.TB, text string, r *Request) *Error {
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

func TestRequestsThatAreRefused(t *testing.T) {
	const host = "Host: a\r\n"
	for _, test := range []struct {
		text string
		want *Error
	}{
		{"GET / HTTP/1.1\n\n", ErrBareLF},
		{"GET / HTTP/1.1\r\nHost: a\n\r\n", ErrBareLF},
		{"GET / HTTP/1.1\r\n" + host + "\n", ErrBareLF},
		{"GET /\r/ HTTP/1.1\r\n" + host + "\r\n", ErrBareCR},
		{"GET / HTTP/1.1\r\nHost: a\rb: c\r\n\r\n", ErrBareCR},
		{"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", ErrBareCR},
		{"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n", ErrControl},
		{"GET / HTTP/1.1\r\nX: a\x0bb\r\n" + host + "\r\n", ErrControl},
		{"GET / HTTP/1.1\r\nX: a longer value \x7f\r\n" + host + "\r\n", ErrControl},
		{"GET / HTTP/1.1\r\nX\x00Y: a\r\n" + host + "\r\n", ErrControl},
		{"GET /\x01 HTTP/1.1\r\n" + host + "\r\n", ErrControl},
		{"GET /" + strings.Repeat("a", 1000) + " HTTP/1.1\r\n" + host + "\r\n", ErrLineTooLong},
		{"GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("a", 5000) + "\r\n\r\n", ErrHeadTooLarge},
		{"GET / HTTP/1.1\r\n" + host + strings.Repeat("X: y\r\n", 20) + "\r\n", ErrTooManyFields},
		{"GET  / HTTP/1.1\r\n" + host + "\r\n", ErrRequestLine},
		{"GET /  HTTP/1.1\r\n" + host + "\r\n", ErrRequestLine},
		{"GET /a b HTTP/1.1\r\n" + host + "\r\n", ErrRequestLine},
		{"GET / HTTP/1.1 \r\n" + host + "\r\n", ErrRequestLine},
		{" GET / HTTP/1.1\r\n" + host + "\r\n", ErrRequestLine},
		{"GET\t/\tHTTP/1.1\r\n" + host + "\r\n", ErrRequestLine},
		{"GET / http/1.1\r\n" + host + "\r\n", ErrRequestLine},
		{"GET / HTTP/1.10\r\n" + host + "\r\n", ErrRequestLine},
		{"GET / HTTP/11\r\n" + host + "\r\n", ErrRequestLine},
		{"GET / HTTP/+1.1\r\n" + host + "\r\n", ErrRequestLine},
		{"GET /\r\n\r\n", ErrNoVersion},
		{"\r\nGET / HTTP/1.1\r\n\r\n", ErrRequestLine},
		{"PRI * HTTP/2.0\r\n\r\n", ErrVersion},
		{"GET / HTTP/2.0\r\n" + host + "\r\n", ErrVersion},
		{"GET / HTTP/1.2\r\n" + host + "\r\n", ErrVersion},
		{"GET / HTTP/0.9\r\n" + host + "\r\n", ErrVersion},
		{"G(T / HTTP/1.1\r\n" + host + "\r\n", ErrMethod},
		{"GET a HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"GET * HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"GET /a#b HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"GET http:///a HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"GET http://u:p@a/ HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"GET http://a:99999/ HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"GET http:/a HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"CONNECT / HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"CONNECT a HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"CONNECT a: HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"CONNECT :443 HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"CONNECT http://a:443 HTTP/1.1\r\n" + host + "\r\n", ErrTarget},
		{"CONNECT a:443 HTTP/1.1\r\n" + host + "Content-Length: 5\r\n\r\n", ErrConnectContent},
		{"CONNECT a:443 HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n", ErrConnectContent},
		{"GET / HTTP/1.1\r\n\r\n", ErrNoHost},
		{"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", ErrManyHosts},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nHOST: b\r\n\r\n", ErrManyHosts},
		{"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", ErrHost},
		{"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", ErrHost},
		{"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", ErrHost},
		{"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", ErrHost},
		{"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", ErrHost},
		{"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", ErrHost},
		{"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", ErrHost},
		{"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", ErrHost},
		{"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", ErrHostDiffers},
		{"GET http://a/ HTTP/1.1\r\nHost: a:81\r\n\r\n", ErrHostDiffers},
		{"GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n", ErrHostDiffers},
		{"GET / HTTP/1.1\r\nHost : a\r\n\r\n", ErrBlankBefore},
		{"GET / HTTP/1.1\r\n" + host + "Content-Length\t: 5\r\n\r\n", ErrBlankBefore},
		{"GET / HTTP/1.1\r\n" + host + " X: y\r\n\r\n", ErrBlankBeforeName},
		{"GET / HTTP/1.1\r\n Host: a\r\n\r\n", ErrBlankBeforeName},
		{"GET / HTTP/1.1\r\n" + host + "X: y\r\n\tz\r\n\r\n", ErrBlankBeforeName},
		{"GET / HTTP/1.1\r\n" + host + "XY\r\n\r\n", ErrNoColon},
		{"GET / HTTP/1.1\r\n" + host + ": y\r\n\r\n", ErrFieldName},
		{"GET / HTTP/1.1\r\n" + host + "X[]: y\r\n\r\n", ErrFieldName},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", ErrLengths},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\ncontent-length: 5\r\n\r\n", ErrLengths},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 5, 5\r\n\r\n", ErrLength},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: +5\r\n\r\n", ErrLength},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n", ErrLength},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 0x5\r\n\r\n", ErrLength},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 5 5\r\n\r\n", ErrLength},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 5\xa0\r\n\r\n", ErrLength},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\n", ErrLength},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999\r\n\r\n", ErrLengthTooLarge},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", ErrBothFramings},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", ErrBothFramings},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", ErrCodings},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", ErrCodings},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, chunked\r\n\r\n", ErrCodings},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, identity\r\n\r\n", ErrCoding},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n", ErrCoding},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: identity\r\n\r\n", ErrCoding},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n", ErrCoding},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: \"chunked\"\r\n\r\n", ErrCoding},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked;x=y\r\n\r\n", ErrCoding},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding:\r\n\r\n", ErrCodings},
		{"POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n", ErrCoding10},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding : chunked\r\n\r\n", ErrBlankBefore},
		{"POST / HTTP/1.1\r\n" + host + "X: y\r\n Transfer-Encoding: chunked\r\n\r\n", ErrBlankBeforeName},
		{"GET / HTTP/1.1\r\n" + host + "Connection: close, host\r\n\r\n", ErrNominated},
		{"GET / HTTP/1.1\r\n" + host + "Connection: content-length\r\n\r\n", ErrNominated},
		{"GET / HTTP/1.1\r\n" + host + "Connection: Transfer-Encoding\r\n\r\n", ErrNominated},
		{"GET / HTTP/1.1\r\n" + host + "Connection: a b\r\n\r\n", ErrConnection},
		{"GET / HTTP/1.1\r\n" + host + "Connection: " + strings.Repeat("a,", 40) + "\r\n\r\n", ErrConnection},
	} {
		var r Request
		if got := request(t, test.text, &r); got != test.want {
			t.Errorf("%.80q: %v, want %v", test.text, got, test.want)
		}
	}
}

func TestRequestsThatAreRead(t *testing.T) {
	for _, test := range []struct {
		text             string
		method, path     string
		host             string
		form             Form
		persistent, body bool
	}{
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/", "a", Origin, true, false},
		{"GET /?a=%20&{x}|\"<>\\^` HTTP/1.1\r\nHost:\ta.b-c_d:8080 \t\r\n\r\n", "GET", "/?a=%20&{x}|\"<>\\^`", "a.b-c_d:8080", Origin, true, false},
		{"GET /\xc3\xa9 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", "GET", "/\xc3\xa9", "[2001:db8::1]:80", Origin, true, false},
		{"GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET", "/", "", Origin, true, false},
		{"GET / HTTP/1.0\r\n\r\n", "GET", "/", "", Origin, false, false},
		{"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET", "/", "", Origin, true, false},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive, Close\r\n\r\n", "GET", "/", "a", Origin, false, false},
		{"get http://A.example?q HTTP/1.1\r\nHost: a.example:80\r\n\r\n", "get", "?q", "A.example", Absolute, true, false},
		{"GET https://a/x HTTP/1.1\r\nHost: a:443\r\n\r\n", "GET", "/x", "a", Absolute, true, false},
		{"GET http://a HTTP/1.0\r\n\r\n", "GET", "", "a", Absolute, false, false},
		{"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS", "", "a", Asterisk, true, false},
		{"CONNECT a:443 HTTP/1.1\r\nHost: b\r\n\r\n", "CONNECT", "", "a:443", Authority, true, false},
		{"CONNECT a:443 HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n", "CONNECT", "", "a:443", Authority, true, false},
		{"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 007\r\n\r\n", "POST", "/", "a", Origin, true, true},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST", "/", "a", Origin, true, false},
		{"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:CHUNKED\r\n\r\n", "POST", "/", "a", Origin, true, true},
		{"POST / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \xff\t \r\n\r\n", "POST", "/", "a", Origin, true, false},
	} {
		var r Request
		if err := request(t, test.text, &r); err != nil {
			t.Errorf("%q: %v", test.text, err)
			continue
		}
		body := r.Body()
		if string(r.Method.Of(r.Raw)) != test.method || string(r.Path.Of(r.Raw)) != test.path || string(r.Host) != test.host || r.Form != test.form ||
			r.Persistent() != test.persistent || body.Done() == test.body {
			t.Errorf("%q: %q %q %q %v %v %v", test.text, r.Method.Of(r.Raw), r.Path.Of(r.Raw), r.Host, r.Form, r.Persistent(), !body.Done())
		}
	}
}

// The very bytes go on, but for what is the connection's.
func TestRequestsThatArePassedOn(t *testing.T) {
	all := ToServer{Upgrade: true, Consume: true, Host: []byte("10.0.0.1")}
	for _, test := range []struct {
		options   ToServer
		text, new string
	}{
		{all, "GET / HTTP/1.1\r\nhOST:  a\r\nb:c\r\nA: \r\n\r\n", "GET / HTTP/1.1\r\nhOST:  a\r\nb:c\r\nA: \r\n\r\n"},
		{all, "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nX: y\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"},
		{all, "GET / HTTP/1.1\r\nX-A: 1\r\nHost: a\r\nConnection: x-a, close\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: close\r\nProxy-Authorization: z\r\nUpgrade: q\r\nX-B: 2\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX-B: 2\r\n\r\n"},
		{ToServer{}, "GET / HTTP/1.1\r\nHost: a\r\nProxy-Authorization: z\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nProxy-Authorization: z\r\n\r\n"},
		{ToServer{Close: true}, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"},
		{ToServer{Close: true}, "GET / HTTP/1.1\r\nconnection:close\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nconnection:close\r\nHost: a\r\n\r\n"},
		{all, "GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n", "GET /b?c HTTP/1.1\r\nHost: a\r\n\r\n"},
		{all, "GET http://a?c HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?c HTTP/1.1\r\nHost: a\r\n\r\n"},
		{all, "GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{all, "OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"},
		{all, "GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n"},
		{all, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"},
		{all, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"},
		{all, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket, h2c\r\nConnection: upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{all, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: HTTP/2.0\r\nConnection: upgrade\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{all, "GET / HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{ToServer{}, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
	} {
		var r Request
		if err := request(t, test.text, &r); err != nil {
			t.Errorf("%q: %v", test.text, err)
			continue
		}
		var e Edits
		r.Forward(&e, test.options)
		if got := string(e.Append(nil, r.Raw)); got != test.new || e.Size(r.Raw) != len(got) {
			t.Errorf("%q becomes\n%q (%d), want\n%q", test.text, got, e.Size(r.Raw), test.new)
		}
		if e.Empty() != (test.text == test.new) {
			t.Errorf("%q: Empty is %v", test.text, e.Empty())
		}
	}
}
