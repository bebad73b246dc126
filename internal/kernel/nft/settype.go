package nft

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// setType is a data type of set keys and map data: nft's number for it, the length in bytes and the byte order.
type setType struct {
	number uint32
	length int
	order  uint32
	name   string
	parts  []setType // of a concatenation; each begins at a multiple of four bytes
}

const noOrder = 0

var setTypes = map[string]setType{
	"numgen":       {number: 4, length: 4, order: hostOrder, name: "numgen"}, // nft's integer: numbers of plan.NumberType
	"ipv4_addr":    {number: 7, length: 4, order: networkOrder, name: "ipv4_addr"},
	"ipv6_addr":    {number: 8, length: 16, order: networkOrder, name: "ipv6_addr"},
	"inet_proto":   {number: 12, length: 1, order: hostOrder, name: "inet_proto"},
	"inet_service": {number: 13, length: 2, order: networkOrder, name: "inet_service"},
	"mark":         {number: 19, length: 4, order: hostOrder, name: "mark"},
	"ifname":       {number: 41, length: unix.IFNAMSIZ, order: hostOrder, name: "ifname"},
	"verdict":      {number: unix.NFT_DATA_VERDICT, order: noOrder, name: "verdict"},
}

const (
	concatBits = 6  // of each part's number in a concatenation's (nftables, TYPE_BITS)
	maxParts   = 5  // more do not fit
	mapCounter = 64 // NFT_SET_OBJECT
	flagMap    = 8  // NFT_SET_MAP
	flagEval   = 32 // NFT_SET_EVAL
	flagConcat = 128
)

// typeOf reads a type as nft spells it: a name, several with dots between, a plan.NumberType, or fields.
func typeOf(text string) (setType, error) {
	if strings.HasPrefix(text, "numgen ") {
		return setTypes["numgen"], nil
	}
	names := strings.Split(text, " . ")
	var all setType
	for _, name := range names {
		if f, ok := fields[plan.Field(name)]; ok {
			name = f.kind
		}
		t, ok := setTypes[name]
		if !ok || len(names) > 1 && (t.length == 0 || len(names) > maxParts) {
			return setType{}, fmt.Errorf("no such set type: %q", text)
		}
		if len(names) == 1 {
			return t, nil
		}
		all.number = all.number<<concatBits | t.number
		all.length += 4 * words(t.length)
		all.parts = append(all.parts, t)
	}
	all.name = text
	return all, nil
}

// datum is what a map has for a key: a value, a counter's name, or a verdict.
type datum struct {
	value  []byte
	object string
	code   int32
	chain  string
}

// form is the canonical form.
func (d *datum) form() string {
	switch {
	case d == nil:
		return ""
	case d.object != "":
		return "object " + d.object
	case d.value != nil:
		return fmt.Sprintf("%x", d.value)
	}
	return fmt.Sprintf("verdict %d %s", d.code, d.chain)
}

// attr is the attribute of an element.
func (d *datum) attr() wire.Attr {
	switch {
	case d.object != "":
		return wire.String(unix.NFTA_SET_ELEM_OBJREF, d.object)
	case d.value != nil:
		return wire.Nest(unix.NFTA_SET_ELEM_DATA, wire.Bytes(unix.NFTA_DATA_VALUE, d.value))
	}
	attrs := []wire.Attr{be32(unix.NFTA_VERDICT_CODE, uint32(d.code))}
	if d.chain != "" {
		attrs = append(attrs, wire.String(unix.NFTA_VERDICT_CHAIN, d.chain))
	}
	return wire.Nest(unix.NFTA_SET_ELEM_DATA, wire.Nest(unix.NFTA_DATA_VERDICT, attrs...))
}

// datumOf reads the datum of an element, or nil.
func datumOf(element wire.Attrs) *datum {
	if name := element.String(unix.NFTA_SET_ELEM_OBJREF); name != "" {
		return &datum{object: name}
	}
	data := element.Nested(unix.NFTA_SET_ELEM_DATA)
	if v, ok := data.Get(unix.NFTA_DATA_VALUE); ok {
		return &datum{value: v}
	}
	if !data.Has(unix.NFTA_DATA_VERDICT) {
		return nil
	}
	v := data.Nested(unix.NFTA_DATA_VERDICT)
	return &datum{code: int32(v.BE32(unix.NFTA_VERDICT_CODE)), chain: v.String(unix.NFTA_VERDICT_CHAIN)}
}

// parseDatum reads a map's datum as nft spells it.
func parseDatum(kind, text string) (*datum, error) {
	switch kind {
	case "counter":
		return &datum{object: strings.Trim(text, `"`)}, nil
	case "verdict":
		word, chain, _ := strings.Cut(text, " ")
		switch {
		case word == "jump" && chain != "":
			return &datum{code: int32(expr.VerdictJump), chain: chain}, nil
		case word == "goto" && chain != "":
			return &datum{code: int32(expr.VerdictGoto), chain: chain}, nil
		}
		if code, ok := verdicts[text]; ok {
			return &datum{code: int32(code)}, nil
		}
		return nil, fmt.Errorf("no such verdict: %q", text)
	}
	t, err := typeOf(kind)
	if err != nil {
		return nil, err
	}
	if len(t.parts) == 0 {
		v, err := parseKey(t.name, text)
		return &datum{value: v}, err
	}
	sp, err := parseRow(t, text)
	if err == nil && string(sp.first) != string(sp.last) {
		err = fmt.Errorf("%q is a range", text)
	}
	return &datum{value: sp.first}, err
}

// parseRow reads a concatenation of values or ranges.
func parseRow(t setType, text string) (span, error) {
	texts := strings.Split(text, " . ")
	if len(texts) != len(t.parts) {
		return span{}, fmt.Errorf("%q has %d parts, the type %d", text, len(texts), len(t.parts))
	}
	var row span
	for i, part := range t.parts {
		sp, err := parseSpan(part.name, texts[i])
		if err != nil {
			return span{}, err
		}
		padding := make([]byte, 4*words(part.length)-part.length)
		row.first = append(append(row.first, sp.first...), padding...)
		row.last = append(append(row.last, sp.last...), padding...)
	}
	return row, nil
}

// What nft notes about a set for its own listing, as type, length and value. (libnftnl, include/udata.h; nftables, include/expression.h)
const (
	noteKeyOrder, noteDataOrder, noteJoined, noteKeyType, noteDataType, noteDataInterval = 0, 1, 2, 3, 4, 6

	exprVerdict, exprPayload, exprMeta, exprConcat, exprNumgen = 1, 7, 9, 13, 23
)

func note(kind byte, value ...byte) []byte { return append([]byte{kind, byte(len(value))}, value...) }

func note32(kind byte, v uint32) []byte {
	return note(kind, binary.NativeEndian.AppendUint32(nil, v)...)
}

// setUserdata is the notes about a set of a rule's own: byte order of the key, and that ranges were joined.
func setUserdata(order uint32, joined bool) []byte {
	u := note32(noteKeyOrder, order)
	if joined {
		u = append(u, note32(noteJoined, 1)...)
	}
	return u
}

// mapUserdata is the notes about a map of a rule's own.
func mapUserdata(s *anonymous, data setType) []byte {
	u := append(note32(noteKeyOrder, s.order), note32(noteDataOrder, data.order)...)
	if data.name == "verdict" {
		u = append(u, note(noteDataType, sample(exprVerdict)...)...)
	}
	return append(u, note32(noteDataInterval, uint32(bit(s.twice)))...)
}

// namedUserdata is the notes about a named set or map.
func namedUserdata(s plan.Set, kind setType) []byte {
	u := note32(noteKeyOrder, kind.order)
	if s.Data != "" && s.Data != "counter" {
		data, _ := typeOf(s.Data) // whoever made the set has asked before
		u = append(u, note32(noteDataOrder, data.order)...)
	}
	switch {
	case s.Numbered():
		mod, _ := strconv.ParseUint(s.Type[strings.LastIndex(s.Type, " ")+1:], 10, 32)
		u = append(u, note(noteKeyType, sample(exprNumgen, note32(0, unix.NFT_NG_INCREMENTAL), note32(1, uint32(mod)), note32(2, 0))...)...)
		u = append(u, note(noteDataType, dataSample(s.Data)...)...)
	case len(kind.parts) > 0:
		u = append(u, note(noteKeyType, sample(exprConcat)...)...)
	}
	if s.Data != "" {
		u = append(u, note32(noteDataInterval, 0)...)
	}
	return u
}

// sample is an expression of a type, by which nft lists it.
func sample(kind uint32, of ...[]byte) []byte {
	var inner []byte
	for _, o := range of {
		inner = append(inner, o...)
	}
	return append(note32(0, kind), note(1, inner...)...)
}

// headers are nft's numbers of protocols and of the fields in them.
var headers = map[string][2]uint32{"ip daddr": {12, 12}, "ip6 daddr": {13, 9}, "tcp dport": {8, 2}, "udp dport": {6, 2}, "th dport": {11, 2}}

// dataSample is the sample of data that are given as fields.
func dataSample(text string) []byte {
	names := strings.Split(text, " . ")
	var parts [][]byte
	for i, name := range names {
		one := sample(exprVerdict)
		if h, ok := headers[name]; ok {
			one = sample(exprPayload, note32(0, h[0]), note32(1, h[1]))
		} else if name == "meta mark" {
			one = sample(exprMeta, note32(0, unix.NFT_META_MARK))
		}
		if len(names) == 1 {
			return one
		}
		parts = append(parts, note(byte(i), one...))
	}
	return sample(exprConcat, parts...)
}
