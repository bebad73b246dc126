// Package keeper is the privileged process: it writes the kernel state, holds the listening sockets, and looks after workers' lives.
//
// One goroutine, the loop, owns all of it and never waits: what takes time (a worker that starts, a drain) is a state, and comes back
// as an event or as a task of the agenda.
package keeper

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/kernel"
	"salp/internal/plan"
)

const (
	// pulseEvery is how often workers are looked after.
	pulseEvery = 250 * time.Millisecond
	// refreshEvery is how often the alive element is refreshed: at every second pulse.
	refreshEvery = 2*pulseEvery - pulseEvery/4
	// aliveFor is how long the kernel goes on to divert when the keeper itself hangs.
	aliveFor = 2 * time.Second
	// restartFirst and restartMost bound the pause before a worker that ended is replaced; it doubles each time. One that lived long is
	// replaced at once.
	restartFirst = 100 * time.Millisecond
	restartMost  = 5 * time.Second
	// longPause is a pause so long that connections which wait for the next worker are reset: those that follow pass by.
	longPause = time.Second / 2
	// steadyAfter is how long a worker must live for the pause to start anew.
	steadyAfter = 10 * time.Second
)

// Options say what to run.
type Options struct {
	ConfigFile string
	RunDir     string // of the lock, the admin socket and the state file; made when there is none
	Version    string
	Log        io.Writer       // where the log goes; nil: standard error
	Reload     <-chan struct{} // each value is a request to read the configuration again; may be nil
	Rotate     <-chan struct{} // each value is a request to open the access log anew; may be nil
	Hurry      <-chan struct{} // a value cuts a drain short; may be nil
	Upgrade    <-chan struct{} // each value is a request to have the program's file as it is now take this one's place; may be nil
	Worker     []string        // the command that starts a worker; nil: this program's worker command
	Monitor    []string        // the command that starts a monitor; nil: this program's monitor command
	// Exec executes another program in this process, as syscall.Exec does, which it is when nil.
	Exec func(path string, args, environment []string) error
}

// Run runs a gateway until ctx is done or somebody asks it by its admin socket to stop, then drains, removes what it has in the kernel, and
// returns nil. An error means that it could not start (then nothing is left in the kernel) or not remove everything. It is of type
// config.Errors, or wraps one, when the configuration is at fault.
//
// When this program was executed to take the place of another one, Run goes on where that left off. An error before it has taken over is for
// GoBack.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = os.Stderr
	}
	if o.Worker == nil {
		o.Worker = []string{"/proc/self/exe", "worker"}
	}
	if o.Monitor == nil {
		o.Monitor = []string{"/proc/self/exe", "monitor"}
	}
	left, err := inheritance()
	if err != nil {
		return err
	}
	if left != nil {
		return goOn(ctx, o, left)
	}
	cfg, err := config.Load(o.ConfigFile)
	if err != nil {
		return err
	}
	lock, err := lockRunDir(o.RunDir)
	if err != nil {
		return err
	}
	sink := newLogSink(o.Log, cfg.Logs)
	host, err := kernel.Open(kernel.Options{RunDir: o.RunDir, Log: sink.logger()})
	if err != nil {
		lock.release()
		return err
	}
	defer host.Close()
	k := newKeeper(o, sink, host)
	k.lock = lock
	defer lock.release()
	return k.run(ctx, cfg)
}

// goOn is Run for a program that takes the place of another one.
func goOn(ctx context.Context, o Options, left *inherited) error {
	r, err := resume(left, o)
	if err == nil {
		err = r.commit()
	}
	if err != nil {
		return err
	}
	defer r.host.Close()
	defer r.keeper.lock.release()
	return r.keeper.turn(ctx, func() error {
		r.keeper.takeOver(left.failure)
		return nil
	})
}

// keeper is the state of the loop.
type keeper struct {
	options  Options
	sink     *logSink
	log      *slog.Logger
	kernel   kernelHost
	lock     *runDirLock
	server   *admin.Server // nil while it is let go of for an upgrade
	systemd  systemd
	since    time.Time
	files    uint64 // limit of open files
	agenda   agenda
	heedings []heeding

	events       chan workerEvent
	kernelEvents chan kernel.Event
	requests     chan func() // from the admin server, to be run by the loop
	quit         chan struct{}

	// What is in force. Nothing is before the first provision is committed.
	cfg        *config.Config
	plan       plan.Plan
	groups     []*group
	ports      map[string]uint16
	generation uint64
	handover   *handover // from the worker of the generation before, until that accepts no more
	sockets    sockets
	page       *page   // of the metrics; nil: none are served
	current    *worker // nil while there is none and taskRestart is planned, or the configuration needs none
	alive      bool    // the alive element is set
	refreshed  time.Time

	pending    *provision // what is about to be in force
	again      []answerTo // reloads to begin when pending is done
	workers    []*worker  // all whose processes have not ended, current and pending among them
	pause      time.Duration
	restarts   uint64
	totals     totals
	poolTotals poolTotals
	drops      drops
	tables     tables
	servers    *servers // of the configuration in force
	watching   watching
	lastReload *admin.Reload
	reloads    admin.Reloads
	repairing  repairing
	links      *links
	linkUse    linkUse
	hooks      *hooks
	lost       map[serverKey]bool // servers of the kernel path that were down when it last followed them

	upgrading   *upgrading     // nil: no upgrade is under way
	lastUpgrade *admin.Upgrade // nil: there was none

	stopping bool
	down     bool // somebody asked for the end of everything, links too
	finished bool
	err      error // of run
}

func newKeeper(o Options, sink *logSink, host kernelHost) *keeper {
	log := sink.logger()
	known, err := recallServers(o.RunDir, time.Now())
	if err != nil {
		log.Warn("the file of servers' states cannot be read", "error", err)
	}
	k := &keeper{
		options: o, sink: sink, log: log, kernel: host, systemd: newSystemd(log), since: time.Now(), agenda: agenda{},
		events: make(chan workerEvent), kernelEvents: make(chan kernel.Event, 64), requests: make(chan func()), quit: make(chan struct{}),
		sockets: sockets{}, tables: tables{}, totals: totals{}, poolTotals: newPoolTotals(), drops: drops{}, pause: restartFirst,
		servers: newServers(known, log),
	}
	k.links, _ = newLinks(&config.Config{}, nil, nil, k.since) // without links nothing can fail
	k.hooks = newHooks(k)
	return k
}

// run starts the gateway, and returns when it has ended.
func (k *keeper) run(ctx context.Context, cfg *config.Config) error {
	if err := keepDescriptors(); err != nil {
		return err
	}
	k.log.Info("starting", "version", k.options.Version, "config", k.options.ConfigFile, "run_dir", k.options.RunDir)
	var err error
	if k.server, err = admin.Serve(k.options.RunDir, &gateway{k}, k.log); err != nil {
		return err
	}
	return k.turn(ctx, func() (err error) {
		k.pending, err = k.prepare(cfg, nil)
		return err
	})
}

// turn begins, and then turns the loop until the gateway has ended.
func (k *keeper) turn(ctx context.Context, begin func() error) error {
	defer func() {
		if k.server == nil {
			return
		}
		if err := k.server.Close(); err != nil {
			k.log.Warn("admin socket did not close well", "error", err)
		}
	}()
	watching, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	defer close(k.quit)
	k.repairing.context = watching

	k.files = raiseFileLimit()
	if err := begin(); err != nil {
		return err
	}
	now := time.Now()
	k.agenda.at(taskPulse, now)
	if k.systemd.watchdogEvery > 0 {
		k.agenda.at(taskWatchdog, now)
	}
	k.loop(ctx)
	k.endMonitor()
	k.sockets.keep(nil)
	k.page.close()
	return k.err
}

// loop is where everything happens, one thing after the other, until the gateway has ended.
func (k *keeper) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	done := ctx.Done()
	for !k.finished {
		timer.Reset(k.agenda.next(time.Now()))
		select {
		case <-timer.C:
			for t, due := k.agenda.take(time.Now()); due; t, due = k.agenda.take(time.Now()) {
				k.do(t)
			}
		case e := <-k.events:
			k.onWorker(e)
		case e := <-k.kernelEvents:
			k.onKernel(e)
		case request := <-k.requests:
			request()
		case <-k.options.Reload:
			k.reload(nil)
		case <-k.options.Rotate:
			k.rotate()
		case <-k.options.Upgrade:
			k.upgrade("", nil)
		case <-done:
			done = nil
			k.stop("asked to")
		case <-k.options.Hurry:
			k.hurry()
		}
		k.settle()
		k.settleHeeded(time.Now())
	}
}

// rotate has every worker go on in an access log that is opened anew.
func (k *keeper) rotate() {
	for _, w := range k.workers {
		go w.contents.rotate()
	}
	k.log.Info("access log is opened anew")
}

func (k *keeper) do(t task) {
	now := time.Now()
	switch t {
	case taskPulse:
		k.agenda.at(taskPulse, now.Add(pulseEvery))
		k.pulse(now)
	case taskRestart:
		k.restart()
	case taskDrain:
		k.drainAll()
	case taskRepair:
		k.repair()
	case taskMeasure:
		k.measure()
	case taskWatch:
		k.watch()
	case taskMonitor:
		k.observe()
	case taskWatchdog:
		k.agenda.at(taskWatchdog, now.Add(k.systemd.watchdogEvery))
		k.systemd.tell(daemon.SdNotifyWatchdog)
	}
}

// pulse keeps the alive element as the current worker is, and ends workers that overstay.
func (k *keeper) pulse(now time.Time) {
	for _, w := range k.workers {
		k.lookAfter(w, now)
	}
	k.refreshAlive(now)
	k.tellElsewhere()
	k.lookAfterMonitor(now)
	k.commitWhenNamed(now)
	if k.servers.tick(now) {
		k.serversChanged(now)
	}
	if due, planned := k.agenda[taskRestart]; planned && due.Sub(now) > longPause {
		k.sockets.refuseWaiting(k.groups)
	}
}

func (k *keeper) lookAfter(w *worker, now time.Time) {
	switch w.state {
	case admin.WorkerStarting:
		if now.After(w.deadline) && w.refusal == "" {
			w.refusal = "it was not ready within " + readyWithin.String()
			w.kill()
		}
	case admin.WorkerRunning:
		if !w.answers(now) {
			w.state = admin.WorkerHung
			w.log.Error("worker hangs, new connections pass it by", "silent_for", now.Sub(w.lastBeat).Round(time.Millisecond))
		}
	case admin.WorkerHung:
		if now.Sub(w.lastBeat) > hungWithin && w.refusal == "" {
			w.refusal = "it gave no sign of life for " + hungWithin.String()
			w.kill()
		}
	case admin.WorkerDraining:
		if k.handover != nil && now.After(k.handover.until) {
			k.handedOver(w)
		}
		if now.After(w.deadline) && w.refusal == "" {
			w.refusal = "it did not end within the bound of its drain"
			w.kill()
		}
	}
}

// onWorker takes in what a worker said or that it has ended.
func (k *keeper) onWorker(e workerEvent) {
	w, now := e.from, time.Now()
	switch {
	case e.message != nil:
		k.onMessage(w, e.message, now)
	case e.paused:
		k.onPaused(w)
	case e.gone:
		w.gone = true
		if e.err != nil {
			w.refusal = e.err.Error()
			w.kill()
		}
		if w == k.current && !k.stopping {
			k.dropAlive()
		}
		k.handedOver(w)
	case e.ended:
		k.onEnd(w, e.err, now)
	}
}

func (k *keeper) onMessage(w *worker, m *control.Message, now time.Time) {
	switch {
	case m.Beat != nil:
		w.lastBeat, w.stats, w.servers, w.pools, w.queues, w.logLost = now, m.Beat.Stats, m.Beat.Servers, m.Beat.Pools, m.Beat.Queues, m.Beat.LogLost
		first := len(w.clients) == 0 && len(m.Beat.Clients) > 0
		if w.clients = m.Beat.Clients; first {
			k.tellElsewhere() // the new worker knows nothing of them yet
		}
		if w == k.current {
			k.drops.take(w.queues)
		}
		if w.state == admin.WorkerHung {
			w.state = admin.WorkerRunning
			w.log.Info("worker answers again")
			k.refreshAlive(now)
		}
		if w.untold {
			k.tellServers(w)
		}
		if k.servers.failures(w, m.Beat.Servers, now) {
			k.serversChanged(now)
		}
	case m.Ready != nil:
		k.onReady(w, now)
	case m.Heeded != nil:
		w.heeded = m.Heeded.Number
	case m.Destroy != nil:
		k.destroy(w, m.Destroy)
	case m.Draining != nil:
		k.handedOver(w)
	case m.Bye != nil:
		w.stats, w.servers, w.pools, w.cut = m.Bye.Stats, m.Bye.Servers, m.Bye.Pools, m.Bye.Cut
	}
}

// onReady puts a worker to use that has become ready.
func (k *keeper) onReady(w *worker, now time.Time) {
	if w.state != admin.WorkerStarting || w.refusal != "" {
		return
	}
	w.state, w.lastBeat = admin.WorkerRunning, now
	switch {
	case k.pending != nil && k.pending.worker == w:
		k.pending.ready = true
		k.commitWhenNamed(now)
	case w == k.current:
		w.log.Info("worker ready in place of the one that ended")
		k.refreshAlive(now)
	}
}

// onEnd does what the end of a worker takes: nothing more for one that drained, another try for the one in use.
func (k *keeper) onEnd(w *worker, err error, now time.Time) {
	k.workers = slices.DeleteFunc(k.workers, func(o *worker) bool { return o == w })
	if k.upgrading != nil {
		delete(k.upgrading.active, w)
	}
	k.totals.add(w)
	k.poolTotals.add(w)
	k.servers.ended(w)
	switch {
	case k.pending != nil && k.pending.worker == w:
		k.giveUp(errors.New("the new worker did not start: " + w.describeEnd(err)))
	case w == k.current && !k.stopping:
		k.current = nil
		k.dropAlive()
		if now.Sub(w.since) > steadyAfter {
			k.pause = 0 // it was well: connections wait in the queues for the next one
		}
		w.log.Error("worker ended, it will be replaced", "reason", w.describeEnd(err), "in", k.pause)
		k.restarts++
		k.agenda.at(taskRestart, now.Add(k.pause))
		k.agenda.at(taskPulse, now)
		k.pause = min(max(2*k.pause, restartFirst), restartMost)
	case w.state == admin.WorkerDraining && w.refusal == "" && err == nil:
		w.log.Info("worker drained", "connections_reset", w.cut)
	default:
		w.log.Warn("worker ended", "reason", w.describeEnd(err))
	}
	if w == k.current {
		k.current = nil
	}
	if w.state == admin.WorkerDraining && !k.stopping {
		k.agenda.at(taskRepair, now) // what its connections took is carried no more
	}
}

// restart starts a worker for the configuration in force, unless a new one is about to take over anyway.
func (k *keeper) restart() {
	if k.stopping || k.current != nil || k.pending != nil || !k.cfg.Worker() {
		return
	}
	if k.upgrading != nil && k.upgrading.step == upgradePauses {
		k.agenda.at(taskRestart, time.Now().Add(pulseEvery)) // if this program is still there then
		return
	}
	w, err := k.start(k.servers, k.links, k.generation, k.groups)
	if err != nil {
		k.log.Error("worker cannot be started", "error", err, "again_in", k.pause)
		k.agenda.at(taskRestart, time.Now().Add(k.pause))
		k.pause = min(2*k.pause, restartMost)
		return
	}
	k.current = w
}

// start starts a worker, which is among k.workers until it has ended.
func (k *keeper) start(s *servers, l *links, generation uint64, groups []*group) (*worker, error) {
	cfg := s.cfg
	with := outfit{sockets: groups, tables: k.tables}
	if err := k.tables.fill(cfg); err != nil {
		return nil, err
	}
	if len(cfg.Pools) > 0 {
		with.first = append(with.first, control.Message{Pools: s.told()})
	}
	if l.any() {
		with.first = append(with.first, control.Message{Links: l.message(true)})
	}
	if m := k.elsewhere(nil, cfg); m != nil && !m.Empty() {
		with.first = append(with.first, control.Message{Elsewhere: m})
	}
	w, err := startWorker(k.options, cfg, generation, with, k.log, k.post)
	if err != nil {
		return nil, err
	}
	w.shares = len(with.first) > 0
	k.workers = append(k.workers, w)
	return w, nil
}

// post gives an event to the loop; after its end nobody wants events.
func (k *keeper) post(e workerEvent) {
	select {
	case k.events <- e:
	case <-k.quit:
	}
}
