package monitor

import (
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/control"
	"salp/internal/lab"
	"salp/internal/probe"
)

// rig is a monitor in this process and the keeper's end of its socket.
type rig struct {
	*testing.T
	conn     *control.Conn
	messages chan control.Message
	ended    chan error
}

func start(t *testing.T) *rig {
	t.Helper()
	conn, file, err := control.Pair()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	r := &rig{T: t, conn: conn, messages: make(chan control.Message, 10000), ended: make(chan error, 1)}
	go func() { r.ended <- Run(t.Context(), uintptr(fd), slog.New(slog.NewTextHandler(io.Discard, nil))) }()
	go func() {
		defer close(r.messages)
		for {
			m, _, err := conn.Receive()
			if err != nil {
				return
			}
			r.messages <- m
		}
	}()
	t.Cleanup(func() { conn.Close() })
	if m := r.await(func(m control.Message) bool { return true }); m.Ready == nil {
		t.Fatalf("first it said %+v", m)
	}
	return r
}

// await returns the first message that is as wanted.
func (r *rig) await(wanted func(control.Message) bool) control.Message {
	r.Helper()
	for end := time.After(10 * time.Second); ; {
		select {
		case m, open := <-r.messages:
			if !open {
				r.Fatal("the monitor has ended")
			}
			if wanted(m) {
				return m
			}
		case <-end:
			r.Fatal("nothing of the kind came")
		}
	}
}

func (r *rig) send(m control.Message) {
	r.Helper()
	if err := r.conn.Send(m); err != nil {
		r.Fatal(err)
	}
}

// result waits for a result of a job.
func (r *rig) result(id string) control.Result {
	r.Helper()
	var found control.Result
	r.await(func(m control.Message) bool {
		if m.Results == nil {
			return false
		}
		i := slices.IndexFunc(m.Results.Results, func(x control.Result) bool { return x.ID == id })
		if i >= 0 {
			found = m.Results.Results[i]
		}
		return i >= 0
	})
	return found
}

func listen(t *testing.T) (netip.AddrPort, func() int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	accepted := make(chan struct{}, 100000)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- struct{}{}
			c.Close()
		}
	}()
	return netip.MustParseAddrPort(ln.Addr().String()), func() int { return len(accepted) }
}

func every(id string, target netip.AddrPort, pause time.Duration) control.Job {
	return control.Job{ID: id, Every: pause, Probe: probe.Spec{Target: target, Timeout: 2 * time.Second}}
}

func TestJobs(t *testing.T) {
	r := start(t)
	good, accepted := listen(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	bad := netip.MustParseAddrPort(closed.Addr().String())
	w := &control.Watch{Jobs: []control.Job{every("a/good", good, 20*time.Millisecond), every("a/bad", bad, time.Hour)}}
	r.send(control.Message{Watch: w})
	if got := r.result("a/bad"); got.OK() || got.Error != "connection refused" {
		t.Errorf("%+v", got)
	}
	for range 5 {
		if got := r.result("a/good"); !got.OK() || got.RTT <= 0 || time.Since(got.At) > 5*time.Second {
			t.Errorf("%+v", got)
		}
	}
	// The same again disturbs nothing: the bad one is not probed anew for an hour.
	r.send(control.Message{Watch: w})
	r.result("a/good")
	// A changed one begins at once, one that is not named ends.
	r.send(control.Message{Watch: &control.Watch{Jobs: []control.Job{every("a/bad", good, time.Hour)}}})
	if got := r.result("a/bad"); !got.OK() {
		t.Errorf("%+v", got)
	}
	time.Sleep(50 * time.Millisecond)
	n := accepted()
	time.Sleep(150 * time.Millisecond)
	if accepted() != n {
		t.Error("a job that is not wanted any more goes on")
	}
	// After a failure the next probe comes sooner.
	soon := every("b", bad, time.Hour)
	soon.Soon = 10 * time.Millisecond
	r.send(control.Message{Watch: &control.Watch{Jobs: []control.Job{soon}}})
	for range 3 {
		r.result("b")
	}
	r.await(func(m control.Message) bool { return m.Beat != nil })
	r.conn.Close()
	select {
	case err := <-r.ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the monitor outlives its keeper")
	}
}

// TestJitter sees that pauses differ, and are as long on average as they should be.
func TestJitter(t *testing.T) {
	r := start(t)
	good, _ := listen(t)
	j := every("a", good, 40*time.Millisecond)
	j.Jitter = 0.5
	r.send(control.Message{Watch: &control.Watch{Jobs: []control.Job{j}}})
	var pauses []time.Duration
	last := r.result("a").At
	for range 25 {
		next := r.result("a").At
		pauses, last = append(pauses, next.Sub(last)), next
	}
	slices.Sort(pauses)
	if spread := pauses[22] - pauses[2]; spread < 10*time.Millisecond {
		t.Errorf("pauses %v", pauses)
	}
	if pauses[0] < 15*time.Millisecond {
		t.Errorf("a pause of %v", pauses[0])
	}
}

func TestNames(t *testing.T) {
	r := start(t)
	d, err := lab.StartDNS("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	d.Set("mx.test", time.Second, "10.0.0.1")
	resolvers := control.Resolvers{Servers: []netip.AddrPort{d.Addr()}, Timeout: time.Second}
	named := func(want string) {
		t.Helper()
		r.await(func(m control.Message) bool {
			return m.Names != nil && slices.ContainsFunc(m.Names.Names, func(n control.Name) bool {
				text, _ := json.Marshal(n)
				return strings.Contains(string(text), want)
			})
		})
	}
	r.send(control.Message{Watch: &control.Watch{Names: []string{"mx.test", "gone.test"}, Resolvers: resolvers}})
	named(`{"name":"mx.test","addresses":["10.0.0.1"]}`)
	named(`"error":"no such name: gone.test"`)
	d.Set("mx.test", time.Second, "10.0.0.2", "fd00::2")
	named(`["10.0.0.2","fd00::2"]`)
}

func TestCall(t *testing.T) {
	r := start(t)
	got := make(chan string, 1)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		if q.URL.Path == "/hook" {
			got <- q.Method + " " + q.Header.Get("Content-Type") + " " + string(body)
			return
		}
		http.Error(w, "no", http.StatusForbidden)
	}))
	defer hook.Close()
	r.send(control.Message{Call: &control.Call{ID: 1, URL: hook.URL + "/hook", Body: []byte(`{"link":"wan1"}`), Timeout: 5 * time.Second}})
	if m := r.await(func(m control.Message) bool { return m.Called != nil }); m.Called.ID != 1 || m.Called.Error != "" {
		t.Errorf("%+v", m.Called)
	}
	if text := <-got; text != `POST application/json {"link":"wan1"}` {
		t.Error(text)
	}
	for url, want := range map[string]string{hook.URL + "/other": "HTTP status 403", "http://127.0.0.1:1/": "connection refused", "gopher://x": "unsupported protocol"} {
		r.send(control.Message{Call: &control.Call{ID: 2, URL: url, Timeout: 5 * time.Second}})
		if m := r.await(func(m control.Message) bool { return m.Called != nil }); !strings.Contains(m.Called.Error, want) {
			t.Errorf("%s: %+v", url, m.Called)
		}
	}
}
