// Package engine runs event loops: locked threads that each wait on an epoll of their own and never block anywhere else.
//
// What runs on a loop is a Handler. It joins a loop with Add, which gives it a Slot, and watches any number of descriptors
// through that slot, each under a tag. From then on the loop calls Handle with what happened: descriptors that became ready
// (edge-triggered: read and write until the socket gives less than was asked), the slot's timer, or the turn it asked for with
// Again. All calls come from the loop's own thread, so a handler needs no lock; it must never block. Close the descriptors
// first, then Remove the slot: events that are still under way for it are dropped.
//
// Other goroutines reach a loop with Post, and only with Post. A loop lends what is costly to keep for every connection:
// Scratch (64 KiB to read into), Buffer (for what the other side did not take) and Pipe (for splice), all bounded.
//
// A handler that panics ends the engine: Run returns the panic and its stack as an error, and the process is to be replaced.
package engine

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// Engine is a set of loops.
type Engine struct {
	loops []*Loop
}

// New makes n loops, at least one. They turn when Run is called; handlers may be added by Post before.
func New(n int) (*Engine, error) {
	e := &Engine{}
	for i := range max(n, 1) {
		l, err := newLoop(i)
		if err != nil {
			e.close()
			return nil, err
		}
		e.loops = append(e.loops, l)
	}
	return e, nil
}

// Loops returns the loops, in the order of their numbers.
func (e *Engine) Loops() []*Loop { return e.loops }

// Run turns all loops until Stop, or until a handler panics or epoll fails; it returns the reason, nil after Stop. It raises
// GOMAXPROCS to two more than there are loops: a loop keeps its processor (P) during short waits, and the rest of the
// program must not queue behind it.
func (e *Engine) Run() error {
	if want := len(e.loops) + 2; runtime.GOMAXPROCS(0) < want {
		runtime.GOMAXPROCS(want)
	}
	var wait sync.WaitGroup
	errs := make([]error, len(e.loops))
	for i, l := range e.loops {
		wait.Go(func() {
			errs[i] = l.run()
			if errs[i] != nil {
				e.Stop()
			}
		})
	}
	wait.Wait()
	e.close()
	return errors.Join(errs...)
}

// Stop ends Run. Descriptors that handlers still hold stay open.
func (e *Engine) Stop() {
	for _, l := range e.loops {
		l.Post(l.stop)
	}
}

// Collect runs f on every loop and waits until all have run it, or gives up when done is closed. It is how counters are read
// without locks, and proof that every loop turns.
func (e *Engine) Collect(done <-chan struct{}, f func(*Loop)) error {
	turned := make(chan struct{}, len(e.loops))
	for _, l := range e.loops {
		l.Post(func() {
			f(l)
			turned <- struct{}{}
		})
	}
	for i := range e.loops {
		select {
		case <-turned:
		case <-done:
			return fmt.Errorf("engine: %d of %d loops did not turn in time", len(e.loops)-i, len(e.loops))
		}
	}
	return nil
}

func (e *Engine) close() {
	for _, l := range e.loops {
		l.close()
	}
}
