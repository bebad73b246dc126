package kernel

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/diff"
	"salp/internal/kernel/route"
	"salp/internal/kernel/sysctl"
	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// work is what lies between the kernel and a plan.
type work struct {
	plan    plan.Plan
	old     *state
	tables  []diff.Change // what the nft transaction would change
	gone    []string      // tables
	missing route.State   // rules and routes to add
	surplus route.State   // rules and routes to remove
	set     []sysctl.Missing
	restore []sysctl.Kept // values that the plan does not want any more
}

func (w *work) routing() route.State { return route.State{Rules: w.plan.Rules, Routes: w.plan.Routes} }

// compare finds what lies between the kernel and a plan and, when that is to be written, what would make it fail half-way.
func (h *Host) compare(p plan.Plan, write bool) (*work, error) {
	old, foreign, err := h.load()
	if err != nil {
		return nil, err
	}
	if foreign {
		h.log.Warn("the state file is from another network namespace and is not used", "file", h.stateFile())
	}
	w := &work{plan: p, old: old}
	if p.Empty() && old.empty() {
		return w, nil // asks nothing of the kernel, so that an ordinary user can
	}
	mine, err := h.nft.Mine()
	if err != nil {
		return nil, err
	}
	w.gone = slices.DeleteFunc(mine, func(name string) bool { return slices.Contains(tableNames(p.Tables), name) })
	if w.tables, err = h.nft.Diff(p.Tables, w.gone, write); err != nil {
		return nil, err
	}
	if w.missing, err = h.route.Missing(w.routing(), old.routing()); err != nil {
		return nil, err
	}
	if w.surplus, err = h.route.Present(old.routing().Without(w.routing())); err != nil {
		return nil, err
	}
	w.surplus = w.surplus.WithoutReplaced(w.missing)
	if w.set, err = h.sysctl.Missing(p.Sysctls); err != nil {
		return nil, err
	}
	for _, k := range old.Sysctls {
		if !slices.ContainsFunc(p.Sysctls, func(s plan.Sysctl) bool { return s.Name == k.Name }) {
			w.restore = append(w.restore, k)
		}
	}
	return w, nil
}

// Diff tells what Apply would change. It changes nothing, and works beside a Salp that runs.
func (h *Host) Diff(p plan.Plan) ([]Change, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.compare(p, false)
	if err != nil {
		return nil, err
	}
	var changes []Change
	for _, m := range w.set {
		changes = append(changes, Change{Op: diff.Alter, Object: "sysctl " + m.Name, Was: m.Was, Want: m.Value})
	}
	changes = append(changes, w.missing.Changes(diff.Add)...)
	changes = append(changes, w.tables...)
	changes = append(changes, w.surplus.Changes(diff.Remove)...)
	for _, k := range w.restore {
		if now, err := h.sysctl.Read(k.Name); err == nil && now == k.Set && now != k.Former {
			changes = append(changes, Change{Op: diff.Restore, Object: "sysctl " + k.Name, Was: now, Want: k.Former})
		}
	}
	return changes, nil
}

// Apply makes the kernel hold the plan and nothing of an earlier one, and returns what it changed. Applying twice changes
// nothing. What can refuse a plan is asked before anything is written; when the kernel refuses half-way, what this call added
// is taken back. What is new is there before the old goes, and packets see the old tables or the new, never neither.
func (h *Host) Apply(p plan.Plan) ([]Change, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.compare(p, true)
	if err != nil {
		return nil, err
	}
	if p.Empty() && w.old.empty() {
		h.want(p)
		return nil, nil
	}
	during := *w.old // what there may be while this goes on: the old and the new
	during.take(p)
	during.setRouting(w.routing(), w.old.routing().Without(w.routing()))
	during.Sysctls = h.sysctl.Keep(w.old.Sysctls, w.set)
	if err := h.save(&during); err != nil {
		return nil, err
	}
	changes, err := h.bring(w)
	if err != nil {
		return h.takeBack(w, &during, changes, err)
	}
	h.want(p)
	more, err := h.dropOld(w)
	changes = append(changes, more...)
	if err != nil {
		return changes, err // the state file still lists what could not be removed
	}
	after := during
	after.Tables = tableNames(p.Tables)
	after.setRouting(w.routing())
	after.Sysctls = slices.DeleteFunc(slices.Clone(during.Sysctls), func(k sysctl.Kept) bool {
		return slices.ContainsFunc(w.restore, func(r sysctl.Kept) bool { return r.Name == k.Name })
	})
	if after.empty() {
		return changes, h.forget()
	}
	return changes, h.save(&after)
}

// bring adds what is new, interception last: all it needs must be there before the first packet is taken.
func (h *Host) bring(w *work) ([]Change, error) {
	changes, err := h.sysctl.Set(w.set)
	if err != nil {
		return changes, err
	}
	added, waiting, err := h.route.Add(w.missing)
	changes = append(changes, added...)
	h.tellWaiting(waiting)
	if err != nil {
		return changes, err
	}
	if len(w.tables) == 0 {
		return changes, nil
	}
	tables, err := h.nft.Apply(w.plan.Tables, w.gone)
	return append(changes, tables...), err
}

// dropOld removes what only an earlier plan wanted.
func (h *Host) dropOld(w *work) ([]Change, error) {
	changes, err := h.route.Remove(w.surplus)
	restored, left, restoreErr := h.sysctl.Restore(w.restore)
	h.tell(left)
	return append(changes, restored...), errors.Join(err, restoreErr)
}

// takeBack undoes what a failed bring has done. What is still there afterwards is returned as changed.
func (h *Host) takeBack(w *work, during *state, changes []Change, cause error) ([]Change, error) {
	_, routeErr := h.route.Remove(w.missing)
	var fresh []sysctl.Kept
	for _, k := range during.Sysctls {
		if !slices.ContainsFunc(w.old.Sysctls, func(o sysctl.Kept) bool { return o.Name == k.Name }) {
			fresh = append(fresh, k)
		}
	}
	_, left, sysctlErr := h.sysctl.Restore(fresh)
	h.tell(left)
	if err := errors.Join(routeErr, sysctlErr); err != nil {
		return changes, errors.Join(cause, fmt.Errorf("and taking back what was added failed: %w", err))
	}
	if w.old.empty() {
		return nil, errors.Join(cause, h.forget())
	}
	return nil, errors.Join(cause, h.save(w.old))
}

// tellWaiting says which routes cannot be there as the host is now, each once for each reason.
func (h *Host) tellWaiting(waiting []route.Waiting) {
	now := map[string]bool{}
	for _, w := range waiting {
		why := w.Why.Error()
		if now[why] = true; !h.waiting[why] {
			h.log.Info("route waits for its interface or address", "route", w.Route.Text(), "error", why)
		}
	}
	h.waiting = now
}

func (h *Host) tell(left []string) {
	for _, words := range left {
		h.log.Warn("left as it is", "why", words)
	}
}

// Remove takes away everything that the state file and our mark on nft tables say is ours, gives sysctls back that nobody else
// has changed since, and forgets the conntrack entries of redirected connections and the sockets that stay in TIME_WAIT. It needs no configuration, returns what it
// removed, and goes on after an error: what could not be removed stays in the state file for the next time.
func (h *Host) Remove() ([]Change, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, foreign, err := h.load()
	if err != nil {
		return nil, err
	}
	if foreign {
		return nil, fmt.Errorf("the state file %s was written in another network namespace: run this inside it (nsenter), or, when that namespace is gone, remove the file", h.stateFile())
	}
	tables, err := h.nft.Mine()
	if wire.Is(err, unix.EPERM) && s.empty() {
		return nil, nil // an ordinary user with nothing to remove
	}
	if err != nil {
		return nil, err
	}
	changes, err := h.nft.Apply(nil, tables)
	if err != nil {
		return nil, err // while packets are still taken in, the rest must stay
	}
	h.want(plan.Plan{})
	removed, routeErr := h.route.Remove(s.routing())
	restored, left, sysctlErr := h.sysctl.Restore(s.Sysctls)
	h.tell(left)
	changes = append(append(changes, removed...), restored...)
	entries, ctErr := h.conntrack.Flush(s.CTMark)
	if entries > 0 {
		changes = append(changes, Change{Op: diff.Remove, Object: "conntrack entries", Was: fmt.Sprintf("%d with our mark 0x%x", entries, s.CTMark)})
	}
	sockets, diagErr := h.diag.DestroyLeft(s.Marks)
	if sockets > 0 {
		changes = append(changes, Change{Op: diff.Remove, Object: "TCP sockets in TIME_WAIT", Was: fmt.Sprintf("%d with our marks 0x%x", sockets, s.Marks)})
	}
	if err := errors.Join(routeErr, sysctlErr, ctErr, diagErr); err != nil {
		return changes, err
	}
	return changes, h.forget()
}
