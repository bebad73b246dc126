package nft

import (
	"fmt"
	"slices"

	"salp/internal/kernel/diff"
	"salp/internal/plan"
)

// update changes what differs in a table that exists. Chains that are right keep their rules and their counters, and sets
// keep the elements that are right.
func (w *work) update(want plan.Table, compiled map[string][]rule, live *table) error {
	sets, err := w.compareSets(want, live)
	if err != nil {
		return err
	}
	makeChains, dropChains := w.compareChains(want, live)
	makeFlows, dropFlows := w.compareFlowtables(want, live)
	// What is made anew under its old name is referred to by rules, which must go first, wherever they are.
	rewriteAll := anyIn(sets.drop, setNames(sets.make)) || anyIn(dropChains, chainNames(makeChains)) || len(dropFlows) > 0
	var rewrite []string
	for _, c := range want.Chains {
		old := live.chain(c.Name)
		if old == nil || rewriteAll || slices.Contains(dropChains, c.Name) || !w.sameRules(want.Name, c.Name, compiled[c.Name], old.rules) {
			rewrite = append(rewrite, c.Name)
		}
	}
	for _, old := range live.chains {
		if slices.Contains(rewrite, old.name) || slices.Contains(dropChains, old.name) {
			w.tx.flushChain(live.name, old.name)
		}
	}
	// Elements refer to chains and counters, so they go before these and come after them.
	for _, e := range sets.edits {
		w.tx.remove(want.Name, e)
	}
	for _, name := range sets.drop {
		w.tx.delSet(live.name, name)
	}
	for _, name := range dropFlows {
		w.tx.delFlowtable(live.name, name)
	}
	for _, name := range dropChains {
		w.tx.delChain(live.name, name)
	}
	for _, name := range sets.dropCounters {
		w.tx.delCounter(live.name, name)
	}
	for _, f := range makeFlows {
		w.tx.addFlowtable(want.Name, f)
	}
	if err := w.add(want, sets, makeChains); err != nil {
		return err
	}
	for _, name := range rewrite {
		w.addRules(want.Name, name, compiled[name])
	}
	return nil
}

// add adds what is new in a table, but rules.
func (w *work) add(want plan.Table, sets setChanges, chains []plan.Chain) error {
	for _, name := range sets.makeCounters {
		w.tx.addCounter(want.Name, name)
	}
	for _, s := range sets.make {
		if err := w.tx.addSet(want.Name, s); err != nil {
			return err
		}
	}
	for _, c := range chains {
		if err := w.tx.addChain(want.Name, c); err != nil {
			return err
		}
	}
	for _, s := range sets.make {
		if err := w.fill(want.Name, s); err != nil {
			return err
		}
	}
	for _, e := range sets.edits {
		w.tx.insert(want.Name, e)
	}
	return nil
}

func anyIn(names, among []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(among, n) })
}

func setNames(sets []plan.Set) (names []string) {
	for _, s := range sets {
		names = append(names, s.Name)
	}
	return names
}

func chainNames(chains []plan.Chain) (names []string) {
	for _, c := range chains {
		names = append(names, c.Name)
	}
	return names
}

// compareChains returns the chains to make and the names of those to remove; one with another hook is removed and made.
func (w *work) compareChains(want plan.Table, live *table) (makeChains []plan.Chain, drop []string) {
	for _, c := range want.Chains {
		old := live.chain(c.Name)
		switch {
		case old == nil:
			makeChains = append(makeChains, c)
			w.note(diff.Add, chainName(want.Name, c.Name), "", fmt.Sprintf("%d rules", len(c.Rules)))
		case !old.like(c):
			makeChains, drop = append(makeChains, c), append(drop, c.Name)
			w.note(diff.Alter, chainName(want.Name, c.Name), old.base(), base(c))
		}
	}
	for _, old := range live.chains {
		if !slices.ContainsFunc(want.Chains, func(c plan.Chain) bool { return c.Name == old.name }) {
			drop = append(drop, old.name)
			w.note(diff.Remove, chainName(want.Name, old.name), fmt.Sprintf("%d rules", len(old.rules)), "")
		}
	}
	return makeChains, drop
}

func (c *chain) like(want plan.Chain) bool { return c.base() == base(want) }

func (c *chain) base() string {
	if !c.based {
		return "no hook"
	}
	policy := "accept"
	if c.policy != policyAccept {
		policy = "drop"
	}
	for name, number := range hooks {
		if number == c.hook {
			return fmt.Sprintf("type %s hook %s priority %d; policy %s;", c.kind, name, c.priority, policy)
		}
	}
	return fmt.Sprintf("type %s hook %d priority %d; policy %s;", c.kind, c.hook, c.priority, policy)
}

func base(c plan.Chain) string {
	if c.Hook == "" {
		return "no hook"
	}
	return fmt.Sprintf("type %s hook %s priority %d; policy accept;", c.Type, c.Hook, c.Priority)
}

// sameRules compares a chain rule by rule and notes what differs.
func (w *work) sameRules(table, chain string, want []rule, have []string) bool {
	forms := make([]string, len(want))
	for i, r := range want {
		forms[i] = r.canonical()
	}
	if slices.Equal(forms, have) {
		return true
	}
	object := "nft rule inet " + table + " " + chain
	left := slices.Clone(have)
	noted := len(w.changes)
	for i, f := range forms {
		if at := slices.Index(left, f); at >= 0 {
			left = slices.Delete(left, at, at+1)
			continue
		}
		w.note(diff.Add, object, "", want[i].text)
	}
	for _, f := range left {
		w.note(diff.Remove, object, w.conn.readable(f), "")
	}
	if len(w.changes) == noted {
		w.note(diff.Alter, "order of nft rules inet "+table+" "+chain, "another order", "that of the plan")
	}
	return false
}

// readable returns a rule in nft's words if this connection wrote it once, else its raw form.
func (c *Conn) readable(form string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.texts[form]; ok {
		return t
	}
	return form
}
