package keeper

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/control"
	"salp/internal/lab"
)

// TestMain runs the tests in a network namespace of their own, so that their sockets are in nobody's way. The same program is also the
// worker that the keepers under test start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "fake-worker" {
		syscall.Exit(fakeWorker()) // os.Exit waits a second under the race detector
	}
	code := lab.Main(m)
	if builtSalp.path != "" {
		os.Remove(builtSalp.path)
	}
	os.Exit(code)
}

// fakeWorker speaks a worker's part as a comment of the configuration says: "# worker: silent".
func fakeWorker() int {
	conn, err := control.FromFD(3)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	sockets := 0
	for {
		m, fds, err := conn.Receive()
		if err != nil {
			return 1
		}
		switch {
		case m.Sockets != nil:
			sockets += len(fds)
		case m.Start != nil:
			f := os.NewFile(uintptr(fds[0]), "configuration")
			text := make([]byte, 1<<16)
			n, _ := f.Read(text)
			_, behaviour, _ := strings.Cut(string(text[:n]), "# worker: ")
			behaviour, _, _ = strings.Cut(behaviour, "\n")
			return behave(conn, behaviour, uint64(sockets))
		}
	}
}

// behave is a worker after its start. It counts its sockets as accepted connections, so that a test sees how many it got.
func behave(conn *control.Conn, behaviour string, sockets uint64) int {
	switch behaviour {
	case "silent":
		time.Sleep(time.Minute)
	case "fails":
		fmt.Fprintln(os.Stderr, `{"time":"2026-01-01T00:00:00Z","level":"ERROR","msg":"worker failed","error":"no engine"}`)
		return 1
	case "panics":
		panic("out of luck")
	case "lies":
		_ = conn.Send(control.Message{Drain: &control.Drain{}})
		time.Sleep(time.Minute)
	}
	active := uint64(0)
	if behaviour == "busy" || behaviour == "stubborn" {
		active = 1
	}
	stats := control.Stats{"web": {Accepted: sockets, Active: active, Errors: map[string]uint64{control.ErrorIdle: 1, "made up": 5}}, "none": {Accepted: 9}}
	_ = conn.Send(control.Message{Ready: &control.Ready{}})
	_ = conn.Send(control.Message{Beat: &control.Beat{Stats: stats}})
	drains := make(chan time.Duration, 1)
	go func() {
		for {
			m, _, err := conn.Receive()
			if err != nil {
				syscall.Exit(0)
			}
			if m.Drain != nil {
				drains <- m.Drain.Bound
			}
		}
	}()
	beat := time.NewTicker(control.BeatEvery)
	for {
		select {
		case <-beat.C:
			if behaviour != "mute" {
				_ = conn.Send(control.Message{Beat: &control.Beat{Stats: stats}})
			}
		case bound := <-drains:
			_ = conn.Send(control.Message{Draining: &control.Draining{}})
			switch {
			case behaviour == "stubborn":
				continue
			case behaviour == "busy" && bound > 0:
				stats["web"] = control.Listener{Accepted: sockets, Active: 1}
				go func() { time.Sleep(bound); drains <- 0 }()
				continue
			}
			_ = conn.Send(control.Message{Bye: &control.Bye{Stats: stats, Cut: int(active)}})
			return 0
		}
	}
}
