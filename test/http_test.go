package test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// tellHTTP answers every request with whom it comes from, whom it was for, and its head.
func tellHTTP(c *net.TCPConn) {
	r := bufio.NewReader(c)
	for {
		var head strings.Builder
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if head.WriteString(line); line == "\r\n" {
				break
			}
		}
		text := fmt.Sprintf("%s\n%s", lab.Peer{From: lab.Remote(c), To: lab.Local(c)}, head.String())
		if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nserver:lab\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(text), text); err != nil {
			return
		}
	}
}

// TestHTTPModes: for every mode and family, whom each side sees of two requests on one connection, that the head is what was sent, that a
// server that speaks first is understood, and what a server that refuses looks like.
func TestHTTPModes(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			r := newRig(t, 1)
			m.more = "    protocol: http\n"
			r.serve(portTell, tellHTTP)
			r.serve(portBanner, lab.Banner("220 speak when spoken to\r\n"))
			s := r.start(m.config(portTell, portBanner, portClosed))
			for _, f := range families {
				t.Run(f.name, func(t *testing.T) {
					c := modeCase{&rig{T: t, net: r.net, dir: r.dir, salp: s}, m, f, s}
					c.requests()
					if !m.listen {
						c.banner()
					}
					c.refusedHTTP()
				})
			}
			st := s.await("counting requests", func(st *admin.Status) bool {
				return sum(st, func(l admin.Listener) uint64 { return l.Counters.Requests }) >= 4
			})
			if reused := sum(st, func(l admin.Listener) uint64 { return l.Counters.Reused }); reused < 2 {
				t.Errorf("%d requests had a connection that was there, want at least 2", reused)
			}
		})
	}
}

func (c modeCase) requests() {
	c.Helper()
	conn := c.dial(c.to(portTell))
	read := bufio.NewReader(conn)
	for i := range 2 {
		head := fmt.Sprintf("GET /%d HTTP/1.1\r\nhOST: %s\r\nx-A:  b\r\n\r\n", i, c.to(portTell))
		_, err := io.WriteString(conn, head)
		c.must(err)
		response, err := http.ReadResponse(read, nil)
		c.must(err)
		body, err := io.ReadAll(response.Body)
		c.must(err)
		line, got, _ := strings.Cut(string(body), "\n")
		seen, err := lab.ParseTold(line)
		c.must(err)
		c.mode.wantSeen(c.rig, c.f, lab.Local(conn), seen, portTell)
		if got != head {
			c.Errorf("the server got %q, want %q", got, head)
		}
	}
}

func (c modeCase) refusedHTTP() {
	c.Helper()
	if c.mode.method != "" && c.mode.source == "client" { // as it would be without us
		c.refused(portClosed, "connect_refused")
		return
	}
	conn := c.dial(c.to(portClosed))
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.must(err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	c.must(err)
	if response.StatusCode != 502 {
		c.Errorf("the server refuses, the client gets %s", response.Status)
	}
}

// officeWeb starts the example as it stands, with web servers behind it.
func officeWeb(t *testing.T) (*rig, *salp) {
	r := newRig(t, 1)
	r.serve(80, tellHTTP)
	r.serve(443, lab.Tell)
	return r, r.startOfficeWeb()
}

// startOfficeWeb starts the example; only its log is not to lie where the tests run.
func (r *rig) startOfficeWeb() *salp {
	r.Helper()
	text, err := os.ReadFile("../examples/office-web.yaml")
	r.must(err)
	return r.start(strings.Replace(string(text), "file: access.log", "file: "+filepath.Join(r.dir, "access.log"), 1))
}

func TestOfficeWebExample(t *testing.T) {
	r, s := officeWeb(t)
	ask := func(to, request string) (int, string) {
		conn := r.dial(to)
		_, err := io.WriteString(conn, request)
		r.must(err)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		r.must(err)
		body, err := io.ReadAll(response.Body)
		r.must(err)
		return response.StatusCode, string(body)
	}
	for _, f := range families {
		web := at(f.server, 80)
		status, body := ask(web, "GET / HTTP/1.1\r\nHost: www.example\r\nConnection: close\r\n\r\n")
		if status != 200 || !strings.Contains(body, f.client) {
			t.Errorf("%s: %d %q, want the client's address seen", f.name, status, body)
		}
		if status, body = ask(web, "GET / HTTP/1.1\r\nHost: x.ads.example\r\n\r\n"); status != 403 {
			t.Errorf("%s: %d %q, want 403", f.name, status, body)
		}
	}
	proxy := "10.0.1.1:3128"
	status, body := ask(proxy, "GET http://10.0.2.2/x HTTP/1.1\r\nHost: 10.0.2.2\r\nConnection: close\r\n\r\n")
	if status != 200 || !strings.Contains(body, "10.0.2.1") || !strings.Contains(body, "GET /x HTTP/1.1\r\nHost: 10.0.2.2\r\n\r\n") {
		t.Errorf("through the proxy: %d %q", status, body)
	}
	if status, _ = ask(proxy, "CONNECT 10.0.2.2:25 HTTP/1.1\r\nHost: a\r\n\r\n"); status != 403 {
		t.Errorf("CONNECT to port 25: %d, want 403", status)
	}
	if status, body = ask(proxy, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); status != 400 || !strings.Contains(body, "<html") {
		t.Errorf("a proxy taken for a web server: %d %q", status, body)
	}
	conn := r.dial(proxy)
	_, err := io.WriteString(conn, "CONNECT 10.0.2.2:443 HTTP/1.1\r\nHost: 10.0.2.2:443\r\n\r\n")
	r.must(err)
	read := bufio.NewReader(conn)
	if response, err := http.ReadResponse(read, &http.Request{Method: "CONNECT"}); err != nil || response.StatusCode != 200 {
		t.Fatalf("CONNECT: %v %v", response, err)
	}
	if line, err := read.ReadString('\n'); err != nil || !strings.Contains(line, "10.0.2.2:443") {
		t.Errorf("in the tunnel: %q %v", line, err)
	}
	conn.Close()
	r.wantLog(filepath.Join(r.dir, "access.log"), "TCP_MISS/200", "TCP_DENIED/403", "GET http://www.example/", "CONNECT 10.0.2.2:443", "TCP_TUNNEL/200")
	s.stop()
}

// wantLog waits until a file has all these texts.
func (r *rig) wantLog(file string, texts ...string) {
	r.Helper()
	var log string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		b, err := os.ReadFile(file)
		if log = string(b); err != nil {
			continue
		}
		missing := false
		for _, text := range texts {
			missing = missing || !strings.Contains(log, text)
		}
		if !missing {
			return
		}
	}
	r.Errorf("%s has not all of %q:\n%s", file, texts, log)
}

// TestHTTPDrain: a reload under load loses no request. Clients keep their connections as long as they are let.
func TestHTTPReload(t *testing.T) {
	r := newRig(t, 1)
	r.serve(80, tellHTTP)
	m := modeNamed("full-any")
	m.more = "    protocol: http\n"
	s := r.start(m.config(80))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	results := make(chan error, 4)
	for i := range cap(results) {
		go func() { results <- r.ask(ctx, families[i%2]) }()
	}
	for range 3 {
		time.Sleep(200 * time.Millisecond)
		before := s.await("there", serves).Generation
		if out, code := r.command("reload", "--run-dir", s.dir); code != 0 {
			t.Fatalf("reload: %d %s", code, out)
		}
		s.await("reloaded", func(st *admin.Status) bool { return serves(st) && st.Generation > before })
	}
	cancel()
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// ask sends requests until ctx ends, one after the other, and repeats none but those that a connection that was kept had no answer to.
func (r *rig) ask(ctx context.Context, f family) error {
	var conn *net.TCPConn
	var read *bufio.Reader
	fresh := false
	for n := 0; ctx.Err() == nil; n++ {
		if conn == nil {
			var err error
			if conn, err = r.net.Client().Dial(at(f.server, 80)); err != nil {
				return err
			}
			read, fresh = bufio.NewReader(conn), true
		}
		response, err := (*http.Response)(nil), error(nil)
		if _, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err == nil {
			response, err = http.ReadResponse(read, nil)
		}
		if err != nil {
			if fresh {
				return fmt.Errorf("request %d, the first of its connection: %w", n, err)
			}
			conn.Close()
			conn = nil
			continue
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != 200 {
			return fmt.Errorf("request %d: %s, %w", n, response.Status, err)
		}
		if fresh = false; response.Close {
			conn.Close()
			conn = nil
		}
	}
	return nil
}

// TestHTTPPrograms has real clients fetch from a real server, taken in and through the explicit proxy.
func TestHTTPPrograms(t *testing.T) {
	for _, program := range []string{"curl", "wget", "git", "nginx", "apt-get"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("skipped: needs %s", program)
		}
	}
	r := newRig(t, 1)
	docs := filepath.Join(r.dir, "docs")
	r.must(os.MkdirAll(docs, 0o755))
	large := make([]byte, 5<<20)
	for i := range large {
		large[i] = byte(i * 7 >> 3)
	}
	r.must(os.WriteFile(filepath.Join(docs, "large"), large, 0o644))
	r.repositories(docs)
	r.nginx(docs)
	r.startOfficeWeb()
	client := r.runClient
	same := func(file string) {
		t.Helper()
		if got, err := os.ReadFile(filepath.Join(r.dir, file)); err != nil || string(got) != string(large) {
			t.Errorf("%s: %d bytes, %v", file, len(got), err)
		}
	}
	for _, way := range [][]string{nil, {"http_proxy=http://10.0.1.1:3128"}} {
		client(way, "curl", "-sSf", "-o", filepath.Join(r.dir, "a"), "http://10.0.2.2/large", "-o", filepath.Join(r.dir, "b"), "http://10.0.2.2/large?again")
		same("a")
		same("b")
		client(way, "curl", "-sSf", "-T", filepath.Join(docs, "large"), "-H", "Expect: 100-continue", "http://10.0.2.2/put/"+fmt.Sprint(len(way)))
		client(way, "wget", "-q", "-O", filepath.Join(r.dir, "c"), "http://10.0.2.2/large")
		same("c")
		clone := filepath.Join(r.dir, fmt.Sprint("clone", len(way)))
		client(way, "git", "clone", "-q", "http://10.0.2.2/project.git", clone)
		if _, err := os.Stat(filepath.Join(clone, "file")); err != nil {
			t.Error(err)
		}
	}
	client([]string{"http_proxy=http://10.0.1.1:3128"}, "curl", "-sSf", "-p", "-o", "/dev/null", "http://10.0.2.2:443/large") // through CONNECT
	apt := filepath.Join(r.dir, "apt")
	r.must(os.MkdirAll(filepath.Join(apt, "lists", "partial"), 0o755))
	r.must(os.WriteFile(filepath.Join(apt, "sources.list"), []byte("deb [trusted=yes] http://10.0.2.2/apt ./\n"), 0o644))
	client(nil, "apt-get", "update", "-o", "Acquire::http::Proxy=http://10.0.1.1:3128", "-o", "Dir::State::lists="+apt+"/lists", "-o", "Dir::Etc::sourcelist="+apt+"/sources.list",
		"-o", "Dir::Etc::sourceparts=-", "-o", "Dir::Cache="+apt, "-o", "APT::Sandbox::User=root", "-o", "APT::Update::Error-Mode=any", "-o", "Acquire::Languages=none")
	if found, err := filepath.Glob(filepath.Join(apt, "lists", "*Packages*")); err != nil || len(found) == 0 {
		t.Errorf("apt has fetched no list of packages: %v", err)
	}
}

// runClient runs a program on the client until it ends, which must be well. env is added to its environment.
func (r *rig) runClient(env []string, name string, args ...string) {
	r.Helper()
	cmd := exec.Command("env", append(append(slices.Clone(env), "HOME="+r.dir, name), args...)...)
	cmd.Dir = r.dir
	out := &lab.Log{}
	cmd.Stdout, cmd.Stderr = out, out
	p, err := r.net.Client().Start(cmd)
	r.must(err)
	select {
	case <-p.Done():
	case <-time.After(time.Minute):
		_ = p.Stop(time.Second)
		r.Errorf("%s does not end", name)
	}
	if err := p.Wait(); err != nil {
		r.Errorf("%v %s %q: %v\n%s", env, name, args, err, out)
	}
}

// repositories puts a git repository and one of packages among the documents.
func (r *rig) repositories(docs string) {
	r.Helper()
	work := filepath.Join(r.dir, "work")
	script := fmt.Sprintf(`set -e; export HOME=%[1]s GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example
git init -q %[2]s; cd %[2]s; echo hello > file; git add file; git commit -qm one; git clone -q --bare %[2]s %[3]s/project.git; cd %[3]s/project.git; git update-server-info
mkdir %[3]s/apt; cd %[3]s/apt; printf 'Package: nothing\nVersion: 1\nArchitecture: all\nMaintainer: a\nFilename: ./n.deb\nSize: 1\nDescription: nothing\n\n' > Packages`, r.dir, work, docs)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		r.Fatalf("repositories: %v\n%s", err, out)
	}
	r.must(filepath.WalkDir(docs, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return os.Chmod(path, 0o644)
	}))
}

// nginx serves documents on the server's ports 80 and 443, without TLS, and takes uploads.
func (r *rig) nginx(docs string) {
	r.Helper()
	conf := fmt.Sprintf(`daemon off; pid %[1]s/nginx.pid; error_log %[1]s/nginx.log; worker_processes 1; user root;
events {}
http { access_log off; client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s; client_max_body_size 0;
 server { listen 80; listen 443; root %[2]s; location /put/ { dav_methods PUT; create_full_put_path on; } } }`, r.dir, docs)
	r.peer(r.net.Server(), "10.0.2.2:80", "nginx.conf", conf, "nginx", "-c", "FILE", "-p", r.dir, "-e", filepath.Join(r.dir, "nginx.log"))
}
