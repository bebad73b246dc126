package nft

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
)

// Two rules are the same when their canonical forms are: one string with every attribute of every expression. What kernels
// write differently or not at all is levelled: attributes in ascending order, zero values left out, counters' values left out,
// and a rule's own set told by its members and not by the number in its name.

// The library's expr.Unmarshal would not do for that: it leaves out what it does not know, so that a rule with a condition
// more would pass for ours.

// nests says which attributes of an expression hold attributes. The kernel does not flag them.
var nests = map[string][]uint16{
	"immediate": {unix.NFTA_IMMEDIATE_DATA},
	"cmp":       {unix.NFTA_CMP_DATA},
	"bitwise":   {unix.NFTA_BITWISE_MASK, unix.NFTA_BITWISE_XOR, 7 /* NFTA_BITWISE_DATA */},
	"range":     {unix.NFTA_RANGE_FROM_DATA, unix.NFTA_RANGE_TO_DATA},
}

// canonical is the canonical form of an encoded expression. members gives the form of the set of a name when that set is a rule's
// own, else "".
func canonical(encoded []byte, members func(set string) string) string {
	e, err := wire.Decode(encoded)
	if err != nil {
		return fmt.Sprintf("[?%x]", encoded)
	}
	name, as, inSet := e.String(unix.NFTA_EXPR_NAME), e.Nested(unix.NFTA_EXPR_DATA), ""
	if name == "counter" {
		return "[counter]"
	}
	if name == "lookup" {
		inSet = members(as.String(unix.NFTA_LOOKUP_SET))
	}
	if name == "dynset" {
		as = slices.DeleteFunc(as, func(a wire.Attr) bool { return a.Type == unix.NFTA_DYNSET_SET_ID })
	}
	slices.SortFunc(as, func(a, b wire.Attr) int { return int(a.Type) - int(b.Type) })
	var b strings.Builder
	b.WriteString("[" + name)
	for _, a := range as {
		if inSet != "" && (a.Type == unix.NFTA_LOOKUP_SET || a.Type == unix.NFTA_LOOKUP_SET_ID) {
			continue
		}
		if name == "dynset" && a.Type == unix.NFTA_DYNSET_EXPR {
			b.WriteString(" " + canonical(a.Data, members))
		} else if slices.Contains(nests[name], a.Type) {
			fmt.Fprintf(&b, " %d=%s", a.Type, nested(a.Data))
		} else if len(bytes.Trim(a.Data, "\x00")) > 0 {
			fmt.Fprintf(&b, " %d=%x", a.Type, bytes.TrimRight(a.Data, "\x00"))
		}
	}
	return b.String() + inSet + "]"
}

// nested is the form of a value (bytes that count, zeros too) or a verdict.
func nested(data []byte) string {
	as, err := wire.Decode(data)
	if err != nil {
		return fmt.Sprintf("?%x", data)
	}
	if v, ok := as.Get(unix.NFTA_DATA_VALUE); ok {
		return fmt.Sprintf("%x", v)
	}
	v := as.Nested(unix.NFTA_DATA_VERDICT)
	return fmt.Sprintf("verdict %d %s", int32(v.BE32(unix.NFTA_VERDICT_CODE)), v.String(unix.NFTA_VERDICT_CHAIN))
}

// members is the canonical form of a set's contents.
func members(keyType uint32, interval bool, es []element) string {
	var parts []string
	for _, e := range es {
		if e.end && len(bytes.Trim(e.key, "\x00")) == 0 {
			continue // says nothing, and not every kernel keeps it
		}
		parts = append(parts, e.form())
	}
	slices.Sort(parts)
	return fmt.Sprintf(" {%d %v: %s}", keyType, interval, strings.Join(parts, " "))
}

// form is the canonical form of a member.
func (e element) form() string {
	form := hex.EncodeToString(e.key)
	if e.last != nil {
		form += "-" + hex.EncodeToString(e.last)
	}
	if e.end {
		form += "<"
	}
	if e.data != nil {
		form += ": " + e.data.form()
	}
	return form
}

// canonical is the whole rule's form, comment included.
func (r rule) canonical() string {
	var b strings.Builder
	for _, e := range r.exprs {
		b.WriteString(canonical(e.encode(0), func(string) string {
			if e.set == nil {
				return ""
			}
			return members(e.set.keyType, e.set.interval, e.set.elements)
		}))
	}
	return withComment(b.String(), r.comment)
}

func withComment(form, comment string) string {
	if comment == "" {
		return form
	}
	return fmt.Sprintf("%s comment %q", form, comment)
}
