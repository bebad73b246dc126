package httpproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// Clients and servers that do whatever they like, for some seconds: nothing panics, hangs or leaks, and no client ever gets a byte of
// another's answer. Each path says what the answer must be.
func TestChaos(t *testing.T) {
	duration := 4 * time.Second
	if testing.Short() {
		duration = time.Second
	}
	server := serve(t, badServer)
	for _, yaml := range []string{
		explicit(server, ", http: {timeouts: {head: 300ms, body: 300ms, response: 300ms, keepalive: 300ms, server_keepalive: 300ms}}, timeouts: {idle: 1s, half_closed: 1s}"),
		intercepting(", not_http: tunnel, http: {timeouts: {head: 300ms, body: 300ms, response: 300ms, keepalive: 300ms}}, timeouts: {idle: 1s, half_closed: 1s}"),
	} {
		o := options{loops: 2}
		if strings.Contains(yaml, "intercept") {
			o.original = server
		}
		before := descriptors(t)
		r := start(t, yaml, o)
		end := time.Now().Add(duration / 2)
		var clients sync.WaitGroup
		for i := range 60 {
			clients.Go(func() {
				for n := 0; time.Now().Before(end); n++ {
					badClient(t, r.addr, fmt.Sprintf("c%d-%d", i, n))
				}
			})
		}
		clients.Wait()
		n := r.idle()
		t.Logf("%+v", n)
		r.close()
		for limit := time.Now().Add(5 * time.Second); descriptors(t) > before+20; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Errorf("%d descriptors are open, %d were before", descriptors(t), before)
				break
			}
		}
	}
}

func descriptors(t *testing.T) int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// badServer answers in one of many ways.
func badServer(p *peer) {
	p.t = discard{p.t}
	for n := 0; ; n++ {
		request, err := http.ReadRequest(p.Reader)
		if err != nil {
			return
		}
		path := request.URL.Path
		switch rand.IntN(14) {
		case 0: // says nothing
			if rand.IntN(2) == 0 {
				p.SetLinger(0)
			}
			return
		case 1: // before the body has come
		case 2:
			time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		case 3:
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + path)
			return
		case 4:
			p.send("rubbish\r\n\r\n")
			return
		case 5:
			p.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\n\r\n")
		case 6:
			io.Copy(io.Discard, request.Body)
			p.send("HTTP/1.1 200 OK\r\n\r\n" + path)
			return
		case 7:
			io.Copy(io.Discard, request.Body)
			p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(path), path))
			continue
		case 8:
			io.Copy(io.Discard, request.Body)
			p.send("HTTP/1.1 304 No\r\n\r\n")
			continue
		case 9:
			io.Copy(io.Discard, request.Body)
			text := strings.Repeat(path, 200_000/len(path))
			p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text))
			continue
		default:
			io.Copy(io.Discard, request.Body)
		}
		p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(path), path))
		if rand.IntN(6) == 0 {
			return
		}
	}
}

// discard takes the failures of sends that must be expected.
type discard struct{ testing.TB }

func (discard) Errorf(string, ...any) {}

// badClient makes some requests on a connection, and leaves it in one of many ways. What it does get must be its own.
func badClient(t *testing.T, to, name string) {
	conn, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(3 * time.Second))
	if rand.IntN(20) == 0 {
		io.WriteString(conn, []string{"\x16\x03\x01\x02\x00\x01", "SSH-2.0-x\r\n", "GET ", "\r\n\r\n"}[rand.IntN(4)])
	}
	read := bufio.NewReader(conn)
	for i := range 1 + rand.IntN(6) {
		path := fmt.Sprintf("/%s/%d", name, i)
		method, length := "GET", -1
		if rand.IntN(3) == 0 {
			method, length = "POST", rand.IntN(100_000)
		}
		request := method + " " + path + " HTTP/1." + []string{"0", "1", "1", "1"}[rand.IntN(4)] + "\r\nHost: a\r\n"
		if length >= 0 {
			request += fmt.Sprintf("Content-Length: %d\r\n", length)
		}
		request += "\r\n"
		for len(request) > 0 {
			k := 1 + rand.IntN(len(request))
			io.WriteString(conn, request[:k])
			request = request[k:]
		}
		if length > 0 {
			if rand.IntN(8) == 0 {
				length /= 2 // and no more
			}
			io.CopyN(conn, zeros{}, int64(length))
		}
		switch rand.IntN(12) {
		case 0:
			conn.(*net.TCPConn).SetLinger(0)
			return
		case 1:
			conn.(*net.TCPConn).CloseWrite()
		case 2:
			return
		}
		response, err := http.ReadResponse(read, &http.Request{Method: method})
		for err == nil && response.StatusCode < 200 {
			response, err = http.ReadResponse(read, &http.Request{Method: method})
		}
		if err != nil {
			return
		}
		body, err := io.ReadAll(response.Body)
		if response.StatusCode == 200 && strings.Trim(strings.ReplaceAll(string(body), path, ""), path) != "" {
			t.Errorf("%s got %.100q (%v)", path, body, err)
		}
		if err != nil || response.Close {
			return
		}
	}
}
