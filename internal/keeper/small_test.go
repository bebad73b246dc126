package keeper

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/config"
	"salp/internal/control"
)

func TestAgenda(t *testing.T) {
	a, now := agenda{}, time.Now()
	if wait := a.next(now); wait <= 0 {
		t.Errorf("an empty agenda is due in %v", wait)
	}
	a.at(taskPulse, now.Add(time.Second))
	a.at(taskRepair, now.Add(3*time.Second))
	a.atLatest(taskRepair, now.Add(2*time.Second))
	a.atLatest(taskRepair, now.Add(9*time.Second))
	if wait := a.next(now); wait != time.Second {
		t.Errorf("next in %v", wait)
	}
	if task, due := a.take(now); due {
		t.Errorf("%s is due too early", task)
	}
	var order []task
	for _, later := range []time.Duration{time.Second, 2 * time.Second, 10 * time.Second} {
		if task, due := a.take(now.Add(later)); due {
			order = append(order, task)
		}
	}
	if !slices.Equal(order, []task{taskPulse, taskRepair}) {
		t.Errorf("order: %v", order)
	}
	a.at(taskWatch, now)
	a.drop(taskWatch)
	if _, due := a.take(now.Add(time.Hour)); due {
		t.Error("a dropped task is due")
	}
}

func TestLogFollowsTheConfiguration(t *testing.T) {
	var out bytes.Buffer
	sink := newLogSink(&out, config.Logs{Format: config.LogText, Level: "warn"})
	log := sink.logger().With("worker", 7).WithGroup("g").With("a", 1)
	log.Info("not seen")
	log.Warn("seen")
	if got := out.String(); strings.Contains(got, "not seen") || !strings.Contains(got, "msg=seen worker=7 g.a=1") {
		t.Errorf("text: %q", got)
	}
	out.Reset()
	sink.set(config.Logs{Format: config.LogJSON, Level: "debug"})
	log.Debug("now seen")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["msg"] != "now seen" || line["worker"] != 7.0 {
		t.Errorf("JSON: %q, %v", out.String(), err)
	}
}

func TestWorkerLogIsRelayed(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))
	last := &lastWords{}
	input := `{"time":"2026-01-01T00:00:00Z","level":"INFO","msg":"hello","b":2,"a":"x"}` + "\n" +
		`{"level":"DEBUG","msg":"hidden"}` + "\n" +
		`{"level":"ERROR","msg":"failed","error":"no loop"}` + "\n" +
		"panic: boom\n\tsome/place.go:3\n" + strings.Repeat("y", 3*maxLine) + "\nlast without end"
	relayLog(io.NopCloser(strings.NewReader(input)), log, last)
	got := out.String()
	for _, want := range []string{"level=INFO msg=hello a=x b=2", "level=ERROR msg=failed error=\"no loop\"", "level=ERROR msg=\"worker wrote\" line=\"panic: boom\"", "last without end"} {
		if !strings.Contains(got, want) {
			t.Errorf("the log lacks %q:\n%.2000s", want, got)
		}
	}
	if strings.Contains(got, "hidden") || len(got) > 2*maxLine {
		t.Errorf("the log has what it should not, in %d bytes", len(got))
	}
	if last.text() != "panic: boom" {
		t.Errorf("last words: %q", last.text())
	}
}

func TestWorkerCannotFloodTheLog(t *testing.T) {
	var out bytes.Buffer
	relayLog(io.NopCloser(strings.NewReader(strings.Repeat("{\"level\":\"ERROR\",\"msg\":\"x\"}\n", 100_000))), slog.New(slog.NewTextHandler(&out, nil)), &lastWords{})
	if lines := bytes.Count(out.Bytes(), []byte("\n")); lines > 10*linesPerSecond {
		t.Errorf("%d lines were logged", lines)
	}
}

func TestTotalsNeverGoBack(t *testing.T) {
	cfg := &config.Config{Listeners: []*config.Listener{{Name: "a"}, {Name: "b"}}}
	sums := totals{}
	ended := &worker{cfg: cfg, stats: control.Stats{"a": {Accepted: 3, Active: 2, BytesIn: 10, Errors: map[string]uint64{control.ErrorIdle: 1, "junk": 7}}, "strange": {Accepted: 1}}}
	sums.add(ended)
	living := []*worker{{cfg: cfg, stats: control.Stats{"a": {Accepted: 1, Active: 1, Errors: map[string]uint64{control.ErrorIdle: 2}}}}}
	got := sums.of("a", living)
	if got.Accepted != 4 || got.Active != 1 || got.BytesIn != 10 || got.Errors[control.ErrorIdle] != 3 || len(got.Errors) != 1 {
		t.Errorf("total: %+v", got)
	}
	if _, has := sums["strange"]; has {
		t.Error("a worker's word made a listener")
	}
	sums.forget(&config.Config{Listeners: cfg.Listeners[1:]})
	if len(sums) != 0 {
		t.Errorf("not forgotten: %v", sums)
	}
}

func TestConfigFileIsSealed(t *testing.T) {
	fd, err := configFile(&config.Config{Text: []byte("listeners: {}\n")})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 100)
	n, err := unix.Read(fd, buf)
	if err != nil || string(buf[:n]) != "listeners: {}\n" {
		t.Errorf("holds %q, %v", buf[:n], err)
	}
	if _, err := unix.Pwrite(fd, []byte("x"), 0); err == nil {
		t.Error("a worker could change what the next one reads")
	}
}

func TestSocketsOfRemovedPlacesClose(t *testing.T) {
	cfg, err := config.Parse("salp.yaml", []byte("listeners: {web: {listen: [\"127.0.0.1:8200\", \"127.0.0.1:8201\"], source: proxy, pool: web}}\npools: {web: {servers: [\"127.0.0.1:1\"]}}\nworkers: 3\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := sockets{}
	groups := groupsOf(cfg, nil, true)
	opened, err := s.fill(cfg, groups)
	if err != nil || len(opened) != 2 || len(groups[0].fds) != 3 {
		t.Fatalf("opened %v, %v", opened, err)
	}
	if again, err := s.fill(cfg, groups); err != nil || len(again) != 0 {
		t.Errorf("opened again: %v, %v", again, err)
	}
	if !s.holds(groups[1].address) {
		t.Error("an open socket is not known")
	}
	s.keep(groups[:1])
	if _, err := net.Dial("tcp", "127.0.0.1:8201"); err == nil {
		t.Error("a removed place still listens")
	}
	if c, err := net.Dial("tcp", "127.0.0.1:8200"); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	s.keep(nil)
	if len(s) != 0 {
		t.Errorf("left: %v", s)
	}
}

func TestSystemdIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "400000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	r := start(t, explicit, newFakeKernel())
	told := make(chan string, 100)
	go func() {
		buf := make([]byte, 1000)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				close(told)
				return
			}
			told <- string(buf[:n])
		}
	}()
	expect := func(want string) {
		t.Helper()
		late := time.After(5 * time.Second)
		for {
			select {
			case text := <-told:
				if strings.Contains(text, want) {
					return
				}
			case <-late:
				t.Fatalf("systemd is not told %q", want)
			}
		}
	}
	expect("READY=1\nSTATUS=listeners: 1, generation: 1")
	expect("WATCHDOG=1")
	if _, err := r.reloadNow(); err != nil {
		t.Fatal(err)
	}
	expect("RELOADING=1\nMONOTONIC_USEC=")
	expect("READY=1\nSTATUS=listeners: 1, generation: 2")
	r.stop()
	expect("STOPPING=1")
}

func TestPoolTotalsGrowOverWorkers(t *testing.T) {
	cfg, err := config.Parse("salp.yaml", []byte("listeners: {web: {listen: [\"127.0.0.1:8080\"], pool: web}}\npools: {web: {servers: [\"127.0.0.1:8081\"]}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	address := netip.MustParseAddrPort("127.0.0.1:8081")
	w := &worker{cfg: cfg, servers: []control.ServerStats{
		{Pool: "web", Server: "127.0.0.1:8081", Address: address, Connections: 5, Active: 2, Errors: map[string]uint64{control.ErrorConnectRefused: 1, "made up": 9}},
		{Pool: "web", Server: "made up", Connections: 9}, {Pool: "made up", Server: "127.0.0.1:8081"},
	}, pools: []control.PoolStats{{Pool: "web", Queued: 3, NoServer: 4}, {Pool: "made up"}}}
	totals := newPoolTotals()
	totals.add(w)
	all := totals.all([]*worker{w})
	got := all.of("web", "127.0.0.1:8081")
	if len(all.servers) != 1 || len(all.pools) != 1 || len(got) != 1 {
		t.Fatalf("counted %+v", all)
	}
	if s := got[0]; s.Connections != 10 || s.Active != 2 || len(s.Errors) != 1 || s.Errors[control.ErrorConnectRefused] != 2 {
		t.Errorf("server: %+v", s)
	}
	if p := all.pools["web"]; p.Queued != 3 || p.NoServer != 8 {
		t.Errorf("pool: %+v", p)
	}
	cfg.Pools = nil
	totals.forget(cfg)
	if len(totals.servers)+len(totals.pools) > 0 {
		t.Errorf("not forgotten: %+v", totals)
	}
}
