package test

import (
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/creack/pty"

	"salp/internal/lab"
)

// TestTop runs `salp top` in a terminal of 80 by 24: it shows what is carried, sorts, and ends by q and ^C with the terminal as it was.
func TestTop(t *testing.T) {
	r := newRig(t, 1)
	_, err := r.net.Server().Serve("[::]:80", lab.Tell)
	r.must(err)
	s := r.start(`listeners: {web: {listen: ["10.0.1.1:8000"], pool: web}}
pools: {web: {servers: ["10.0.2.2:80"]}}
`)
	held, _ := r.tell("10.0.1.1:8000")
	for _, quit := range []string{"q", "\x03"} {
		terminal, tty, err := pty.Open()
		r.must(err)
		defer terminal.Close()
		r.must(pty.Setsize(terminal, &pty.Winsize{Rows: 24, Cols: 80}))
		cmd := exec.Command(salpBin, "top", "--run-dir", s.dir, "-d", "100ms")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		cmd.Env = []string{"TERM=xterm"}
		top, err := r.net.Gateway.Start(cmd)
		r.must(err)
		tty.Close()
		screen := &lab.Log{}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			buf := make([]byte, 4096)
			for {
				n, err := terminal.Read(buf)
				_, _ = screen.Write(buf[:n])
				if err != nil { // EIO: nobody has the other side open any more (pty(7))
					return
				}
			}
		}()
		shows := func(want string) {
			t.Helper()
			for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if strings.Contains(screen.String(), want) {
					return
				}
			}
			t.Fatalf("the terminal does not show %q:\n%q", want, screen.String())
		}
		shows("LISTENER")
		shows("web/10.0.2.2:80")
		held.exchange("while it looks")
		_, err = terminal.WriteString("e")
		r.must(err)
		shows("by errors/s")
		_, err = terminal.WriteString("2")
		r.must(err)
		_, err = terminal.WriteString(quit)
		r.must(err)
		select {
		case <-top.Done():
			if err := top.Wait(); err != nil {
				t.Errorf("top ended with %v", err)
			}
		case <-time.After(patience):
			t.Fatalf("top goes on after %q", quit)
		}
		<-ended
		text := screen.String()
		if !strings.HasPrefix(text, "\x1b[?1049h") || !strings.HasSuffix(text, "\x1b[?1049l") {
			t.Errorf("the terminal is not left as it was: %q … %q", text[:20], text[len(text)-20:])
		}
		for _, frame := range strings.Split(text, "\x1b[H")[1:] {
			lines := strings.Split(frame, "\r\n")
			if len(lines) > 24 {
				t.Errorf("a view of %d lines:\n%s", len(lines), frame)
			}
			for _, l := range lines {
				if n := utf8.RuneCountInString(plainText(l)); n > 80 {
					t.Errorf("a line of %d columns: %q", n, l)
				}
			}
		}
	}
	if out, code := r.command("top", "--run-dir", s.dir); code != 1 || !strings.Contains(out, "needs a terminal") {
		t.Errorf("without a terminal: exit %d, %s", code, out)
	}
}

// plainText removes ANSI sequences.
func plainText(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "\x1b[")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		s = after[strings.IndexFunc(after, func(r rune) bool { return r >= '@' && r <= '~' })+1:]
	}
}
