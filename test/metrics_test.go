package test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/lab"
)

// scrape reads the page as Prometheus does, from a host.
func (r *rig) scrape(h *lab.Host, at string) (map[string]float64, error) {
	conn, err := h.DialWith(at, lab.DialOptions{Timeout: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "GET /metrics HTTP/1.0\r\nHost: gateway\r\n\r\n"); err != nil {
		return nil, err
	}
	var page strings.Builder
	if _, err := io.Copy(&page, conn); err != nil {
		return nil, err
	}
	head, body, _ := strings.Cut(page.String(), "\r\n\r\n")
	if !strings.Contains(head, " 200 ") {
		return nil, fmt.Errorf("the page is %q", page.String())
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	all := map[string]float64{}
	for name, f := range families {
		for _, m := range f.Metric {
			key := name
			for _, l := range m.Label {
				key += " " + l.GetName() + "=" + l.GetValue()
			}
			all[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return all, nil
}

// TestMetrics reads the page over reloads, an upgrade, a killed worker and a killed monitor: no counter goes back, and what stands there is documented.
func TestMetrics(t *testing.T) {
	r := newRig(t, 2)
	_, err := r.net.Servers[0].Serve("[::]:80", lab.Tell)
	r.must(err)
	stopped, err := r.net.Servers[1].Serve("[::]:80", lab.Tell)
	r.must(err)
	configuration := `drain: 5s
metrics: {listen: "10.0.1.1:9101", from: [10.0.1.0/24]}
listeners:
  in: {intercept: {interfaces: [g0], ports: [80]}, source: proxy}
  web: {listen: ["10.0.1.1:8000"], pool: web, limits: {connections: 100}}
  fast: {listen: ["10.0.1.1:8001"], via: kernel, source: client, pool: fast}
pools:
  web: {servers: ["10.0.2.2:80", "10.0.2.3:80"], check: {every: 200ms}}
  fast: {servers: ["10.0.2.2:80", {address: "10.0.2.3:80", weight: 2}]}
`
	s := r.start(configuration)
	last := map[string]float64{}
	read := func(when string) map[string]float64 {
		t.Helper()
		var all map[string]float64
		var err error
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if all, err = r.scrape(r.net.Client(), "10.0.1.1:9101"); err == nil {
				break
			}
		}
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		for key, value := range all {
			name, _, _ := strings.Cut(key, " ")
			if strings.HasSuffix(name, "_total") && value < last[key] {
				t.Errorf("%s: %s went back from %v to %v", when, key, last[key], value)
			}
		}
		for key := range last {
			if name, _, _ := strings.Cut(key, " "); strings.HasSuffix(name, "_total") {
				if _, there := all[key]; !there {
					t.Errorf("%s: %s is gone", when, key)
				}
			}
		}
		last = all
		return all
	}
	connect := func() {
		t.Helper()
		for _, to := range []string{"10.0.2.2:80", "10.0.1.1:8000", "10.0.1.1:8000", "10.0.1.1:8001"} {
			v, _ := r.tell(to)
			v.conn.Close()
		}
		time.Sleep(600 * time.Millisecond) // two beats, so that the keeper has the counters
	}
	connect()
	all := read("at first")
	for key, want := range map[string]float64{
		"salp_up": 1,
		"salp_listener_connections_total listener=in":                                   1,
		"salp_listener_connections_total listener=web":                                  2,
		"salp_listener_limit_connections listener=web":                                  100,
		"salp_server_connections_total address=10.0.2.2:80 pool=web server=10.0.2.2:80": 1,
		"salp_server_connections_total address=10.0.2.3:80 pool=web server=10.0.2.3:80": 1,
		"salp_pool_servers pool=web state=up":                                           2,
		"salp_generation":                                                               1,
	} {
		if got, there := all[key]; !there || got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	if conn, err := r.net.Server().DialWith("10.0.1.1:9101", lab.DialOptions{Timeout: 2 * time.Second}); err == nil {
		r.must(conn.SetDeadline(time.Now().Add(5 * time.Second)))
		_, _ = conn.Write([]byte("GET /metrics HTTP/1.0\r\n\r\n"))
		if n, err := conn.Read(make([]byte, 100)); err == nil {
			t.Errorf("a host that may not read the page reads %d bytes of it", n)
		}
		conn.Close()
	}
	for i := range 2 {
		r.writeConfig(strings.Replace(configuration, "weight: 2", fmt.Sprintf("weight: %d", 3+i), 1))
		r.must(s.Signal(syscall.SIGHUP))
		s.await("reloaded", func(st *admin.Status) bool { return st.Generation == uint64(i+2) })
		connect()
		read("after a reload")
	}
	for _, state := range []string{"maint", "ready"} { // which are no downs
		if out, code := r.command("pool", "web/10.0.2.3:80", state, "--run-dir", s.dir); code != 0 {
			t.Fatalf("salp pool: %s", out)
		}
	}
	stopped.Close()
	for end := time.Now().Add(patience); last["salp_server_downs_total address=10.0.2.3:80 pool=web server=10.0.2.3:80"] != 1; read("after a server went down") {
		if time.Now().After(end) {
			t.Fatal("a server that went down is not counted")
		}
	}
	_, err = r.net.Servers[1].Serve("[::]:80", lab.Tell)
	r.must(err)
	s.await("with both servers", func(st *admin.Status) bool { return st.Pools[0].Servers[1].State == control.ServerUp })
	if out, code := r.command("upgrade", "--run-dir", s.dir, salpBin); code != 0 {
		t.Fatalf("salp upgrade: %s", out)
	}
	connect()
	read("after an upgrade")
	r.kill(s.worker(), syscall.SIGKILL)
	s.await("with another worker", func(st *admin.Status) bool { return st.Restarts == 1 && st.Alive })
	connect()
	read("after the worker was killed")
	r.kill(r.processNamed("salp-monitor"), syscall.SIGKILL)
	connect()
	all = read("after the monitor was killed")
	if n := all["salp_listener_connections_total listener=web"]; n != 12 {
		t.Errorf("%v connections are counted in all, want 12", n)
	}
	if n := all["salp_listener_connections_total listener=fast"]; n != 6 {
		t.Errorf("%v connections by the kernel are counted in all, want 6", n)
	}
	documented, err := os.ReadFile("../docs/metrics.md")
	r.must(err)
	for key := range all {
		if name, _, _ := strings.Cut(key, " "); !regexp.MustCompile("`" + name + "`").Match(documented) {
			t.Errorf("%s is not documented", name)
		}
	}
	// Without the key the page goes, and with another address it moves.
	r.writeConfig(strings.Replace(configuration, "10.0.1.1:9101", "10.0.1.1:9102", 1))
	r.must(s.Signal(syscall.SIGHUP))
	s.await("reloaded", func(st *admin.Status) bool { return st.Generation == 5 })
	if _, err := r.scrape(r.net.Client(), "10.0.1.1:9102"); err != nil {
		t.Errorf("the page has not moved: %v", err)
	}
	if _, err := r.net.Client().DialWith("10.0.1.1:9101", lab.DialOptions{Timeout: time.Second}); err == nil {
		t.Error("the page is still where it was")
	}
	s.stop()
}

// processNamed finds a process of the gateway by its name.
func (r *rig) processNamed(name string) int {
	r.Helper()
	pids, err := r.net.Gateway.Inside()
	r.must(err)
	for _, pid := range pids {
		comm, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "comm"))
		if err == nil && strings.TrimSpace(string(comm)) == name {
			return pid
		}
	}
	r.Fatalf("there is no process %s", name)
	return 0
}
