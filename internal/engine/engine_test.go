package engine

import (
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// handle makes a function a handler.
type handle func(*Loop, Event)

func (f *handle) Handle(l *Loop, ev Event) { (*f)(l, ev) }

func handler(f func(*Loop, Event)) Handler {
	h := handle(f)
	return &h
}

func started(t *testing.T, loops int) (*Engine, <-chan struct{}) {
	t.Helper()
	e, err := New(loops)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := e.Run(); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		e.Stop()
		<-ended
	})
	return e, ended
}

// on runs f on the engine's first loop and waits for it.
func on(t *testing.T, e *Engine, f func(*Loop)) {
	t.Helper()
	done := make(chan struct{})
	e.Loops()[0].Post(func() {
		f(e.Loops()[0])
		close(done)
	})
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the loop does not turn")
	}
}

func pair(t *testing.T) (int, int) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fds[0], fds[1]
}

func TestEventsCarryTheirTag(t *testing.T) {
	e, _ := started(t, 1)
	a, b := pair(t)
	defer syscall.Close(a)
	events := make(chan Event, 10)
	on(t, e, func(l *Loop) {
		s := l.Add(handler(func(_ *Loop, ev Event) { events <- ev }))
		if errno := l.Watch(s, 7, a); errno != 0 {
			t.Error(errno)
		}
	})
	if ev := <-events; ev.Tag() != 7 || ev&Out == 0 || ev&In != 0 {
		t.Errorf("at first %x", ev)
	}
	syscall.Write(b, []byte("x"))
	if ev := <-events; ev.Tag() != 7 || ev&In == 0 {
		t.Errorf("after a byte %x", ev)
	}
	syscall.Close(b)
	if ev := <-events; ev&PeerClosed == 0 || ev&Hangup == 0 {
		t.Errorf("after the end %x", ev)
	}
}

// An event that is under way when its slot ends must not reach the slot's next owner.
func TestRemovedSlotIsNobody(t *testing.T) {
	e, _ := started(t, 1)
	on(t, e, func(l *Loop) {
		wrong := handler(func(*Loop, Event) { t.Error("called after Remove") })
		s := l.Add(wrong)
		l.SetTimer(s, 0)
		l.Again(s)
		l.Remove(s)
		next := l.Add(handler(func(*Loop, Event) { t.Error("called for another") }))
		if next == s || uint32(next) != uint32(s) {
			t.Errorf("slot %x after %x: want the same place and another generation", next, s)
		}
		if l.Handler(s) != nil || l.Handler(next) == nil {
			t.Error("the old slot has a handler, or the new one has none")
		}
		l.Remove(s) // again: nothing
		if l.Handler(next) == nil {
			t.Error("removing twice removed the next owner")
		}
	})
	time.Sleep(150 * time.Millisecond)
}

func TestAgainComesOnceAfterTheTurn(t *testing.T) {
	e, _ := started(t, 1)
	count := make(chan int, 100)
	on(t, e, func(l *Loop) {
		n := 0
		var s Slot
		s = l.Add(handler(func(l *Loop, ev Event) {
			if ev != Again {
				t.Errorf("event %x", ev)
			}
			if n++; n < 3 {
				l.Again(s)
			}
			count <- n
		}))
		l.Again(s)
	})
	for want := range 3 {
		if got := <-count; got != want+1 {
			t.Fatalf("turn %d, want %d", got, want+1)
		}
	}
	on(t, e, func(*Loop) {})
	if len(count) != 0 {
		t.Error("a turn that nobody asked for")
	}
}

func TestTimers(t *testing.T) {
	e, _ := started(t, 1)
	type fired struct{ want, got time.Duration }
	const n = 500
	results := make(chan fired, n)
	on(t, e, func(l *Loop) {
		for range n {
			want := time.Duration(rand.IntN(1200)) * time.Millisecond
			begin := time.Now()
			var s Slot
			s = l.Add(handler(func(l *Loop, ev Event) {
				results <- fired{want, time.Since(begin)}
				l.Remove(s)
			}))
			l.SetTimer(s, time.Hour)
			l.SetTimer(s, want) // replaces
			stopped := l.Add(handler(func(*Loop, Event) { t.Error("a stopped timer") }))
			l.SetTimer(stopped, want)
			l.StopTimer(stopped)
		}
	})
	for range n {
		f := <-results
		if f.got < f.want-2*time.Millisecond || f.got > f.want+300*time.Millisecond {
			t.Errorf("a timer of %v came after %v", f.want, f.got)
		}
	}
}

// The wheel by itself, with a clock of its own: timers of hours, set while others fire, none early, none lost.
func TestWheelOverHours(t *testing.T) {
	l := &Loop{now: 1}
	l.slots.add(nil)
	open := 0
	var set func()
	set = func() {
		d := time.Duration(rand.Int64N(int64(3 * time.Hour)))
		due := l.now + int64(d)
		var s Slot
		s = l.Add(handler(func(l *Loop, _ Event) {
			if late := l.now - due; late < 0 || late > int64(2*time.Second) {
				t.Errorf("%v late", time.Duration(late))
			}
			l.Remove(s)
			if open--; l.now < int64(5*time.Hour) {
				set()
			}
		}))
		open++
		l.SetTimer(s, d)
	}
	for range 1000 {
		set()
	}
	for l.now < int64(9*time.Hour) && open > 0 {
		next := l.wheel.next()
		if next == 0 {
			t.Fatal("the wheel says that it is empty")
		}
		l.now = max(l.now+1, next) + rand.Int64N(int64(time.Second))
		l.wheel.turn(l)
	}
	if open != 0 || l.wheel.count != 0 || l.wheel.next() != 0 {
		t.Errorf("%d timers left, the wheel counts %d", open, l.wheel.count)
	}
}

func TestPostFromManyGoroutines(t *testing.T) {
	e, ended := started(t, 2)
	var sum [2]int
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 1000 {
				for _, l := range e.Loops() {
					l.Post(func() { sum[l.Number()]++ })
				}
			}
		})
	}
	wait.Wait()
	if err := e.Collect(ended, func(*Loop) {}); err != nil {
		t.Fatal(err)
	}
	if sum != [2]int{8000, 8000} {
		t.Errorf("%v calls were made", sum)
	}
}

func TestCollectGivesUp(t *testing.T) {
	e, _ := started(t, 2)
	hold := make(chan struct{})
	defer close(hold)
	e.Loops()[1].Post(func() { <-hold })
	late := make(chan struct{})
	time.AfterFunc(50*time.Millisecond, func() { close(late) })
	if err := e.Collect(late, func(*Loop) {}); err == nil || !strings.Contains(err.Error(), "did not turn") {
		t.Errorf("Collect with a stuck loop: %v", err)
	}
}

// A panic ends the engine and is told with its place.
func TestPanicIsTold(t *testing.T) {
	e, err := New(2)
	if err != nil {
		t.Fatal(err)
	}
	e.Loops()[1].Post(func() { panic("a bug") })
	err = e.Run()
	if err == nil || !strings.Contains(err.Error(), "a bug") || !strings.Contains(err.Error(), "engine_test.go") {
		t.Errorf("Run: %v", err)
	}
	e.Loops()[0].Post(func() { t.Error("called after the end") })
}

func TestPipesAndBuffersAreBounded(t *testing.T) {
	e, _ := started(t, 1)
	on(t, e, func(l *Loop) {
		var lent []*Pipe
		for p := l.Pipe(); p != nil; p = l.Pipe() {
			lent = append(lent, p)
		}
		if len(lent) != maxPipes {
			t.Errorf("%d pipes were lent, want %d", len(lent), maxPipes)
		}
		lent[0].Held = 1 // a dirty one
		for _, p := range lent {
			l.ReturnPipe(p)
		}
		if l.pipes.open != idlePipes || len(l.pipes.free) != idlePipes {
			t.Errorf("%d pipes open, %d free, want %d", l.pipes.open, len(l.pipes.free), idlePipes)
		}
		for _, p := range l.pipes.free {
			if p.Held != 0 || p == lent[0] {
				t.Error("a pipe that held bytes was kept")
			}
		}
		for i, n := range []int{1, 1024, 1025, 4096, 4097, 16384, 16385, 65536} {
			b := l.Buffer(n)
			if len(b) != 0 || cap(b) < n || cap(b) != bufferSizes[i/2] {
				t.Errorf("buffer for %d has room for %d", n, cap(b))
			}
			l.Return(b)
		}
		for range 2 * idleBuffers {
			l.Return(make([]byte, 0, bufferSizes[0]))
		}
		if len(l.buffers.free[0]) != idleBuffers {
			t.Errorf("%d free buffers are kept", len(l.buffers.free[0]))
		}
	})
}

// A socket pair each way through Post and Watch, as a check that edge-triggered events are not lost under load.
func TestEchoUnderLoad(t *testing.T) {
	e, _ := started(t, 1)
	const pairs, bytes = 16, 1 << 20
	var wait sync.WaitGroup
	for range pairs {
		a, b := pair(t)
		on(t, e, func(l *Loop) {
			var s Slot
			echo := func(l *Loop, ev Event) {
				for {
					n, err := syscall.Read(a, l.Scratch()[:512])
					if errors.Is(err, syscall.EAGAIN) {
						return
					}
					if n <= 0 {
						syscall.Close(a)
						l.Remove(s)
						return
					}
					if _, err := syscall.Write(a, l.Scratch()[:n]); err != nil {
						t.Error(err)
					}
				}
			}
			s = l.Add(handler(echo))
			l.Watch(s, 0, a)
		})
		wait.Go(func() {
			defer syscall.Close(b)
			syscall.SetNonblock(b, false)
			one := make([]byte, 512)
			for range bytes / len(one) / 8 {
				if _, err := syscall.Write(b, one); err != nil {
					t.Error(err)
					return
				}
				if _, err := io.ReadFull(fd(b), one); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
}

type fd int

func (f fd) Read(b []byte) (int, error) { return syscall.Read(int(f), b) }

func BenchmarkTimerPutOff(b *testing.B) {
	l := &Loop{now: 1}
	l.slots.add(nil)
	s := l.Add(handler(func(*Loop, Event) {}))
	b.ReportAllocs()
	for b.Loop() {
		l.SetTimer(s, time.Minute)
	}
}

func BenchmarkDispatch(b *testing.B) {
	l := &Loop{now: 1}
	l.slots.add(nil)
	n := 0
	s := l.Add(handler(func(*Loop, Event) { n++ }))
	b.ReportAllocs()
	for b.Loop() {
		if h := l.slots.handler(s); h != nil {
			h.Handle(l, In)
		}
	}
}
