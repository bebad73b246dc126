package keeper

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/kernel"
	"salp/internal/plan"
)

// provision is a configuration that is about to be in force: it has been checked, its sockets are open and its worker is starting.
type provision struct {
	cfg     *config.Config
	plan    plan.Plan
	planned []plan.ServerFact // the servers that the plan knows
	ports   map[string]uint16
	groups  []*group
	opened  map[place][]int // those of its sockets that nobody had before
	page    *page           // of the metrics; that of the keeper when it stays
	servers *servers
	links   *links
	worker  *worker
	ready   bool // the worker is
	answers []answerTo
	began   time.Time
}

// answerTo tells somebody who asked for a reload how it went.
type answerTo func(generation uint64, err error)

// portAttempts is how often another interception port is tried when a program took the chosen one in the same moment.
const portAttempts = 3

// prepare does all of a new configuration that leaves the one in force untouched.
func (k *keeper) prepare(cfg *config.Config, answers []answerTo) (*provision, error) {
	p := &provision{cfg: cfg, answers: answers, began: time.Now()}
	if err := k.refuseChange(cfg); err != nil {
		return nil, err
	}
	p.servers = k.servers.next(cfg, p.began)
	if err := k.prepareLinks(p); err != nil {
		return nil, err
	}
	if err := k.openSockets(p); err != nil {
		return nil, err
	}
	var err error
	if p.page, err = k.openPage(cfg); err != nil {
		k.sockets.undo(p.opened)
		return nil, err
	}
	k.watching.stale = true
	if !cfg.Worker() {
		p.ready = true // settle puts it in force
		return p, nil
	}
	if p.worker, err = k.start(p.servers, p.links, k.generation+1, p.groups); err != nil {
		k.undo(p)
		return nil, err
	}
	return p, nil
}

// refuseChange refuses what cannot change under running connections: their sockets carry the mark bits, their conntrack entries the zone.
func (k *keeper) refuseChange(cfg *config.Config) error {
	if k.cfg == nil || k.plan.Empty() {
		return nil
	}
	const hint = "restart the gateway to change it"
	var faults config.Errors
	if cfg.Kernel.Marks != k.cfg.Kernel.Marks {
		faults = append(faults, cfg.Fault(config.Path{"kernel", "marks"}, "the mark bits cannot change while connections carry them", hint))
	}
	if cfg.Kernel.LinkMarks != k.cfg.Kernel.LinkMarks && len(cfg.Links)+len(k.cfg.Links) > 0 {
		faults = append(faults, cfg.Fault(config.Path{"kernel", "link_marks"}, "the mark bits of links cannot change while flows carry them", hint))
	}
	if cfg.Kernel.Zone != k.cfg.Kernel.Zone {
		faults = append(faults, cfg.Fault(config.Path{"kernel", "zone"}, "the conntrack zone cannot change while connections are in it", hint))
	}
	if faults != nil {
		return faults
	}
	return nil
}

// openSockets makes the plan of p and opens its sockets.
func (k *keeper) openSockets(p *provision) error {
	var taken []netip.AddrPort
	for attempt := 1; ; attempt++ {
		facts, err := k.facts(p.links)
		if err != nil {
			return err
		}
		facts.Listening = append(facts.Listening, taken...)
		facts.Servers = p.servers.facts()
		if err := k.planFor(p, facts); err != nil {
			return err
		}
		p.groups = groupsOf(p.cfg, p.ports, facts.IPv6)
		p.opened, err = k.sockets.fill(p.cfg, p.groups)
		var fault *socketError
		if err == nil || attempt == portAttempts || !errors.As(err, &fault) || !p.chose(fault.address) {
			return err
		}
		taken = append(taken, fault.address)
	}
}

// planFor makes the plan, and says which capabilities it lacks.
func (k *keeper) planFor(p *provision, facts plan.Facts) error {
	p.ports = plan.Ports(p.cfg, facts)
	facts.Ports = p.ports
	p.planned = facts.Servers
	var err error
	if p.plan, err = plan.Make(p.cfg, facts); err != nil {
		return err
	}
	if p.cfg.Balance.Offload && facts.Flowtable == plan.No {
		k.log.Warn("balance.offload changes nothing: this kernel has no flowtables (CONFIG_NF_FLOW_TABLE_INET)")
	}
	for _, l := range p.cfg.Listeners {
		if l.Offloads() && facts.Flowtable == plan.No {
			k.log.Warn("offload changes nothing: this kernel has no flowtables (CONFIG_NF_FLOW_TABLE_INET)", "listener", l.Name)
		}
	}
	with, err := launchOf(p.cfg)
	if err != nil {
		return err
	}
	return missing(needs(p.cfg, p.plan, with.who, firstFreePort()), with.have)
}

// planNamed makes the plan anew when names have got addresses since it was made: the kernel path must not be in force without its servers,
// not for a moment.
func (k *keeper) planNamed(p *provision) error {
	servers := p.servers.facts()
	if !p.cfg.KernelPath() || slices.Equal(servers, p.planned) {
		return nil
	}
	facts, err := k.facts(p.links)
	if err != nil {
		return err
	}
	facts.Servers, facts.Ports = servers, p.ports
	p.plan, err = plan.Make(p.cfg, facts)
	return err
}

// chose tells whether the port of an address was Salp's choice, so that another will do.
func (p *provision) chose(a netip.AddrPort) bool {
	for _, l := range p.cfg.Listeners {
		if l.Intercept != nil && l.Intercept.Port == 0 && p.ports[l.Name] == a.Port() {
			return true
		}
	}
	return false
}

// facts returns what is so on the host, with what the keeper knows itself: its ports, that its own sockets are in nobody's way, and links.
func (k *keeper) facts(l *links) (plan.Facts, error) {
	facts, err := k.kernel.Facts()
	if err != nil {
		return plan.Facts{}, fmt.Errorf("read this host's interfaces and sockets: %w", err)
	}
	if l.any() {
		gateways, err := k.kernel.Gateways()
		if err != nil {
			return plan.Facts{}, fmt.Errorf("read this host's default routes: %w", err)
		}
		l.observe(&facts, gateways, time.Now())
	}
	if k.cfg != nil { // else those of a keeper that was killed are good, if there was one
		facts.Ports = maps.Clone(k.ports)
	}
	facts.Listening = slices.DeleteFunc(facts.Listening, k.sockets.holds)
	facts.Servers = k.servers.facts()
	return facts, nil
}

// dismiss ends the worker of a provision, if it has one.
func (p *provision) dismiss(why string) {
	if p.worker != nil {
		p.worker.refusal = why
		p.worker.kill()
	}
}

// commit puts the pending provision in force: its worker is ready, or it needs none. Kernel first, then the old worker drains.
func (k *keeper) commit(now time.Time) {
	p := k.pending
	err := k.planNamed(p)
	if err == nil {
		p.plan = k.carryOver(p.plan, p.worker)
		k.useLinks(p.links)
		err = k.applyNew(p.plan)
	}
	if err != nil {
		p.dismiss("its configuration is not used")
		k.giveUp(err)
		return
	}
	old := k.current
	k.sockets.mark(p.cfg, p.groups)
	k.cfg, k.plan, k.groups, k.ports, k.current, k.pending = p.cfg, p.plan, p.groups, p.ports, p.worker, nil
	k.generation++
	k.pause = restartFirst
	k.agenda.drop(taskRestart)
	k.adoptLinks(p)
	k.servers = p.servers
	k.servers.commit(now)
	k.totals.forget(k.cfg)
	k.poolTotals.forget(k.cfg)
	k.drops.forget(k.cfg)
	k.tables.keep(k.cfg)
	k.refreshed = time.Time{} // a set that was made anew is empty
	k.refreshAlive(now)
	k.handover = &handover{to: p, from: old, until: now.Add(drainingWithin)}
	if old != nil {
		old.drain(k.cfg.Drain, now)
	}
	k.boundGenerations(now)
	k.sockets.keep(k.groups)
	k.usePage(p.page)
	k.sink.set(k.cfg.Logs)
	k.watch()
	k.serversChanged(now)
	k.followLinks()
	k.measure()
	if old == nil {
		k.handedOver(nil)
	}
}

// handover is the moment in which the old worker may still accept.
type handover struct {
	to    *provision
	from  *worker // nil: there was none
	until time.Time
}

// handedOver says that a configuration is in force, when w was the one who served the old.
func (k *keeper) handedOver(w *worker) {
	if k.handover == nil || k.handover.from != w {
		return
	}
	p := k.handover.to
	k.handover = nil
	took := time.Since(p.began).Round(time.Millisecond)
	who := "none is needed"
	if p.worker != nil {
		who = strconv.Itoa(p.worker.pid)
	}
	k.log.Info("ready", "generation", k.generation, "listeners", len(k.cfg.Listeners), "worker", who, "open_files", k.files, "took", took)
	if k.generation > 1 {
		k.lastReload = &admin.Reload{At: time.Now(), Good: true}
		k.reloads.Good++
	}
	k.systemd.ready(k.statusLine())
	for _, answer := range p.answers {
		answer(k.generation, nil)
	}
}

// applyNew brings the kernel to a new plan. After a failure it is brought back to the one in force.
func (k *keeper) applyNew(p plan.Plan) error {
	if p.Empty() && k.plan.Empty() && !k.leftovers() {
		return nil
	}
	changes, err := k.kernel.Apply(p)
	if err == nil {
		for _, c := range changes {
			k.log.Debug("kernel changed", "change", c.String())
		}
		return nil
	}
	var back error
	if k.cfg == nil {
		_, back = k.kernel.Remove()
	} else {
		_, back = k.kernel.Apply(k.plan)
		k.agenda.atLatest(taskRepair, time.Now().Add(repairDelay))
	}
	if back != nil {
		err = errors.Join(err, fmt.Errorf("and it could not be taken back: %w", back))
	}
	return err
}

// leftovers tells whether a keeper that was killed has left something in the kernel, which the first plan must take away. Who may not do that
// goes on without: explicit listeners need nothing in the kernel.
func (k *keeper) leftovers() bool {
	if k.cfg != nil {
		return false
	}
	if _, err := os.Stat(kernel.StateFile(k.options.RunDir)); err != nil {
		return false // its state file is written before anything is
	}
	have, err := ownCapabilities()
	if err != nil || !have.has(unix.CAP_NET_ADMIN) {
		k.log.Warn("a gateway that was killed has left things in the kernel, and this process lacks CAP_NET_ADMIN to remove them: run 'salp down' as root")
		return false
	}
	return true
}

// giveUp drops the pending provision and says why; what was in force stays. Without anything in force it is the end.
func (k *keeper) giveUp(err error) {
	p := k.pending
	k.pending = nil
	k.watching.stale = true
	k.undo(p)
	k.refused(err, p.answers)
	if k.cfg == nil {
		k.err = err
		k.stopping = true
	} else if k.current == nil {
		k.agenda.atLatest(taskRestart, time.Now())
	}
}

// undo closes the sockets that were opened for a configuration that is not used.
func (k *keeper) undo(p *provision) {
	k.sockets.undo(p.opened)
	if p.page != k.page {
		p.page.close()
	}
}

// reload reads the configuration again. answer may be nil.
func (k *keeper) reload(answer answerTo) {
	var answers []answerTo
	if answer != nil {
		answers = []answerTo{answer}
	}
	if k.stopping {
		k.refused(errStopping, answers)
		return
	}
	if k.upgrading != nil && k.upgrading.step != upgradeExamines {
		k.log.Info("not reloading: the upgrade that is under way does")
		for _, answer := range answers {
			answer(0, errUpgrading)
		}
		return
	}
	if k.pending != nil || k.handover != nil {
		// The file may have changed since the pending one was read, so it is read once more, for all who ask now.
		k.again = append(k.again, func(uint64, error) {})
		k.again = append(k.again, answers...)
		return
	}
	k.beginReload(answers)
}

var errStopping = errors.New("the gateway is stopping")

func (k *keeper) beginReload(answers []answerTo) {
	k.log.Info("reloading", "config", k.options.ConfigFile)
	k.systemd.reloading()
	cfg, err := config.Load(k.options.ConfigFile)
	if err == nil {
		k.pending, err = k.prepare(cfg, answers)
	}
	if err != nil {
		k.pending = nil
		k.refused(err, answers)
	}
}

// refused tells everybody that a configuration is not used.
func (k *keeper) refused(err error, answers []answerTo) {
	if k.cfg != nil {
		k.lastReload = &admin.Reload{At: time.Now(), Error: err.Error()}
		k.reloads.Refused++
		k.logRefusal(err)
		k.systemd.ready(k.statusLine())
	}
	for _, answer := range answers {
		answer(0, err)
	}
}

// logRefusal logs why a configuration is not used, each mistake in a line of its own.
func (k *keeper) logRefusal(err error) {
	const message = "reload refused, the old configuration stays"
	var faults config.Errors
	if !errors.As(err, &faults) {
		k.log.Error(message, "error", err)
		return
	}
	for _, fault := range faults {
		k.log.Error(message, "error", fault.Message, "place", fmt.Sprintf("%s:%d:%d", fault.File, fault.Line, fault.Column), "hint", fault.Hint)
	}
}

// settle begins what had to wait for the end of something else, and notices when all has ended.
func (k *keeper) settle() {
	if k.watching.stale {
		k.observe()
	}
	if k.stopping {
		k.refuseWaiting()
		if len(k.workers) == 0 {
			k.finish()
		}
		return
	}
	if k.pending != nil && k.pending.worker == nil && k.handover == nil {
		k.commitWhenNamed(time.Now())
	}
	if k.pending == nil && k.handover == nil && k.cfg != nil && len(k.again) > 0 {
		answers := k.again
		k.again = nil
		k.beginReload(answers)
	}
	k.settleUpgrade(time.Now())
}

func (k *keeper) refuseWaiting() {
	for _, answer := range k.again {
		answer(0, errStopping)
	}
	k.again = nil
}
