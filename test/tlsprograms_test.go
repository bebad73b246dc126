package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"salp/internal/lab"
)

// nginxTLS serves documents by TLS on the server's port 443, and takes uploads below /put/.
func (r *rig) nginxTLS(docs, certificate string) {
	r.Helper()
	conf := fmt.Sprintf(`daemon off; pid %[1]s/nginx.pid; error_log %[1]s/nginx.log; worker_processes 1; user root;
events {}
http { access_log off; client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s; client_max_body_size 0;
 server { listen 443 ssl; ssl_certificate %[1]s/%[3]s.pem; ssl_certificate_key %[1]s/%[3]s.key; ssl_protocols TLSv1.2 TLSv1.3; root %[2]s;
  location /put/ { dav_methods PUT; create_full_put_path on; } location /never/ { return 444; } } }`, r.dir, docs, certificate)
	r.peer(r.net.Server(), "10.0.2.2:443", "nginx.conf", conf, "nginx", "-c", "FILE", "-p", r.dir, "-e", filepath.Join(r.dir, "nginx.log"))
}

// TestTLSPrograms has real clients speak TLS to a real server: passed through by name, and ended here and made anew, by HTTP/1.1 and HTTP/2, with TLS 1.2 and 1.3.
func TestTLSPrograms(t *testing.T) {
	for _, program := range []string{"curl", "wget", "openssl", "nginx"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("skipped: needs %s", program)
		}
	}
	r := newRig(t, 1)
	docs := filepath.Join(r.dir, "docs")
	r.must(os.MkdirAll(filepath.Join(docs, "put"), 0o755))
	large := bytes.Repeat([]byte("0123456789abcdef"), 5<<16)
	r.must(os.WriteFile(filepath.Join(docs, "large"), large, 0o644))
	front, back := r.writeCertificate("front", "www.example"), r.writeCertificate("back", "www.example")
	r.must(os.WriteFile(filepath.Join(r.dir, "front.roots"), front, 0o644))
	r.must(os.WriteFile(filepath.Join(r.dir, "back.roots"), back, 0o644))
	r.put("roots.pem", string(front))
	r.nginxTLS(docs, "back")
	r.put("users", userLine(t, "ann", "secret"))
	r.serve(80, lab.HTTP(10))
	s := r.start(fmt.Sprintf(`
listeners:
  www:
    listen: ["10.0.1.1:443"]
    source: client
    protocol: http
    pool: p
    tls: {certificates: [{certificate: front.pem, key: front.key}]}
    upstream_tls: {authorities: roots.pem}
  proxy: {listen: ["10.0.1.1:3129"], protocol: http, access: hosts, auth: {basic: {file: users}}, tls: {certificates: [{certificate: front.pem, key: front.key}]}}
  passed: {intercept: {interfaces: [g0], ports: [443]}, source: client, source_port: keep, protocol: tls, access: names}
pools: {p: {servers: ["10.0.2.2:443"]}}
access: {names: [{allow: {sni: [www.example]}}], hosts: [{allow: {user: [ann], ports: [80, 443]}}]}
logs: {access: {file: %s/access.log, format: "%%>Hs %%rm %%ru %%err_code"}}
`, r.dir))
	run := func(program string, args ...string) (string, error) {
		out, err := r.net.Client().Run(r.Context(), program, args...)
		return out, err
	}
	got := filepath.Join(r.dir, "got")
	fetch := func() int {
		out, _ := run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", filepath.Join(r.dir, "front.roots"), "--resolve", "www.example:443:10.0.1.1", "https://www.example/large")
		status, _ := strconv.Atoi(out)
		return status
	}
	if status := fetch(); status != 502 {
		t.Errorf("a server that the roots do not know: %d", status)
	}
	r.put("roots.pem", string(back))
	r.becomes("roots", fetch, 200)
	for _, way := range []struct{ name, to, roots string }{{"ended", "10.0.1.1", "front.roots"}, {"passed", "10.0.2.2", "back.roots"}} {
		roots := filepath.Join(r.dir, way.roots)
		curl := []string{"-sSf", "--cacert", roots, "--resolve", "www.example:443:" + way.to}
		for _, how := range [][]string{{"--http1.1", "--tls-max", "1.2"}, {"--http1.1", "--tlsv1.3"}, {"--http2", "--tls-max", "1.2"}, {"--http2", "--tlsv1.3"}} {
			what := fmt.Sprint(way.name, how)
			version, err := run("curl", append(append(curl, how...), "-w", "%{http_version}\\n", "-o", got, "https://www.example/large?a", "-o", got+"2", "https://www.example/large?b")...)
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			want := "1.1\n"
			if how[0] == "--http2" && way.name == "ended" { // this nginx offers HTTP/1.1 alone
				want = "2\n"
			}
			for _, file := range []string{got, got + "2"} {
				if b, readErr := os.ReadFile(file); readErr != nil || !bytes.Equal(b, large) {
					t.Errorf("%s: %d bytes, %v", what, len(b), readErr)
				}
				_ = os.Remove(file)
			}
			if version != want+want {
				t.Errorf("%s: versions %q", what, version)
			}
			put := filepath.Join(docs, "put", "x")
			if _, err := run("curl", append(append(curl, how...), "-T", filepath.Join(docs, "large"), "https://www.example/put/x")...); err != nil {
				t.Errorf("%s: upload: %v", what, err)
			}
			if b, err := os.ReadFile(put); err != nil || !bytes.Equal(b, large) {
				t.Errorf("%s: %d bytes were uploaded, %v", what, len(b), err)
			}
			_ = os.Remove(put) // nothing there was reported above
		}
		if out, err := run("openssl", "s_client", "-connect", way.to+":443", "-servername", "www.example", "-CAfile", roots, "-verify_return_error", "-brief"); err != nil {
			t.Errorf("%s: openssl: %v\n%s", way.name, err, out)
		}
	}
	// A proxy that is spoken to by TLS: a request of its own, and a tunnel to what is TLS again.
	through := []string{"-sSf", "-o", got, "-w", "%{http_code} %{http_connect}", "--proxy", "https://www.example:3129", "--proxy-cacert", filepath.Join(r.dir, "front.roots"),
		"--resolve", "www.example:3129:10.0.1.1", "--proxy-user", "ann:secret"}
	for url, want := range map[string]string{"http://10.0.2.2/": "200 000", "https://10.0.2.2/large": "200 200"} {
		if out, err := run("curl", append(through, "-k", url)...); err != nil || out != want {
			t.Errorf("%s by a proxy by TLS: %q, %v", url, out, err)
		}
	}
	if _, err := run("wget", "-q", "-O", got, "--no-check-certificate", "https://10.0.1.1/large"); err == nil {
		t.Error("the server has no certificate for 10.0.1.1, and yet it is asked")
	}
	if out, err := run("curl", "-sS", "--cacert", filepath.Join(r.dir, "front.roots"), "--resolve", "www.example:443:10.0.1.1", "-H", "Host: other.example", "https://www.example/large"); err != nil || !strings.Contains(out, "server_tls") {
		t.Errorf("a server whose certificate is for another name: %v\n%.300s", err, out)
	}
	if out, err := run("curl", "-sS", "--cacert", filepath.Join(r.dir, "front.roots"), "--resolve", "www.example:443:10.0.1.1", "https://www.example/never/"); err != nil || !strings.Contains(out, "reset") {
		t.Errorf("a server that closes: %v\n%.300s", err, out)
	}
	if _, err := run("curl", "-sSk", "--resolve", "other.example:443:10.0.2.2", "https://other.example/"); err == nil {
		t.Error("a name that is not allowed passes")
	}
	r.wantLog(filepath.Join(r.dir, "access.log"), "201 PUT https://www.example/put/x -\n", "502 GET https://10.0.1.1/large server_tls\n", "200 GET http://10.0.2.2/ -\n", "200 CONNECT 10.0.2.2:443 -\n", "0 NONE www.example:443 -\n", "0 NONE other.example:443 denied\n")
	s.stop()
}
