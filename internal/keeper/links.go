package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"salp/internal/access"
	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/egress"
	"salp/internal/health"
	"salp/internal/kernel"
	"salp/internal/link"
	"salp/internal/plan"
)

// links are the Internet links of one configuration, as the loop knows them.
type links struct {
	cfg     *config.Config
	set     *link.Set
	names   map[string][]netip.Addr
	heard   map[string]bool // names that an answer has come for, also that there is no address
	lists   map[string][]netip.Prefix
	local   []netip.Prefix
	changes []link.Change           // that the kernel and the world are still to be told
	began   map[string]link.Traffic // what the interfaces had carried when the keeper began, or the interface was made
	now     map[string]link.Traffic
}

// measureEvery is how often the bytes that links carry are read.
const measureEvery = 2 * time.Second

// newLinks begins to look after the links of a configuration. What known says of them goes on.
func newLinks(cfg *config.Config, known []link.Saved, names map[string][]netip.Addr, now time.Time) (*links, error) {
	l := &links{cfg: cfg, names: names, heard: map[string]bool{}, set: link.New(cfg, known, names, now), began: map[string]link.Traffic{}}
	if len(cfg.Links) == 0 {
		return l, nil
	}
	wanted := l.wanted()
	l.names = maps.Clone(names)
	maps.DeleteFunc(l.names, func(name string, _ []netip.Addr) bool { return !slices.Contains(wanted, name) })
	var err error
	l.lists, err = addressLists(cfg)
	return l, err
}

// addressLists reads the lists of addresses that rules and forwards name.
func addressLists(cfg *config.Config) (map[string][]netip.Prefix, error) {
	all := map[string][]netip.Prefix{}
	var errs config.Errors
	for _, name := range egress.Lists(cfg) {
		c := cfg.List(name)
		if c == nil {
			continue
		}
		prefixes, err := readAddresses(c.Addresses)
		if err != nil {
			errs = append(errs, cfg.Fault(config.Path{"lists", name, "addresses"}, fmt.Sprintf("list %s cannot be used: %v", name, err), ""))
			continue
		}
		all[name] = prefixes
	}
	if errs != nil {
		return nil, errs
	}
	return all, nil
}

func readAddresses(file string) ([]netip.Prefix, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	set, err := access.ReadAddresses(f)
	if err != nil {
		return nil, err
	}
	return set.Prefixes(), nil
}

// any tells whether there are links at all.
func (l *links) any() bool { return len(l.cfg.Links) > 0 }

// observe takes in what the kernel holds, and completes the facts.
func (l *links) observe(facts *plan.Facts, gateways []plan.Gateway, now time.Time) {
	l.changes = append(l.changes, l.set.Observe(facts.Interfaces, gateways, now)...)
	l.local = nil
	for _, i := range facts.Interfaces {
		for _, a := range i.Addresses {
			if p := a.Masked(); !slices.Contains(l.local, p) {
				l.local = append(l.local, p)
			}
		}
	}
	facts.Links, facts.Names, facts.Lists = l.set.Facts(), l.names, l.lists
}

// used says whether new flows use the link with that index: it is up, or none is and they are used as if they were.
func (l *links) used(i int) bool {
	all := l.set.Links()
	if all[i].State == link.Up {
		return true
	}
	return l.cfg.Balance.LastResort == config.LastResortAll && (all[i].Way(plan.IPv4).Usable() || all[i].Way(plan.IPv6).Usable()) &&
		!slices.ContainsFunc(all, func(o *link.Link) bool { return o.State == link.Up })
}

// linkUse tells of each number of a link whether new flows use it: flows that are to be forgotten are not, once the link is used again.
type linkUse [256]atomic.Bool

// useLinks notes, before the kernel gets a plan, which links it uses.
func (k *keeper) useLinks(l *links) {
	for i := range l.cfg.Links {
		if l.used(i) {
			k.linkUse[i+1].Store(true)
		}
	}
}

// message is what workers are told. lists says that the lists are in it.
func (l *links) message(lists bool) *control.Links {
	m := &control.Links{Local: l.local, Names: l.names}
	for i, f := range l.set.Facts() {
		m.Links = append(m.Links, control.Link{Name: f.Name, Up: f.Up, Dead: l.set.Links()[i].State == link.Down && !l.used(i), Weight: f.Weight, IPv4: f.IPv4.Usable(), IPv6: f.IPv6.Usable()})
	}
	if lists {
		m.Lists = l.lists
	}
	return m
}

// KnowLinks completes facts with what is known of the links of a configuration, for a plan that nobody runs: what the kernel holds of them, and
// what the last keeper with that run directory knew.
func KnowLinks(facts *plan.Facts, cfg *config.Config, runDir string, host *kernel.Host) error {
	if len(cfg.Links) == 0 {
		return nil
	}
	known, err := recallLinks(runDir)
	if err != nil {
		known = linksMemory{} // the keeper that ran into it has told
	}
	now := time.Now()
	l, err := newLinks(cfg, known.Links, known.Names, now)
	if err != nil {
		return err
	}
	gateways, err := host.Gateways()
	if err != nil {
		return err
	}
	l.observe(facts, gateways, now)
	return nil
}

// linksFile is where what is known of links outlives a keeper.
func linksFile(runDir string) string { return filepath.Join(runDir, "links.json") }

// linksMemory is what that file holds.
type linksMemory struct {
	Links []link.Saved            `json:"links"`
	Names map[string][]netip.Addr `json:"names,omitempty"` // so that the next start has its rules for them from the first flow on
}

// maxLinksFile bounds the text of that file.
const maxLinksFile = 4 << 20

// recallLinks returns what the keeper before this one knew of links. Nothing, when it left nothing that can be read.
func recallLinks(runDir string) (m linksMemory, err error) {
	text, err := os.ReadFile(linksFile(runDir))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	if len(text) > maxLinksFile {
		return m, fmt.Errorf("%s has %d bytes", linksFile(runDir), len(text))
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return linksMemory{}, err
	}
	return m, nil
}

// remember writes what is known of the links, by rename.
func (l *links) remember(runDir string) error {
	text, err := json.Marshal(linksMemory{Links: l.set.Saved(), Names: l.names})
	if err != nil {
		return err
	}
	file := linksFile(runDir)
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// rememberLinks has the next start know what is known now.
func (k *keeper) rememberLinks() {
	if err := k.links.remember(k.options.RunDir); err != nil {
		k.log.Warn("states of links cannot be remembered for the next start", "error", err)
	}
}

// onSample takes in how a probe ended. It tells whether it was one of a link.
func (k *keeper) onSample(r *control.Result) bool {
	name, target, ok := link.ParseJob(r.ID)
	if !ok {
		return false
	}
	l := k.links
	l.changes = append(l.changes, l.set.Sample(name, target, health.Sample{At: r.At, Error: r.Error, RTT: r.RTT})...)
	return true
}

// learnName takes in what a host name is now, when a rule or a check of links mentions it.
func (k *keeper) learnName(n *control.Name) {
	for _, l := range []*links{k.links, k.pendingLinks()} {
		if l == nil || !slices.Contains(l.wanted(), n.Name) {
			continue
		}
		l.heard[n.Name] = true
		if n.Error != "" || slices.Equal(l.names[n.Name], n.Addresses) {
			continue
		}
		names := maps.Clone(l.names)
		if names == nil {
			names = map[string][]netip.Addr{}
		}
		names[n.Name] = slices.Clone(n.Addresses)
		l.names = names
		l.set.Resolved(names)
		k.watching.stale = true
		if l == k.links {
			k.rememberLinks()
			k.agenda.at(taskRepair, time.Now())
		}
	}
}

// unnamed says that nothing is known of a name yet that a rule or a check mentions.
func (l *links) unnamed() bool {
	return slices.ContainsFunc(l.wanted(), func(name string) bool { return !l.heard[name] && l.names[name] == nil })
}

func (k *keeper) pendingLinks() *links {
	if k.pending == nil {
		return nil
	}
	return k.pending.links
}

// wanted returns the host names that rules and checks mention.
func (l *links) wanted() []string {
	if !l.any() {
		return nil
	}
	names := append(egress.Names(l.cfg), l.set.Names()...)
	slices.Sort(names)
	return slices.Compact(names)
}

// watch adds what the monitor is to do for the links.
func (l *links) watch(w *control.Watch) {
	w.Jobs = append(w.Jobs, l.set.Jobs()...)
	w.Names = withNames(w.Names, l.wanted())
}

// calls tells whether a webhook may have to be called.
func (l *links) calls() bool {
	return slices.ContainsFunc(l.cfg.Links, func(c *config.Link) bool { return c.OnChange != nil && c.OnChange.Webhook != "" })
}

// prepareLinks begins to look after the links of a configuration that is about to be in force.
func (k *keeper) prepareLinks(p *provision) (err error) {
	known := linksMemory{Links: k.links.set.Saved(), Names: k.links.names}
	if k.cfg == nil {
		if known, err = recallLinks(k.options.RunDir); err != nil {
			k.log.Warn("the file of links' states cannot be read", "error", err)
		}
	}
	p.links, err = newLinks(p.cfg, known.Links, known.Names, p.began)
	return err
}

// adoptLinks puts the links of a provision in force. What became of them while it was prepared counts. The flows of links that have other
// numbers now are forgotten: the marks that they carry name other links.
func (k *keeper) adoptLinks(p *provision) {
	old := k.links
	k.links = p.links
	if old.any() {
		k.links.set = link.New(p.cfg, old.set.Saved(), p.links.names, time.Now())
		k.links.began, k.links.now = old.began, old.now
		k.links.changes = old.changes
	}
	if p.links.any() {
		k.agenda.at(taskRepair, time.Now()) // names may have been learned since the plan was made
	}
	for i, was := range old.cfg.Links {
		if i < len(p.cfg.Links) && p.cfg.Links[i].Interface == was.Interface {
			continue
		}
		k.forgetFlows(i+1, func() bool { return true }, k.log.With("link", was.Name, "reason", "it has gone or has another number"))
	}
}

// measure reads what links carry, and has the plan follow weights that adapt.
func (k *keeper) measure() {
	if !k.links.any() || k.stopping {
		return
	}
	k.agenda.at(taskMeasure, time.Now().Add(measureEvery))
	k.readTraffic()
	if k.links.set.Measure(k.links.now, time.Now()) {
		k.agenda.at(taskRepair, time.Now())
	}
}

// readTraffic reads what the links' interfaces have carried by now.
func (k *keeper) readTraffic() {
	traffic, err := k.kernel.Traffic()
	if err != nil {
		k.log.Debug("traffic of interfaces cannot be read", "error", err)
		return
	}
	l := k.links
	l.now = map[string]link.Traffic{}
	for name, t := range traffic {
		now := link.Traffic{In: t.In, Out: t.Out}
		l.now[name] = now
		if first, known := l.began[name]; !known || now.In < first.In || now.Out < first.Out {
			l.began[name] = now
		}
	}
}

// followLinks does what changes of links take once the kernel has the plan that follows from them.
func (k *keeper) followLinks() {
	l := k.links
	if !l.any() {
		return
	}
	k.tellLinks()
	if len(l.changes) == 0 {
		return
	}
	changes := l.changes
	l.changes = nil
	k.watching.stale = true // links without carrier are not probed
	for _, c := range changes {
		k.linkChanged(c)
	}
	for i, one := range l.set.Links() { // those that were used although they were down, until another came up
		if one.State == link.Down && one.Config.OnDown == config.LinkDownReset && k.linkUse[one.Number].Load() && !l.used(i) {
			k.forgetLost(one, k.log.With("link", one.Config.Name))
		}
	}
	k.rememberLinks()
}

// forgetLost has the flows of a link that is down forgotten, unless it is used again by then.
func (k *keeper) forgetLost(one *link.Link, log *slog.Logger) {
	use := &k.linkUse[one.Number]
	use.Store(false)
	k.forgetFlows(one.Number, func() bool { return !use.Load() }, log)
}

// linkChanged does what one change takes.
func (k *keeper) linkChanged(c link.Change) {
	one := k.links.set.Link(c.Link)
	if one == nil {
		return
	}
	log := k.log.With("link", c.Link, "was", c.Was)
	switch c.State {
	case link.Up:
		log.Info("link up", "because_it_was", one.Reason)
	case link.Down:
		log.Warn("link down", "reason", c.Reason)
	default:
		log.Info("link takes no new flows", "reason", c.Reason)
	}
	if c.State == link.Down && one.Config.OnDown == config.LinkDownReset && !k.links.used(one.Number-1) {
		k.forgetLost(one, log)
	}
	k.hooks.changed(c, one, k.cfg)
}

// forgetFlows has the kernel forget the flows of a link, beside the loop: there may be a hundred thousand. still is asked, there, before it does.
func (k *keeper) forgetFlows(number int, still func() bool, log *slog.Logger) {
	value, mask := k.cfg.Kernel.LinkMark(number), k.cfg.Kernel.LinkMarks
	go func() {
		n, err := k.kernel.ForgetFlows(value, mask, still)
		switch {
		case err != nil:
			log.Error("flows of the link cannot be forgotten", "error", err)
		case n > 0:
			log.Info("flows of the link are forgotten, to begin anew on others", "flows", n)
		}
	}()
}

// tellLinks tells every worker how the links are, when that has changed since it was told.
func (k *keeper) tellLinks() {
	m := k.links.message(false)
	for _, w := range k.workers {
		if w.cfg != k.cfg || w.links != nil && sameLinks(w.links, m) {
			continue
		}
		if err := w.child.conn.Send(control.Message{Links: m}); err != nil {
			w.log.Debug("worker cannot be told how the links are", "error", err)
			continue
		}
		w.links = m
	}
}

func sameLinks(a, b *control.Links) bool {
	return slices.Equal(a.Links, b.Links) && slices.Equal(a.Local, b.Local) && maps.EqualFunc(a.Names, b.Names, slices.Equal)
}
