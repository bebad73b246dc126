package nft

import (
	"fmt"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Count is what a named counter has counted since it was made.
type Count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// SetElements makes sets and maps of a table hold the elements that the plan's sets have, in one transaction and touching nothing
// else. Only elements that differ from what the kernel has are removed or added. A set that is not there, or of another kind, is an error.
func (c *Conn) SetElements(table string, sets []plan.Set) error {
	var tx transaction
	var inserts []edit
	for _, s := range sets {
		want, err := elements(s)
		if err != nil {
			return err
		}
		have, err := readElements(c.reader, table, s.Name)
		if err != nil {
			return err
		}
		if e := editOf(s.Name, have, want, setFlags(s)); !e.empty() {
			tx.remove(table, e)
			inserts = append(inserts, e)
		}
	}
	for _, e := range inserts {
		tx.insert(table, e)
	}
	return tx.commit(c.writer)
}

// Counters reads the named counters of a table.
func (c *Conn) Counters(table string) (map[string]Count, error) {
	list, err := counterObjects(c.reader, table)
	if err != nil {
		return nil, err
	}
	out := map[string]Count{}
	for _, as := range list {
		data := as.Nested(unix.NFTA_OBJ_DATA)
		out[as.String(unix.NFTA_OBJ_NAME)] = Count{Packets: data.BE64(unix.NFTA_COUNTER_PACKETS), Bytes: data.BE64(unix.NFTA_COUNTER_BYTES)}
	}
	return out, nil
}

// RuleCounts reads the counters of the rules of a chain, those with a comment, by that comment; of several with the same comment the sum.
func (c *Conn) RuleCounts(table, chain string) (map[string]Count, error) {
	list, err := dump(c.reader, unix.NFT_MSG_GETRULE, "rules of "+chainName(table, chain), wire.String(unix.NFTA_RULE_TABLE, table), wire.String(unix.NFTA_RULE_CHAIN, chain))
	if err != nil {
		return nil, err
	}
	out := map[string]Count{}
	for _, as := range list {
		data, _ := as.Get(unix.NFTA_RULE_USERDATA)
		comment := commentOf(data)
		if as.String(unix.NFTA_RULE_TABLE) != table || as.String(unix.NFTA_RULE_CHAIN) != chain || comment == "" {
			continue
		}
		for _, one := range as.Nested(unix.NFTA_RULE_EXPRESSIONS) {
			e, err := wire.Decode(one.Data)
			if err != nil {
				return nil, fmt.Errorf("read rules of %s: %w", chainName(table, chain), err)
			}
			if e.String(unix.NFTA_EXPR_NAME) == "counter" {
				v := e.Nested(unix.NFTA_EXPR_DATA)
				sum := out[comment]
				sum.Packets += v.BE64(unix.NFTA_COUNTER_PACKETS)
				sum.Bytes += v.BE64(unix.NFTA_COUNTER_BYTES)
				out[comment] = sum
			}
		}
	}
	return out, nil
}
