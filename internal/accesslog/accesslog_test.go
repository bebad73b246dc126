package accesslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"salp/internal/logformat"
)

func entry() *Entry {
	end := time.Date(2026, 11, 25, 10, 30, 5, 42_000_000, time.FixedZone("", 3600))
	return &Entry{Start: end.Add(-1234 * time.Millisecond), End: end, Client: netip.MustParseAddrPort("10.0.1.5:4000"), Dialled: netip.MustParseAddrPort("203.0.113.9:80"),
		Server: netip.MustParseAddrPort("203.0.113.9:80"), Listener: "web", Method: "GET", URL: "http://www.example:8080/a b?c=\"d\"", Version: "1.1", MediaType: "text/html",
		Rule: "office[3]", Action: Miss, Status: 200, ServerStatus: 200, BytesIn: 100, BytesOut: 5000, HeadIn: 90, HeadOut: 200,
		Request: []string{"http://ref/", "curl \"x\"\n[evil] GET"}}
}

func line(t *testing.T, form string, e *Entry) string {
	t.Helper()
	f, err := newFormat(form)
	if err != nil {
		t.Fatal(err)
	}
	if form == logformat.JSON {
		f.items = nil
	}
	return string(f.append(nil, e, 7))
}

func TestForms(t *testing.T) {
	for form, want := range map[string]string{
		"squid":    `1795599005.042   1234 10.0.1.5 TCP_MISS/200 5000 GET http://www.example:8080/a%20b?c="d" - HIER_DIRECT/203.0.113.9 text/html`,
		"common":   `10.0.1.5 - - [25/Nov/2026:10:30:05 +0100] "GET http://www.example:8080/a%20b?c="d" HTTP/1.1" 200 5000`,
		"combined": `10.0.1.5 - - [25/Nov/2026:10:30:05 +0100] "GET http://www.example:8080/a%20b?c="d" HTTP/1.1" 200 5000 "http://ref/" "curl \"x\"\x0A[evil] GET"`,
		`%>p|%>la|%>lp|%<a|%<p|%rp|%>rs|%>rd|%>rP|%<Hs|%>st|%st|%<sh|%>sh|%sn|%%|%salp::listener|%salp::pool|%salp::rule|%ssl::>sni|%err_code|%ui`: `4000|203.0.113.9|80|203.0.113.9|80|/a%20b?c="d"|http|www.example|8080|200|100|5100|200|90|7|%|web|-|office[3]|-|-|-`,
		`%tg{%F %T %s %% %Q %j} %tl{%e}`:         `2026-11-25 09:30:05 1795599005 % %Q 329 25`,
		`%-10>a| %10>a| %.3>a| %06>Hs %#rp %'rp`: `10.0.1.5  |   10.0.1.5| 10.| 000200 %2Fa%20b%3Fc%3D%22d%22 /a b?c="d"`,
		`%[salp::rule %"{X}>h %{Y}<h`:            `office%5B3%5D http://ref/ -`,
	} {
		if got := line(t, form, entry()); got != want+"\n" {
			t.Errorf("%s:\n%swant\n%s", form, got, want)
		}
	}
	tunnel := &Entry{End: time.Unix(1, 0), Start: time.Unix(2, 0), Client: netip.MustParseAddrPort("[::ffff:10.0.0.1]:1"), URL: "10.0.0.2:22", Action: Tunnel, Aborted: true, Pool: "p", Server: netip.MustParseAddrPort("[fd00::1]:22"), User: "al ice"}
	if got, want := line(t, "squid", tunnel), "1.000      0 10.0.0.1 TCP_TUNNEL_ABORTED/000 0 NONE 10.0.0.2:22 al%20ice ROUNDROBIN_PARENT/fd00::1 -\n"; got != want {
		t.Errorf("%swant\n%s", got, want)
	}
	if got, want := line(t, "squid", &Entry{End: time.Unix(1, 0), Start: time.Unix(1, 0)}), "1.000      0 - NONE/000 0 NONE - - HIER_NONE/- -\n"; got != want {
		t.Errorf("%swant\n%s", got, want)
	}
}

// Every code that can be written in a form has a value.
func TestEveryCode(t *testing.T) {
	for _, c := range logformat.Codes {
		form := "%" + c.Name
		if c.Name == ">h" || c.Name == "<h" {
			form = "%{A}" + c.Name
		}
		e := entry()
		e.User, e.Pool, e.SNI, e.Cause, e.Response = "u", "p", "s", "c", []string{"r"}
		if got := line(t, form, e); got == "-\n" && c.Name != "ui" || len(got) < 2 {
			t.Errorf("%s: %q", form, got)
		}
	}
}

func TestJSON(t *testing.T) {
	e := entry()
	e.User = "a\"\n\xff\u2028"
	var got map[string]any
	text := line(t, "json", e)
	if err := json.Unmarshal([]byte(text), &got); err != nil || strings.Count(text, "\n") != 1 {
		t.Fatalf("%s: %v", text, err)
	}
	for name, want := range map[string]any{"time": "2026-11-25T09:30:05.042Z", "duration_ms": 1234.0, "client": "10.0.1.5:4000", "status": 200.0, "url": e.URL, "user": "a\"\n\ufffd\u2028", "action": "TCP_MISS", "rule": "office[3]"} {
		if got[name] != want {
			t.Errorf("%s: %v, want %v", name, got[name], want)
		}
	}
	if _, has := got["pool"]; has {
		t.Error("an empty member is there")
	}
}

// file is a file in memory that can be slow or broken.
type file struct {
	mu     sync.Mutex
	text   bytes.Buffer
	hold   chan struct{} // not nil: Write waits until it is closed
	err    error
	closed bool
}

func (f *file) Write(b []byte) (int, error) {
	if f.hold != nil {
		<-f.hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return 0, f.err
	}
	return f.text.Write(b)
}

func (f *file) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

func (f *file) lines() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return bytes.Count(f.text.Bytes(), []byte("\n"))
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func start(t *testing.T, f *file) *Log {
	t.Helper()
	l, err := New("squid", f, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestWriteAndRotate(t *testing.T) {
	first, second := &file{}, &file{}
	l := start(t, first)
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			w := l.Writer()
			for range 1000 {
				w.Write(entry())
			}
		})
	}
	wait.Wait()
	for first.lines() < 4000 {
		time.Sleep(time.Millisecond)
	}
	l.Reopen(second)
	l.Writer().Write(entry())
	l.Close()
	if first.lines() != 4000 || second.lines() != 1 || !first.closed || l.Dropped() != 0 {
		t.Errorf("%d and %d lines, closed %v, dropped %d", first.lines(), second.lines(), first.closed, l.Dropped())
	}
	(*Writer)(nil).Write(entry()) // no log
}

// A disk that stands still holds nobody up, and what is lost is counted.
func TestNeverWaits(t *testing.T) {
	f := &file{hold: make(chan struct{})}
	l := start(t, f)
	w := l.Writer()
	const lines = 3 * room / 100
	begin := time.Now()
	for range lines {
		w.Write(entry())
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if l.Dropped() == 0 {
		t.Error("nothing is dropped while the disk stands still")
	}
	close(f.hold)
	l.Close()
	if got := uint64(f.lines()) + l.Dropped(); got != lines {
		t.Errorf("%d lines written, %d dropped, %d there were", f.lines(), l.Dropped(), lines)
	}
}

func TestBrokenFile(t *testing.T) {
	l := start(t, &file{err: errors.New("no space left")})
	l.Writer().Write(entry())
	l.Close()
	if l.Dropped() != 1 {
		t.Errorf("%d dropped", l.Dropped())
	}
	if _, err := New("%nonsense", &file{}, quiet); err == nil {
		t.Error("a bad form is taken")
	}
}

// fullDisk takes so many bytes, then none until there is room again.
type fullDisk struct {
	file
	room int
}

func (d *fullDisk) Write(b []byte) (int, error) {
	n := min(len(b), d.room)
	_, _ = d.file.Write(b[:n]) // a buffer
	if d.room -= n; n < len(b) {
		return n, errors.New("no space left")
	}
	return n, nil
}

// After a full disk the line that was cut off stands alone, and the lost ones are counted.
func TestFullDisk(t *testing.T) {
	d := &fullDisk{}
	l := &Log{log: quiet, file: d}
	for _, step := range []struct {
		lines   string
		room    int
		dropped uint64
	}{{"one\ntwo\nthree\n", 9, 1}, {"four\n", 0, 2}, {"five\nsix\n", 100, 2}} {
		d.room = step.room
		l.waiting = []byte(step.lines)
		l.failed = nil
		l.flush(nil)
		if (l.failed == nil) != (step.room == 100) || l.Dropped() != step.dropped {
			t.Errorf("%q: %v, %d dropped", step.lines, l.failed, l.Dropped())
		}
	}
	if got, want := d.text.String(), "one\ntwo\nt\nfive\nsix\n"; got != want {
		t.Errorf("the file has %q, want %q", got, want)
	}
}

func TestNoAllocations(t *testing.T) {
	l := start(t, &file{})
	defer l.Close()
	w, e := l.Writer(), entry()
	w.Write(e)
	if n := testing.AllocsPerRun(200, func() { w.Write(e) }); n > 1 { // the growth of what waits
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkWrite(b *testing.B) {
	l, err := New("squid", &file{}, quiet)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	w, e := l.Writer(), entry()
	b.ReportAllocs()
	for b.Loop() {
		w.Write(e)
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("a b\n\"\\[%]\x00\xff")
	f.Fuzz(func(t *testing.T, s string) {
		for _, q := range []logformat.Quote{0, '"', '[', '#', '\''} {
			for _, c := range escape(nil, s, q) {
				if c < ' ' || c >= 0x7f {
					t.Fatalf("%q lets %#x through", q, c)
				}
			}
		}
		if !json.Valid(appendJSON(nil, &Entry{URL: s})) {
			t.Errorf("%q is not JSON", s)
		}
	})
}

func BenchmarkLine(b *testing.B) {
	f, err := newFormat("squid")
	if err != nil {
		b.Fatal(err)
	}
	e, line := entry(), []byte(nil)
	b.ReportAllocs()
	for b.Loop() {
		line = f.append(line[:0], e, 1)
	}
}
