package keeper

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/control"
)

const (
	// readyWithin bounds how long a worker may take to become ready.
	readyWithin = 10 * time.Second
	// beatWithin is how long after its last sign of life a worker counts as hung, and new connections pass it by.
	beatWithin = 1500 * time.Millisecond
	// hungWithin is how long a worker may hang until it is killed and replaced.
	hungWithin = 10 * time.Second
	// drainingWithin is how long a reload waits for the old worker to accept no more.
	drainingWithin = time.Second
	// byeWithin is how long past the bound of its drain a worker may live.
	byeWithin = 2 * time.Second
)

// worker is one worker process. Its fields belong to the keeper's loop; its goroutines only use the immutable ones.
type worker struct {
	child      *child
	pid        int
	version    string // of the binary it was started from
	generation uint64
	cfg        *config.Config
	since      time.Time
	log        *slog.Logger

	state    admin.WorkerState
	deadline time.Time // to be ready (starting) or to have ended (draining)
	lastBeat time.Time
	stats    control.Stats
	untold   bool           // it does not know the servers' states yet
	told     uint64         // number of the message about them that it was sent last
	heeded   uint64         // and of the one it said that it goes by
	links    *control.Links // what it was told last
	servers  []control.ServerStats
	pools    []control.PoolStats
	queues   []control.AcceptQueue
	clients  []control.ClientCount // while it drains
	shares   bool                  // it was told that others have connections to its servers
	cut      int                   // connections reset at the end of its drain
	refusal  string                // why the keeper ended it itself, for the log
	gone     bool                  // its control socket has closed, and its end is awaited
	hurried  bool                  // its drain was cut short
	again    bool                  // it is to be listened to again as soon as its listener pauses
	logLost  uint64                // lines of the access log that could not be written
	contents *contents             // files that it cannot open itself

	last   *lastWords
	logged chan struct{} // closed when its log has ended
	done   chan struct{} // closed when the process has ended
}

// workerEvent is what a worker's goroutines tell the loop.
type workerEvent struct {
	from    *worker
	message *control.Message // set: it said this
	paused  bool             // it is not listened to any more, as the keeper wanted; see worker.resume
	gone    bool             // its control socket has closed: it carries traffic no more, or has broken the protocol
	ended   bool             // the process is no more
	err     error            // why, for gone and ended
}

// outfit is what a worker is handed before it begins.
type outfit struct {
	sockets []*group
	tables  tables
	first   []control.Message // what it is told before Start
}

// startWorker starts a worker, hands it its outfit and tells it to begin. Events go to post until the one that says ended.
func startWorker(o Options, cfg *config.Config, generation uint64, with outfit, log *slog.Logger, post func(workerEvent)) (*worker, error) {
	how, err := launchOf(cfg)
	if err != nil {
		return nil, err
	}
	child, err := spawn(o.Worker, how)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	w := newWorker(child, log)
	w.version, w.generation, w.cfg, w.since = o.Version, generation, cfg, now
	w.state, w.deadline, w.lastBeat = admin.WorkerStarting, now.Add(readyWithin), now
	go w.relayLog()
	go w.listen(post)
	defer w.watchContents()
	if err := w.begin(with); err != nil {
		// What the worker said when it refused tells more than the broken socket does; the ended event carries it.
		w.refusal = err.Error()
		w.kill()
	}
	return w, nil
}

func newWorker(c *child, log *slog.Logger) *worker {
	pid := c.process.Pid
	return &worker{child: c, pid: pid, log: log.With("worker", pid), last: &lastWords{}, logged: make(chan struct{}), done: make(chan struct{})}
}

// watchContents hands the worker what changes of the files that its configuration names.
func (w *worker) watchContents() {
	if w.contents == nil {
		w.contents = newContents(w.cfg, w.child.conn, w.log) // of a worker that another program started: it is sent everything again
	}
	go w.contents.watch(w.done)
}

func (w *worker) relayLog() {
	defer close(w.logged)
	relayLog(w.child.stderr, w.log, w.last)
}

// begin sends the outfit and the start.
func (w *worker) begin(with outfit) error {
	for _, g := range with.sockets {
		for fds := range chunks(g.fds, control.MaxDescriptors) {
			if err := w.child.conn.Send(control.Message{Sockets: &control.Sockets{Listener: g.listener, Address: g.address}}, fds...); err != nil {
				return err
			}
		}
	}
	w.contents = newContents(w.cfg, w.child.conn, w.log)
	if err := w.contents.first(); err != nil {
		return err
	}
	if err := with.tables.send(w.child.conn, w.cfg); err != nil {
		return err
	}
	for _, m := range with.first {
		if err := w.child.conn.Send(m); err != nil {
			return err
		}
	}
	fd, err := configFile(w.cfg)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return w.child.conn.Send(control.Message{Start: &control.Start{File: w.cfg.File, Generation: w.generation}}, fd)
}

// chunks yields s in pieces of at most n.
func chunks(s []int, n int) func(yield func([]int) bool) {
	return func(yield func([]int) bool) {
		for len(s) > 0 {
			m := min(n, len(s))
			if !yield(s[:m]) {
				return
			}
			s = s[m:]
		}
	}
}

// listen posts what the worker says until it has ended, or its control socket is paused.
func (w *worker) listen(post func(workerEvent)) {
	var err error
	for {
		var m control.Message
		var fds []int
		m, fds, err = w.child.conn.Receive()
		if err == nil {
			err = refuse(&m, fds)
		}
		if err != nil {
			break
		}
		post(workerEvent{from: w, message: &m})
	}
	if errors.Is(err, control.ErrPaused) {
		post(workerEvent{from: w, paused: true})
		return
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	post(workerEvent{from: w, gone: true, err: err})
	w.child.conn.Close()
	end := w.reap()
	select { // a panic's trace comes through the pipe; a process that the worker left behind may hold it open
	case <-w.logged:
	case <-time.After(time.Second):
		w.child.stderr.Close()
		<-w.logged
	}
	post(workerEvent{from: w, ended: true, err: errors.Join(err, end)})
}

// refuse returns an error for messages that only a keeper sends.
func refuse(m *control.Message, fds []int) error {
	for _, fd := range fds {
		unix.Close(fd)
	}
	if m.Ready == nil && m.Beat == nil && m.Destroy == nil && m.Draining == nil && m.Bye == nil && m.Heeded == nil {
		return errors.New("the worker sent a message that is the keeper's to send")
	}
	return nil
}

// reap waits for the process. One that has closed its control socket and goes on is killed.
func (w *worker) reap() error {
	timer := time.AfterFunc(time.Second, w.kill)
	defer timer.Stop()
	state, err := w.child.process.Wait()
	close(w.done)
	if err == nil && !state.Success() {
		err = &exec.ExitError{ProcessState: state}
	}
	return err
}

// kill ends the process at once. It is safe to call at any time, also when it has ended.
func (w *worker) kill() { _ = w.child.process.Kill() } // the only error is that it has ended

// drain makes the worker accept no more, and end within bound.
func (w *worker) drain(bound time.Duration, now time.Time) {
	w.state = admin.WorkerDraining
	w.deadline = now.Add(bound + byeWithin)
	if err := w.child.conn.Send(control.Message{Drain: &control.Drain{Bound: bound}}); err != nil && !errors.Is(err, syscall.EPIPE) {
		w.log.Warn("worker cannot be told to drain, it is killed", "error", err)
		w.kill()
	}
}

// answers tells whether the worker has given a sign of life lately.
func (w *worker) answers(now time.Time) bool { return now.Sub(w.lastBeat) < beatWithin }

// connections returns how many it had open when it last said.
func (w *worker) connections() uint64 {
	var n uint64
	for _, l := range w.stats {
		n += l.Active
	}
	return n
}

// describeEnd says how a worker ended that was not told to.
func (w *worker) describeEnd(err error) string {
	text := "ended without being told to"
	if err != nil {
		text = err.Error()
	}
	if w.refusal != "" {
		text = fmt.Sprintf("%s (%s)", w.refusal, text)
	}
	if words := w.last.text(); words != "" {
		text += ": " + words
	}
	return text
}

// lastWords keeps the last error a worker logged, to say why it ended.
type lastWords struct {
	mu   sync.Mutex
	line string
}

func (l *lastWords) set(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line = line
}

func (l *lastWords) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line
}
