package httpproxy_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"salp/internal/engine"
	"salp/internal/httpproxy"
	"salp/internal/lab"
	"salp/internal/listen"
)

// Promise 4: a connection to a server that carries a client's address never carries another client's bytes. Many clients at once, several
// connections of each, that come and go; every request names its client and its connection, and the server compares
// that with the address it sees. With a kept port a connection carries the requests of one client connection alone.
func TestNobodyWearsAnothersAddress(t *testing.T) {
	lab.NeedInside(t)
	for _, port := range []string{"", ", source_port: keep"} {
		var requests, connections, wrong atomic.Int64
		server := serve(t, func(p *peer) {
			connections.Add(1)
			p.SetDeadline(time.Now().Add(time.Minute))
			seen, first := p.RemoteAddr().(*net.TCPAddr).IP.String(), ""
			for head := p.head(); head != ""; head = p.head() {
				requests.Add(1)
				if first == "" {
					first = head
				}
				if !strings.Contains(head, "\r\nX-Client: "+seen+"\r\n") || port != "" && head != first {
					wrong.Add(1)
				}
				if rand.IntN(10) == 0 {
					p.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: " + fmt.Sprint(len(seen)) + "\r\n\r\n" + seen)
					return
				}
				p.send("HTTP/1.1 200 OK\r\nContent-Length: " + fmt.Sprint(len(seen)) + "\r\n\r\n" + seen)
			}
		})
		r := start(t, strings.Replace(intercepting(port), "source: proxy", "source: client", 1), options{original: server, loops: 2})
		var clients sync.WaitGroup
		for i := range 40 {
			clients.Go(func() {
				from := fmt.Sprintf("127.0.%d.%d", 1+i/20, 10+i)
				for range 12 {
					oneClient(t, r.addr, from)
				}
			})
		}
		clients.Wait()
		n := r.idle()
		if wrong.Load() != 0 || requests.Load() == 0 {
			t.Errorf("%d of %d requests came under another's address", wrong.Load(), requests.Load())
		}
		if port == "" && n.Reused < n.Requests/2 {
			t.Errorf("%d of %d requests had a connection that was there: %d connections to the server", n.Reused, n.Requests, connections.Load())
		}
		r.close()
	}
}

// oneClient makes some requests on one connection.
func oneClient(t *testing.T, to, from string) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	conn, err := d.Dial("tcp", to)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	c := newPeer(t, conn)
	for range 1 + rand.IntN(15) {
		c.send("GET / HTTP/1.1\r\nHost: a\r\nX-Client: " + from + "\r\nX-Connection: " + conn.LocalAddr().String() + "\r\n\r\n")
		response, err := http.ReadResponse(c.Reader, nil)
		if err != nil {
			t.Errorf("%s: %v", from, err)
			return
		}
		if body, err := io.ReadAll(response.Body); err != nil || string(body) != from {
			t.Errorf("%s got %q, %v", from, body, err)
		}
	}
}

// Where servers see the proxy, clients share connections, and every one gets its own answer.
func TestSharedConnections(t *testing.T) {
	var connections atomic.Int64
	server := serve(t, func(p *peer) {
		connections.Add(1)
		p.SetDeadline(time.Now().Add(time.Minute))
		for head := p.head(); head != ""; head = p.head() {
			path := strings.Fields(head)[1]
			p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(path), path))
		}
	})
	r := start(t, explicit(server, ""), options{loops: 2})
	var clients sync.WaitGroup
	for i := range 20 {
		clients.Go(func() {
			for j := range 20 {
				c := r.dial()
				for k := range 5 {
					path := fmt.Sprintf("/%d/%d/%d", i, j, k)
					c.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
					if _, body := c.answer(); body != path {
						t.Errorf("asked %s, got %s", path, body)
					}
				}
				c.Close()
			}
		})
	}
	clients.Wait()
	if n := r.idle(); n.Requests != 2000 || connections.Load() > 60 {
		t.Errorf("%d requests, %d connections", n.Requests, connections.Load())
	}
}

// Turns go round the servers of a pool request by request, though connections to them are kept.
func TestPoolTurnsByRequest(t *testing.T) {
	var asked [2]atomic.Int64
	var addrs [2]string
	for i := range addrs {
		addrs[i] = serve(t, func(p *peer) {
			for p.head() != "" {
				asked[i].Add(1)
				p.send(ok)
			}
		})
	}
	r := start(t, "listeners: {test: {listen: ['127.0.0.1:1'], protocol: http, pool: p}}\npools: {p: {servers: ['"+addrs[0]+"', '"+addrs[1]+"']}}\n", options{})
	c := r.dial()
	for range 20 {
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.want(ok)
	}
	if n := r.sum(); asked[0].Load() != 10 || asked[1].Load() != 10 || n.Reused != 18 {
		t.Errorf("%d and %d requests, %+v", asked[0].Load(), asked[1].Load(), n)
	}
}

// Draining: idle connections end, those at work after their response.
func TestDrain(t *testing.T) {
	hold := make(chan struct{})
	server := serve(t, func(p *peer) {
		for head := p.head(); head != ""; head = p.head() {
			if strings.Contains(head, "/slow") {
				<-hold
			}
			p.send(ok)
		}
	})
	r := start(t, explicit(server, ""), options{})
	idle, busy, fresh := r.dial(), r.dial(), r.dial()
	idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	idle.want(ok)
	busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
	r.until("the requests are there", func(n *listen.Counters) bool { return n.Requests == 2 && n.Active == 3 })
	if err := r.engine.Collect(r.ended, func(l *engine.Loop) {
		r.proxies[l.Number()].Drain(l)
		l.Each(func(h engine.Handler) { httpproxy.DrainConn(l, h) })
	}); err != nil {
		t.Fatal(err)
	}
	idle.wantEOF()
	close(hold)
	const last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
	busy.want(last)
	busy.wantEOF()
	fresh.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n") // it had just connected
	fresh.want(last)
	fresh.wantEOF()
	r.idle()
}

// A connection that waits for its next request costs less than a kilobyte.
func TestIdleMemory(t *testing.T) {
	const many = 1000
	server := serve(t, func(p *peer) {
		p.SetDeadline(time.Now().Add(time.Minute))
		answering(ok)(p)
	})
	r := start(t, explicit(server, ", http: {timeouts: {keepalive: 1m}}"), options{})
	conns := make([]net.Conn, many)
	open := func(n int) {
		for i := range n {
			c, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			conns[i] = c
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if _, err := io.ReadFull(c, make([]byte, len(ok))); err != nil {
				t.Fatal(err)
			}
		}
	}
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	open(many)
	per := (heap() - before) / many // the test's own ends are in it: a net.Conn is about 300 bytes
	t.Logf("%d bytes for an idle connection, the test's own end included", per)
	if per > 1800 {
		t.Errorf("%d bytes for an idle connection", per)
	}
	for _, c := range conns {
		c.Close()
	}
	r.idle()
}

// More exchanges at once than a loop keeps structs for.
func TestManyAtOnce(t *testing.T) {
	const many = 400
	var there sync.WaitGroup
	there.Add(many)
	server := serve(t, func(p *peer) {
		if p.head() == "" {
			return
		}
		there.Done()
		there.Wait() // all are under way
		p.send(ok)
		answering(ok)(p)
	})
	r := start(t, explicit(server, ""), options{})
	var clients sync.WaitGroup
	for range many {
		c := r.dial()
		clients.Go(func() {
			for range 3 {
				c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				c.want(ok)
			}
			c.Close()
		})
	}
	clients.Wait()
	if n := r.idle(); n.Requests != 3*many || n.Statuses[2] != 3*many {
		t.Errorf("%+v", n)
	}
}
