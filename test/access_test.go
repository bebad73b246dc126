package test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"salp/internal/admin"
	"salp/internal/lab"
)

// userLine makes a line of a file of users, as htpasswd -B writes it.
func userLine(t *testing.T, name, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return name + ":" + strings.Replace(string(hash), "$2a$", "$2y$", 1) + "\n"
}

// put writes a file of the configuration, as an editor does: a new one in the place of the old.
func (r *rig) put(name, text string) {
	r.Helper()
	file := filepath.Join(r.dir, name)
	r.must(os.WriteFile(file+".new", []byte(text), 0o600))
	r.must(os.Rename(file+".new", file))
}

// fetch sends one request on a connection of its own and returns the response. fields are lines of the header.
func (r *rig) fetch(to, line string, fields ...string) (*http.Response, string) {
	r.Helper()
	conn, err := r.net.Client().DialWith(to, lab.DialOptions{Timeout: patience})
	r.must(err)
	defer conn.Close()
	r.must(conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, line+" HTTP/1.1\r\n"+strings.Join(append(fields, "Connection: close"), "\r\n")+"\r\n\r\n")
	r.must(err)
	raw, err := io.ReadAll(conn)
	if len(raw) == 0 {
		return &http.Response{Status: fmt.Sprint("no response: ", err), Header: http.Header{}}, ""
	}
	head, body, _ := strings.Cut(string(raw), "\r\n\r\n")
	response := &http.Response{Header: http.Header{}}
	if _, err := fmt.Sscanf(head, "HTTP/1.1 %d", &response.StatusCode); err != nil {
		r.Fatalf("%q", head)
	}
	for _, field := range strings.Split(head, "\r\n")[1:] {
		name, value, _ := strings.Cut(field, ":")
		response.Header.Add(name, strings.TrimSpace(value))
	}
	return response, body
}

// typed answers every request with the media type that its path names.
func typed(w http.ResponseWriter, q *http.Request) {
	w.Header().Set("Content-Type", strings.TrimPrefix(q.URL.Path, "/"))
	fmt.Fprint(w, "content")
}

// TestAccessGateway: names and passwords, conditions on everything that a request and its response have, pages in the client's language, and what of it all
// changes while the gateway runs.
func TestAccessGateway(t *testing.T) {
	r := newRig(t, 1)
	l, err := r.net.Server().Listen("10.0.2.2:80", lab.ListenOptions{})
	r.must(err)
	server := &http.Server{Handler: http.HandlerFunc(typed)}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	r.put("users", userLine(t, "ann", "secret")+userLine(t, "bob", "secret"))
	r.put("bad.txt", ".bad.example\n")
	r.put("guests.txt", "10.0.1.2\n")
	r.must(os.Mkdir(filepath.Join(r.dir, "pages"), 0o755))
	now := time.Now().UTC()
	today, tomorrow := strings.ToLower(now.Weekday().String()[:3]), strings.ToLower(now.Add(24 * time.Hour).Weekday().String()[:3])
	s := r.start(fmt.Sprintf(`
listeners:
  web: {intercept: {interfaces: [g0], ports: [80]}, source: client, protocol: http, access: web, errors: {pages: pages}}
  proxy: {listen: ["10.0.1.1:3128"], protocol: http, access: proxy, auth: {basic: {file: users, realm: Office}}}
access:
  web:
    - deny: {content_type: ["video/*"]}
    - deny: {host: [list:bad], from: [list:guests]}
    - deny: {header: ["User-Agent: *evil*"]}
    - deny: {path: ["/now/*"], time: ["%[1]s UTC", "%[2]s 00:00-00:10 UTC"]}
    - deny: {path: ["/later/*"], not_time: ["%[1]s UTC", "%[2]s 00:00-00:10 UTC"]}
    - deny: {to: [10.0.2.3], path: ["/to/*"]}
    - deny: {method: [DELETE], not_host: [may.example]}
    - allow: {ports: [80], not_listener: [proxy]}
  proxy:
    - deny: {user: [bob], path: ["/private"]}
    - deny: {method: [CONNECT], not_user: [ann]}
    - allow: {user: ["*"]}
lists: {bad: {names: bad.txt}, guests: {addresses: guests.txt}}
logs: {access: {file: %[3]s/access.log, format: "%%>Hs %%un %%rm %%ru %%salp::rule %%err_code"}}
`, today, tomorrow, r.dir))
	web := "10.0.2.2:80"
	for _, c := range []struct {
		line   string
		fields []string
		status int
	}{
		{"GET /text/html", []string{"Host: good.example"}, 200}, {"GET /video/mp4", []string{"Host: good.example"}, 403}, {"GET /text/html", []string{"Host: x.bad.example"}, 403},
		{"GET /text/html", []string{"Host: good.example", "user-agent: very evil one"}, 403}, {"GET /now/x", []string{"Host: a"}, 403}, {"GET /later/x", []string{"Host: a"}, 200},
		{"GET /to/x", []string{"Host: a"}, 200}, {"DELETE /text/html", []string{"Host: a"}, 403}, {"DELETE /text/html", []string{"Host: MAY.example."}, 200},
	} {
		if response, body := r.fetch(web, c.line, c.fields...); response.StatusCode != c.status {
			t.Errorf("%s %q: %d %q, want %d", c.line, c.fields, response.StatusCode, body, c.status)
		}
	}
	r.pages(web)
	r.passwords("10.0.1.1:3128")
	r.wantLog(filepath.Join(r.dir, "access.log"), "403 - GET http://x.bad.example/text/html web[1] denied\n", "403 - GET http://good.example/video/mp4 web[0] response_denied\n",
		"407 - GET http://10.0.2.2/text/html - auth\n", "200 ann GET http://10.0.2.2/text/html proxy[2] -\n", "403 bob GET http://10.0.2.2/private proxy[0] denied\n",
		"403 bob CONNECT 10.0.2.2:80 proxy[1] denied\n", "200 ann CONNECT 10.0.2.2:80 proxy[2] -\n")

	// What changes is in force within seconds; what is wrong changes nothing and is told.
	status := func(to, line string, fields ...string) func() int {
		return func() int { response, _ := r.fetch(to, line, fields...); return response.StatusCode }
	}
	bad := status(web, "GET /text/html", "Host: x.bad.example")
	r.put("bad.txt", "two names here\n")
	r.awaitText(s.log, "two names here")
	if got := bad(); got != 403 {
		t.Errorf("after a wrong list: %d", got)
	}
	r.put("bad.txt", "other.example\n")
	r.becomes("a list of names", bad, 200)
	r.put("guests.txt", "")
	r.becomes("a list of addresses", status(web, "GET /text/html", "Host: other.example"), 200)
	ann := status("10.0.1.1:3128", "GET http://10.0.2.2/text/html", "Host: 10.0.2.2", basic("ann", "secret"))
	r.put("users", "ann:plain\n")
	r.awaitText(s.log, "not bcrypt")
	if got := ann(); got != 200 {
		t.Errorf("after a wrong file of users: %d", got)
	}
	r.put("users", userLine(t, "ann", "other"))
	r.becomes("a password", ann, 407)
	s.stop()
}

func basic(name, password string) string {
	return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

// becomes waits until a request gets another status.
func (r *rig) becomes(what string, status func() int, want int) {
	r.Helper()
	got := 0
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if got = status(); got == want {
			return
		}
	}
	r.Errorf("%s that changed: still %d, want %d", what, got, want)
}

// awaitText waits until a log has a text.
func (r *rig) awaitText(log fmt.Stringer, text string) {
	r.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if strings.Contains(log.String(), text) {
			return
		}
	}
	r.Errorf("the log has no %q:\n%s", text, log)
}

// pages looks at the pages that tell a client of a rule, and at those of the operator.
func (r *rig) pages(web string) {
	r.Helper()
	for language, text := range map[string]string{
		"en": "Not allowed here", "it": "", "pt": "", "es": "", "de": "", "fr": "", "zh": "", "ja;q=0.9, de;q=0.5": "",
	} {
		response, body := r.fetch(web, "GET /text/html", "Host: x.bad.example", "Accept-Language: "+language)
		want, _, _ := strings.Cut(strings.TrimPrefix(language, "ja;q=0.9, "), ";")
		if response.Header.Get("Content-Language") != want || !strings.Contains(body, `lang="`+want+`"`) || !strings.Contains(body, text) || !strings.Contains(body, "web[1]") {
			r.Errorf("%s: %v\n%s", language, response.Header, body)
		}
	}
	response, body := r.fetch(web, "GET /text/html", "Host: x.bad.example", "Accept: application/json", "Accept-Language: fr")
	var problem struct {
		Status                int
		Cause, Rule, Instance string
	}
	if err := json.Unmarshal([]byte(body), &problem); err != nil || response.Header.Get("Content-Type") != "application/problem+json" || problem.Status != 403 ||
		problem.Cause != "denied" || problem.Rule != "web[1]" || problem.Instance != "http://x.bad.example/text/html" {
		r.Errorf("%v %v\n%s", response.Header, err, body)
	}
	own := func(language string) func() int {
		return func() int {
			if _, body := r.fetch(web, "GET /text/html", "Host: x.bad.example", "Accept-Language: "+language); body == "own "+language+" http://x.bad.example/text/html" {
				return 1
			}
			return 0
		}
	}
	r.put("pages/403.html", "own en {{url}}")
	r.put("pages/403.it.html", "own it {{url}}")
	r.becomes("a page of the operator", own("en"), 1)
	r.becomes("a page in another language", own("it"), 1)
}

// passwords asks the proxy, with a real client where there is one.
func (r *rig) passwords(proxy string) {
	r.Helper()
	for _, c := range []struct {
		line, field string
		status      int
	}{
		{"GET http://10.0.2.2/text/html", "X: y", 407}, {"GET http://10.0.2.2/text/html", basic("ann", "wrong"), 407}, {"GET http://10.0.2.2/text/html", basic("eve", "secret"), 407},
		{"GET http://10.0.2.2/text/html", basic("ann", "secret"), 200}, {"GET http://10.0.2.2/private", basic("bob", "secret"), 403}, {"CONNECT 10.0.2.2:80", basic("bob", "secret"), 403},
	} {
		response, body := r.fetch(proxy, c.line, "Host: 10.0.2.2", c.field)
		if response.StatusCode != c.status || (response.Header.Get("Proxy-Authenticate") == `Basic realm="Office", charset="UTF-8"`) != (c.status == 407) {
			r.Errorf("%s %s: %d %v %q, want %d", c.line, c.field, response.StatusCode, response.Header, body, c.status)
		}
	}
	if _, err := exec.LookPath("curl"); err != nil {
		r.Log("no curl: a tunnel with a password is not asked for by it")
		return
	}
	for _, c := range []struct{ who, want string }{{"ann:secret", "200 200"}, {"bob:secret", "000 403"}, {"ann:no", "000 407"}} {
		out, _ := r.net.Client().Run(r.Context(), "curl", "-s", "-o", "/dev/null", "-w", "%{http_code} %{http_connect}", "-p", "-x", "http://"+proxy, "-U", c.who, "http://10.0.2.2/text/html")
		if out != c.want {
			r.Errorf("curl as %s: %q, want %q", c.who, out, c.want)
		}
	}
}

// TestAccessLogForms: what each form tells of a request that was carried, of one that was not, and of a tunnel.
func TestAccessLogForms(t *testing.T) {
	r := newRig(t, 1)
	r.serve(80, lab.HTTP(100))
	const when = `\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2} [+-]\d{4}`
	file := filepath.Join(r.dir, "access.log")
	for _, c := range []struct {
		format string
		lines  []string
	}{
		{"squid", []string{
			`\d{10}\.\d{3} +\d+ 10\.0\.1\.2 TCP_MISS/200 \d+ GET http://10\.0\.2\.2/a%20b - HIER_DIRECT/10\.0\.2\.2 application/octet-stream`,
			`\d{10}\.\d{3} +\d+ 10\.0\.1\.2 TCP_DENIED/403 \d+ GET http://10\.0\.2\.2/no - HIER_NONE/- -`,
			`\d{10}\.\d{3} +\d+ 10\.0\.1\.2 TCP_TUNNEL/200 \d+ CONNECT 10\.0\.2\.2:80 - HIER_DIRECT/10\.0\.2\.2 -`}},
		{"common", []string{`10\.0\.1\.2 - - \[` + when + `\] "GET http://10\.0\.2\.2/a%20b HTTP/1\.1" 200 \d+`, `10\.0\.1\.2 - - \[` + when + `\] "GET http://10\.0\.2\.2/no HTTP/1\.1" 403 \d+`,
			`10\.0\.1\.2 - - \[` + when + `\] "CONNECT 10\.0\.2\.2:80 HTTP/1\.1" 200 \d+`}},
		{"combined", []string{`10\.0\.1\.2 - - \[` + when + `\] "GET http://10\.0\.2\.2/a%20b HTTP/1\.1" 200 \d+ "http://ref\.example/" "it's \\"me\\" \\xE9"`,
			`10\.0\.1\.2 - - \[` + when + `\] "GET http://10\.0\.2\.2/no HTTP/1\.1" 403 \d+ "http://ref\.example/" "it's \\"me\\" \\xE9"`, `.* "CONNECT 10\.0\.2\.2:80 HTTP/1\.1" 200 \d+ "http://ref\.example/" .*`}},
		{"json", []string{`\{"time":"\d{4}-\d{2}-\d{2}T[0-9:.]+Z","duration_ms":\d+,"listener":"proxy","client":"10\.0\.1\.2:\d+","dialled":"10\.0\.1\.1:3128","server":"10\.0\.2\.2:80","method":"GET",` +
			`"url":"http://10\.0\.2\.2/a%20b","version":"1\.1","status":200,"server_status":200,"bytes_in":\d+,"bytes_out":\d+,"media_type":"application/octet-stream","action":"TCP_MISS","rule":"a\[1\]"\}`,
			`.*"status":403,"bytes_in":\d+,"bytes_out":\d+,"action":"TCP_DENIED","rule":"a\[0\]","cause":"denied"\}`, `.*"method":"CONNECT","url":"10\.0\.2\.2:80".*"action":"TCP_TUNNEL".*`}},
		{"%sn %>rd %>rP %rp %{X-A}>h %{Content-Type}<h %Sh %salp::listener", []string{`1 10\.0\.2\.2 80 /a%20b x application/octet-stream HIER_DIRECT proxy`, `2 10\.0\.2\.2 80 /no x - HIER_NONE proxy`, `3 10\.0\.2\.2 80 - x - HIER_DIRECT proxy`}},
	} {
		r.must(os.RemoveAll(file))
		format, err := json.Marshal(c.format)
		r.must(err)
		s := r.start(fmt.Sprintf("listeners: {proxy: {listen: [\"10.0.1.1:3128\"], protocol: http, access: a}}\naccess: {a: [{deny: {path: [/no]}}, {allow: {}}]}\nlogs: {access: {file: %s, format: %s}}\n", file, format))
		for i, line := range []string{"GET http://10.0.2.2/a%20b", "GET http://10.0.2.2/no", "CONNECT 10.0.2.2:80"} {
			conn := r.dial("10.0.1.1:3128")
			_, err := io.WriteString(conn, line+" HTTP/1.1\r\nHost: 10.0.2.2\r\nReferer: http://ref.example/\r\nUser-Agent: it's \"me\" \xe9\r\nX-A: x\r\nConnection: close\r\n\r\n")
			r.must(err)
			if i == 2 {
				r.must(conn.CloseWrite())
			}
			_, err = io.Copy(io.Discard, conn)
			r.must(err)
			conn.Close()
			var text []byte
			for end := time.Now().Add(patience); strings.Count(string(text), "\n") <= i && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				text, _ = os.ReadFile(file)
			}
			lines := strings.Split(string(text), "\n")
			if !regexp.MustCompile("^" + c.lines[i] + "$").MatchString(lines[min(i, len(lines)-1)]) {
				t.Errorf("%s: line %d of\n%s\nwant %s", c.format, i+1, text, c.lines[i])
			}
		}
		s.stop()
	}
}

// TestAccessLogLost: whoever reads the log may stand still, or its disk be full: traffic goes on, memory is bounded, and what is lost is counted and told.
func TestAccessLogLost(t *testing.T) {
	r := newRig(t, 1)
	r.serve(80, lab.HTTP(10))
	pipe := filepath.Join(r.dir, "pipe")
	r.must(syscall.Mkfifo(pipe, 0o600))
	reader, err := os.OpenFile(pipe, os.O_RDONLY|syscall.O_NONBLOCK, 0) // and never reads
	r.must(err)
	defer reader.Close()
	for _, file := range []string{pipe, "/dev/full"} {
		s := r.start("listeners: {web: {intercept: {interfaces: [g0], ports: [80]}, protocol: http, http: {limits: {line: 32KiB, head: 64KiB}}}}\nlogs: {access: {file: " + file + ", format: json}}\n")
		conn := r.dial("10.0.2.2:80")
		pad, in := strings.Repeat("x", 7000), make([]byte, 64<<10)
		const requests = 1000
		began := time.Now()
		go func() {
			for range requests {
				if _, err := fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nHost: a\r\n\r\n", pad); err != nil {
					return
				}
			}
			_ = conn.CloseWrite()
		}()
		answers := 0
		for {
			n, err := conn.Read(in)
			answers += strings.Count(string(in[:n]), "HTTP/1.1 200")
			if err != nil {
				break
			}
		}
		if took := time.Since(began); answers < requests*99/100 || took > 5*time.Second*slowdown {
			t.Errorf("%s: %d answers in %v", file, answers, took)
		}
		s.await("counting lost lines", func(st *admin.Status) bool {
			lost := uint64(0)
			for _, w := range st.Workers {
				lost += w.LogLost
			}
			return lost > 100
		})
		r.awaitText(s.log, "lines of the access log are lost")
		if out, code := r.command("status", "--run-dir", s.dir); code != 0 || !strings.Contains(out, "of the access log lost") {
			t.Errorf("status: %d\n%s", code, out)
		}
		if n := strings.Count(s.log.String(), "access log"); n > 5 {
			t.Errorf("told %d times:\n%s", n, s.log)
		}
		s.stop()
	}
}
