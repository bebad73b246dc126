package keeper

import (
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"salp/internal/admin"
	"salp/internal/plan"
)

// settleFor is how long workers go on to accept when nothing new is taken in: connections whose handshake was under way then have no other
// way than through Salp.
const settleFor = 200 * time.Millisecond

// stop begins the end: no new connection is taken in, running ones go on within the bound of the drain. The divert stays for them.
func (k *keeper) stop(why string) {
	if k.stopping {
		return
	}
	k.stopping = true
	if k.upgrading != nil {
		k.failUpgrade(errStopping)
	}
	k.log.Info("stopping", "reason", why)
	k.systemd.tell(daemon.SdNotifyStopping + "\nSTATUS=draining")
	k.agenda.drop(taskRestart)
	k.dropAlive()
	if p := k.pending; p != nil {
		k.pending = nil
		p.dismiss(errStopping.Error())
		k.undo(p)
		for _, answer := range p.answers {
			answer(0, errStopping)
		}
	}
	if k.handover != nil {
		k.handedOver(k.handover.from)
	}
	wait := settleFor
	if k.plan.Empty() {
		wait = 0
	}
	k.agenda.at(taskDrain, time.Now().Add(wait))
}

// drainAll makes all workers accept no more.
func (k *keeper) drainAll() {
	now := time.Now()
	for _, w := range k.workers {
		switch {
		case w.refusal != "" || w.state == admin.WorkerDraining:
			// it ends already
		case w.state == admin.WorkerStarting:
			w.refusal = errStopping.Error()
			w.kill()
		default:
			w.drain(k.cfg.Drain, now)
		}
	}
	// The workers close their copies when they drain; with these the kernel answers that nobody listens.
	k.sockets.keep(nil)
}

// hurry cuts a drain short.
func (k *keeper) hurry() {
	if !k.stopping {
		return
	}
	k.log.Info("cutting the drain short")
	k.agenda.drop(taskDrain)
	k.drainAll()
	now := time.Now()
	for _, w := range k.workers {
		w.drain(0, now)
	}
}

// leaveLinks removes what is in the kernel but for the links, which go on without a process, and tells whether it has: a service that is
// restarted must not break the flows that it does not carry. Who asks for the end by the admin socket wants them removed, too.
func (k *keeper) leaveLinks() (left bool, err error) {
	if k.down || k.cfg == nil || !k.links.any() {
		return false, nil
	}
	if err := k.links.remember(k.options.RunDir); err != nil {
		k.log.Warn("states of links cannot be remembered for the next start", "error", err)
	}
	facts, err := k.facts(k.links)
	if err != nil {
		return false, err
	}
	only := *k.cfg
	only.Listeners = nil
	p, err := plan.Make(&only, facts)
	if err != nil {
		return false, err
	}
	if _, err := k.kernel.Apply(p); err != nil {
		return false, err
	}
	k.plan = plan.Plan{} // nothing else is there to be removed
	return true, nil
}

// finish removes what is in the kernel, when no worker is left.
func (k *keeper) finish() {
	k.finished = true
	switch left, err := k.leaveLinks(); {
	case left:
		k.log.Info("links stay as they are now, for the next start; 'salp down' removes them")
	case err != nil:
		k.log.Error("links cannot be left as they are, they are removed", "error", err)
	}
	if !k.plan.Empty() {
		changes, err := k.kernel.Remove()
		for _, c := range changes {
			k.log.Debug("kernel changed", "change", c.String())
		}
		if err != nil {
			k.log.Error("not all could be removed from the kernel: try 'salp down'", "error", err)
			k.err = err
		}
	}
	if k.err == nil {
		k.log.Info("stopped", "uptime", time.Since(k.since).Round(time.Millisecond))
	}
}
