package keeper

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"salp/internal/admin"
	"salp/internal/config"
)

// gateway answers the admin socket by having the loop do what is asked.
type gateway struct{ keeper *keeper }

// do runs f on the loop and waits for it.
func (g *gateway) do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case g.keeper.requests <- func() { f(); close(done) }:
	case <-g.keeper.quit:
		return errStopping
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}

// Status implements admin.Gateway.
func (g *gateway) Status(ctx context.Context) (s admin.Status, err error) {
	err = g.do(ctx, func() { s = g.keeper.status(time.Now(), true) })
	return s, err
}

// Reload implements admin.Gateway.
func (g *gateway) Reload(ctx context.Context) (uint64, error) {
	type result struct {
		generation uint64
		err        error
	}
	answer := make(chan result, 1)
	err := g.do(ctx, func() {
		g.keeper.reload(func(generation uint64, err error) { answer <- result{generation, err} })
	})
	if err != nil {
		return 0, err
	}
	select {
	case r := <-answer:
		return r.generation, r.err
	case <-g.keeper.quit:
		return 0, errStopping
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Upgrade implements admin.Gateway.
func (g *gateway) Upgrade(ctx context.Context, binary string) (admin.UpgradeAnswer, error) {
	type result struct {
		answer admin.UpgradeAnswer
		err    error
	}
	answer := make(chan result, 1)
	err := g.do(ctx, func() {
		g.keeper.upgrade(binary, func(a admin.UpgradeAnswer, err error) { answer <- result{a, err} })
	})
	if err != nil {
		return admin.UpgradeAnswer{}, err
	}
	select {
	case r := <-answer:
		return r.answer, r.err
	case <-g.keeper.quit:
		return admin.UpgradeAnswer{}, errStopping
	case <-ctx.Done():
		return admin.UpgradeAnswer{}, ctx.Err()
	}
}

// SetServer implements admin.Gateway. It returns when every worker goes by the change.
func (g *gateway) SetServer(ctx context.Context, w admin.ServerWish) (c admin.ServerChange, err error) {
	heeded := make(chan struct{})
	e := g.do(ctx, func() {
		now := time.Now()
		c, err = g.keeper.setServer(w.Server, w.State, now)
		g.keeper.heedings = append(g.keeper.heedings, heeding{now.Add(heedWithin), func() { close(heeded) }})
	})
	if e != nil {
		return admin.ServerChange{}, e
	}
	select {
	case <-heeded:
	case <-g.keeper.quit:
		return admin.ServerChange{}, errStopping
	case <-ctx.Done():
		return admin.ServerChange{}, ctx.Err()
	}
	return c, err
}

// Stop implements admin.Gateway.
func (g *gateway) Stop(ctx context.Context) error {
	return g.do(ctx, func() { g.keeper.down = true; g.keeper.stop("asked to by the admin socket") })
}

// absolute spells a file so that it is the same for who reads a status in another directory.
func absolute(file string) string {
	if whole, err := filepath.Abs(file); err == nil {
		return whole
	}
	return file
}

// status describes the gateway now, and compares the kernel with the plan if that is wanted, which takes time. It belongs to the loop.
func (k *keeper) status(now time.Time, compare bool) admin.Status {
	s := admin.Status{
		Version:    k.options.Version,
		PID:        os.Getpid(),
		State:      k.state(),
		Since:      k.since,
		Uptime:     now.Sub(k.since).Seconds(),
		RunDir:     k.options.RunDir,
		ConfigFile: absolute(k.options.ConfigFile),
		Generation: k.inForce(),
		Alive:      k.takesIn(now),
		Workers:    []admin.Worker{},
		Restarts:   k.restarts,
		Reload:     k.lastReload,
		Reloads:    k.reloads,
		Listeners:  []admin.Listener{},
		Pools:      []admin.Pool{},
		Kernel:     k.kernelStatus(compare),
	}
	for _, w := range k.workers {
		s.Workers = append(s.Workers, admin.Worker{PID: w.pid, Version: w.version, Generation: w.generation, State: w.state, Since: w.since, Connections: w.connections(), LogLost: w.logLost})
	}
	if k.lastUpgrade != nil {
		upgrade := *k.lastUpgrade
		s.Upgrade = &upgrade
	}
	if k.cfg == nil {
		return s
	}
	s.Links, s.Linkless = k.linkStatus(now)
	for _, l := range k.cfg.Listeners {
		described := describe(l, k.ports[l.Name])
		described.Counters = k.totals.of(l.Name, k.workers)
		if k.current != nil {
			for _, q := range k.current.queues {
				if q.Listener == l.Name {
					described.Queue = q
				}
			}
		}
		described.Queue.Dropped = k.drops[l.Name].total()
		s.Listeners = append(s.Listeners, described)
	}
	s.Pools = k.poolStatus()
	k.addKernelCounts(&s)
	return s
}

func (k *keeper) state() admin.State {
	switch {
	case k.stopping:
		return admin.StateStopping
	case k.cfg == nil:
		return admin.StateStarting
	default:
		return admin.StateRunning
	}
}

// inForce returns the generation that serves all new connections.
func (k *keeper) inForce() uint64 {
	if k.handover != nil {
		return k.generation - 1
	}
	return k.generation
}

// takesIn tells whether new connections are carried now.
func (k *keeper) takesIn(now time.Time) bool {
	if k.cfg != nil && !k.cfg.Worker() {
		return !k.stopping
	}
	if k.stopping || k.current == nil || k.current.state != admin.WorkerRunning || !k.current.answers(now) {
		return false
	}
	return k.alive || k.plan.Empty()
}

// kernelStatus tells how the kernel is, or was when it was last looked at.
func (k *keeper) kernelStatus(compare bool) admin.Kernel {
	s := admin.Kernel{Needed: !k.plan.Empty(), Repairs: slices.Clone(k.repairing.done), Repaired: k.repairing.count, Error: k.repairing.failure}
	if s.Error == "" {
		s.Error = k.repairing.unfit
	}
	if !s.Needed || !compare {
		s.InSync = s.Error == ""
		return s
	}
	differences, err := k.kernel.Diff(k.plan)
	if err != nil {
		s.Error = fmt.Sprintf("cannot be compared: %v", err)
		return s
	}
	for _, d := range differences {
		s.Differences = append(s.Differences, d.String())
	}
	s.InSync = len(differences) == 0
	return s
}

// describe says in words what a listener does.
func describe(l *config.Listener, localPort uint16) admin.Listener {
	d := admin.Listener{
		Name:   l.Name,
		Mode:   admin.Mode(l.Intercept != nil, l.Source == config.SourceClient),
		Source: string(l.Source),
		Pool:   l.Pool,
		Limits: admin.Limits{Connections: l.Limits.Connections, PerClient: l.Limits.PerClient, Rate: l.Limits.Rate, ClientRate: l.Limits.ClientRate},
	}
	if l.Via == config.ViaKernel {
		d.Mode = "kernel"
		if l.Transport == config.TransportUDP {
			d.Mode = "kernel, UDP"
		}
	} else if l.Source == config.SourceClient {
		d.SourcePort = string(l.SourcePort)
	}
	for _, a := range l.Listen {
		d.Addresses = append(d.Addresses, a.String())
	}
	if l.Intercept == nil {
		return d
	}
	d.Interfaces = slices.Clone(l.Intercept.Interfaces)
	d.Method = string(l.Intercept.Method)
	d.LocalPort = localPort
	d.OnFailure = string(l.OnFailure)
	for _, r := range l.Intercept.Ports {
		if r.First == r.Last {
			d.Ports = append(d.Ports, fmt.Sprint(r.First))
		} else {
			d.Ports = append(d.Ports, fmt.Sprintf("%d-%d", r.First, r.Last))
		}
	}
	return d
}

// statusLine is what systemctl status shows.
func (k *keeper) statusLine() string {
	return fmt.Sprintf("listeners: %d, generation: %d", len(k.cfg.Listeners), k.generation)
}
