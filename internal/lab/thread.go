package lab

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// thread is an operating system thread that lives in one namespace until its end. It is never given back to the Go runtime,
// which would run other goroutines on it.
type thread struct{ jobs chan func() }

// startThread starts a thread and runs enter on it, which is to move it into a namespace.
func startThread(enter func() error) (*thread, error) {
	t := &thread{jobs: make(chan func())}
	ready := make(chan error)
	go t.run(enter, ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return t, nil
}

func (t *thread) run(enter func() error, ready chan<- error) {
	runtime.LockOSThread() // and never unlocked, but for the first thread: when this goroutine ends, the thread does
	if unix.Gettid() == unix.Getpid() {
		// The first thread stands for the process in /proc/self and never ends. While it is held here the next goroutine
		// gets another one.
		again := make(chan error)
		go t.run(enter, again)
		ready <- <-again
		runtime.UnlockOSThread()
		return
	}
	err := enter()
	ready <- err
	if err != nil {
		return
	}
	for job := range t.jobs {
		job()
	}
}

// do runs f on the thread and waits for it. When f ends its goroutine (as testing's FailNow does) the thread is lost.
func (t *thread) do(f func() error) (err error, lost bool) {
	type result struct {
		err  error
		lost bool
	}
	done := make(chan result, 1)
	t.jobs <- func() {
		r := result{errors.New("the function ended its goroutine (runtime.Goexit; t.Fatal must not be called in Do)"), true}
		defer func() { done <- r }()
		r = result{f(), false}
	}
	r := <-done
	return r.err, r.lost
}

func (t *thread) end() { close(t.jobs) }
