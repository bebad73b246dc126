package test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"salp/internal/lab"
)

// portSink is where nothing but an end is expected, portRaw where each test speaks for itself.
const (
	portSink = 81
	portRaw  = 82
)

const wireConfig = `
resolvers: {servers: [10.0.2.2], min_ttl: 1s}
listeners:
  web:
    intercept: {interfaces: [g0], ports: [80, 81, 82]}
    source: client
    protocol: http
    not_http: tunnel
    http: {timeouts: {head: 1s}}
  strict:
    intercept: {interfaces: [g0], ports: [83]}
    source: client
    protocol: http
    not_http: close
    access: verified
    http: {timeouts: {head: 1s, keepalive: 1s}}
  named:
    intercept: {interfaces: [g0], ports: [84]}
    source: client
    protocol: http
    not_http: close
    http: {destination: host}
    errors: {server_failure: page}
    routes:
      - {host: [img.example], path: ["/static/*"], destination: host, rewrite: {host: moved.example, strip: /static, prepend: /v2}}
  edge:
    listen: ["10.0.1.1:8080"]
    protocol: http
    pool: web
    http: {via_header: gate, limits: {rate: 1, burst: 5}}
access:
  verified:
    - deny: {host_verified: false}
    - allow: {from: [10.0.1.0/24]}
pools:
  web: {servers: ["10.0.2.2:80"]}
`

// wire is a gateway for HTTP, on which many tests send raw bytes.
type wire struct {
	*rig
	s    *salp
	dns  *lab.DNS
	sunk atomic.Int64
	raw  chan *net.TCPConn // what was accepted on portRaw
}

func newWire(t *testing.T) *wire {
	w := &wire{rig: newRig(t, 1), raw: make(chan *net.TCPConn)}
	w.serve(80, tellHTTP)
	w.serve(83, tellHTTP)
	w.serve(84, tellHTTP)
	w.serve(portSink, func(c *net.TCPConn) {
		n, _ := io.Copy(io.Discard, c)
		w.sunk.Add(n)
	})
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	w.serve(portRaw, func(c *net.TCPConn) {
		select {
		case w.raw <- c:
			<-done
			c.Close()
		case <-done:
		}
	})
	var err error
	w.dns, err = w.net.Server().ServeDNS("10.0.2.2:53")
	w.must(err)
	w.s = w.start(wireConfig)
	return w
}

// TestHTTPWire sends raw bytes through a gateway with the real kernel between: what a proxy for HTTP must keep, and what it must refuse.
func TestHTTPWire(t *testing.T) {
	w := newWire(t)
	for _, test := range []struct {
		name string
		run  func(*wire)
	}{
		{"pipelining", (*wire).pipelining}, {"expect", (*wire).expect}, {"half-close", (*wire).halfClose}, {"early response", (*wire).earlyResponse}, {"trailers", (*wire).trailers},
		{"upgrade", (*wire).upgrade}, {"smuggling", (*wire).smuggling}, {"not HTTP", (*wire).opaque}, {"undecided", (*wire).undecided}, {"host verified", (*wire).hostVerified}, {"host", (*wire).byHost},
		{"rate", (*wire).rateOfClients}, {"via", (*wire).via}, {"slow-loris", (*wire).slowLoris}, {"addresses", (*wire).addresses}, {"idle", (*wire).manyIdle},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := *w.rig
			r.T = t
			copied := &wire{rig: &r, s: w.s, dns: w.dns, raw: w.raw}
			s := *w.s
			s.r = &r
			copied.s = &s
			test.run(copied)
		})
	}
	if n := w.sunk.Load(); n != 0 {
		t.Errorf("%d bytes of what is not HTTP's came to the server", n)
	}
}

// pair opens a connection to portRaw and returns both ends; first is what the client sends so that the server is reached.
func (w *wire) pair(first string) (client, server *duplex) {
	w.Helper()
	c := w.dial(at("10.0.2.2", portRaw))
	_, err := io.WriteString(c, first)
	w.must(err)
	select {
	case s := <-w.raw:
		w.must(s.SetDeadline(time.Now().Add(2 * patience)))
		w.Cleanup(func() { s.Close() })
		if lab.Remote(s).Addr() != lab.Local(c).Addr() {
			w.Errorf("the server sees %s, the client is %s", lab.Remote(s), lab.Local(c))
		}
		return &duplex{w.T, c, bufio.NewReader(c)}, &duplex{w.T, s, bufio.NewReader(s)}
	case <-time.After(patience):
		w.Fatal("the server was not reached")
		return nil, nil
	}
}

// duplex is an end of a connection, in raw bytes.
type duplex struct {
	t *testing.T
	*net.TCPConn
	in *bufio.Reader
}

func (d *duplex) send(text string) {
	d.t.Helper()
	if _, err := io.WriteString(d.TCPConn, text); err != nil {
		d.t.Errorf("send %.40q: %v", text, err)
	}
}

func (d *duplex) want(text string) {
	d.t.Helper()
	b := make([]byte, len(text))
	if n, err := io.ReadFull(d.in, b); string(b[:n]) != text {
		d.t.Fatalf("got %.300q (%v), want %.300q", b[:n], err, text)
	}
}

func (d *duplex) wantEnd() {
	d.t.Helper()
	if b, err := io.ReadAll(d.in); len(b) > 0 || err != nil {
		d.t.Errorf("got %.200q and %v, want the end", b, err)
	}
}

func (w *wire) pipelining() {
	c := w.dial(at("10.0.2.2", 80))
	var ask strings.Builder
	for i := range 100 {
		fmt.Fprintf(&ask, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
	}
	_, err := io.WriteString(c, ask.String())
	w.must(err)
	read := bufio.NewReader(c)
	for i := range 100 {
		response, err := http.ReadResponse(read, nil)
		w.must(err)
		body, err := io.ReadAll(response.Body)
		w.must(err)
		if !strings.HasSuffix(string(body), fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)) {
			w.Fatalf("answer %d is %q", i, body)
		}
	}
}

func (w *wire) expect() {
	const head = "PUT /x HTTP/1.1\r\nHost: a\r\neXPECT: 100-continue\r\nContent-Length: 4\r\n\r\n"
	c, s := w.pair(head)
	s.want(head)
	s.send("HTTP/1.1 100 Go on\r\nX: y\r\n\r\n")
	c.want("HTTP/1.1 100 Go on\r\nX: y\r\n\r\n")
	c.send("body")
	s.want("body")
	const answer = "HTTP/1.1 201 Created\r\ncontent-LENGTH:0\r\n\r\n"
	s.send(answer)
	c.want(answer)
	c.send(head)
	s.want(head)
	s.send("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
	c.want("HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	c.wantEnd()
}

func (w *wire) halfClose() {
	const head = "GET /half HTTP/1.1\r\nHost: a\r\n\r\n"
	c, s := w.pair(head)
	w.must(c.CloseWrite())
	s.want(head)
	time.Sleep(20 * time.Millisecond)
	s.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	if b, err := io.ReadAll(c.in); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(string(b), "\r\n\r\nok") {
		w.Errorf("got %q and %v", b, err)
	}
}

func (w *wire) earlyResponse() {
	const head = "POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n"
	c, s := w.pair(head)
	s.want(head)
	s.send("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
	c.send(strings.Repeat("x", 200_000)) // in vain, but it must not cost the answer
	c.want("HTTP/1.1 403 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
	c.wantEnd()
}

func (w *wire) trailers() {
	const request = "POST /t HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n0\r\nx-SUM: 1\r\n\r\n"
	const response = "HTTP/1.1 200 OK\r\ntransfer-encoding: CHUNKED\r\n\r\n00000b\r\nhello world\r\n0\r\nY: z\r\n\r\n"
	c, s := w.pair(request)
	for i := range 3 {
		if i > 0 {
			c.send(request)
		}
		s.want(request)
		s.send(response)
		c.want(response)
	}
}

func (w *wire) upgrade() {
	const ask = "GET /chat HTTP/1.1\r\nHost: a\r\nupgrade: WebSocket\r\nconnection: upgrade\r\nSec-WebSocket-Key: x\r\n\r\n"
	const granted = "HTTP/1.1 101 Fine\r\nUPGRADE: WebSocket\r\nconnection: upgrade\r\n\r\n"
	c, s := w.pair(ask)
	s.want(ask)
	s.send(granted + "\x81\x02hi")
	c.want(granted + "\x81\x02hi")
	noise(c, s)
	noise(s, c)
	w.must(c.CloseWrite())
	s.wantEnd()
	s.send("the rest")
	w.must(s.CloseWrite())
	c.want("the rest")
	c.wantEnd()
	// A server that does not know the protocol answers as ever, and HTTP goes on.
	c, s = w.pair(ask)
	s.want(ask)
	s.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	c.want("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	s.want("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	s.send("HTTP/1.1 204 No\r\n\r\n")
	c.want("HTTP/1.1 204 No\r\n\r\n")
}

// noise sends a megabyte of chance and wants it at the other end.
func noise(from, to *duplex) {
	from.t.Helper()
	b := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(b)
	go func() { _, _ = from.Write(b) }()
	got := make([]byte, len(b))
	if n, err := io.ReadFull(to.in, got); err != nil || !bytes.Equal(got, b) {
		from.t.Errorf("%d bytes came (%v), and are not those that were sent", n, err)
	}
}

// smuggling: the server must not get a byte, TestHTTPWire counts them at the end.
func (w *wire) smuggling() {
	for _, test := range []struct {
		request string
		status  string
	}{
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400"},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n", "501"},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n", "400"},
		{"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"},
		{"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
		{"GET /" + strings.Repeat("x", 20000) + " HTTP/1.1\r\nHost: a\r\n\r\n", "414"},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 70000) + "\r\n\r\n", "431"},
		{"GET / HTTP/3.0\r\nHost: a\r\n\r\n", "505"},
	} {
		c := w.dial(at("10.0.2.2", portSink))
		_, err := io.WriteString(c, test.request+"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
		w.must(err)
		b, err := io.ReadAll(c)
		if !strings.HasPrefix(string(b), "HTTP/1.1 "+test.status+" ") || strings.Count(string(b), "HTTP/1.1") != 1 {
			w.Errorf("%.60q: %.100q %v", test.request, b, err)
		}
	}
}

// opaque: whoever speaks first, the bytes are those that were sent.
func (w *wire) opaque() {
	for _, first := range []string{"SSH-2.0-OpenSSH_9.2\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\x00\xff\x00", "\r\n\r\n\r\n\x01", "EHLO x\r\n", "{\"id\":1}\n", "\x13BitTorrent protocol"} {
		c, s := w.pair(first)
		s.want(first)
		noise(c, s)
		noise(s, c)
		w.must(s.CloseWrite())
		c.wantEnd()
		noise(c, s)
	}
	c, s := w.pair("") // the server speaks first
	s.send("220 mail ESMTP\r\n")
	c.want("220 mail ESMTP\r\n")
	c.send("GET is not what it seems\r\n")
	s.want("GET is not what it seems\r\n")
	noise(s, c)
	s.SetLinger(0)
	s.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		w.Errorf("the server has reset, the client sees %v", err)
	}
	// Where only HTTP may be: closed at once, and the server is not asked.
	d := w.dial(at("10.0.2.2", 83))
	_, err := io.WriteString(d, "SSH-2.0-x\r\n")
	w.must(err)
	began := time.Now()
	if b, _ := io.ReadAll(d); len(b) != 0 || time.Since(began) > 5*time.Second {
		w.Errorf("not_http: close: %q after %v", b, time.Since(began))
	}
}

// undecided: two letters of something, and no more. It is decided within a bound, here the second that a head may take.
func (w *wire) undecided() {
	began := time.Now()
	c, s := w.pair("GE")
	s.want("GE")
	if d := time.Since(began); d < 500*time.Millisecond || d > 5*time.Second {
		w.Errorf("it became a tunnel after %v", d)
	}
	s.send("what?")
	c.want("what?")
}

// hostVerified: the address that the client dialled must be one of the name's, as the configured resolver knows it now.
func (w *wire) hostVerified() {
	ask := func(host string) string {
		w.Helper()
		c := w.dial(at("10.0.2.2", 83))
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
		w.must(err)
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		w.must(err)
		return response.Status[:3]
	}
	w.dns.Set("good.example", 300*time.Second, "10.0.2.9", "10.0.2.2")
	w.dns.Set("bad.example", 300*time.Second, "10.0.2.9")
	w.dns.Set("moves.example", time.Second, "10.0.2.2")
	for host, want := range map[string]string{"good.example": "200", "GOOD.example:83": "200", "good.example.": "200", "bad.example": "403", "nobody.example": "403", "10.0.2.2": "200", "10.0.2.3": "403", "": "403", "moves.example": "200"} {
		if got := ask(host); got != want {
			w.Errorf("Host: %s gets %s, want %s", host, got, want)
		}
	}
	asked := w.dns.Queries()
	for range 20 {
		if got := ask("good.example"); got != "200" {
			w.Errorf("asked again: %s", got)
		}
	}
	if more := w.dns.Queries() - asked; more > 4 { // each loop remembers, and asks a cache that they share
		w.Errorf("20 requests cost %d queries", more)
	}
	w.dns.Set("moves.example", time.Second, "10.0.2.9")
	for end := time.Now().Add(patience); ask("moves.example") != "403"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatal("a name that has moved is taken for verified still")
		}
	}
}

// byHost: where the host that is asked for decides, the address that the client dialled does not, not even one that nobody has.
func (w *wire) byHost() {
	w.dns.Set("here.example", time.Second, "10.0.2.2", "fd00:2::2")
	w.dns.Set("six.example", time.Second, "fd00:2::2")
	w.dns.Set("moved.example", time.Second, "10.0.2.2")
	w.dns.Set("self.example", time.Second, "10.0.1.1")
	for _, test := range []struct {
		request, host string
		status        int
		want          string // of what the server got
		port          uint16
	}{
		{"GET /x", "here.example", 200, "GET /x HTTP/1.1\r\nHost: here.example\r\n\r\n", 84},
		{"GET /x", "here.example:80", 200, "GET /x HTTP/1.1\r\nHost: here.example:80\r\n\r\n", 80},
		{"GET /x", "10.0.2.2", 200, "GET /x HTTP/1.1\r\nHost: 10.0.2.2\r\n\r\n", 84},
		{"GET http://here.example/y?z", "here.example", 200, "GET /y?z HTTP/1.1\r\nHost: here.example\r\n\r\n", 80},
		{"GET /static/a?b", "img.example", 200, "GET /v2/a?b HTTP/1.1\r\nHost: moved.example\r\n\r\n", 80},
		{"GET /static/a", "nobody.example", 502, "", 0},
		{"GET /", "six.example", 502, "", 0}, // a client of IPv4 cannot be seen by a server of IPv6 alone
		{"GET /", "", 400, "", 0},
		{"GET /", "self.example:8080", 508, "", 0},
	} {
		c := w.dial(at("10.0.2.77", 84))
		_, err := fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: %s\r\n\r\n", test.request, test.host)
		w.must(err)
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		w.must(err)
		body, err := io.ReadAll(response.Body)
		w.must(err)
		line, head, _ := strings.Cut(string(body), "\n")
		if response.StatusCode != test.status || test.status == 200 && head != test.want {
			w.Errorf("%s of %q: %s %.300q, want %d %q", test.request, test.host, response.Status, body, test.status, test.want)
			continue
		}
		if test.status != 200 {
			continue
		}
		if seen, err := lab.ParseTold(line); err != nil || seen.From.Addr() != lab.Local(c).Addr() || seen.To.Port() != test.port {
			w.Errorf("%s of %q: the server was %s and saw %s, want port %d and the client's address: %v", test.request, test.host, seen.To, seen.From, test.port, err)
		}
	}
}
