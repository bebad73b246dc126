package httpproxy_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"salp/internal/listen"
)

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// answering answers every request with the same.
func answering(response string) func(*peer) {
	return func(p *peer) {
		for p.head() != "" {
			p.send(response)
		}
	}
}

// A request that is refused gets its status, and the connection ends.
func TestRefusals(t *testing.T) {
	server := serve(t, func(p *peer) {
		if head := p.head(); head != "" {
			t.Errorf("the server was asked: %q", head)
		}
	})
	for _, test := range []struct {
		request string
		status  int
	}{
		{"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		{"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400},
		{"GET / HTTP/1.1\nHost: a\n\n", 400},
		{"GET / HTTP/1.1\r\n\r\n", 400},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501},
		{"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 501},
		{"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505},
		{"GET /" + strings.Repeat("a", 17000) + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
		{"GET / HTTP/1.1\r\nHost: a\r\nA: " + strings.Repeat("a", 70000) + "\r\n\r\n", 431},
		{"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("A: b\r\n", 300) + "\r\n", 431},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 413},
	} {
		r := start(t, explicit(server, ""), options{})
		c := r.dial()
		c.send(test.request)
		if got := c.wantStatus(test.status); got.Close == strings.Contains(test.request, "https:") { // that one is well formed
			t.Errorf("%.60q: Connection: close is %v", test.request, got.Close)
		} else if got.Close {
			c.wantEOF()
		}
		c.Close()
		if n := r.idle(); n.Errors[listen.BadRequest]+n.Errors[listen.Denied] == 0 && test.status != 501 {
			t.Errorf("%.60q: %+v", test.request, n)
		}
		r.close()
	}
}

// A response that must not be passed on is a 502.
func TestBadResponses(t *testing.T) {
	for _, response := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length: 1\n\na",
		"220 mail ESMTP\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
		"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 70000) + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz",
	} {
		r := start(t, explicit(serve(t, answering(response)), ""), options{})
		c := r.dial()
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.wantStatus(502)
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n") // the client's connection is not to blame
		c.wantStatus(502)
		if n := r.sum(); n.Errors[listen.BadResponse] != 2 {
			t.Errorf("%.60q: %+v", response, n)
		}
		r.close()
	}
}

// A response that breaks off is a reset, never a whole response.
func TestTruncated(t *testing.T) {
	for _, test := range []struct {
		response string
		reset    bool // how the server ends
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", true},
		{"HTTP/1.1 200 OK\r\n\r\nhello", true},
	} {
		server := serve(t, func(p *peer) {
			p.head()
			p.send(test.response)
			if test.reset {
				time.Sleep(20 * time.Millisecond) // the kernel throws away what the other side has not read when a reset comes
				p.SetLinger(0)
			}
		})
		r := start(t, explicit(server, ""), options{})
		c := r.dial()
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.wantReset()
		r.idle()
		r.close()
	}
}

// The server has closed a connection that was kept, just when it is used again: the request goes to another, unless it must not be repeated.
func TestRepeat(t *testing.T) {
	var accepted atomic.Int32
	server := serve(t, func(p *peer) {
		if accepted.Add(1)%2 == 1 { // answers once, and closes when it is asked again
			p.head()
			p.send(ok)
			p.head()
			return
		}
		answering(ok)(p)
	})
	r := start(t, explicit(server, ""), options{})
	c := r.dial()
	for range 2 {
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.want(ok)
	}
	if n := r.sum(); n.Retries != 1 || accepted.Load() != 2 || n.Requests != 2 {
		t.Errorf("%d connections, %+v", accepted.Load(), n)
	}
	accepted.Store(0)
	r.close()
	r = start(t, explicit(server, ""), options{})
	c = r.dial()
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.want(ok)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	c.wantStatus(502)
}

// A kept connection that the server has closed before is not used for a request that must not be repeated.
func TestClosedWhileIdle(t *testing.T) {
	closed := make(chan struct{})
	var accepted atomic.Int32
	server := serve(t, func(p *peer) {
		p.head()
		p.send(ok)
		if accepted.Add(1) == 1 {
			p.TCPConn.Close()
			close(closed)
		}
		p.head()
	})
	r := start(t, explicit(server, ""), options{})
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.want(ok)
	<-closed
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	c.want(ok)
}

func TestExpect(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
	server := serve(t, func(p *peer) {
		p.want(head)
		p.send("HTTP/1.1 100 Continue\r\n\r\n")
		p.want("body")
		p.send(ok)
		p.want(head)
		p.send("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
	})
	r := start(t, explicit(server, ""), options{})
	c := r.dial()
	c.send(head)
	c.want("HTTP/1.1 100 Continue\r\n\r\n")
	c.send("body")
	c.want(ok)
	c.send(head)
	c.want("HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") // nobody knows whether the body follows
	c.wantEOF()
}

// A server answers while the body is still coming; the client can read the answer.
func TestEarlyResponse(t *testing.T) {
	server := serve(t, func(p *peer) {
		p.head()
		p.send("HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
	})
	r := start(t, explicit(server, ""), options{})
	c := r.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n")
	go io.CopyN(c.TCPConn, zeros{}, 500_000)
	c.want("HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
	c.wantEOF()
	r.idle()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// A client that has sent its FIN still gets the answer.
func TestHalfClose(t *testing.T) {
	r := start(t, explicit(serve(t, answering(ok)), ""), options{})
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.CloseWrite()
	c.want(ok)
	if _, body := c.answer(); body != "ok" { // it says that the connection ends if the FIN was there in time
		t.Errorf("%q", body)
	}
	c.wantEOF()
	r.idle()
}

// Large bodies both ways, in pieces that the kernel chooses, with a slow reader.
func TestLargeBodies(t *testing.T) {
	const size = 20 << 20
	for _, chunked := range []bool{false, true} {
		server := serve(t, func(p *peer) {
			for {
				head := p.head()
				if head == "" {
					return
				}
				if strings.HasPrefix(head, "POST") {
					n, err := io.CopyN(io.Discard, p, size)
					if n != size || err != nil {
						t.Errorf("%d bytes, %v", n, err)
					}
					p.send(ok)
					continue
				}
				if chunked {
					p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
					for range 20 {
						p.send(fmt.Sprintf("%x\r\n", size/20))
						io.CopyN(p.TCPConn, zeros{}, size/20)
						p.send("\r\n")
					}
					p.send("0\r\n\r\n")
				} else {
					p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size))
					io.CopyN(p.TCPConn, zeros{}, size)
				}
			}
		})
		r := start(t, explicit(server, ""), options{})
		c := r.dial()
		for range 2 {
			c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size))
			io.CopyN(c.TCPConn, zeros{}, size)
			c.want(ok)
			c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			time.Sleep(50 * time.Millisecond)
			response, body := c.answer()
			if len(body) != size || strings.Trim(body, "\x00") != "" {
				t.Errorf("%v: %d bytes", response.Status, len(body))
			}
		}
		if n := r.sum(); n.Requests != 4 || n.Reused != 3 {
			t.Errorf("%+v", n)
		}
		r.close()
	}
}

// A client that stops reading holds the server up, and no memory is used for what it does not take.
func TestBackPressure(t *testing.T) {
	written := make(chan int64, 1)
	server := serve(t, func(p *peer) {
		p.head()
		p.send("HTTP/1.1 200 OK\r\n\r\n")
		p.SetWriteDeadline(time.Now().Add(time.Second))
		n, _ := io.CopyN(p.TCPConn, zeros{}, 1<<30)
		written <- n
	})
	r := start(t, explicit(server, ""), options{})
	c := r.dial()
	c.SetReadBuffer(64 << 10)
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if n := <-written; n > 64<<20 {
		t.Errorf("%d bytes went to a client that does not read", n)
	}
	c.SetLinger(0)
	c.Close()
	r.idle()
}

// The other side of a connection that breaks learns of it.
func TestClientLeaves(t *testing.T) {
	gone := make(chan error, 1)
	server := serve(t, func(p *peer) {
		p.head()
		_, err := p.ReadByte()
		gone <- err
	})
	r := start(t, explicit(server, ""), options{})
	c := r.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
	r.until("the request is under way", func(n *listen.Counters) bool { return n.Requests == 1 })
	time.Sleep(20 * time.Millisecond)
	c.SetLinger(0)
	c.Close()
	if err := <-gone; err == nil || err == io.EOF {
		t.Errorf("the server saw %v, want a reset", err)
	}
	if n := r.idle(); n.Errors[listen.ClientReset] != 1 || n.Statuses[0] != 1 {
		t.Errorf("%+v", n)
	}
}

// Nobody listens: a page, or a reset where the client is to see what it would see without us.
func TestUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := ln.Addr().String()
	ln.Close()
	r := start(t, explicit(dead, ""), options{})
	c := r.dial()
	for range 2 {
		c.send("GET / HTTP/1.1\r\nHost: a\r\nAccept-Language: it\r\n\r\n")
		if got := c.wantStatus(502); got.Header.Get("Content-Language") != "it" {
			t.Errorf("%v", got.Header)
		}
	}
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
	c.wantStatus(502)
	c.wantEOF()
	r.close()
	r = start(t, explicit(dead, ", errors: {server_failure: reset}"), options{})
	c = r.dial()
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.wantReset()
	r.close()
	r = start(t, intercepting(""), options{original: dead})
	c = r.dial()
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.wantStatus(502)
}
