package test

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/lab"
)

// peer runs a program on a host until the test ends, with a file whose path its arguments name as FILE, and waits until it listens.
func (r *rig) peer(h *lab.Host, listens, file, text, name string, args ...string) {
	r.Helper()
	if _, err := exec.LookPath(name); err != nil {
		r.Skipf("skipped: needs the program %s as a peer", name)
	}
	path := filepath.Join(r.dir, file)
	r.must(os.WriteFile(path, []byte(text), 0o644))
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "FILE", path)
	}
	log := &lab.Log{}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	process, err := h.Start(cmd)
	r.must(err)
	r.Cleanup(func() {
		_ = process.Stop(time.Second)
		if r.Failed() {
			r.Logf("%s: %s", name, log)
		}
	})
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if c, err := h.Dial(listens); err == nil {
			c.Close()
			return
		} else if time.Now().After(end) {
			r.Fatalf("%s does not listen on %s: %s", name, listens, log)
		}
	}
}

// TestProxyProtocolPeers has HAProxy in front and HAProxy and nginx behind, in networks of their own: whoever is told, in whichever version, sees the client.
func TestProxyProtocolPeers(t *testing.T) {
	r := newRig(t, 3)
	r.must(r.net.Gateway.Forward())
	nginx, haproxy, front := r.net.Servers[0], r.net.Servers[1], r.net.Servers[2]
	r.peer(nginx, "10.0.2.2:8080", "nginx.conf", fmt.Sprintf(`daemon off; master_process off; pid %[1]s/nginx.pid; error_log stderr;
events {}
http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server { listen 10.0.2.2:8080 proxy_protocol; listen [fd00:2::2]:8080 proxy_protocol;
    set_real_ip_from 10.0.2.1; set_real_ip_from fd00:2::1; real_ip_header proxy_protocol;
    location / { return 200 "nginx $remote_addr $proxy_protocol_port $proxy_protocol_server_addr"; } } }
`, r.dir), "nginx", "-c", "FILE")
	const defaults = "defaults\n\tmode http\n\ttimeout connect 5s\n\ttimeout client 20s\n\ttimeout server 20s\n"
	r.peer(haproxy, "10.0.2.3:8080", "behind.cfg", defaults+`frontend behind
	bind 10.0.2.3:8080 accept-proxy
	bind [fd00:2::3]:8080 accept-proxy
	http-request return status 200 content-type text/plain lf-string "haproxy %[src] %[src_port] %[dst]"
`, "haproxy", "-db", "-f", "FILE")
	ways := []string{"send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority check check-send-proxy inter 100ms"}
	var cfg strings.Builder
	cfg.WriteString(strings.Replace(defaults, "http", "tcp", 1))
	for i, way := range ways {
		for j, to := range []string{"10.0.2.1:8100", "10.0.2.1:8101"} {
			n := 10*j + i
			fmt.Fprintf(&cfg, "listen front%d\n\tbind 10.0.2.4:%d\n\tbind [fd00:2::4]:%d\n\tunique-id-format %%{+X}o%%ci\n\tserver salp %s %s\n", n, 9000+n, 9000+n, to, way)
		}
	}
	for _, host := range []*lab.Host{nginx, haproxy} {
		_, err := host.Serve("[::]:80", lab.Tell)
		r.must(err)
	}
	s := r.start(`listeners:
  out: {listen: ["10.0.1.1:8000", "[fd00:1::1]:8000"], pool: told}
  in: {listen: ["10.0.2.1:8100"], source: client, proxy_protocol: {from: [10.0.2.4]}, pool: plain, limits: {per_client: 10}}
  through: {listen: ["10.0.2.1:8101"], proxy_protocol: {from: [10.0.2.4]}, pool: told}
pools:
  told: {check: {every: 100ms, timeout: 5s, http: {path: /, status: [200]}}, proxy_protocol: v2, servers: ["10.0.2.2:8080", {address: "10.0.2.3:8080", proxy_protocol: v1}]}
  plain: {servers: ["10.0.2.2:80", "10.0.2.3:80", "[fd00:2::2]:80"]}
`)
	r.peer(front, "10.0.2.4:9000", "front.cfg", cfg.String(), "haproxy", "-db", "-f", "FILE")
	s.await("with checks that passed through PROXY headers", func(st *admin.Status) bool {
		good := 0
		for _, server := range poolServers(st) {
			if server.Checked != nil && server.Checked.Error == "" && server.State == control.ServerUp {
				good++
			}
		}
		return good == 2
	})
	asked := map[string]bool{}
	get := func(from, to, dialled string) {
		t.Helper()
		c := r.dialFrom(netip.AddrPortFrom(netip.MustParseAddr(from), 0), to)
		defer c.Close()
		_, err := fmt.Fprint(c, "GET / HTTP/1.0\r\nHost: x\r\n\r\n")
		r.must(err)
		answer, err := io.ReadAll(c)
		r.must(err)
		_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
		who, told, _ := strings.Cut(body, " ")
		asked[who] = true
		if want := fmt.Sprintf("%s %d %s", from, lab.Local(c).Port(), dialled); told != want {
			t.Errorf("%s: %s was told %q, want %q", to, who, told, want)
		}
	}
	for range 2 { // one server each
		get("10.0.1.2", "10.0.1.1:8000", "10.0.1.1")
		get("fd00:1::2", "[fd00:1::1]:8000", "fd00:1::1")
	}
	for i := range ways {
		for range 2 {
			get("10.0.1.2", at("10.0.2.4", 9010+i), "10.0.2.4")
			get("fd00:1::2", at("fd00:2::4", 9010+i), "fd00:2::4")
		}
		for from, to := range map[string]string{"10.0.1.2": at("10.0.2.4", 9000+i), "fd00:1::2": at("fd00:2::4", 9000+i)} {
			v := &conversation{r: r, conn: r.dial(to)}
			v.read = bufio.NewReader(v.conn)
			if saw := v.told(); saw.From.Addr().String() != from {
				t.Errorf("%s %s: the server saw %s, want %s", ways[i], to, saw.From, from)
			}
			v.exchange("hello")
			v.conn.Close()
		}
	}
	if !asked["nginx"] || !asked["haproxy"] {
		t.Errorf("asked were %v", asked)
	}
	if _, err := r.probe("10.0.2.1:8100", patience); !isRefused(false, err) {
		t.Errorf("one who is not listed got %v; want a reset", err)
	}
	st := s.await("counting it", func(st *admin.Status) bool { return st.Listeners[1].Counters.Errors["proxy_header"] == 1 })
	if a, b := st.Pools[0].Servers[0].ProxyProtocol, st.Pools[0].Servers[1].ProxyProtocol; a != "v2" || b != "v1" {
		t.Errorf("status says that %q and %q are spoken", a, b)
	}
	s.stop()
}
