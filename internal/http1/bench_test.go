package http1

import "testing"

const browser = "GET /wiki/Salp?action=view HTTP/1.1\r\nHost: en.wikipedia.example\r\nConnection: keep-alive\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0 Safari/537.36\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n" +
	"Accept-Language: it-IT,it;q=0.9,en;q=0.8\r\nAccept-Encoding: gzip, deflate, br\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n" +
	"Referer: http://en.wikipedia.example/wiki/Tunicate\r\nUpgrade-Insecure-Requests: 1\r\nCache-Control: max-age=0\r\n\r\n"

const answer = "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Wed, 25 Nov 2026 04:00:00 GMT\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 1024\r\n" +
	"Last-Modified: Tue, 24 Nov 2026 10:00:00 GMT\r\nConnection: keep-alive\r\nETag: \"65f0-400\"\r\nAccept-Ranges: bytes\r\n\r\n"

func BenchmarkRequest(b *testing.B) {
	for _, test := range []struct{ name, text string }{{"browser", browser}, {"least", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"}} {
		b.Run(test.name, func(b *testing.B) {
			text, out := []byte(test.text), make([]byte, 0, 4096)
			var r Request
			var e Edits
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				var s Scan
				n, _ := s.Next(text, &limits)
				if err := r.Parse(text[:n], &limits); err != nil {
					b.Fatal(err)
				}
				e.Reset()
				if r.Forward(&e, ToServer{}); !e.Empty() {
					out = e.Append(out[:0], text)
				}
			}
		})
	}
}

func BenchmarkResponse(b *testing.B) {
	text, out := []byte(answer), make([]byte, 0, 4096)
	var r Response
	var e Edits
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		var s Scan
		n, _ := s.Next(text, &limits)
		if err := r.Parse(text[:n], &limits); err != nil {
			b.Fatal(err)
		}
		e.Reset()
		if r.Forward(&e, ToClient{}); !e.Empty() {
			out = e.Append(out[:0], text)
		}
	}
}

func BenchmarkChunked(b *testing.B) {
	text := []byte("400\r\n" + string(make([]byte, 1024)) + "\r\n0\r\n\r\n")
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		body := Body{kind: chunked}
		if _, err := body.Next(text, &limits, nil); err != nil || !body.Done() {
			b.Fatal(err)
		}
	}
}

// Nothing is allocated for a message.
func TestNothingIsAllocated(t *testing.T) {
	text, out := []byte(browser), make([]byte, 0, 4096)
	var r Request
	var e Edits
	if n := testing.AllocsPerRun(100, func() {
		if err := r.Parse(text, &limits); err != nil {
			t.Fatal(err)
		}
		e.Reset()
		r.Forward(&e, ToServer{})
		out = e.Append(out[:0], text)
	}); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
}
