package test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"salp/internal/lab"
)

// TestMillionNames: a list of a million names is read while requests are served, is asked by each of them, and takes no more memory than is documented, also
// when it is read again and again.
func TestMillionNames(t *testing.T) {
	r := newRig(t, 1)
	r.serve(80, lab.HTTP(10))
	r.put("names.txt", "nobody.example\n")
	s := r.start(`
listeners: {web: {intercept: {interfaces: [g0], ports: [80]}, source: client, protocol: http, access: a}}
access: {a: [{deny: {host: [list:names]}}, {allow: {}}]}
lists: {names: {names: names.txt}}
`)
	conn := r.dial("10.0.2.2:80")
	in := bufio.NewReader(conn)
	status := func(host string) int {
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		r.must(err)
		response, err := http.ReadResponse(in, nil)
		r.must(err)
		_, err = io.Copy(io.Discard, response.Body)
		r.must(err)
		return response.StatusCode
	}
	before := r.memory(s.worker())
	for round := range 3 {
		var names strings.Builder
		for i := range 1_000_000 {
			fmt.Fprintf(&names, "host%d.tracker%d.round%d.example\n", i, i%5000, round)
		}
		r.put("names.txt", names.String())
		listed := fmt.Sprintf("host999999.tracker4999.round%d.example", round)
		var slowest time.Duration
		began := time.Now()
		for in := false; !in; {
			asked := time.Now()
			in = status(listed) == 403
			slowest = max(slowest, time.Since(asked))
			if time.Since(began) > patience {
				t.Fatal("the list is not in force")
			}
		}
		if slowest > time.Second*slowdown {
			t.Errorf("a request took %v while the list was read", slowest)
		}
		const requests = 2000
		asked := time.Now()
		for i := range requests {
			want := 403
			host := fmt.Sprintf("host%d.tracker%d.round%d.example", i*499, i*499%5000, round)
			if i%2 == 0 {
				want, host = 200, "x"+host
			}
			if got := status(host); got != want {
				t.Fatalf("%s: %d, want %d", host, got, want)
			}
		}
		t.Logf("round %d: in force after %v, the slowest request meanwhile %v; then %v for each; memory of the worker %d MiB, %d MiB before",
			round, time.Since(began).Round(time.Millisecond), slowest, time.Since(asked)/requests, r.memory(s.worker())>>20, before>>20)
	}
	if grown := r.memory(s.worker()) - before; grown > 96<<20 {
		t.Errorf("the list takes %d MiB", grown>>20)
	}
	s.stop()
}

// memory returns the resident bytes of a process.
func (r *rig) memory(pid int) int64 {
	r.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	r.must(err)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	var kib int64
	_, err = fmt.Sscan(rest, &kib)
	r.must(err)
	return kib << 10
}
