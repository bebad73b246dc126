package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"salp/internal/control"
)

type fakeGateway struct {
	err     error
	stopped bool
}

func (f *fakeGateway) Status(context.Context) (Status, error) {
	return Status{Version: "v1", State: StateRunning, Listeners: []Listener{{Name: "web", Mode: Mode(true, false),
		Counters: control.Listener{Accepted: 5, Errors: map[string]uint64{control.ErrorIdle: 1}}}}}, f.err
}
func (f *fakeGateway) Reload(context.Context) (uint64, error) { return 2, f.err }
func (f *fakeGateway) SetServer(_ context.Context, w ServerWish) (ServerChange, error) {
	if w.Server != "web/10.0.2.2:80" {
		return ServerChange{}, fmt.Errorf("there is no server %s", w.Server)
	}
	return ServerChange{Pool: "web", Server: "10.0.2.2:80", State: w.State, Servers: 2, Up: 1}, nil
}

func (f *fakeGateway) SetLink(_ context.Context, w LinkWish) (LinkAnswer, error) {
	if w.Link != "fibre" {
		return LinkAnswer{}, fmt.Errorf("there is no link %s", w.Link)
	}
	return LinkAnswer{State: w.State, Up: 1, Links: 2}, nil
}

func (f *fakeGateway) Upgrade(context.Context, string) (UpgradeAnswer, error) {
	return UpgradeAnswer{}, f.err
}
func (f *fakeGateway) Stop(context.Context) error { f.stopped = true; return f.err }

func serve(t *testing.T, gateway Gateway) (string, *Server) {
	t.Helper()
	dir := t.TempDir()
	s, err := Serve(dir, gateway, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return dir, s
}

func TestClientAsksServer(t *testing.T) {
	gateway := &fakeGateway{}
	dir, server := serve(t, gateway)
	info, err := os.Stat(SocketPath(dir))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("socket: %v, %v", info, err)
	}
	client, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	status, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if l := status.Listeners[0]; l.Mode != "inbound transparent" || l.Counters.Accepted != 5 || l.Counters.Errors[control.ErrorIdle] != 1 {
		t.Errorf("status came as %+v", status)
	}
	if generation, err := client.Reload(t.Context()); generation != 2 || err != nil {
		t.Errorf("reload: %d, %v", generation, err)
	}
	if err := client.Stop(t.Context()); err != nil || !gateway.stopped {
		t.Errorf("stop: %v", err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(SocketPath(dir)); !os.IsNotExist(err) {
		t.Errorf("the socket stayed: %v", err)
	}
}

func TestErrorsReachTheClient(t *testing.T) {
	dir, _ := serve(t, &fakeGateway{err: errors.New("salp.yaml:3:5: no such key")})
	client, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Reload(t.Context()); err == nil || err.Error() != "salp.yaml:3:5: no such key" {
		t.Errorf("reload: %v", err)
	}
	if _, err := client.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "no such key") {
		t.Errorf("status: %v", err)
	}
	if err := client.Stop(t.Context()); err == nil {
		t.Error("stop: no error")
	}
}

func TestDialSaysThatNoneRuns(t *testing.T) {
	dead := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketPath(dead), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Join(t.TempDir(), "none"), dead, file} {
		_, err := Dial(dir)
		if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "salp run --run-dir "+dir) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestServeTakesOverAStaleSocket(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketPath(dir), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	s, err := Serve(dir, &fakeGateway{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := Dial(dir); err != nil {
		t.Error(err)
	}
}

func TestModes(t *testing.T) {
	for _, c := range []struct {
		intercepts, client bool
		want               string
	}{{false, false, "explicit"}, {false, true, "outbound transparent"}, {true, false, "inbound transparent"}, {true, true, "fully transparent"}} {
		if got := Mode(c.intercepts, c.client); got != c.want {
			t.Errorf("%v, %v: %s", c.intercepts, c.client, got)
		}
	}
}

func TestSetLink(t *testing.T) {
	dir, _ := serve(t, &fakeGateway{})
	client, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	a, err := client.SetLink(t.Context(), LinkWish{Link: "fibre", State: "drain"})
	if err != nil || a != (LinkAnswer{State: "drain", Up: 1, Links: 2}) {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := client.SetLink(t.Context(), LinkWish{Link: "fiber", State: "drain"}); err == nil || err.Error() != "there is no link fiber" {
		t.Errorf("%v", err)
	}
}
