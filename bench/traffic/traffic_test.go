package traffic

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// roleVariable makes the test binary a server or a client: their loops end with the process only.
const roleVariable = "SALP_TRAFFIC_ROLE"

func TestMain(m *testing.M) {
	role, argument, _ := strings.Cut(os.Getenv(roleVariable), " ")
	var err error
	switch role {
	case "serve":
		err = Serve(netip.MustParseAddrPort(argument), 1, os.Stdin, os.Stdout)
	case "load":
		var job Job
		if err = json.Unmarshal([]byte(argument), &job); err == nil {
			err = Load(job, os.Stdin, os.Stdout)
		}
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// peer is a process that serves or loads.
type peer struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr *os.File
}

func start(t *testing.T, role string) *peer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	p := &peer{t: t, cmd: cmd}
	stderr, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	p.stderr, cmd.Stderr = stderr, stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, bufio.NewScanner(out)
	t.Cleanup(func() {
		p.in.Close()
		_ = cmd.Wait() // a failure shows in what is missing
		cancel()
		stderr.Close()
	})
	return p
}

func load(t *testing.T, job Job) *peer {
	t.Helper()
	text, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, "load "+string(text))
}

// complaint is what the process has written to standard error.
func (p *peer) complaint() string {
	text, err := os.ReadFile(p.stderr.Name())
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

func (p *peer) hear(v any) {
	p.t.Helper()
	if !p.out.Scan() {
		p.t.Fatalf("no answer: %v %s", p.out.Err(), p.complaint())
	}
	if err := json.Unmarshal(p.out.Bytes(), v); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) ask(v any) {
	p.t.Helper()
	fmt.Fprintln(p.in, "now")
	p.hear(v)
}

func serveForTest(t *testing.T, at netip.AddrPort) *peer {
	t.Helper()
	s := start(t, "serve "+at.String())
	s.hear(&struct{}{})
	return s
}

// Each kind of job does what it says between a real client and a real server on loopback.
func TestJobs(t *testing.T) {
	source := netip.MustParseAddr("127.0.0.9")
	tests := []struct {
		name  string
		job   Job
		check func(t *testing.T, c Count, s Seen)
	}{
		{"keepalive", Job{Connections: 10, Request: 128, Response: 1024}, func(t *testing.T, c Count, s Seen) {
			if c.Exchanges < 100 || c.Connections != 10 || s.Addresses[source.String()] != 10 {
				t.Errorf("%+v, server %+v; want many exchanges on 10 connections", c, s)
			}
		}},
		{"two loops, large response", Job{Connections: 5, Loops: 2, Request: 12000, Response: 3 << 20}, func(t *testing.T, c Count, _ Seen) {
			if c.Exchanges < 5 || c.Bytes < c.Exchanges*3<<20 || c.Connections != 5 {
				t.Errorf("%+v; want whole responses of 3 MiB", c)
			}
		}},
		{"HTTP", Job{Connections: 10, Request: 128, Response: 1024, HTTP: true}, func(t *testing.T, c Count, s Seen) {
			if c.Exchanges < 100 || c.Connections != 10 || s.Requests < c.Exchanges {
				t.Errorf("%+v, server %+v; want many exchanges on 10 connections", c, s)
			}
		}},
		{"HTTP, large response", Job{Connections: 3, Request: 2000, Response: 3 << 20, HTTP: true}, func(t *testing.T, c Count, _ Seen) {
			if c.Exchanges < 5 || c.Bytes < c.Exchanges*3<<20 || c.Connections != 3 {
				t.Errorf("%+v; want whole responses of 3 MiB", c)
			}
		}},
		{"HTTP, reconnect", Job{Connections: 4, Request: 128, Response: 1024, Reconnect: true, HTTP: true}, func(t *testing.T, c Count, s Seen) {
			if c.Exchanges < 20 || c.Connections < c.Exchanges || c.Connections > c.Exchanges+8 {
				t.Errorf("%+v; want a connection for each exchange", c)
			}
		}},
		{"reconnect", Job{Connections: 4, Request: 128, Response: 1024, Reconnect: true}, func(t *testing.T, c Count, s Seen) {
			if c.Exchanges < 20 || c.Connections < c.Exchanges || c.Connections > c.Exchanges+8 {
				t.Errorf("%+v; want a connection for each exchange", c)
			}
		}},
		{"stream", Job{Connections: 2, Request: HeaderSize, Response: Endless}, func(t *testing.T, c Count, _ Seen) {
			if c.Bytes < 10<<20 || c.Exchanges != 0 {
				t.Errorf("%+v; want many bytes", c)
			}
		}},
		{"hold", Job{Connections: 300, Request: 128, Response: 1024, Hold: true}, func(t *testing.T, c Count, _ Seen) {
			if c.Exchanges != 300 || c.Connections != 300 || c.Bytes != 300*1024 {
				t.Errorf("%+v; want one exchange on each of 300 connections", c)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			at := freePort(t)
			server := serveForTest(t, at)
			job := tt.job
			job.Target, job.Sources, job.Loops = at, []netip.Addr{source}, max(job.Loops, 1)
			client := load(t, job)
			var first, last Count
			client.hear(&first)
			time.Sleep(200 * time.Millisecond)
			client.ask(&last)
			var seen Seen
			server.ask(&seen)
			if last.Failures != 0 {
				t.Errorf("%d failures: %s", last.Failures, last.FirstError)
			}
			if last.Elapsed <= first.Elapsed {
				t.Errorf("elapsed went from %v to %v", first.Elapsed, last.Elapsed)
			}
			tt.check(t, last, seen)
		})
	}
}

// A server that is not there must be an error soon, and not a wait.
func TestRefused(t *testing.T) {
	job := Job{Target: freePort(t), Connections: 2, Loops: 1, Request: HeaderSize, Response: 1}
	client := load(t, job)
	if client.out.Scan() {
		t.Fatalf("an answer: %s", client.out.Text())
	}
	if err := client.cmd.Wait(); err == nil || !strings.Contains(client.complaint(), "refused") {
		t.Errorf("%v, %q; want an error that says refused", err, client.complaint())
	}
}

func TestHeader(t *testing.T) {
	for _, h := range []header{{16, 1, false}, {maxRequest, Endless, true}} {
		b := h.encode()
		if got, err := decode(&b); err != nil || got != h {
			t.Errorf("%+v became %+v, %v", h, got, err)
		}
	}
	for _, h := range []header{{15, 1, false}, {maxRequest + 1, 1, false}, {16, 0, false}} {
		b := h.encode()
		if got, err := decode(&b); err == nil {
			t.Errorf("%+v was accepted as %+v", h, got)
		}
	}
}

func TestCheck(t *testing.T) {
	good := Job{Target: netip.MustParseAddrPort("10.0.2.2:80"), Connections: 4, Loops: 2, Request: 64, Response: 64}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(*Job){
		"IPv4":      func(j *Job) { j.Target = netip.MustParseAddrPort("[fd00::1]:80") },
		"0 connect": func(j *Job) { j.Connections = 0 },
		"request":   func(j *Job) { j.Request = 8 },
		"response":  func(j *Job) { j.Response = 0 },
		"loops":     func(j *Job) { j.Loops = 5 },
		"source":    func(j *Job) { j.Sources = []netip.Addr{netip.IPv6Loopback()} },
	}
	for want, spoil := range tests {
		bad := good
		spoil(&bad)
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v; want one that says %q", err, want)
		}
	}
}

func TestShare(t *testing.T) {
	for _, n := range []int{1, 7, 8} {
		sum := 0
		for i := range 3 {
			sum += share(n, 3, i)
		}
		if sum != n {
			t.Errorf("the shares of %d make %d", n, sum)
		}
	}
}

// freePort returns a loopback address nobody listens on.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}
