package test

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

//go:embed testdata/client.js
var nodeClient string

//go:embed testdata/server.js
var nodeServer string

//go:embed testdata/websocket.py
var webSocketPeer string

const pythonProgram = "/usr/bin/python3" // Debian's, for which python3-websockets is

// TestHTTPServers has real clients ask real servers of other makes than nginx: taken in with the clients' addresses, and through the explicit proxy.
func TestHTTPServers(t *testing.T) {
	r := newRig(t, 4)
	s := r.startOfficeWeb()
	docs := filepath.Join(r.dir, "docs")
	r.must(os.MkdirAll(docs, 0o755))
	large := strings.Repeat("0123456789abcdef", 3<<16)
	r.must(os.WriteFile(filepath.Join(docs, "large"), []byte(large), 0o644))
	for _, test := range []struct {
		name     string
		programs []string
		run      func(r *rig, docs string, ways [][]string)
	}{
		{"Apache", []string{"apache2", "git", "curl"}, (*rig).askApache},
		{"Python", []string{pythonProgram, "wget", "curl"}, (*rig).askPython},
		{"Node.js", []string{"node"}, (*rig).askNode},
		{"WebSocket", []string{pythonProgram}, (*rig).askWebSocket},
		{"browser", []string{"chromium", pythonProgram}, (*rig).askByBrowser},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, program := range test.programs {
				if _, err := exec.LookPath(program); err != nil {
					t.Skipf("skipped: needs %s", program)
				}
			}
			again := *r
			again.T = t
			test.run(&again, docs, [][]string{nil, {"http_proxy=http://10.0.1.1:3128"}})
		})
	}
	st := s.await("there", serves)
	if bad := sum(st, func(l admin.Listener) uint64 {
		return l.Counters.Errors["bad_request"] + l.Counters.Errors["bad_response"] + l.Counters.Errors["truncated"]
	}); bad != 0 {
		t.Errorf("%d messages of real programs were refused: %+v", bad, st.Listeners)
	}
}

// startServer starts a program on a server and waits until it takes connections.
func (r *rig) startServer(host *lab.Host, to, name string, args ...string) {
	r.Helper()
	if c, err := r.net.Gateway.Dial(to); err == nil { // another test has
		c.Close()
		return
	}
	log := &lab.Log{}
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.dir, log, log
	p, err := host.Start(cmd)
	r.must(err)
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		c, err := r.net.Gateway.Dial(to)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-p.Done():
			r.Fatalf("%s has ended:\n%s", name, log)
		default:
		}
		if time.Now().After(end) {
			r.Fatalf("%s does not serve: %v\n%s", name, err, log)
		}
	}
}

func (r *rig) sameFile(file, as string) {
	r.Helper()
	got, err := os.ReadFile(file)
	r.must(err)
	want, err := os.ReadFile(as)
	r.must(err)
	if string(got) != string(want) {
		r.Errorf("%s: %d bytes, not the %d that it should have", file, len(got), len(want))
	}
}

// askApache fetches, and clones, pushes and fetches a git repository by git's own protocol over HTTP.
func (r *rig) askApache(docs string, ways [][]string) {
	for _, dir := range []string{"git", "apache"} {
		r.must(os.MkdirAll(filepath.Join(r.dir, dir), 0o755))
	}
	conf := fmt.Sprintf(`ServerRoot /usr/lib/apache2
ServerName server
PidFile %[1]s/apache/pid
DefaultRuntimeDir %[1]s/apache
ErrorLog %[1]s/apache/error.log
Listen 80
KeepAlive On
LoadModule mpm_event_module modules/mod_mpm_event.so
LoadModule authz_core_module modules/mod_authz_core.so
LoadModule alias_module modules/mod_alias.so
LoadModule env_module modules/mod_env.so
LoadModule cgid_module modules/mod_cgid.so
ScriptSock %[1]s/apache/cgi
DocumentRoot %[2]s
SetEnv GIT_PROJECT_ROOT %[1]s/git
SetEnv GIT_HTTP_EXPORT_ALL 1
SetEnv REMOTE_USER somebody
SetEnv HOME %[1]s
ScriptAlias /git/ /usr/lib/git-core/git-http-backend/
<Directory />
Require all granted
</Directory>
`, r.dir, docs)
	file := filepath.Join(r.dir, "apache.conf")
	r.must(os.WriteFile(file, []byte(conf), 0o644))
	script := fmt.Sprintf(`set -e; export HOME=%[1]s; git config --global user.name a; git config --global user.email a@example; git config --global safe.directory '*'
git init -q --bare %[1]s/git/p.git; chmod -R a+rwX %[1]s/git %[1]s/.gitconfig`, r.dir)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		r.Fatalf("git: %v\n%s", err, out)
	}
	r.must(os.Chown(filepath.Join(r.dir, "apache"), 1, 1)) // daemon, as which it runs here
	r.startServer(r.net.Servers[0], "10.0.2.2:80", "apache2", "-f", file, "-D", "FOREGROUND")
	for i, way := range ways {
		out := filepath.Join(r.dir, fmt.Sprint("apache", i))
		r.runClient(way, "curl", "-sSf", "-o", out, "http://10.0.2.2/large")
		r.sameFile(out, filepath.Join(docs, "large"))
		r.runClient(way, "curl", "-sSf", "-r", "100-199", "-o", out, "http://10.0.2.2/large")
		if b, err := os.ReadFile(out); err != nil || len(b) != 100 {
			r.Errorf("a range: %d bytes, %v", len(b), err)
		}
		clone := filepath.Join(r.dir, fmt.Sprint("work", i))
		r.runClient(way, "sh", "-ec", fmt.Sprintf(`git clone -q http://10.0.2.2/git/p.git %[1]s 2>&1; cd %[1]s; git checkout -q -B b%[2]d; head -c 3000000 /dev/urandom > file%[2]d
git add .; git commit -qm %[2]d; git push -q origin b%[2]d; git fetch -q; git clone -q -b b%[2]d http://10.0.2.2/git/p.git %[1]s.again; cmp file%[2]d %[1]s.again/file%[2]d`, clone, i))
	}
}

// askPython fetches from a server of HTTP/1.0, which ends its connections.
func (r *rig) askPython(docs string, ways [][]string) {
	r.startServer(r.net.Servers[1], "10.0.2.3:80", pythonProgram, "-m", "http.server", "80", "--directory", docs)
	for i, way := range ways {
		out := filepath.Join(r.dir, fmt.Sprint("python", i))
		r.runClient(way, "wget", "-q", "-O", out, "http://10.0.2.3/large")
		r.sameFile(out, filepath.Join(docs, "large"))
		r.runClient(way, "curl", "-sSf", "-o", out, "http://10.0.2.3/large", "-o", out+"b", "http://10.0.2.3/large")
		r.sameFile(out+"b", filepath.Join(docs, "large"))
	}
}

func (r *rig) askNode(_ string, _ [][]string) {
	client, server := filepath.Join(r.dir, "client.js"), filepath.Join(r.dir, "server.js")
	r.must(os.WriteFile(client, []byte(nodeClient), 0o644))
	r.must(os.WriteFile(server, []byte(nodeServer), 0o644))
	r.startServer(r.net.Servers[2], "10.0.2.4:80", "node", server)
	r.runClient(nil, "node", client, "10.0.2.4")
	r.runClient(nil, "node", client, "10.0.2.4", "10.0.1.1:3128")
}

func (r *rig) askWebSocket(_ string, _ [][]string) {
	if exec.Command(pythonProgram, "-c", "import websockets").Run() != nil {
		r.Skip("skipped: needs python3-websockets")
	}
	peer := filepath.Join(r.dir, "websocket.py")
	r.must(os.WriteFile(peer, []byte(webSocketPeer), 0o644))
	r.startServer(r.net.Servers[3], "10.0.2.5:80", pythonProgram, peer, "serve")
	r.runClient(nil, pythonProgram, peer, "ask", "10.0.2.5")
	r.runClient(nil, pythonProgram, peer, "ask", "10.0.2.5", "10.0.1.1:3128")
}

// askByBrowser has a browser load a page with what belongs to it, and write down what its script has found.
func (r *rig) askByBrowser(docs string, _ [][]string) {
	r.must(os.WriteFile(filepath.Join(docs, "style.css"), []byte("p { width: 123px }"), 0o644))
	r.must(os.WriteFile(filepath.Join(docs, "page.html"), []byte(`<!doctype html><link rel=stylesheet href=style.css><p id=p>not yet</p><script>
Promise.all([...Array(12).keys()].map(i => fetch('style.css?' + i).then(a => a.text()))).then(all => { const p = document.getElementById('p');
p.textContent = 'fetched ' + all.filter(t => t.includes('123px')).length + ', ' + getComputedStyle(p).width; });</script>`), 0o644))
	r.startServer(r.net.Servers[1], "10.0.2.3:80", pythonProgram, "-m", "http.server", "80", "--directory", docs)
	for i, way := range []string{"--no-proxy-server", "--proxy-server=10.0.1.1:3128"} {
		out := filepath.Join(r.dir, fmt.Sprint("dom", i))
		r.runClient(nil, "sh", "-ec", fmt.Sprintf("chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking --user-data-dir=%s/chromium%d "+
			"--timeout=20000 --virtual-time-budget=10000 --dump-dom %s http://10.0.2.3/page.html > %s", r.dir, i, way, out))
		if b, err := os.ReadFile(out); err != nil || !strings.Contains(string(b), "fetched 12, 123px") {
			r.Errorf("%s: the browser shows %q %v", way, b, err)
		}
	}
}
