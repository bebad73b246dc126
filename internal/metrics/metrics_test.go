package metrics

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"salp/internal/admin"
	"salp/internal/control"
)

var update = flag.Bool("update", false, "rewrite docs/metrics.md")

// full is a status that has something of everything.
func full() *admin.Status {
	server := admin.PoolServer{
		Name: "mx.example.org:25", Address: "10.0.2.2:25", State: control.ServerDown, Weight: 3, MaxConnections: 9, Downs: 2, Connections: 70, Active: 7, Retries: 4,
		BytesIn: 700, BytesOut: 7000, Errors: map[string]uint64{control.ErrorConnectRefused: 5}, Checked: &admin.Checked{Took: 0.25, Error: "refused"},
	}
	return &admin.Status{
		Version: "v1", Since: time.UnixMilli(1500), Generation: 4, Alive: true, Restarts: 2,
		Reloads: admin.Reloads{Good: 3, Refused: 1}, Reload: &admin.Reload{}, Upgrade: &admin.Upgrade{Number: 2},
		Workers: []admin.Worker{
			{State: admin.WorkerRunning, Version: "v1", Connections: 5}, {State: admin.WorkerDraining, Version: "v0", Connections: 2}, {State: admin.WorkerDraining, Version: "v0", Connections: 1},
		},
		Listeners: []admin.Listener{{Name: "mail", Mode: "explicit", Source: "client", Pool: "mail", Limits: admin.Limits{Connections: 100, PerClient: 10, Rate: 50, ClientRate: 5},
			Counters: control.Listener{Accepted: 80, Active: 8, BytesIn: 800, BytesOut: 8000, Retries: 6, PortKept: 60, PortFallbacks: 3, Errors: map[string]uint64{control.ErrorIdle: 1}}}},
		Pools:    []admin.Pool{{Name: "mail", Servers: []admin.PoolServer{server}, Queued: 1, QueueTimeouts: 2, QueueFull: 3, NoServer: 4}},
		Links:    []admin.Link{{Name: "isp", Up: true, Weight: 5, RTT: 0.01, Loss: 0.5, Downs: 1, Flows: 10, BytesIn: 20, BytesOut: 30}},
		Linkless: &admin.Linkless{Refused: 3, Dropped: 4},
		Kernel:   admin.Kernel{Needed: true, Repaired: 6, Error: "refused"},
	}
}

func page(t *testing.T, source Source) (int, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, nil, source, slog.New(slog.DiscardHandler)) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	response, err := http.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestPage(t *testing.T) {
	code, text := page(t, func(context.Context) (*admin.Status, error) { return full(), nil })
	if code != http.StatusOK {
		t.Fatalf("status %d: %s", code, text)
	}
	for _, want := range []string{
		`salp_info{version="v1"} 1`,
		`salp_start_time_seconds 1.5`,
		`salp_reloads_total{outcome="refused"} 1`,
		`salp_last_reload_success 0`,
		`salp_upgrades_total 2`,
		`salp_workers{state="draining",version="v0"} 2`,
		`salp_worker_connections{state="draining",version="v0"} 3`,
		`salp_kernel_repairs_total 6`,
		`salp_kernel_faulty 1`,
		`salp_listener_info{listener="mail",mode="explicit",pool="mail",source="client"} 1`,
		`salp_listener_connections_total{listener="mail"} 80`,
		`salp_listener_errors_total{kind="idle",listener="mail"} 1`,
		`salp_listener_limit_connections_per_client{listener="mail"} 10`,
		`salp_pool_servers{pool="mail",state="down"} 1`,
		`salp_pool_servers{pool="mail",state="up"} 0`,
		`salp_pool_no_server_total{pool="mail"} 4`,
		`salp_server_up{address="10.0.2.2:25",pool="mail",server="mx.example.org:25"} 0`,
		`salp_server_state{address="10.0.2.2:25",pool="mail",server="mx.example.org:25",state="down"} 1`,
		`salp_server_errors_total{address="10.0.2.2:25",kind="connect_refused",pool="mail",server="mx.example.org:25"} 5`,
		`salp_server_check_duration_seconds{address="10.0.2.2:25",pool="mail",server="mx.example.org:25"} 0.25`,
		`salp_link_loss_ratio{link="isp"} 0.5`,
		`salp_link_bytes_out_total{link="isp"} 30`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("the page lacks %s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	if code, text := page(t, func(context.Context) (*admin.Status, error) { return nil, errors.New("it sleeps") }); code != 503 || !strings.Contains(text, "it sleeps") {
		t.Errorf("without a status: %d %s", code, text)
	}
}

// What nobody counts has no value: connections are counted, bytes are not.
func TestOffloadedBytes(t *testing.T) {
	_, text := page(t, func(context.Context) (*admin.Status, error) {
		s := full()
		s.Listeners[0].Offloaded, s.Pools[0].Servers[0].Offloaded = true, true
		return s, nil
	})
	for _, name := range []string{"salp_listener_bytes_in_total{", "salp_listener_bytes_out_total{", "salp_server_bytes_in_total{", "salp_server_bytes_out_total{"} {
		if strings.Contains(text, "\n"+name) {
			t.Errorf("there is a %s...}", name)
		}
	}
	if !strings.Contains(text, "\nsalp_server_connections_total{") || !strings.Contains(text, "\nsalp_listener_connections_total{") {
		t.Errorf("connections are not there:\n%s", text)
	}
}

// The page is as Prometheus' own linter wants it, and every metric has a value in a full status.
func TestLint(t *testing.T) {
	gatherer, err := Gather(full())
	if err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(gatherer)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	got, err := gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names, want []string
	for _, f := range got {
		names = append(names, f.GetName())
	}
	for _, f := range families {
		want = append(want, f.name)
	}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("the page has\n%q\nthe table\n%q", names, want)
	}
}

func TestEmptyStatus(t *testing.T) {
	gatherer, err := Gather(&admin.Status{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gatherer.Gather(); err != nil {
		t.Error(err)
	}
}

func TestDocumentation(t *testing.T) {
	const file = "../../docs/metrics.md"
	if *update {
		if err := os.WriteFile(file, Reference(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Reference()) {
		t.Errorf("%s is not what the table makes: run  go test ./internal/metrics -update", file)
	}
	known := map[string]bool{}
	for _, f := range families {
		known[f.name] = true
	}
	for _, name := range regexp.MustCompile(`salp_[a-z_]+`).FindAllString(string(got), -1) {
		if !known[name] {
			t.Errorf("%s names %s, which is no metric", file, name)
		}
	}
}

func TestOnlyTheChosenReadIt(t *testing.T) {
	for _, c := range []struct {
		from []netip.Prefix
		want bool
	}{
		{nil, true},
		{[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, true},
		{[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}, false},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_ = Serve(ctx, l, c.from, func(context.Context) (*admin.Status, error) { return full(), nil }, slog.New(slog.DiscardHandler))
		}()
		for range mostReaders + 5 { // a place that is not given back would be missed
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
			response, err := client.Get("http://" + l.Addr().String() + "/")
			if (err == nil) != c.want {
				t.Errorf("from %v: %v", c.from, err)
			}
			if err == nil {
				response.Body.Close()
			}
		}
		cancel()
	}
}

// Every kind of error that there is stands in the documentation.
func TestKindsAreDocumented(t *testing.T) {
	source, err := os.ReadFile("../control/control.go")
	if err != nil {
		t.Fatal(err)
	}
	page := string(Reference())
	kinds := regexp.MustCompile(`(?m)^\tError[A-Za-z]+ += "([a-z_]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(kinds) < 20 {
		t.Fatalf("found only %d kinds", len(kinds))
	}
	for _, k := range kinds {
		if !strings.Contains(page, "`"+k[1]+"`") {
			t.Errorf("kind %s is not documented", k[1])
		}
	}
}
