// Package worker is the unprivileged process that carries traffic: it takes listening sockets and a configuration from the
// keeper, wires the packages of the byte path together, and reports until it is told to end.
//
// It needs no privilege for explicit listeners, and CAP_NET_RAW alone for the others (transparent binds and socket marks).
package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/engine"
)

const (
	// OrphanDrain bounds how long a worker whose keeper has died goes on carrying the connections that it has.
	OrphanDrain = 10 * time.Second
	// drainPoll is how often a draining worker looks whether it is done.
	drainPoll = 50 * time.Millisecond
	// slowTurn is when a loop that does not turn is worth a warning. Beats stop at once.
	slowTurn = time.Second
	// gcPercent: the heap is small and steady, so collecting early costs little and keeps it so.
	gcPercent = 50
)

// Run serves the keeper at the other end of the control socket, descriptor controlFD, until it is told to drain, the keeper dies,
// ctx ends, or a loop fails; only the last two are errors. Connections that are still open when it returns are reset.
func Run(ctx context.Context, controlFD uintptr, log *slog.Logger) error {
	debug.SetGCPercent(gcPercent)
	conn, err := control.FromFD(controlFD)
	if err != nil {
		return err
	}
	defer conn.Close()
	sockets, start, err := receiveStart(conn, log)
	if err != nil {
		return err
	}
	w, err := newWorker(conn, sockets, start, log)
	if err != nil {
		return err
	}
	return w.run(ctx)
}

// worker is one generation of a configuration at work.
type worker struct {
	log       *slog.Logger
	conn      *control.Conn
	cfg       *config.Config
	engine    *engine.Engine
	wiring    *wiring
	services  *services
	contents  chan handed // files that changed
	destroyer *destroyer
	messages  chan control.Message // closed when the keeper is gone
	ended     chan struct{}        // closed when the engine has ended
	failure   error                // why it ended; read after ended
	draining  bool                 // it accepts no more
}

func newWorker(conn *control.Conn, sockets []socketGroup, start startOrder, log *slog.Logger) (*worker, error) {
	cfg, err := config.Parse(start.File, start.text)
	if err != nil {
		return nil, fmt.Errorf("worker: the configuration that the keeper sent: %w", err)
	}
	services, err := newServices(cfg, start.contents, log)
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	loops := cfg.Workers
	if loops <= 0 {
		loops = runtime.GOMAXPROCS(0)
	}
	e, err := engine.New(loops)
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	w := &worker{
		log: log, conn: conn, cfg: cfg, engine: e,
		messages: make(chan control.Message), ended: make(chan struct{}), services: services, contents: make(chan handed, 16),
	}
	w.destroyer = newDestroyer(conn.Send)
	if w.wiring, err = wire(cfg, e, sockets, start.memory, start.links, w.destroyer.destroy, services, log); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	if start.pools != nil {
		w.wiring.setPools(start.pools, time.Now())
	}
	if start.others != nil {
		w.wiring.setElsewhere(start.others)
	}
	return w, nil
}

// run turns the loops and talks to the keeper.
func (w *worker) run(ctx context.Context) error {
	go func() {
		w.failure = w.engine.Run()
		close(w.ended)
	}()
	stop := make(chan struct{})
	defer close(stop)
	go w.receive(stop)
	go w.services.follow(w.contents)
	defer w.services.close()
	go w.destroyer.run(stop)
	w.wiring.watchLocal(stop, w.log)

	err := w.serve(ctx)
	w.engine.Stop()
	<-w.ended
	return errors.Join(err, w.failure)
}

func (w *worker) serve(ctx context.Context) error {
	if err := w.wiring.accept(w.ended); err != nil {
		return w.lost(err)
	}
	if err := w.conn.Send(control.Message{Ready: &control.Ready{}}); err != nil {
		w.log.Warn("the keeper does not take Ready", "error", err)
	}
	beat := time.NewTicker(control.BeatEvery)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			w.cut()
			return context.Cause(ctx)
		case <-w.ended:
			return nil // run tells the failure
		case m, ok := <-w.messages:
			switch {
			case !ok:
				w.log.Warn("the keeper is gone: accepting no more", "drain", OrphanDrain)
				return w.drain(ctx, OrphanDrain, beat.C)
			case m.Drain != nil:
				return w.drain(ctx, m.Drain.Bound, beat.C)
			}
		case <-beat.C:
			if err := w.beat(); err != nil {
				return w.lost(err)
			}
		}
	}
}

// lost turns the error of somebody who waited for a loop into nil when the engine has ended, for run tells why it did.
func (w *worker) lost(err error) error {
	select {
	case <-w.ended:
		return nil
	default:
		return err
	}
}

// beat tells the keeper that all loops turn, by having them hand over their counters. While one does not, it waits, and says nothing.
func (w *worker) beat() error {
	slow := time.AfterFunc(slowTurn, func() { w.log.Warn("an event loop does not turn", "for", slowTurn) })
	w.wiring.tick(time.Now())
	stats, err := w.wiring.stats(w.ended)
	servers, pools, err2 := w.wiring.poolStats(w.ended)
	slow.Stop()
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	beat := &control.Beat{Stats: stats, Servers: servers, Pools: pools, Queues: w.wiring.queues(), LogLost: w.services.logLost()}
	if w.draining {
		beat.Clients = w.wiring.busiest()
	}
	if err := w.conn.Send(control.Message{Beat: beat}); err != nil {
		w.log.Debug("the keeper does not take a Beat", "error", err)
	}
	return nil
}

// drain stops accepting and waits until the last connection has ended, or cuts what is left after the bound.
func (w *worker) drain(ctx context.Context, bound time.Duration, beat <-chan time.Time) error {
	if err := w.wiring.stopAccepting(w.ended); err != nil {
		return w.lost(err)
	}
	if err := w.conn.Send(control.Message{Draining: &control.Draining{}}); err != nil {
		w.log.Debug("the keeper does not take Draining", "error", err)
	}
	w.draining = true
	if err := w.beat(); err != nil { // at once: what is open here counts for who takes over
		return w.lost(err)
	}
	over := time.After(bound)
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	messages := w.messages
	for {
		if active, err := w.wiring.active(w.ended); err != nil {
			return w.lost(err)
		} else if active == 0 {
			return w.bye(0)
		}
		select {
		case <-ctx.Done():
			w.cut()
			return context.Cause(ctx)
		case <-w.ended:
			return nil
		case <-over:
			return w.bye(w.cut())
		case m, ok := <-messages:
			switch {
			case !ok:
				messages = nil // the keeper is gone, and the drain goes on
			case m.Drain != nil:
				over = time.After(m.Drain.Bound)
			}
		case <-beat:
			if err := w.beat(); err != nil {
				return w.lost(err)
			}
		case <-poll.C:
		}
	}
}

func (w *worker) cut() int {
	n, err := w.wiring.abort(w.ended)
	if err != nil {
		return 0
	}
	return n
}

func (w *worker) bye(cut int) error {
	stats, err := w.wiring.stats(w.ended)
	servers, pools, err2 := w.wiring.poolStats(w.ended)
	if err := errors.Join(err, err2); err != nil {
		return w.lost(err)
	}
	if err := w.conn.Send(control.Message{Bye: &control.Bye{Stats: stats, Servers: servers, Pools: pools, Cut: cut}}); err != nil {
		w.log.Debug("the keeper does not take Bye", "error", err)
	}
	return nil
}

// receive takes the keeper's messages. Those that no loop has to act on go straight to whom they concern.
func (w *worker) receive(stop <-chan struct{}) {
	defer close(w.messages)
	defer close(w.contents)
	for {
		m, fds, err := w.conn.Receive()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				w.log.Debug("control socket", "error", err)
			}
			return
		}
		if m.Content != nil {
			w.contents <- handed{*m.Content, fds} // the keeper gives up on a worker that takes too long
			continue
		}
		for _, fd := range fds {
			os.NewFile(uintptr(fd), "unwanted").Close()
		}
		switch {
		case m.Destroyed != nil:
			w.destroyer.destroyed(m.Destroyed)
			continue
		case m.Pools != nil:
			w.wiring.setPools(m.Pools, time.Now())
			if err := w.conn.Send(control.Message{Heeded: &control.Heeded{Number: m.Pools.Number}}); err != nil {
				w.log.Debug("control socket", "error", err)
			}
			continue
		case m.Links != nil:
			w.wiring.setLinks(m.Links)
			continue
		case m.Elsewhere != nil:
			w.wiring.setElsewhere(m.Elsewhere)
			continue
		}
		select {
		case w.messages <- m:
		case <-stop:
			return
		}
	}
}
