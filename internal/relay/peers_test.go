package relay_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salp/internal/config"
	"salp/internal/lab"
)

// peer runs a program in the foreground until the test ends, and waits until it listens.
func peer(t *testing.T, listens string, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("skipped: %s is not installed (make test installs it)", name)
	}
	cmd := exec.Command(path, args...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", listens); err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatalf("%s does not listen on %s: %s", name, listens, said.String())
		}
	}
}

// freeAddress is one that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

const haproxyDefaults = "defaults\n\tmode tcp\n\ttimeout connect 5s\n\ttimeout client 20s\n\ttimeout server 20s\n"

// HAProxy in front tells who the client is, in either version, IPv4 and IPv6, and its health checks too.
func TestHAProxySends(t *testing.T) {
	lab.NeedInside(t)
	for _, test := range []struct{ send, front, client string }{
		{"send-proxy", "127.0.0.1", "127.50.0.1"}, {"send-proxy-v2", "127.0.0.1", "127.50.0.2"}, {"send-proxy-v2", "[::1]", "::1"}, {"send-proxy", "[::1]", "::1"},
		{"send-proxy-v2 proxy-v2-options unique-id check check-send-proxy inter 50ms", "127.0.0.1", "127.50.0.3"},
	} {
		t.Run(test.send+" "+test.front, func(t *testing.T) {
			l := believing("127.0.0.1/32", true)
			l.Source, l.SourcePort = config.SourceClient, config.SourcePortAny
			listen, server := "127.0.0.1:0", "127.0.0.9:0"
			if test.front == "[::1]" {
				l, listen, server = believing("::1/128", true), "[::1]:0", "[::1]:0"
				l.Source, l.SourcePort = config.SourceClient, config.SourcePortKeep
			}
			g := start(t, gatewayOptions{listener: l, listen: listen, servers: []string{serve(t, server, lab.Tell)}})
			_, port, _ := net.SplitHostPort(freeAddress(t))
			front := test.front + ":" + port
			cfg := file(t, "haproxy.cfg", haproxyDefaults+fmt.Sprintf("listen front\n\tbind %s\n\tunique-id-format %%{+X}o%%ci\n\tserver salp %s %s\n", front, g.addr, test.send))
			peer(t, front, "haproxy", "-db", "-f", cfg)
			c := dialFrom(t, netip.AddrPortFrom(netip.MustParseAddr(test.client), 0).String(), front)
			saw := told(t, c)
			if saw.Addr().String() != test.client {
				t.Errorf("the server saw %s, want the client %s", saw, test.client)
			}
			if test.front == "[::1]" && saw != lab.Local(c) {
				t.Errorf("the server saw %s, want the client's port too: %s", saw, lab.Local(c))
			}
		})
	}
}

// HAProxy behind reads what Salp tells it, in either version.
func TestHAProxyReceives(t *testing.T) {
	lab.NeedInside(t)
	for _, version := range []config.ProxyHeader{config.ProxyHeaderV1, config.ProxyHeaderV2} {
		t.Run(string(version), func(t *testing.T) {
			last := serve(t, "127.0.0.1:0", lab.Tell)
			back := freeAddress(t)
			// usesrc clientip: HAProxy then connects from the address that it was told.
			cfg := file(t, "haproxy.cfg", haproxyDefaults+fmt.Sprintf("listen back\n\tbind %s accept-proxy\n\tsource 0.0.0.0 usesrc clientip\n\tserver last %s\n", back, last))
			peer(t, back, "haproxy", "-db", "-f", cfg)
			g := start(t, gatewayOptions{pool: config.Pool{ProxyProtocol: version, Servers: []config.Server{{Address: netip.MustParseAddrPort(back), Weight: 1}}}})
			if saw := told(t, dialFrom(t, "127.51.0.1:0", g.addr)); saw.Addr().String() != "127.51.0.1" {
				t.Errorf("behind HAProxy the server saw %s", saw)
			}
		})
	}
}

// nginx with real_ip takes the client that Salp tells for the one that speaks to it.
func TestNginxReceives(t *testing.T) {
	lab.NeedInside(t)
	for _, version := range []config.ProxyHeader{config.ProxyHeaderV1, config.ProxyHeaderV2} {
		t.Run(string(version), func(t *testing.T) {
			back := freeAddress(t)
			dir := t.TempDir()
			cfg := file(t, "nginx.conf", fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error;
events {}
http {
	access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	server {
		listen %[2]s proxy_protocol;
		set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;
		location / { return 200 "$remote_addr $proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port"; }
	}
}
`, dir, back))
			peer(t, back, "nginx", "-p", dir, "-c", cfg)
			g := start(t, gatewayOptions{pool: config.Pool{ProxyProtocol: version, Servers: []config.Server{{Address: netip.MustParseAddrPort(back), Weight: 1}}}})
			c := dialFrom(t, "127.52.0.1:0", g.addr)
			write(t, c, "GET / HTTP/1.0\r\nHost: x\r\n\r\n")
			answer, err := io.ReadAll(c)
			if err != nil {
				t.Fatal(err)
			}
			_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
			if want := fmt.Sprintf("127.52.0.1 %s %s", lab.Local(c), g.addr); body != want {
				t.Errorf("nginx says %q, want %q", body, want)
			}
		})
	}
}
