package nft

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/diff"
	"salp/internal/plan"
)

// edit is what makes a set hold what is wanted: members to remove, then members to add.
type edit struct {
	set      string
	del, add []element
	flush    bool // instead of del: all members
}

// part is what is removed or added as one: a member, or both ends of a range.
type part struct {
	form string
	es   []element
}

// parts splits a set's members. Ends of ranges that nothing begins say nothing and are left out.
func parts(es []element, ranges bool) []part {
	var out []part
	if !ranges {
		for _, e := range es {
			out = append(out, part{e.form(), []element{e}})
		}
		return out
	}
	sorted := slices.SortedStableFunc(slices.Values(es), func(a, b element) int {
		return cmp.Or(bytes.Compare(a.key, b.key), int(bit(b.end))-int(bit(a.end))) // the end of one range comes before the start of the next
	})
	for i := 0; i < len(sorted); i++ {
		if sorted[i].end {
			continue
		}
		p := part{sorted[i].form(), sorted[i : i+1]}
		if i+1 < len(sorted) && sorted[i+1].end {
			p = part{p.form + sorted[i+1].form(), sorted[i : i+2]}
		}
		out = append(out, p)
	}
	return out
}

// editOf finds what differs between what a set holds and what it is to hold.
func editOf(name string, have, want []element, flags uint32) edit {
	ranges := flags&unix.NFT_SET_INTERVAL != 0 && flags&flagConcat == 0
	e := edit{set: name}
	had := map[string]bool{}
	all := parts(have, ranges)
	for _, p := range all {
		had[p.form] = true
	}
	wanted := map[string]bool{}
	for _, p := range parts(want, ranges) {
		wanted[p.form] = true
		if !had[p.form] {
			e.add = append(e.add, p.es...)
		}
	}
	for _, p := range all {
		if !wanted[p.form] {
			e.del = append(e.del, p.es...)
		}
	}
	if len(have) > 0 && len(e.del) == len(have) || ranges && len(e.del) > len(want)/2 {
		e.flush, e.del, e.add = true, nil, want
	}
	return e
}

func (e edit) empty() bool { return !e.flush && len(e.del)+len(e.add) == 0 }

func (t *transaction) remove(table string, e edit) {
	if e.flush {
		t.flushSet(table, e.set)
	}
	t.delElements(table, e.set, e.del, "elements of "+setName(table, e.set))
}

func (t *transaction) insert(table string, e edit) {
	t.addElements(table, e.set, 0, e.add, 0, "elements of "+setName(table, e.set))
}

// setChanges is what is to be done about the sets and counters of a table that is there.
type setChanges struct {
	edits                      []edit
	make                       []plan.Set
	drop                       []string
	makeCounters, dropCounters []string
}

// compareSets finds the sets whose elements are wrong, those to make, and the names of those to remove. One whose type is
// wrong is removed and made.
func (w *work) compareSets(want plan.Table, live *table) (setChanges, error) {
	var c setChanges
	wanted := map[string]bool{}
	for _, s := range want.Sets {
		wanted[s.Name] = true
		old := live.sets[s.Name]
		if old == nil {
			c.make = append(c.make, s)
			w.note(diff.Add, setName(want.Name, s.Name), "", describeSet(s))
			continue
		}
		if !old.like(s) {
			c.drop, c.make = append(c.drop, s.Name), append(c.make, s)
			w.note(diff.Alter, setName(want.Name, s.Name), "a set of another kind", describeSet(s))
			continue
		}
		if s.Runtime {
			continue
		}
		es, err := elements(s)
		if err != nil {
			return c, err
		}
		if e := editOf(s.Name, old.elements, es, old.flags); !e.empty() {
			c.edits = append(c.edits, e)
			w.noteEdit(want.Name, s, e, old, es)
		}
	}
	for name, s := range live.sets {
		if !wanted[name] && s.flags&unix.NFT_SET_ANONYMOUS == 0 {
			c.drop = append(c.drop, name)
			w.note(diff.Remove, setName(want.Name, name), fmt.Sprintf("%d elements", len(s.elements)), "")
		}
	}
	slices.Sort(c.drop)
	for _, name := range want.Counters {
		if !slices.Contains(live.counters, name) {
			c.makeCounters = append(c.makeCounters, name)
			w.note(diff.Add, objectName(want.Name, name), "", "")
		}
	}
	for _, name := range live.counters {
		if !slices.Contains(want.Counters, name) {
			c.dropCounters = append(c.dropCounters, name)
			w.note(diff.Remove, objectName(want.Name, name), "", "")
		}
	}
	return c, nil
}

const fewElements = 32

// noteEdit tells a small set's contents before and after, and of a large one how many elements change.
func (w *work) noteEdit(table string, s plan.Set, e edit, old *set, want []element) {
	if len(old.elements)+len(want) <= fewElements {
		w.note(diff.Alter, setName(table, s.Name), strings.TrimSpace(old.form()), describeSet(s))
		return
	}
	gone := len(e.del)
	if e.flush {
		gone = len(old.elements)
	}
	w.note(diff.Alter, setName(table, s.Name), fmt.Sprintf("%d elements", len(old.elements)), fmt.Sprintf("%d removed, %d added", gone, len(e.add)))
}

// like says whether a set is of the kind that is wanted.
func (s *set) like(want plan.Set) bool {
	kind, err := typeOf(want.Type)
	if err != nil || s.keyType != kind.number || s.flags != setFlags(want) || s.size != want.Size || s.lapse != uint64(want.Lapse.Milliseconds()) {
		return false
	}
	if want.Data != "" && want.Data != "counter" {
		if data, err := typeOf(want.Data); err != nil || s.dataType != data.number {
			return false
		}
	}
	return !want.Numbered() || bytes.Equal(s.userdata, namedUserdata(want, kind)) // by which nft lists it
}

func describeSet(s plan.Set) string {
	kind := "type " + s.Type
	if s.Data != "" {
		kind += " : " + s.Data
	}
	switch n := len(s.Elements); {
	case s.Runtime || n == 0:
		return kind
	case n > fewElements:
		return fmt.Sprintf("%s with %d elements", kind, n)
	}
	return fmt.Sprintf("%s { %s }", kind, strings.Join(s.Elements, ", "))
}
