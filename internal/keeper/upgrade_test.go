package keeper

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/control"
)

// stranger writes a program that says it is a salp that can take over.
func stranger(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "salp")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n[ $1 = version ] && echo salp v9\nexit 0\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

// A program that cannot be executed leaves all as it was: the worker is listened to, commands are answered, and another try is possible.
func TestUpgradeThatCannotBeExecuted(t *testing.T) {
	needRoot(t)
	r := start(t, intercept, newFakeKernel())
	worker := r.ready().Workers[0].PID
	var environment, args []string
	r.keeper.options.Exec = func(_ string, a, e []string) error {
		args, environment = a, e
		return errors.New("no exec today")
	}
	client, err := admin.Dial(filepath.Dir(r.file))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range 2 {
		_, err := client.Upgrade(t.Context(), stranger(t))
		if err == nil || !strings.Contains(err.Error(), "no exec today") {
			t.Fatalf("try %d: %v", i, err)
		}
		last := r.status().Upgrade
		if last.Number != uint64(i+1) || last.State != admin.UpgradeFailed || last.From != "test" || last.To != "v9" {
			t.Errorf("upgrade: %+v", last)
		}
	}
	if !slices.ContainsFunc(environment, func(v string) bool { return strings.HasPrefix(v, variableState+"=") }) || !slices.Contains(args, "--run-dir") {
		t.Errorf("executed %q with %q", args, environment)
	}
	time.Sleep(beatWithin + pulseEvery) // the worker would hang by now if nobody listened
	if s := r.status(); !running(s) || s.Workers[0].PID != worker || s.Workers[0].Version != "test" {
		t.Errorf("status: %+v", s)
	}
	if _, err := client.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	r.ready()
}

// A stop that comes while an upgrade is prepared is what happens.
func TestStopDuringUpgrade(t *testing.T) {
	r := start(t, explicit, newFakeKernel())
	r.ready()
	slow := filepath.Join(t.TempDir(), "salp")
	if err := os.WriteFile(slow, []byte("#!/bin/sh\nsleep 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 1)
	go func() {
		_, err := (&gateway{r.keeper}).Upgrade(t.Context(), slow)
		refused <- err
	}()
	r.await("upgrading", 5*time.Second, func(s admin.Status) bool { return s.Upgrade != nil && s.Upgrade.State == admin.UpgradeRunning })
	if _, err := (&gateway{r.keeper}).Upgrade(t.Context(), slow); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("a second upgrade: %v", err)
	}
	r.stop()
	if err := <-refused; !errors.Is(err, errStopping) {
		t.Errorf("the upgrade: %v", err)
	}
	if err := r.end(3 * time.Second); err != nil {
		t.Error(err)
	}
}

func TestSavedStateComesBack(t *testing.T) {
	cfg, err := config.Parse("salp.yaml", []byte(explicit))
	if err != nil {
		t.Fatal(err)
	}
	want := &saved{
		Format: SavedFormat, Version: "v1", PID: 7, ConfigFile: "salp.yaml", Generation: 3, Configs: map[uint64][]byte{3: cfg.Text},
		Sockets: []savedSockets{{Files: []int{9, 10}}}, Files: savedFiles{Lock: 4, Admin: 5, Owner: 6},
		Workers: []savedWorker{{PID: 8, Generation: 3, Control: 11, Log: 12, Stats: control.Stats{"web": {Accepted: 5}}}},
		Totals:  totals{"web": {BytesIn: 6}},
	}
	read := func(change func(*saved)) (*saved, error) {
		t.Helper()
		s := *want
		change(&s)
		fd, err := s.file()
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), "state")
		defer file.Close()
		if err := CanTakeOver(file); err != nil {
			return nil, err
		}
		return readSaved(file)
	}
	got, err := read(func(*saved) {})
	if err != nil || got.Workers[0].Stats["web"].Accepted != 5 || got.Totals["web"].BytesIn != 6 || !slices.Equal(got.descriptors(), []int{4, 5, 6, 9, 10, 11, 12}) {
		t.Errorf("came back as %+v, %v", got, err)
	}
	for _, c := range []struct {
		name   string
		change func(*saved)
		want   string
	}{
		{"a later form", func(s *saved) { s.Format = SavedFormat + 1 }, "version v1, leaves its state in form 2"},
		{"an earlier form", func(s *saved) { s.Format = SavedOldest - 1 }, "form 0"},
		{"a configuration that is refused", func(s *saved) { s.Configs = map[uint64][]byte{3: []byte("nosuch: 1")} }, "generation 3"},
		{"no configuration", func(s *saved) { s.Configs = nil }, "lacks the configuration in force"},
		{"none for a worker", func(s *saved) { s.Workers = []savedWorker{{PID: 8, Generation: 2}} }, "lacks the configuration of worker 8"},
	} {
		if _, err := read(c.change); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := readSaved(strings.NewReader("junk")); err == nil {
		t.Error("junk was read")
	}
}

// There are never more than so many workers at once, however often somebody reloads.
func TestGenerationsAreBounded(t *testing.T) {
	r := start(t, strings.Replace(explicit, "drain: 1s", "drain: 60s", 1)+"# worker: busy\n", newFakeKernel())
	r.ready()
	for range maxGenerations + 3 {
		if _, err := r.reloadNow(); err != nil {
			t.Fatal(err)
		}
	}
	s := r.await("bounded", 5*time.Second, func(s admin.Status) bool { return len(s.Workers) <= maxGenerations })
	if s.Generation != maxGenerations+4 || s.Workers[0].Generation != s.Generation-maxGenerations+1 {
		t.Errorf("generation %d, the oldest worker is of %d", s.Generation, s.Workers[0].Generation)
	}
	r.logs("cut short")
	r.write(explicit)
	r.stop()
	for range 2 { // until the workers are gone
		r.hurry <- struct{}{}
	}
}
