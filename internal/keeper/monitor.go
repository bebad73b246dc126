package keeper

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"reflect"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/config"
	"salp/internal/control"
)

// monitor is the process that probes and resolves (package monitor), seen from the keeper. There is none while nothing needs it. Its fields belong
// to the keeper's loop; its goroutines only use child, last and done.
type monitor struct {
	child    *child
	log      *slog.Logger
	since    time.Time
	lastBeat time.Time
	sent     *control.Watch // what it was told; nil: nothing yet
	page     *page          // that it serves
	pageFrom []netip.Prefix // to whom
	window   time.Time      // in which asked counts
	asked    int
	ending   bool // it was told to end, or is killed
	last     *lastWords
	deaf     chan struct{} // closed when the loop takes nothing from it any more
	done     chan struct{} // closed when the process has ended
}

// watching is what the keeper knows of monitors.
type watching struct {
	monitor *monitor // nil: none runs
	pause   time.Duration
	stale   bool // what is to be watched may have changed
}

// watchList returns all that is to be watched now: for the configuration in force, and for the one that is about to be, so that it begins with names
// that are known. Whoever needs a probe adds a job whose ID begins with a word of its own and a slash, and takes its results in onResult.
func (k *keeper) watchList() *control.Watch {
	w := &control.Watch{}
	var cfg *config.Config
	if k.cfg != nil {
		cfg = k.cfg
		k.servers.jobs(w)
		k.links.watch(w)
	}
	if k.pending != nil {
		if cfg == nil {
			cfg = k.pending.cfg
		}
		w.Names = withNames(w.Names, k.pending.cfg.Names())
		w.Names = withNames(w.Names, k.pending.links.wanted())
	}
	if cfg != nil {
		w.Resolvers = control.Resolvers(cfg.Resolvers)
	}
	return w
}

// withNames returns a and what b has beside it.
func withNames(a, b []string) []string {
	seen := map[string]bool{}
	var all []string
	for _, s := range append(a, b...) {
		if !seen[s] {
			seen[s] = true
			all = append(all, s)
		}
	}
	return all
}

// observe has the monitor watch what is to be watched now, starts one when there is none and ends it when nothing needs it. It is cheap to call when
// nothing has changed.
func (k *keeper) observe() {
	k.watching.stale = false
	w := k.watchList()
	m := k.watching.monitor
	switch {
	case len(w.Jobs)+len(w.Names) == 0 && k.page == nil && !k.links.calls() || k.finished:
		k.agenda.drop(taskMonitor)
		if m != nil {
			m.end()
		}
	case m == nil:
		if _, planned := k.agenda[taskMonitor]; !planned {
			k.startMonitor()
		}
	case m.ending:
		// Its end starts another.
	default:
		if err := k.tellPage(m); err != nil {
			m.log.Warn("monitor cannot be told to serve metrics, it is replaced", "error", err)
			m.kill()
			return
		}
		if m.sent != nil && reflect.DeepEqual(m.sent, w) {
			return
		}
		if err := m.child.conn.Send(control.Message{Watch: w}); err != nil {
			m.log.Warn("monitor cannot be told what to watch, it is replaced", "error", err)
			m.kill()
			return
		}
		m.sent = w
	}
}

// startMonitor starts a monitor. It is told what to watch when it says that it is ready.
func (k *keeper) startMonitor() {
	cfg := k.cfg
	if cfg == nil {
		if k.pending == nil {
			return
		}
		cfg = k.pending.cfg
	}
	m, err := startMonitor(k.options.Monitor, cfg, k.log)
	if err != nil {
		k.monitorFailed(err)
		return
	}
	k.watching.monitor = m
	ask := func(f func()) bool {
		select {
		case k.requests <- f:
			return true
		case <-m.deaf:
		case <-k.quit:
		}
		return false
	}
	go func() {
		err := m.listen(func(message control.Message) bool { return ask(func() { k.onMonitor(m, &message) }) })
		ask(func() { k.onMonitorEnd(m, err) })
	}()
	k.log.Debug("monitor started", "monitor", m.child.process.Pid)
}

func startMonitor(command []string, cfg *config.Config, log *slog.Logger) (*monitor, error) {
	with, err := launchOf(cfg)
	if err != nil {
		return nil, err
	}
	with.raw = with.have.has(unix.CAP_NET_RAW)
	c, err := spawn(command, with)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	m := &monitor{child: c, log: log.With("monitor", c.process.Pid), since: now, lastBeat: now, last: &lastWords{}, deaf: make(chan struct{}), done: make(chan struct{})}
	go relayLog(c.stderr, m.log, m.last)
	return m, nil
}

// listen passes on what the monitor says, until its process has ended, and returns why it did.
func (m *monitor) listen(pass func(control.Message) bool) error {
	var err error
	for {
		var message control.Message
		var fds []int
		message, fds, err = m.child.conn.Receive()
		closeAll(fds)
		if err == nil && message.Ready == nil && message.Beat == nil && message.Results == nil && message.Names == nil && message.Called == nil && message.AskStatus == nil {
			err = errors.New("the monitor sent a message that is not its own")
		}
		if err != nil || !pass(message) {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	m.child.conn.Close()
	timer := time.AfterFunc(time.Second, m.kill)
	defer timer.Stop()
	state, end := m.child.process.Wait()
	close(m.done)
	if end == nil && !state.Success() {
		end = errors.New(state.String())
	}
	return errors.Join(err, end)
}

// kill ends the process at once.
func (m *monitor) kill() { _ = m.child.process.Kill() } // the only error is that it has ended

// end has the process end by itself.
func (m *monitor) end() {
	if !m.ending {
		m.ending = true
		m.child.conn.Close()
	}
}

// onMonitor takes in what the monitor said. Only that it is well formed was checked.
func (k *keeper) onMonitor(m *monitor, message *control.Message) {
	now := time.Now()
	m.lastBeat = now
	switch {
	case m != k.watching.monitor || m.ending:
	case message.Ready != nil:
		k.observe()
	case message.Results != nil:
		changed := false
		for i := range message.Results.Results {
			changed = k.onResult(&message.Results.Results[i]) || changed
		}
		if changed {
			k.serversChanged(now)
		}
		if len(k.links.changes) > 0 {
			k.repair() // in this turn: what status says of a link is in force
		}
	case message.AskStatus != nil:
		k.answerStatus(m, message.AskStatus, now)
	case message.Names != nil:
		for i := range message.Names.Names {
			k.learnName(&message.Names.Names[i])
			k.onName(&message.Names.Names[i], now)
		}
	case message.Called != nil:
		k.hooks.called(message.Called)
	}
}

// onResult gives the result of a probe to whose it is, and tells whether a server's state has changed.
func (k *keeper) onResult(r *control.Result) (changed bool) {
	if k.onSample(r) {
		return false
	}
	return k.servers.result(r)
}

// onMonitorEnd replaces a monitor that ended, while one is needed. What is known of servers stays.
func (k *keeper) onMonitorEnd(m *monitor, err error) {
	if k.watching.monitor != m {
		return
	}
	k.watching.monitor = nil
	k.hooks.lost()
	if m.ending {
		k.observe()
		return
	}
	reason := "ended without being told to"
	if err != nil {
		reason = err.Error()
	}
	if words := m.last.text(); words != "" {
		reason += ": " + words
	}
	if time.Since(m.since) > steadyAfter {
		k.watching.pause = 0
	}
	k.monitorFailed(errors.New(reason))
}

// monitorFailed plans another try.
func (k *keeper) monitorFailed(err error) {
	k.log.Error("the monitor ended, it will be replaced; servers and links stay as they are", "reason", err, "in", k.watching.pause)
	k.agenda.at(taskMonitor, time.Now().Add(k.watching.pause))
	k.watching.pause = min(max(2*k.watching.pause, restartFirst), restartMost)
}

// lookAfterMonitor ends a monitor that hangs.
func (k *keeper) lookAfterMonitor(now time.Time) {
	if m := k.watching.monitor; m != nil && !m.ending && now.Sub(m.lastBeat) > hungWithin {
		m.log.Error("monitor hangs, it is killed", "silent_for", now.Sub(m.lastBeat).Round(time.Millisecond))
		m.lastBeat = now
		m.kill()
	}
}

// endMonitor ends the monitor and waits for that, for it is this process's child. observe starts another.
func (k *keeper) endMonitor() {
	m := k.watching.monitor
	if m == nil {
		return
	}
	k.watching.monitor = nil
	close(m.deaf)
	m.end()
	select {
	case <-m.done:
	case <-time.After(2 * time.Second): // listen kills it after one
		k.log.Warn(fmt.Sprintf("monitor %d does not end", m.child.process.Pid))
	}
}
