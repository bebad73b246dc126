package worker

import (
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/access"
	"salp/internal/accesslog"
	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/errorpage"
)

const contentText = `
listeners:
  web:
    listen: ["10.0.1.1:3128"]
    protocol: http
    access: a
    errors: {pages: pages}
    auth: {basic: {file: users}}
access: {a: [{deny: {host: [list:ads]}}, {allow: {}}]}
lists: {ads: {names: ads}}
logs: {access: {file: access.log, format: "%ru"}}
`

// handOver opens files as the keeper does. What the worker gets is a copy of the descriptor.
func handOver(t *testing.T, kind control.ContentKind, name string, files ...string) handed {
	t.Helper()
	h := handed{Content: control.Content{Kind: kind, Name: name}}
	for _, path := range files {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := syscall.Dup(int(f.Fd()))
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		h.fds = append(h.fds, fd)
		if kind == control.ContentPages {
			h.Pages = append(h.Pages, filepath.Base(path))
		}
	}
	return h
}

func TestServices(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg, err := config.Parse(filepath.Join(dir, "salp.yaml"), []byte(contentText))
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	const hash = "alice:$2y$05$KOdzF1Kuhmsc6bSh9UuZvOnYcZqi1nRQPCSYLsvy.2KdSxLdzxQjC\n"
	all := func() []handed {
		return []handed{handOver(t, control.ContentFile, "ads", write("ads", ".ads.example\n")), handOver(t, control.ContentFile, "users", write("users", hash)),
			handOver(t, control.ContentPages, "pages", write("403.html", "no")), handOver(t, control.ContentLog, "access.log", filepath.Join(dir, "access.log"))}
	}
	s, err := newServices(cfg, all(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	denied := func(host string) bool {
		return !s.rules.List("a").Decide(&access.Facts{Client: netip.MustParseAddr("10.0.1.9"), Host: host, Time: time.Now()}).Allow
	}
	if !denied("x.ads.example") || denied("x.example") {
		t.Error("the list is not in force")
	}
	if page := s.pages["pages"].Page(&errorpage.Asked{Cause: errorpage.Denied}); string(page.Body) != "no" {
		t.Errorf("page %q", page.Body)
	}

	// A list that is wrong changes nothing; the next that is good is taken. The log goes on in another file.
	contents := make(chan handed, 3)
	contents <- handOver(t, control.ContentFile, "ads", write("ads2", "x y z\n"))
	contents <- handOver(t, control.ContentLog, "access.log", filepath.Join(dir, "access.log.2"))
	close(contents)
	s.follow(contents)
	if !denied("x.ads.example") {
		t.Error("a bad list is in force")
	}
	s.lines.Writer().Write(&accesslog.Entry{URL: "http://a/"})
	if err := s.take(handOver(t, control.ContentFile, "ads", write("ads3", "x.example\n"))); err != nil || !denied("x.example") || denied("x.ads.example") {
		t.Errorf("the new list is not in force: %v", err)
	}
	s.close()
	if text, err := os.ReadFile(filepath.Join(dir, "access.log.2")); err != nil || string(text) != "http://a/\n" {
		t.Errorf("the log has %q, %v", text, err)
	}

	// At the start what is wrong is an error with its place.
	bad := all()
	bad[1] = handOver(t, control.ContentFile, "users", write("users2", "alice:plain\n"))
	if _, err := newServices(cfg, bad, quiet); err == nil || !strings.Contains(err.Error(), "salp.yaml:8:26") || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("%v", err)
	}
}
