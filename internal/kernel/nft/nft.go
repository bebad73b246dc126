// Package nft writes the tables of a plan into the kernel in one transaction, reads them back, and tells what differs.
//
// It owns what it writes: tables with the owner flag belong to its socket and go with it, and every table carries a mark, in user
// data that nft does not print, which says whose it is. Only the inet family is touched.
package nft

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/diff"
	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Conn is a lasting connection to nf_tables in one network namespace. It is safe for concurrent use.
type Conn struct {
	writer *wire.Socket // owns the tables
	reader *wire.Socket // so that a long read never delays the alive element
	mark   []byte

	mu    sync.Mutex
	texts map[string]string // canonical form → nft text, of the rules this Conn wrote
}

// Open opens the connection in the network namespace of the calling thread. holder names whose tables these are, as the run
// directory; it is at most 200 bytes long.
func Open(holder string) (*Conn, error) {
	if len(holder) > 200 {
		return nil, fmt.Errorf("run directory %q: longer than 200 bytes", holder)
	}
	w, err := wire.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	r, err := wire.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		w.Close()
		return nil, err
	}
	return &Conn{writer: w, reader: r, mark: markOf(holder), texts: map[string]string{}}, nil
}

// Close closes the connection. The kernel removes the tables that have an owner.
func (c *Conn) Close() error {
	c.reader.Close()
	return c.writer.Close()
}

// Port is the netlink port under which this connection's changes are announced.
func (c *Conn) Port() uint32 { return c.writer.Port() }

const markType = 0x53 // any but 0, which is nft's comment

func markOf(holder string) []byte {
	text := "salp " + holder
	return append([]byte{markType, byte(len(text))}, text...)
}

// holderOf returns whose table it is, and whether it is Salp's at all.
func holderOf(userdata []byte) (string, bool) {
	if len(userdata) < 2 || userdata[0] != markType || len(userdata) != 2+int(userdata[1]) {
		return "", false
	}
	return strings.CutPrefix(string(userdata[2:]), "salp ")
}

// Diff tells what Apply would change. When that is only to be told (write is false), a table that another process of the same
// holder owns is compared too; Apply must refuse to write that one.
func (c *Conn) Diff(want []plan.Table, gone []string, write bool) ([]diff.Change, error) {
	changes, _, err := c.work(want, gone, write)
	return changes, err
}

// Apply makes the kernel hold the wanted tables, and none of those called gone, in one transaction: packets see the old or the
// new, never something between. What is right already is not touched, so sets of run-time state keep their elements. It
// returns what it changed. A table of the same name that is not this holder's is an error.
func (c *Conn) Apply(want []plan.Table, gone []string) ([]diff.Change, error) {
	changes, tx, err := c.work(want, gone, true)
	if err != nil {
		return nil, err
	}
	if err := tx.commit(c.writer); err != nil {
		return nil, err
	}
	return changes, nil
}

// Mine lists the tables that carry this holder's mark.
func (c *Conn) Mine() ([]string, error) {
	all, err := tables(c.reader)
	var names []string
	for _, t := range all {
		if bytes.Equal(t.userdata, c.mark) {
			names = append(names, t.name)
		}
	}
	return names, err
}

// SetElement makes a set of type inet_proto hold exactly the one element for the given time, or none when that is not above 0.
// It is one transaction, so that nobody sees the set empty between.
func (c *Conn) SetElement(table, set string, proto byte, timeout time.Duration) error {
	var tx transaction
	tx.flushSet(table, set)
	if timeout > 0 {
		tx.addElements(table, set, 0, []element{{key: []byte{proto}}}, timeout, "element of "+setName(table, set))
	}
	return tx.commit(c.writer)
}

func (c *Conn) work(want []plan.Table, gone []string, write bool) ([]diff.Change, *transaction, error) {
	names := slices.Clone(gone)
	for _, t := range want {
		names = append(names, t.Name)
	}
	if len(names) == 0 {
		return nil, &transaction{}, nil
	}
	live, err := read(c.reader, names)
	if err != nil {
		return nil, nil, err
	}
	w := work{conn: c, tx: &transaction{}, write: write}
	for _, name := range gone {
		if err := w.remove(live[name]); err != nil {
			return nil, nil, err
		}
	}
	for _, t := range want {
		if err := w.table(t, live[t.Name]); err != nil {
			return nil, nil, err
		}
	}
	return w.changes, w.tx, nil
}

// work gathers the changes and messages of one transaction.
type work struct {
	conn    *Conn
	tx      *transaction
	changes []diff.Change
	write   bool // the transaction will be committed
}

func (w *work) note(op diff.Op, object, was, want string) {
	w.changes = append(w.changes, diff.Change{Op: op, Object: object, Was: was, Want: want})
}

// claim says whether the table is ours to write. The error names who has it instead.
func (w *work) claim(t *table) error {
	c := w.conn
	holder, ours := holderOf(t.userdata)
	switch {
	case !w.write && bytes.Equal(t.userdata, c.mark):
		return nil
	case t.owner != 0 && t.owner != c.writer.Port():
		who := "process " + fmt.Sprint(t.owner)
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", t.owner)); err == nil {
			who += " (" + strings.TrimSpace(string(comm)) + ")"
		}
		if ours {
			return fmt.Errorf("nft table inet %s belongs to a Salp that is alive, %s with run directory %s: stop that one, or give this one its own kernel.nft_table, kernel.marks, kernel.table and kernel.priority", t.name, who, holder)
		}
		return fmt.Errorf("nft table inet %s belongs to %s, which is alive: set kernel.nft_table to another name", t.name, who)
	case !ours:
		return fmt.Errorf("nft table inet %s exists and is not Salp's: remove it (nft delete table inet %s) or set kernel.nft_table to another name", t.name, t.name)
	case !bytes.Equal(t.userdata, c.mark):
		return fmt.Errorf("nft table inet %s was left by a Salp with run directory %s: run `salp down --run-dir %s`, or set kernel.nft_table to another name", t.name, holder, holder)
	}
	return nil
}

func (w *work) remove(live *table) error {
	if live == nil {
		return nil
	}
	if err := w.claim(live); err != nil {
		return err
	}
	w.tx.delTable(live.name)
	w.note(diff.Remove, "nft table inet "+live.name, live.summary(), "")
	return nil
}

func (t *table) summary() string {
	rules := 0
	for _, c := range t.chains {
		rules += len(c.rules)
	}
	return fmt.Sprintf("%d chains, %d rules", len(t.chains), rules)
}

func summary(t plan.Table) string {
	rules := 0
	for _, c := range t.Chains {
		rules += len(c.Rules)
	}
	return fmt.Sprintf("%d chains, %d rules", len(t.Chains), rules)
}

// table brings one table to what is wanted.
func (w *work) table(want plan.Table, live *table) error {
	compiled, err := w.compile(want)
	if err != nil {
		return err
	}
	object := "nft table inet " + want.Name
	if live != nil {
		if err := w.claim(live); err != nil {
			return err
		}
		if owned := live.flags&tableFlagOwner != 0; owned == want.Owner && live.flags&unix.NFT_TABLE_F_DORMANT == 0 {
			return w.update(want, compiled, live)
		}
		// The owner flag cannot be changed: out with the old and in with the new, in the same transaction.
		w.tx.delTable(live.name)
		w.note(diff.Alter, object, live.summary(), summary(want))
	} else {
		w.note(diff.Add, object, "", summary(want))
	}
	w.tx.addTable(want.Name, want.Owner, w.conn.mark)
	for _, name := range want.Counters {
		w.tx.addCounter(want.Name, name)
	}
	for _, s := range want.Sets {
		if err := w.tx.addSet(want.Name, s); err != nil {
			return err
		}
	}
	for _, f := range want.Flowtables {
		w.tx.addFlowtable(want.Name, f)
	}
	for _, c := range want.Chains {
		if err := w.tx.addChain(want.Name, c); err != nil {
			return err
		}
	}
	for _, s := range want.Sets {
		if err := w.fill(want.Name, s); err != nil {
			return err
		}
	}
	for _, c := range want.Chains {
		w.addRules(want.Name, c.Name, compiled[c.Name])
	}
	return nil
}

// compile translates all rules of a table, by chain.
func (w *work) compile(t plan.Table) (map[string][]rule, error) {
	out := map[string][]rule{}
	ranges := map[string]bool{}
	for _, s := range t.Sets {
		ranges[s.Name] = s.Interval
	}
	w.conn.mu.Lock()
	defer w.conn.mu.Unlock()
	if len(w.conn.texts) > 10_000 { // after very many reloads; only words in a message are lost
		clear(w.conn.texts)
	}
	for _, c := range t.Chains {
		if _, twice := out[c.Name]; twice {
			return nil, fmt.Errorf("%s is in the plan twice", chainName(t.Name, c.Name))
		}
		out[c.Name] = nil
		for _, r := range c.Rules {
			one, err := compile(r, ranges)
			if err != nil {
				return nil, fmt.Errorf("nft rule inet %s %s: %s: %w", t.Name, c.Name, r.Text(), err)
			}
			out[c.Name] = append(out[c.Name], one)
			w.conn.texts[one.canonical()] = one.text
		}
	}
	return out, nil
}

// fill adds all elements of a set. Chains that its verdicts lead to must be there.
func (w *work) fill(table string, s plan.Set) error {
	if s.Runtime {
		return nil
	}
	es, err := elements(s)
	if err != nil {
		return err
	}
	w.tx.addElements(table, s.Name, 0, es, 0, "elements of "+setName(table, s.Name))
	return nil
}

func (w *work) addRules(table, chain string, rules []rule) {
	for _, r := range rules {
		w.tx.addRule(table, chain, r)
	}
}
