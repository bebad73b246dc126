package test

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/lab"
)

// mx is an SMTP server as far as its banner, which a test may change: "" is none, and refuse resets at once.
type mx struct {
	*lab.Server
	banner atomic.Pointer[string]
	checks atomic.Int64 // connections from the gateway's own address
	last   atomic.Int64 // when the last of them came, in Unix nanoseconds
}

const (
	greeting = "220 mx.test ESMTP\r\n"
	refuse   = "refuse"
)

func (r *rig) mx(host *lab.Host, address string) *mx {
	r.Helper()
	m := &mx{}
	m.set(greeting)
	var err error
	m.Server, err = host.Serve(address, func(c *net.TCPConn) {
		if lab.Remote(c).Addr() == netip.MustParseAddr("10.0.2.1") {
			m.checks.Add(1)
			m.last.Store(time.Now().UnixNano())
		}
		switch banner := *m.banner.Load(); banner {
		case refuse:
			_ = lab.Reset(c)
			return
		default:
			fmt.Fprint(c, banner)
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, _ = bufio.NewReader(c).ReadString('\n')
	})
	r.must(err)
	return m
}

func (m *mx) set(banner string) { m.banner.Store(&banner) }

// states are the states of all servers in a line: "10.0.2.2:25 up, …".
func states(st *admin.Status) string {
	var all []string
	for _, p := range st.Pools {
		for _, s := range p.Servers {
			all = append(all, s.Address+" "+string(s.State))
		}
	}
	return strings.Join(all, ", ")
}

func (s *salp) awaitStates(want string) *admin.Status {
	s.r.Helper()
	return s.await("with "+want, func(st *admin.Status) bool { return states(st) == want })
}

// greets makes connections to the listener and returns how many got a banner.
func (r *rig) greets(to string, n int) (good int) {
	for range n {
		c, err := r.net.Client().DialWith(to, lab.DialOptions{Timeout: 2 * time.Second})
		if err != nil {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		if line, err := bufio.NewReader(c).ReadString('\n'); err == nil && line == greeting {
			good++
		}
		c.Close()
	}
	return good
}

const mailPool = `listeners:
  smtp: {listen: ["10.0.1.1:25"], source: client, pool: mail}
pools:
  mail:
    servers: ["10.0.2.2:25", "10.0.2.3:25"]
`

// TestBannerChecks follows a mail server through its troubles: the time that these are found out in, where checks come from, and that connections
// go to servers that are up alone.
func TestBannerChecks(t *testing.T) {
	r := newRig(t, 2)
	first, second := r.mx(r.net.Servers[0], "10.0.2.2:25"), r.mx(r.net.Servers[1], "10.0.2.3:25")
	second.set("421 too busy\r\n")
	s := r.start(mailPool + "    check: {every: 200ms, timeout: 2s, rise: 2, fall: 3, jitter: 0, expect: \"220 \"}\n")
	st := s.awaitStates("10.0.2.2:25 up, 10.0.2.3:25 down")
	if reason := st.Pools[0].Servers[1].Reason; reason != `the server sent "421 too busy\r\n" and no more, expected "220 " within 2s` {
		t.Errorf("reason: %s", reason)
	}
	if good := r.greets("10.0.1.1:25", 20); good != 20 {
		t.Errorf("%d of 20 connections got a banner", good)
	}
	second.set(greeting)
	s.awaitStates("10.0.2.2:25 up, 10.0.2.3:25 up")
	for _, m := range []*mx{first, second} {
		for _, p := range m.Peers() {
			if a := p.From.Addr().String(); a != "10.0.2.1" && a != "10.0.1.2" {
				t.Errorf("somebody came from %s", a)
			}
		}
		if m.checks.Load() < 2 {
			t.Errorf("%d checks came from the gateway's address", m.checks.Load())
		}
	}

	// A server that resets is down after three checks, and one that came back after two.
	began, checks := time.Now(), first.checks.Load()
	first.set(refuse)
	st = s.awaitStates("10.0.2.2:25 down, 10.0.2.3:25 up")
	if took, n := time.Since(began), first.checks.Load()-checks; took < 350*time.Millisecond || n < 3 {
		t.Errorf("down after %v and %d checks", took, n)
	}
	if reason := st.Pools[0].Servers[0].Reason; reason != "connection reset" {
		t.Errorf("reason: %s", reason)
	}
	if good := r.greets("10.0.1.1:25", 20); good != 20 {
		t.Errorf("%d of 20 connections got a banner", good)
	}
	first.set(greeting)
	st = s.awaitStates("10.0.2.2:25 up, 10.0.2.3:25 up")
	if c := st.Pools[0].Servers[0].Checked; c == nil || c.Error != "" || c.Took <= 0 || st.Pools[0].Servers[0].Downs != 1 {
		t.Errorf("%+v", st.Pools[0].Servers[0])
	}
	s.stop()
}

// TestNginxChecks asks a real web server by HTTP on a port of its own, and by TLS.
func TestNginxChecks(t *testing.T) {
	if _, err := exec.LookPath("nginx"); err != nil {
		t.Skip("skipped: needs the program nginx, to be checked")
	}
	r := newRig(t, 1)
	server := r.net.Server()
	page := filepath.Join(r.dir, "health")
	r.must(os.WriteFile(page, []byte("OK: all is well\n"), 0o644))
	crt, key := filepath.Join(r.dir, "crt"), filepath.Join(r.dir, "key")
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj", "/CN=web.test",
		"-keyout", key, "-out", crt).CombinedOutput()
	if err != nil {
		t.Skipf("skipped: needs the program openssl, for a certificate: %v %s", err, out)
	}
	r.peer(server, "10.0.2.2:443", "nginx.conf", fmt.Sprintf(`daemon off; master_process off; pid %[1]s/nginx.pid; error_log stderr;
events {}
http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server { listen 10.0.2.2:80; root %[1]s; default_type text/plain; }
  server { listen 10.0.2.2:8080; root %[1]s; default_type text/plain; location /moved { return 302 /health; } }
  server { listen 10.0.2.2:443 ssl http2; ssl_certificate %[2]s; ssl_certificate_key %[3]s; root %[1]s; default_type text/plain; } }
`, r.dir, crt, key), "nginx", "-c", "FILE")
	pool := func(name, check string) string {
		return "  " + name + ": {servers: [\"10.0.2.2:80\"], check: {every: 100ms, timeout: 5s, fall: 1, rise: 1, " + check + "}}\n"
	}
	cases := []struct{ name, check, reason string }{
		{"good", "port: 8080, http: {path: /health, host: web.test, body: \"/^OK: /\"}", ""},
		{"redirect", "port: 8080, http: {path: /moved, status: [200]}", "HTTP status 302"},
		{"missing", "port: 8080, http: {path: /nothing}", "HTTP status 404"},
		{"other-body", "http: {path: /health, body: ready}", `the body is "OK: all is well\n", expected "ready"`},
		{"handshake", "port: 443, tls: {name: web.test}", ""},
		{"h2", "port: 443, tls: {alpn: [h2]}", ""},
		{"no-such-protocol", "port: 443, tls: {alpn: [smtp]}", "TLS: "},
		{"not-trusted", "port: 443, tls: {name: web.test, verify: true}", "TLS: "},
		{"https", "port: 443, tls: {}, http: {path: /health, body: OK}", ""},
		{"no-tls", "port: 8080, tls: {}", "TLS: "},
		{"no-port", "port: 81", "connection refused"},
	}
	text := "listeners: {web: {listen: [\"10.0.1.1:80\"], pool: good}}\npools:\n"
	for _, c := range cases {
		text += pool(c.name, c.check)
	}
	s := r.start(text)
	st := s.await("all checked", func(st *admin.Status) bool {
		for _, p := range st.Pools {
			if p.Servers[0].Checked == nil {
				return false
			}
		}
		return len(st.Pools) == len(cases)
	})
	for i, c := range cases {
		one := st.Pools[i].Servers[0]
		if (one.State == control.ServerUp) != (c.reason == "") || !strings.HasPrefix(one.Reason, c.reason) {
			t.Errorf("%s: %s, %q, want %q", c.name, one.State, one.Reason, c.reason)
		}
	}
	r.must(os.WriteFile(page, []byte("no more disk\n"), 0o644))
	s.await("down by its page", func(st *admin.Status) bool { return st.Pools[0].Servers[0].State == control.ServerDown })
	s.stop()
}

// TestPassiveChecks has a server reset connections, which nobody asks it about: the errors of the traffic take it down, and it comes back later.
func TestPassiveChecks(t *testing.T) {
	r := newRig(t, 2)
	first, second := r.mx(r.net.Servers[0], "10.0.2.2:25"), r.mx(r.net.Servers[1], "10.0.2.3:25")
	s := r.start(mailPool + "    passive: {errors: 5, window: 10s, for: 3s}\n")
	if good := r.greets("10.0.1.1:25", 10); good != 10 || first.Accepted() == 0 || second.Accepted() == 0 {
		t.Errorf("%d of 10 connections got a banner", good)
	}
	first.set(refuse)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.greets("10.0.1.1:25", 1)
			}
		}
	}()
	st := s.awaitStates("10.0.2.2:25 down, 10.0.2.3:25 up")
	if reason := st.Pools[0].Servers[0].Reason; !strings.HasPrefix(reason, "its connections fail, until ") {
		t.Errorf("reason: %s", reason)
	}
	if good := r.greets("10.0.1.1:25", 20); good != 20 {
		t.Errorf("%d of 20 connections got a banner", good)
	}
	first.set(greeting)
	s.awaitStates("10.0.2.2:25 up, 10.0.2.3:25 up")
	s.stop()
}

// TestDrainByCommand drains a server under load, keeps that over a reload and a restart, and undoes it.
func TestDrainByCommand(t *testing.T) {
	r := newRig(t, 2)
	first, _ := r.mx(r.net.Servers[0], "10.0.2.2:25"), r.mx(r.net.Servers[1], "10.0.2.3:25")
	text := mailPool + "    check: {every: 100ms, timeout: 2s, expect: \"220 \"}\n"
	s := r.start(text)
	pool := func(want int, args ...string) string {
		t.Helper()
		out, code := r.command(append([]string{"pool", "--run-dir", s.dir}, args...)...)
		if code != want {
			t.Errorf("salp pool %v: exit %d: %s", args, code, out)
		}
		return out
	}
	s.awaitStates("10.0.2.2:25 up, 10.0.2.3:25 up")
	open := r.dial("10.0.1.1:25") // one of two goes to the first server
	other := r.dial("10.0.1.1:25")
	if out := pool(0, "mail/10.0.2.2:25", "drain"); out != "mail/10.0.2.2:25: drain; 1 of 2 servers of the pool are up\n" {
		t.Error(out)
	}
	s.awaitStates("10.0.2.2:25 drain, 10.0.2.3:25 up")
	before := first.Accepted() - int(first.checks.Load())
	if good := r.greets("10.0.1.1:25", 30); good != 30 {
		t.Errorf("%d of 30 connections got a banner", good)
	}
	if after := first.Accepted() - int(first.checks.Load()); after > before {
		t.Errorf("a drained server got %d connections", after-before)
	}
	for _, c := range []*net.TCPConn{open, other} { // what ran goes on
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != greeting {
			t.Errorf("a connection that ran got %q, %v", line, err)
		}
		c.Close()
	}

	out, code := r.command("reload", "--run-dir", s.dir)
	if code != 0 {
		t.Error(out)
	}
	if st, err := s.status(); err != nil || states(st) != "10.0.2.2:25 drain, 10.0.2.3:25 up" {
		t.Errorf("after the reload: %s, %v", states(st), err)
	}
	old := s.monitors()
	if out, code := r.command("upgrade", "--run-dir", s.dir); code != 0 {
		t.Error(out)
	}
	if st, err := s.status(); err != nil || states(st) != "10.0.2.2:25 drain, 10.0.2.3:25 up" {
		t.Errorf("after the upgrade: %s, %v", states(st), err)
	}
	checked := first.checks.Load()
	s.await("checked again", func(*admin.Status) bool { return first.checks.Load() > checked+1 })
	for _, pid := range old { // not even as a zombie
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
			t.Errorf("the monitor of the old program, %d, is still there", pid)
		}
	}
	s.stop()
	s = r.start(text)
	if st, err := s.status(); err != nil || states(st) != "10.0.2.2:25 drain, 10.0.2.3:25 up" {
		t.Errorf("after the restart: %s, %v", states(st), err)
	}

	// In maintenance it is not even checked.
	pool(0, "10.0.2.2", "maint")
	s.awaitStates("10.0.2.2:25 maint, 10.0.2.3:25 up")
	time.Sleep(300 * time.Millisecond) // a check may have been under way
	checks := first.checks.Load()
	time.Sleep(500 * time.Millisecond)
	if n := first.checks.Load() - checks; n != 0 {
		t.Errorf("%d checks of a server in maintenance", n)
	}
	pool(0, "10.0.2.2", "ready")
	s.awaitStates("10.0.2.2:25 up, 10.0.2.3:25 up")
	if out := pool(0); !regexp.MustCompile(`10\.0\.2\.2:25 +up +[0-9.]+(µ|m)s `).MatchString(out) {
		t.Error(out)
	}
	pool(1, "10.9.9.9", "drain")
	pool(2, "10.0.2.2", "stop")
	s.stop()
}

// TestNamesAsServers has a name whose addresses change while connections are made.
func TestNamesAsServers(t *testing.T) {
	r := newRig(t, 3)
	var all []*mx
	for i, h := range r.net.Servers {
		all = append(all, r.mx(h, fmt.Sprintf("10.0.2.%d:25", i+2)))
	}
	dns, err := r.net.Servers[2].ServeDNS("10.0.2.4:53")
	r.must(err)
	dns.Set("mx.test", time.Second, "10.0.2.2")
	text := `listeners:
  smtp: {listen: ["10.0.1.1:25"], source: client, pool: mail}
pools:
  mail: {servers: ["mx.test:25"], check: {every: 100ms, timeout: 2s, expect: "220 "}}
resolvers: {servers: [10.0.2.4], timeout: 1s}
`
	s := r.start(text)
	if st, err := s.status(); err != nil || states(st) != "10.0.2.2:25 up" {
		t.Errorf("at the start: %s, %v", states(st), err)
	}
	if good := r.greets("10.0.1.1:25", 5); good != 5 {
		t.Errorf("%d of 5 connections got a banner", good)
	}
	dns.Set("mx.test", time.Second, "10.0.2.3", "10.0.2.4")
	s.awaitStates("10.0.2.3:25 up, 10.0.2.4:25 up")
	clients := func(m *mx) int { return m.Accepted() - int(m.checks.Load()) }
	for end := time.Now().Add(patience); ; { // the worker hears of it a moment after the status does
		before := clients(all[0])
		good := r.greets("10.0.1.1:25", 20)
		if good == 20 && clients(all[0]) == before && clients(all[1]) > 0 && clients(all[2]) > 0 {
			break
		}
		if good != 20 || time.Now().After(end) {
			t.Fatalf("%d of 20 connections got a banner; the servers got %d, %d, %d", good, clients(all[0])-before, clients(all[1]), clients(all[2]))
		}
	}
	dns.Mute(true) // the addresses stay, also over a restart
	s.stop()
	s = r.start(text)
	if st, err := s.status(); err != nil || states(st) != "10.0.2.3:25 up, 10.0.2.4:25 up" {
		t.Errorf("without DNS: %s, %v", states(st), err)
	}
	if good := r.greets("10.0.1.1:25", 5); good != 5 {
		t.Errorf("without DNS %d of 5 connections got a banner", good)
	}
	s.stop()
}

// TestMonitorIsReplaced kills the monitor: states stay, and checks go on.
func TestMonitorIsReplaced(t *testing.T) {
	r := newRig(t, 2)
	first, second := r.mx(r.net.Servers[0], "10.0.2.2:25"), r.mx(r.net.Servers[1], "10.0.2.3:25")
	second.set("421 too busy\r\n")
	s := r.start(mailPool + "    check: {every: 100ms, timeout: 300ms, fall: 2, rise: 2, expect: \"220 \"}\n")
	s.awaitStates("10.0.2.2:25 up, 10.0.2.3:25 down")
	old := s.monitors()
	if len(old) != 1 {
		t.Fatalf("monitors: %v", old)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", old[0]))
	r.must(err)
	for _, want := range []string{"Uid:\t65534\t65534", "CapBnd:\t0000000000002000", "CapEff:\t0000000000002000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the monitor has not %q:\n%s", want, status)
		}
	}
	r.kill(old[0], syscall.SIGKILL)
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if now := s.monitors(); len(now) == 1 && now[0] != old[0] {
			break
		}
		if st, err := s.status(); err != nil || states(st) != "10.0.2.2:25 up, 10.0.2.3:25 down" {
			t.Fatalf("while there is no monitor: %s, %v", states(st), err)
		}
		if time.Now().After(end) {
			t.Fatal("no other monitor was started")
		}
	}
	second.set(greeting)
	first.set(refuse)
	s.awaitStates("10.0.2.2:25 down, 10.0.2.3:25 up")

	// Without anything to watch there is none.
	r.writeConfig(mailPool)
	if out, code := r.command("reload", "--run-dir", s.dir); code != 0 {
		t.Error(out)
	}
	for end := time.Now().Add(patience); len(s.monitors()) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the monitor stays though nothing is to be watched")
		}
	}
	s.awaitStates("10.0.2.2:25 up, 10.0.2.3:25 up")
	s.stop()
}

// monitors returns the processes of that kind in the gateway.
func (s *salp) monitors() (pids []int) {
	all, err := s.r.net.Gateway.Inside()
	s.r.must(err)
	for _, pid := range all {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(name)) == "salp-monitor" {
			pids = append(pids, pid)
		}
	}
	return pids
}
