package kernel

import (
	"fmt"
	"net/netip"
	"slices"

	"salp/internal/kernel/nft"
	"salp/internal/plan"
)

// Count is what a counter has counted.
type Count = nft.Count

// SetElements makes sets and maps of a table of the plan in force hold the elements given, in one transaction that touches no rule and
// no other element: the quick way when a server or a link changes. Only name and Elements of the sets are looked at. What Watch repairs is
// from then on a plan with these elements.
func (h *Host) SetElements(table string, sets []plan.Set) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.wanted.Load().plan
	at := slices.IndexFunc(now.Tables, func(t plan.Table) bool { return t.Name == table })
	if at < 0 {
		return fmt.Errorf("nft table inet %s is not in the plan in force", table)
	}
	now.Tables = slices.Clone(now.Tables)
	t := &now.Tables[at]
	t.Sets = slices.Clone(t.Sets)
	changed := make([]plan.Set, len(sets))
	for i, s := range sets {
		n := slices.IndexFunc(t.Sets, func(o plan.Set) bool { return o.Name == s.Name })
		if n < 0 {
			return fmt.Errorf("nft set inet %s %s is not in the plan in force", table, s.Name)
		}
		t.Sets[n].Elements = s.Elements
		changed[i] = t.Sets[n]
	}
	if err := h.nft.SetElements(table, changed); err != nil {
		return err
	}
	h.want(now)
	return nil
}

// Counters reads the named counters of a table.
func (h *Host) Counters(table string) (map[string]Count, error) { return h.nft.Counters(table) }

// RuleCounts reads the counters in the rules of a chain by the rules' comments.
func (h *Host) RuleCounts(table, chain string) (map[string]Count, error) {
	return h.nft.RuleCounts(table, chain)
}

// ForgetForwarded removes the conntrack entries of connections of a transport protocol that NAT has sent to the servers, and returns how many.
// Unanswered means only those that the server has sent nothing on.
func (h *Host) ForgetForwarded(proto byte, servers []netip.AddrPort, unanswered bool) (int, error) {
	return h.conntrack.FlushForwarded(proto, servers, unanswered)
}
