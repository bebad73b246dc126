package lab_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/lab"
)

func standard(t *testing.T, clients, servers int) *lab.Net {
	t.Helper()
	n, err := lab.Test(t).Standard(clients, servers)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStandardCarriesBothFamilies(t *testing.T) {
	n := standard(t, 2, 2)
	must(t, n.Gateway.Forward())
	for i, server := range n.Servers {
		s, err := server.Serve("[::]:80", lab.Tell)
		must(t, err)
		for j, client := range n.Clients {
			last := strconv.Itoa(i + 2)
			for _, to := range []string{"10.0.2." + last + ":80", "[fd00:2::" + last + "]:80"} {
				c, err := client.Dial(to)
				must(t, err)
				line, err := bufio.NewReader(c).ReadString('\n')
				must(t, err)
				told, err := lab.ParseTold(line)
				must(t, err)
				if told.From != lab.Local(c) || told.To.String() != to {
					t.Errorf("client %d to %s: server saw %s, client has %s", j, to, told, lab.Local(c))
				}
				if last, ok := s.Last(); !ok || last != told {
					t.Errorf("recorded %v, told %v", last, told)
				}
				c.Close()
			}
		}
	}
}

func TestWithoutForwardingNothingPasses(t *testing.T) {
	n := standard(t, 1, 1)
	_, err := n.Server().Serve("[::]:80", lab.Echo)
	must(t, err)
	c, err := n.Client().DialWith("10.0.2.2:80", lab.DialOptions{Timeout: 200 * time.Millisecond})
	if err == nil {
		c.Close()
		t.Fatal("the gateway forwards though nobody made it")
	}
}

func TestHostsOwnNamespaceIsUntouched(t *testing.T) {
	before := snapshot(t)
	self, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	n := standard(t, 1, 1)
	must(t, n.Gateway.Sysctl("net/ipv4/conf/all/rp_filter", "1"))
	must(t, n.Gateway.Forward())
	if v, err := n.Client().ReadSysctl("net/ipv4/ip_forward"); err != nil || v != "0" {
		t.Errorf("client's ip_forward is %q, %v: one host's sysctl reached another", v, err)
	}
	if v, err := n.Gateway.ReadSysctl("net/ipv4/ip_forward"); err != nil || v != "1" {
		t.Errorf("gateway's ip_forward is %q, %v", v, err)
	}
	must(t, n.Close())
	if now, err := os.Readlink("/proc/self/ns/net"); err != nil || now != self {
		t.Errorf("this process is in %s now, was in %s", now, self)
	}
	if after := snapshot(t); after != before {
		t.Errorf("the host changed from\n%s\nto\n%s", before, after)
	}
	if err := n.Gateway.Do(func() error { return nil }); err == nil {
		t.Error("Do works in a closed lab")
	}
}

// snapshot reads some of what a stray write would have changed.
func snapshot(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/ipv6/conf/all/accept_dad"} {
		text, err := os.ReadFile("/proc/sys/" + name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		b.Write(text)
	}
	ifs, err := net.Interfaces()
	must(t, err)
	for _, i := range ifs {
		b.WriteString(i.Name + "\n")
	}
	return b.String()
}

func TestSysctlRefusesTheMachinesSettings(t *testing.T) {
	n := standard(t, 1, 1)
	if err := n.Gateway.Sysctl("kernel/hostname", "x"); err == nil {
		t.Error("wrote a setting that is the whole machine's")
	}
}

func TestDoAndProcessesAreInside(t *testing.T) {
	n := standard(t, 1, 1)
	want, err := n.Gateway.Namespace()
	must(t, err)
	must(t, n.Gateway.Do(func() error {
		if got, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || got != want {
			t.Errorf("Do runs in %s, want %s (%v)", got, want, err)
		}
		return n.Gateway.Do(func() error { return nil }) // nested
	}))
	out, err := n.Gateway.Run(t.Context(), "readlink", "/proc/self/ns/net")
	must(t, err)
	if strings.TrimSpace(out) != want {
		t.Errorf("the process runs in %q, want %q", out, want)
	}
	if _, err := n.Gateway.Run(t.Context(), "sh", "-c", "echo why; exit 3"); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("error %v does not hold the output", err)
	}
}

func TestDoSurvivesGoexit(t *testing.T) {
	n := standard(t, 1, 1)
	err := n.Client().Do(func() error { runtime.Goexit(); return nil })
	if err == nil || !strings.Contains(err.Error(), "Goexit") {
		t.Errorf("error is %v", err)
	}
	must(t, n.Client().Do(func() error { return nil }))
}

func TestCloseKillsChildrenOfChildren(t *testing.T) {
	n := standard(t, 1, 1)
	var out bytes.Buffer
	cmd := exec.CommandContext(context.Background(), "sh", "-c", "setsid sleep 1000 & echo $!; kill -9 $$")
	cmd.Stdout = &out
	p, err := n.Gateway.Start(cmd)
	must(t, err)
	if err := p.Wait(); err == nil {
		t.Error("no error of a killed process")
	}
	pids, err := n.Gateway.Inside()
	must(t, err)
	if len(pids) != 1 {
		t.Fatalf("inside are %v, want the orphan", pids)
	}
	must(t, n.Close())
	if err := syscall.Kill(pids[0], 0); !errors.Is(err, syscall.ESRCH) && !zombie(pids[0]) {
		t.Errorf("process %d outlives the lab: %v", pids[0], err)
	}
}

func zombie(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(text), ") Z ")
}

func TestHandlers(t *testing.T) {
	n := standard(t, 1, 1)
	must(t, n.Gateway.Forward())
	const size = 300_001
	serve := func(h lab.Handler) *net.TCPConn {
		t.Helper()
		s, err := n.Server().Serve("10.0.2.2:0", h)
		must(t, err)
		c, err := n.Client().Dial(s.Addr().String())
		must(t, err)
		must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		return c
	}
	text := func(c *net.TCPConn) string {
		t.Helper()
		all, err := io.ReadAll(c)
		must(t, err)
		return string(all)
	}

	c := serve(lab.Source(size))
	if got, err := lab.CheckPattern(c); err != nil || got != size {
		t.Errorf("source: %d bytes, %v", got, err)
	}
	c = serve(lab.Sink)
	_, err := io.Copy(c, lab.Pattern(size))
	must(t, err)
	must(t, c.CloseWrite())
	if got := text(c); !strings.HasPrefix(got, "300001 ") {
		t.Errorf("sink: %q", got)
	}
	c = serve(lab.Banner("220 hello\r\n"))
	must(t, c.CloseWrite())
	if got := text(c); got != "220 hello\r\n" {
		t.Errorf("banner: %q", got)
	}
	c = serve(lab.AnswerAtEnd(5))
	must(t, c.CloseWrite())
	if got := text(c); !strings.HasPrefix(got, "0\n") || len(got) != 7 {
		t.Errorf("answer at end: %q", got)
	}
	c = serve(lab.ResetAfter(1))
	_, err = c.Write([]byte("x"))
	must(t, err)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset: %v", err)
	}
	c = serve(lab.HTTP(3))
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n")
	must(t, err)
	must(t, c.CloseWrite())
	if got := text(c); strings.Count(got, "200 OK") != 2 {
		t.Errorf("http: %q", got)
	}
}

func TestCheckPatternFindsAMovedByte(t *testing.T) {
	all, err := io.ReadAll(lab.Pattern(1000))
	must(t, err)
	for _, cut := range []int{0, 1, 8, 500} {
		moved := append(append([]byte(nil), all[:cut]...), all[cut+8:]...)
		if at, err := lab.CheckPattern(bytes.NewReader(moved)); err == nil || at > int64(cut+8) {
			t.Errorf("eight bytes lost at %d: found at %d, %v", cut, at, err)
		}
	}
}

func TestDialFromAPortTwice(t *testing.T) {
	n := standard(t, 1, 1)
	must(t, n.Gateway.Forward())
	_, err := n.Server().Serve("[::]:80", lab.Echo)
	must(t, err)
	from := netip.MustParseAddrPort("10.0.1.2:4000")
	for range 2 {
		c, err := n.Client().DialWith("10.0.2.2:80", lab.DialOptions{From: from})
		must(t, err)
		if lab.Local(c) != from {
			t.Errorf("local address is %s", lab.Local(c))
		}
		must(t, c.CloseWrite())
		_, err = io.ReadAll(c)
		must(t, err)
		must(t, c.Close())
	}
}
