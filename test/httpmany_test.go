package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/lab"
)

// from dials as another client.
func (w *wire) from(addr, to string) *net.TCPConn {
	w.Helper()
	c, err := w.net.Client().DialWith(to, lab.DialOptions{From: netip.AddrPortFrom(netip.MustParseAddr(addr), 0), Timeout: patience})
	w.must(err)
	w.must(c.SetDeadline(time.Now().Add(3 * patience)))
	w.Cleanup(func() { c.Close() })
	return c
}

// rateOfClients: a client that asks too much gets 429 and when to come again, over however many connections, and another one does not notice.
func (w *wire) rateOfClients() {
	w.must(w.net.Client().Addr("e0", "10.0.1.201/24", "10.0.1.202/24"))
	count := map[string]int{}
	for range 12 {
		c := w.from("10.0.1.201", "10.0.1.1:8080")
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		w.must(err)
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		w.must(err)
		count[response.Status[:3]]++
		if response.StatusCode == 429 && response.Header.Get("Retry-After") == "" {
			w.Errorf("429 does not say when to come again: %v", response.Header)
		}
		c.Close()
	}
	if count["200"] < 5 || count["200"] > 8 || count["200"]+count["429"] != 12 {
		w.Errorf("answers: %v", count)
	}
	c := w.from("10.0.1.202", "10.0.1.1:8080")
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	w.must(err)
	if response, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || response.StatusCode != 200 {
		w.Errorf("another client: %v %v", response, err)
	}
}

// via: a gateway names itself where it is told to, and nowhere else.
func (w *wire) via() {
	for to, want := range map[string]string{at("10.0.2.2", 80): "", "10.0.1.1:8080": "1.1 gate"} {
		c := w.dial(to)
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		w.must(err)
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		w.must(err)
		body, err := io.ReadAll(response.Body)
		w.must(err)
		if got := response.Header.Get("Via"); got != want || strings.Contains(string(body), "Via: 1.1 gate\r\n") != (want != "") || response.Header.Get("Server") != "lab" {
			w.Errorf("by %s: Via %q, want %q; the server got %q", to, got, want, body)
		}
	}
}

// slowLoris: three hundred clients that write a byte now and then are let go when a head has had its time, and hold nobody up meanwhile.
func (w *wire) slowLoris() {
	const many = 300
	before := w.errorsNow(control.ErrorHeadTimeout)
	var all sync.WaitGroup
	var wrong atomic.Int32
	began := time.Now()
	for range many {
		c := w.dial(at("10.0.2.2", 80))
		all.Go(func() {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nX-")
			go func() {
				for range 100 {
					time.Sleep(100 * time.Millisecond)
					if _, err := io.WriteString(c, "a"); err != nil {
						return
					}
				}
			}()
			b, err := io.ReadAll(c)
			if !strings.HasPrefix(string(b), "HTTP/1.1 408 ") || err != nil && !errors.Is(err, syscall.ECONNRESET) {
				wrong.Add(1)
			}
		})
	}
	for range 20 { // others do not notice
		c, start := w.dial(at("10.0.2.2", 80)), time.Now()
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		w.must(err)
		if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || time.Since(start) > 2*time.Second {
			w.Errorf("a client like any other: %v after %v", err, time.Since(start))
		}
		c.Close()
	}
	all.Wait()
	if d := time.Since(began); wrong.Load() != 0 || d > 10*time.Second {
		w.Errorf("after %v %d of %d had no 408", d, wrong.Load(), many)
	}
	if n := w.errorsNow(control.ErrorHeadTimeout) - before; n < many {
		w.Errorf("%d head timeouts were counted of %d", n, many)
	}
}

func (w *wire) errorsNow(kind string) uint64 {
	w.Helper()
	time.Sleep(300 * time.Millisecond) // counters come with the worker's beats
	st := w.s.await("there", serves)
	return sum(st, func(l admin.Listener) uint64 { return l.Counters.Errors[kind] })
}

// addresses is promise 4 with packets: thirty clients at once, several connections each; every request names its client, and the server compares
// that with the address it sees.
func (w *wire) addresses() {
	var clients sync.WaitGroup
	for i := range 30 {
		addr := fmt.Sprintf("10.0.1.%d", 100+i)
		w.must(w.net.Client().Addr("e0", addr+"/24"))
		clients.Go(func() {
			for range 10 {
				if err := w.oneOfMany(addr); err != nil {
					w.Errorf("%s: %v", addr, err)
				}
			}
		})
	}
	clients.Wait()
	st := w.s.await("counting the requests", func(st *admin.Status) bool {
		return sum(st, func(l admin.Listener) uint64 { return l.Counters.Requests }) >= 400 // a hundred are of other tests
	})
	requests, reused := sum(st, func(l admin.Listener) uint64 { return l.Counters.Requests }), sum(st, func(l admin.Listener) uint64 { return l.Counters.Reused })
	w.Logf("%d requests so far, %d on a connection that was there", requests, reused)
	if reused < requests/4 {
		w.Errorf("%d of %d requests had a connection that was there", reused, requests)
	}
}

func (w *wire) oneOfMany(addr string) error {
	c, err := w.net.Client().DialWith(at("10.0.2.2", 80), lab.DialOptions{From: netip.AddrPortFrom(netip.MustParseAddr(addr), 0), Timeout: patience})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	read := bufio.NewReader(c)
	for range 1 + rand.IntN(12) {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nX-Client: "+addr+"\r\n\r\n"); err != nil {
			return err
		}
		response, err := http.ReadResponse(read, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		line, head, _ := strings.Cut(string(body), "\n")
		seen, err := lab.ParseTold(line)
		if err != nil {
			return err
		}
		if seen.From.Addr().String() != addr || !strings.Contains(head, "X-Client: "+addr+"\r\n") {
			return fmt.Errorf("the server saw %s ask %q", seen.From, head)
		}
	}
	return nil
}

// manyIdle: a thousand connections wait for their next request, cost little, serve it, and end with a FIN when a reload drains them.
func (w *wire) manyIdle() {
	const many = 1000
	conns := make([]*net.TCPConn, many)
	ask := func(c *net.TCPConn) {
		w.Helper()
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		w.must(err)
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		w.must(err)
		_, err = io.Copy(io.Discard, response.Body)
		w.must(err)
	}
	pid := w.s.worker()
	var before int64
	for i := range conns {
		if i == many/10 { // the first grow what is then there for all
			before = pss(w.T, pid)
		}
		conns[i] = w.dial(at("10.0.2.2", 80))
		ask(conns[i])
	}
	w.s.await("holding them all", func(st *admin.Status) bool {
		return sum(st, func(l admin.Listener) uint64 { return l.Counters.Active }) >= many
	})
	each := (pss(w.T, pid) - before) / (many - many/10)
	w.Logf("%d bytes of the worker's memory for an idle connection", each)
	if each > 8<<10 {
		w.Errorf("%d bytes for an idle connection", each)
	}
	for _, c := range conns {
		ask(c)
	}
	if out, code := w.command("reload", "--run-dir", w.s.dir); code != 0 {
		w.Fatalf("reload: %d %s", code, out)
	}
	began := time.Now()
	for _, c := range conns {
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
			w.Fatalf("an idle connection ends with %q, %v; want a FIN", b, err)
		}
	}
	w.Logf("all %d have ended %v after the reload", many, time.Since(began))
}

// pss is the memory of a process in bytes, what it shares divided by how many share it (proc_pid_smaps(5)).
func pss(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &n); err == nil {
			return n << 10
		}
	}
	t.Fatal("no Pss")
	return 0
}
