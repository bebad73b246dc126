package traffic

import (
	"strings"
	"testing"
)

// A head may come in any pieces, and what comes behind it is not part of it.
func TestHeadInPieces(t *testing.T) {
	const text = "HTTP/1.1 200 OK\r\ncontent-LENGTH:  12 \r\nVia: someone\r\n\r\nbody"
	for size := 1; size <= len(text); size++ {
		var h head
		var whole, rest string
		for from := 0; from < len(text); from += size {
			w, r, err := h.add([]byte(text[from:min(from+size, len(text))]))
			if err != nil {
				t.Fatal(err)
			}
			if w != nil {
				whole, rest = string(w), string(r)
				break
			}
		}
		if !strings.HasSuffix(whole, "\r\n\r\n") || !strings.HasPrefix("body", rest) {
			t.Fatalf("in pieces of %d: head %q, rest %q", size, whole, rest)
		}
		if n, err := promised([]byte(whole)); n != 12 || err != nil {
			t.Errorf("%d bytes promised, %v; want 12", n, err)
		}
	}
	var h head
	if _, _, err := h.add([]byte(strings.Repeat("x", mostHead+1))); err == nil {
		t.Error("a head without end is taken")
	}
}

func TestRequestThroughProxy(t *testing.T) {
	own := string(appendRequest(nil, "10.0.2.2:80", 77, false, 300))
	if len(own) != 300 {
		t.Errorf("a request of %d bytes, want 300", len(own))
	}
	tests := []struct {
		text string
		body int64
		last bool
	}{
		{own, 77, false},
		{"GET http://10.0.2.2/77 HTTP/1.1\r\nhost: x\r\n\r\n", 77, false},
		{"GET /5 HTTP/1.0\r\n\r\n", 5, true},
		{"GET /5 HTTP/1.1\r\ncOnnection: Close\r\n\r\n", 5, true},
	}
	for _, tt := range tests {
		body, last, err := asked([]byte(tt.text))
		if body != tt.body || last != tt.last || err != nil {
			t.Errorf("%q: %d, %v, %v", tt.text, body, last, err)
		}
	}
	for _, bad := range []string{"GET /x HTTP/1.1\r\n\r\n", "POST /5 HTTP/1.1\r\n\r\n", "GET /0 HTTP/1.1\r\n\r\n", "GET /5\r\n\r\n"} {
		if _, _, err := asked([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := promised([]byte("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\n")); err == nil {
		t.Error("an error of the proxy's passes for a response")
	}
}
