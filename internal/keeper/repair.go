package keeper

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/kernel"
	"salp/internal/kernel/route"
	"salp/internal/plan"
)

const (
	// repairDelay gathers what belongs together: programs change the kernel in several steps.
	repairDelay = 150 * time.Millisecond
	// repairCalm is how long a repair waits when another program undoes repairs again and again.
	repairCalm = 5 * time.Second
	// repairFight is how many repairs within repairWindow make a fight of it.
	repairFight  = 10
	repairWindow = 10 * time.Second
	// checkEvery is how often the kernel is compared with the plan though it told of no change: notifications can be lost.
	checkEvery = 30 * time.Second
	// repairsKept is how many are kept for the status.
	repairsKept = 20
)

// kernelHost is what the keeper asks of package kernel. *kernel.Host is one.
type kernelHost interface {
	Facts() (plan.Facts, error)
	Diff(plan.Plan) ([]kernel.Change, error)
	Apply(plan.Plan) ([]kernel.Change, error)
	Alive(time.Duration) error
	Watch(context.Context, func(kernel.Event)) error
	Remove() ([]kernel.Change, error)
	DestroyTimeWait(local, remote netip.AddrPort) error
	Owner() (descriptor int, err error)
	Gateways() ([]plan.Gateway, error)
	Counters(table string) (map[string]kernel.Count, error)
	Traffic() (map[string]route.Traffic, error)
	ForgetFlows(value, mask uint32, still func() bool) (int, error)
	SetElements(table string, sets []plan.Set) error
	ForgetForwarded(proto byte, servers []netip.AddrPort, unanswered bool) (int, error)
}

// repairing is what the keeper remembers about repairs.
type repairing struct {
	context  context.Context // ends the watch
	watching bool
	causes   []kernel.Event // what the kernel told since the last repair
	recent   []time.Time    // when repairs changed something
	done     []admin.Repair // the last ones, for the status
	count    uint64         // how many there were
	failure  string         // why the last one failed
	deaf     string         // why the watch ended last
	unfit    string         // why the configuration does not fit the host any more
}

// refreshAlive makes the kernel divert as long as the current worker answers.
func (k *keeper) refreshAlive(now time.Time) {
	if k.stopping || k.plan.Empty() {
		return
	}
	if k.current == nil || k.current.state != admin.WorkerRunning || !k.current.answers(now) {
		k.dropAlive()
		return
	}
	if k.alive && now.Sub(k.refreshed) < refreshEvery {
		return
	}
	if err := k.kernel.Alive(aliveFor); err != nil {
		if k.alive {
			k.log.Error("connections pass by: the alive element cannot be refreshed", "error", err)
		}
		k.alive = false
		k.agenda.atLatest(taskRepair, now.Add(repairDelay))
		return
	}
	k.alive, k.refreshed = true, now
}

// dropAlive makes new connections pass by.
func (k *keeper) dropAlive() {
	if !k.alive {
		return
	}
	k.alive = false
	if err := k.kernel.Alive(0); err != nil {
		k.log.Error("the alive element cannot be removed, it lapses by itself", "within", aliveFor, "error", err)
	}
}

// watch makes the kernel tell about changes by others, as soon as there is anything of ours to change.
func (k *keeper) watch() {
	if k.repairing.watching || k.idle() {
		return
	}
	k.repairing.watching = true
	k.agenda.atLatest(taskRepair, time.Now().Add(checkEvery))
	ctx := k.repairing.context
	go func() {
		err := k.kernel.Watch(ctx, func(e kernel.Event) {
			select {
			case k.kernelEvents <- e:
			case <-ctx.Done():
			}
		})
		if ctx.Err() != nil {
			return
		}
		select {
		case k.requests <- func() { k.watchEnded(err) }:
		case <-k.quit:
		}
	}()
}

// watchEnded listens anew; what happened meanwhile is found by comparing.
func (k *keeper) watchEnded(err error) {
	if text := fmt.Sprint(err); text != k.repairing.deaf {
		k.repairing.deaf = text
		k.log.Warn("changes in the kernel cannot be watched, trying again every second", "error", err)
	}
	k.repairing.watching = false
	now := time.Now()
	k.agenda.at(taskWatch, now.Add(time.Second))
	k.agenda.atLatest(taskRepair, now.Add(time.Second))
}

// idle says that the configuration has no business with the kernel.
func (k *keeper) idle() bool { return k.plan.Empty() && !k.links.any() }

// onKernel plans a repair when something changed that may be ours, or that the plan was made from.
func (k *keeper) onKernel(e kernel.Event) {
	if k.idle() {
		return
	}
	room := repairsKept
	if !e.Facts {
		room *= 2 // many addresses that came first must not hide who changed an object
	}
	if len(k.repairing.causes) < room {
		k.repairing.causes = append(k.repairing.causes, e)
	}
	delay := repairDelay
	if e.Facts && k.links.any() {
		delay = 0 // a link may have lost its carrier
	}
	if k.repairing.fights(time.Now()) {
		delay = repairCalm
	}
	k.agenda.atLatest(taskRepair, time.Now().Add(delay))
}

// fights tells whether another program undoes repairs again and again.
func (r *repairing) fights(now time.Time) bool {
	for len(r.recent) > 0 && now.Sub(r.recent[0]) > repairWindow {
		r.recent = r.recent[1:]
	}
	return len(r.recent) >= repairFight
}

// repair makes the plan anew, as the host is now, and brings the kernel to it.
func (k *keeper) repair() {
	causes := k.repairing.causes
	k.repairing.causes = nil
	if k.idle() {
		return
	}
	now := time.Now()
	k.agenda.atLatest(taskRepair, now.Add(checkEvery))
	changed := k.replan()
	k.useLinks(k.links)
	changes, err := k.kernel.Apply(k.plan)
	k.noteRepairs(changes, causes, changed, now)
	if err != nil {
		if text := err.Error(); text != k.repairing.failure {
			k.repairing.failure = text
			k.log.Error("the kernel cannot be brought back to the plan", "error", err)
		}
		k.agenda.atLatest(taskRepair, now.Add(time.Second))
		return
	}
	k.repairing.failure = ""
	k.followLinks()
	if len(changes) > 0 {
		k.refreshed = time.Time{} // a set that was made anew is empty
		k.refreshAlive(now)
	}
}

// replan makes the plan for the host as it is now, and tells whether it is another one. When the configuration does not fit the host any
// more (an interface has gone) the last plan stays: it fits again when the interface comes back.
func (k *keeper) replan() bool {
	facts, err := k.facts(k.links)
	var p plan.Plan
	if err == nil {
		p, err = plan.Make(k.cfg, facts)
	}
	if err != nil {
		if text := err.Error(); text != k.repairing.unfit {
			k.repairing.unfit = text
			k.log.Warn("the configuration does not fit this host any more, the last plan stays", "error", err)
		}
		return false
	}
	if k.repairing.unfit != "" {
		k.repairing.unfit = ""
		k.log.Info("the configuration fits this host again")
	}
	p = k.carryOver(p, k.current)
	if reflect.DeepEqual(p, k.plan) {
		return false
	}
	k.plan = p
	return true
}

// noteRepairs logs what was done in the kernel, and why: the plan had changed, or somebody had changed the kernel.
func (k *keeper) noteRepairs(changes []kernel.Change, causes []kernel.Event, planned bool, now time.Time) {
	if len(changes) == 0 {
		return
	}
	by := ""
	if len(causes) > 0 {
		// The plan follows interfaces and addresses; a repair has a culprit, who changed an object of the plan.
		first := slices.IndexFunc(causes, func(e kernel.Event) bool { return e.Facts == planned })
		by = causes[max(first, 0)].String()
		if more := len(causes) - 1; more > 0 {
			by += fmt.Sprintf(" (and %d more changes)", more)
		}
	}
	if planned {
		for _, c := range changes {
			k.log.Info("kernel follows the plan, which has changed", "change", c.String(), "after", by)
		}
		return
	}
	for _, c := range changes {
		k.log.Warn("kernel repaired", "change", c.String(), "after", by)
		k.repairing.count++
		k.repairing.done = append(k.repairing.done, admin.Repair{At: now, What: c.String(), By: by})
	}
	if extra := len(k.repairing.done) - repairsKept; extra > 0 {
		k.repairing.done = k.repairing.done[extra:]
	}
	k.repairing.recent = append(k.repairing.recent, now)
	if k.repairing.fights(now) {
		k.log.Warn("another program undoes repairs again and again, the next ones wait", "for", repairCalm)
	}
}

// destroy removes a TIME_WAIT socket of ours that is in the way of a connect.
func (k *keeper) destroy(w *worker, d *control.Destroy) {
	answer := &control.Destroyed{ID: d.ID}
	if k.plan.Empty() {
		answer.Error = unix.EPERM.Error()
	} else if err := k.kernel.DestroyTimeWait(d.Local, d.Remote); err != nil {
		answer.Error = err.Error()
	}
	err := w.child.conn.Send(control.Message{Destroyed: answer})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.refusal = "it asks but does not read answers" // which holds up the loop
		w.kill()
	}
}
