package nft

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Attributes and flags that x/sys/unix lacks.
const (
	nftaTableUserdata = 6
	nftaTableOwner    = 7
	tableFlagOwner    = 2  // NFT_TABLE_F_OWNER, Linux 5.12
	keyEnd            = 10 // NFTA_SET_ELEM_KEY_END
)

func be32(t uint16, v uint32) wire.Attr { return wire.BE32(t, v) }

// transaction collects messages that the kernel takes all or none of. The library's own Conn would not do: it does not tell
// which object the kernel refused and knows no user data of tables, by which we know ours.
type transaction struct {
	messages []wire.Message
	setID    uint32
}

func subsystem(msg int) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | uint16(msg) }

// body is the nfgenmsg header and the attributes.
func body(family uint8, attrs ...wire.Attr) []byte {
	return wire.Append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...)
}

// edge begins or ends a batch. Its resource id names the subsystem.
func edge(msg uint16) wire.Message {
	b := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}
	binary.BigEndian.PutUint16(b[2:], unix.NFNL_SUBSYS_NFTABLES)
	return wire.Message{Type: msg, Body: b, Operation: "change", Object: "nft tables"}
}

func (t *transaction) empty() bool { return len(t.messages) == 0 }

func (t *transaction) add(msg int, flags uint16, object string, attrs ...wire.Attr) {
	op := "add"
	switch msg {
	case unix.NFT_MSG_DELOBJ, unix.NFT_MSG_DELFLOWTABLE, unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM:
		op = "remove"
	}
	t.messages = append(t.messages, wire.Message{Type: subsystem(msg), Flags: flags, Body: body(unix.NFPROTO_INET, attrs...), Operation: op, Object: object})
}

// commit hands the transaction to the kernel, which does all of it or nothing.
func (t *transaction) commit(s *wire.Socket) error {
	if t.empty() {
		return nil
	}
	ms := append([]wire.Message{edge(unix.NFNL_MSG_BATCH_BEGIN)}, t.messages...)
	return explain(s.Batch(append(ms, edge(unix.NFNL_MSG_BATCH_END))))
}

func (t *transaction) addTable(name string, owner bool, mark []byte) {
	attrs := []wire.Attr{wire.String(unix.NFTA_TABLE_NAME, name)}
	if owner {
		attrs = append(attrs, be32(unix.NFTA_TABLE_FLAGS, tableFlagOwner))
	}
	if mark != nil {
		attrs = append(attrs, wire.Bytes(nftaTableUserdata, mark))
	}
	t.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "nft table inet "+name, attrs...)
}

func (t *transaction) delTable(name string) {
	t.add(unix.NFT_MSG_DELTABLE, 0, "nft table inet "+name, wire.String(unix.NFTA_TABLE_NAME, name))
}

var hooks = map[string]uint32{"prerouting": unix.NF_INET_PRE_ROUTING, "input": unix.NF_INET_LOCAL_IN, "forward": unix.NF_INET_FORWARD,
	"output": unix.NF_INET_LOCAL_OUT, "postrouting": unix.NF_INET_POST_ROUTING}

func (t *transaction) addChain(table string, c plan.Chain) error {
	attrs := []wire.Attr{wire.String(unix.NFTA_CHAIN_TABLE, table), wire.String(unix.NFTA_CHAIN_NAME, c.Name)}
	if c.Hook != "" {
		hook, ok := hooks[c.Hook]
		if !ok {
			return fmt.Errorf("nft chain inet %s %s: no such hook: %q", table, c.Name, c.Hook)
		}
		attrs = append(attrs, wire.String(unix.NFTA_CHAIN_TYPE, c.Type), be32(unix.NFTA_CHAIN_POLICY, policyAccept),
			wire.Nest(unix.NFTA_CHAIN_HOOK, be32(unix.NFTA_HOOK_HOOKNUM, hook), be32(unix.NFTA_HOOK_PRIORITY, uint32(int32(c.Priority)))))
	}
	t.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE|unix.NLM_F_EXCL, chainName(table, c.Name), attrs...)
	return nil
}

func chainName(table, chain string) string { return "nft chain inet " + table + " " + chain }
func setName(table, set string) string     { return "nft set inet " + table + " " + set }

func (t *transaction) delChain(table, chain string) {
	t.add(unix.NFT_MSG_DELCHAIN, 0, chainName(table, chain), wire.String(unix.NFTA_CHAIN_TABLE, table), wire.String(unix.NFTA_CHAIN_NAME, chain))
}

// flushChain removes a chain's rules.
func (t *transaction) flushChain(table, chain string) {
	t.add(unix.NFT_MSG_DELRULE, 0, "rules of "+chainName(table, chain), wire.String(unix.NFTA_RULE_TABLE, table), wire.String(unix.NFTA_RULE_CHAIN, chain))
}

func (t *transaction) addRule(table, chain string, r rule) {
	object := "nft rule inet " + table + " " + chain + ": " + r.text
	var list []wire.Attr
	for _, e := range r.exprs {
		var id uint32
		if e.set != nil {
			id = t.addAnonymous(table, e.set, object)
		}
		list = append(list, wire.Bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, e.encode(id)))
	}
	attrs := []wire.Attr{wire.String(unix.NFTA_RULE_TABLE, table), wire.String(unix.NFTA_RULE_CHAIN, chain), wire.Nest(unix.NFTA_RULE_EXPRESSIONS, list...)}
	if r.comment != "" {
		attrs = append(attrs, wire.Bytes(unix.NFTA_RULE_USERDATA, commentUserdata(r.comment)))
	}
	t.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, object, attrs...)
}

// commentUserdata is the form in which nft keeps a comment: type 0, length, text and a zero byte.
func commentUserdata(comment string) []byte {
	return append(append([]byte{0, byte(len(comment) + 1)}, comment...), 0)
}

func (t *transaction) addAnonymous(table string, s *anonymous, object string) uint32 {
	t.setID++
	flags, name := uint32(unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT), newSet
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	notes := setUserdata(s.order, s.interval)
	var more []wire.Attr
	if s.data != "" {
		data := setTypes[s.data]
		flags, name, notes = flags|flagMap, newMap, mapUserdata(s, data)
		length := data.length
		if s.twice {
			length = 2 * 4 * words(length)
		}
		more = []wire.Attr{be32(unix.NFTA_SET_DATA_TYPE, data.number), be32(unix.NFTA_SET_DATA_LEN, uint32(length))}
	}
	attrs := []wire.Attr{wire.String(unix.NFTA_SET_TABLE, table), wire.String(unix.NFTA_SET_NAME, name), be32(unix.NFTA_SET_FLAGS, flags),
		be32(unix.NFTA_SET_KEY_TYPE, s.keyType), be32(unix.NFTA_SET_KEY_LEN, uint32(s.keyLen)),
		be32(unix.NFTA_SET_ID, t.setID), wire.Nest(unix.NFTA_SET_DESC, be32(unix.NFTA_SET_DESC_SIZE, uint32(len(s.elements)))),
		wire.Bytes(unix.NFTA_SET_USERDATA, notes)}
	t.add(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, object, append(attrs, more...)...)
	t.addElements(table, name, t.setID, s.elements, 0, object)
	return t.setID
}

func (t *transaction) addSet(table string, s plan.Set) error {
	kind, err := typeOf(s.Type)
	if err != nil {
		return fmt.Errorf("%s: %w", setName(table, s.Name), err)
	}
	t.setID++
	attrs := []wire.Attr{wire.String(unix.NFTA_SET_TABLE, table), wire.String(unix.NFTA_SET_NAME, s.Name), be32(unix.NFTA_SET_FLAGS, setFlags(s)),
		be32(unix.NFTA_SET_KEY_TYPE, kind.number), be32(unix.NFTA_SET_KEY_LEN, uint32(kind.length)), be32(unix.NFTA_SET_ID, t.setID),
		wire.Bytes(unix.NFTA_SET_USERDATA, namedUserdata(s, kind))}
	switch s.Data {
	case "":
	case "counter":
		attrs = append(attrs, be32(unix.NFTA_SET_OBJ_TYPE, counterObject))
	default:
		data, err := typeOf(s.Data)
		if err != nil {
			return fmt.Errorf("%s: %w", setName(table, s.Name), err)
		}
		attrs = append(attrs, be32(unix.NFTA_SET_DATA_TYPE, data.number), be32(unix.NFTA_SET_DATA_LEN, uint32(data.length)))
	}
	if s.Lapse > 0 {
		attrs = append(attrs, wire.BE64(unix.NFTA_SET_TIMEOUT, uint64(s.Lapse.Milliseconds())))
	}
	if desc := describe(s, kind); len(desc) > 0 {
		attrs = append(attrs, wire.Nest(unix.NFTA_SET_DESC, desc...))
	}
	t.add(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE|unix.NLM_F_EXCL, setName(table, s.Name), attrs...)
	return nil
}

// describe is the greatest size and, where parts of the key may be ranges, their lengths.
func describe(s plan.Set, kind setType) (desc []wire.Attr) {
	const descConcat, fieldLen, listElem = 2, 1, 1 // NFTA_SET_DESC_CONCAT, NFTA_SET_FIELD_LEN, NFTA_LIST_ELEM
	if s.Size > 0 {
		desc = append(desc, be32(unix.NFTA_SET_DESC_SIZE, s.Size))
	}
	if s.Interval && len(kind.parts) > 0 {
		var parts []wire.Attr
		for _, p := range kind.parts {
			parts = append(parts, wire.Nest(listElem, be32(fieldLen, uint32(p.length))))
		}
		desc = append(desc, wire.Nest(descConcat, parts...))
	}
	return desc
}

func setFlags(s plan.Set) uint32 {
	var flags uint32
	for _, f := range []struct {
		has bool
		bit uint32
	}{{s.Interval, unix.NFT_SET_INTERVAL}, {s.Timeout, unix.NFT_SET_TIMEOUT}, {s.Dynamic, flagEval}, {s.Data == "counter", mapCounter},
		{s.Data != "" && s.Data != "counter", flagMap}, {s.Interval && strings.Contains(s.Type, " . "), flagConcat}} {
		if f.has {
			flags |= f.bit
		}
	}
	return flags
}

func objectName(table, name string) string { return "nft counter inet " + table + " " + name }

// addCounter adds a named counter at zero.
func (t *transaction) addCounter(table, name string) {
	t.add(unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, objectName(table, name), wire.String(unix.NFTA_OBJ_TABLE, table), wire.String(unix.NFTA_OBJ_NAME, name),
		be32(unix.NFTA_OBJ_TYPE, counterObject), wire.Nest(unix.NFTA_OBJ_DATA, wire.BE64(unix.NFTA_COUNTER_BYTES, 0), wire.BE64(unix.NFTA_COUNTER_PACKETS, 0)))
}

func (t *transaction) delCounter(table, name string) {
	t.add(unix.NFT_MSG_DELOBJ, 0, objectName(table, name), wire.String(unix.NFTA_OBJ_TABLE, table), wire.String(unix.NFTA_OBJ_NAME, name),
		be32(unix.NFTA_OBJ_TYPE, counterObject))
}

func (t *transaction) delSet(table, set string) {
	t.add(unix.NFT_MSG_DELSET, 0, setName(table, set), wire.String(unix.NFTA_SET_TABLE, table), wire.String(unix.NFTA_SET_NAME, set))
}

// flushSet removes all elements of a set; it has no quarrel with an empty one.
func (t *transaction) flushSet(table, set string) {
	t.add(unix.NFT_MSG_DELSETELEM, 0, "elements of "+setName(table, set), wire.String(unix.NFTA_SET_ELEM_LIST_TABLE, table),
		wire.String(unix.NFTA_SET_ELEM_LIST_SET, set))
}

// maxList is how long the list of members in one message may be: an attribute holds less than 64 KiB.
const maxList = 60_000

// addElements adds members; with a timeout above zero they go by themselves after it. id is that of a set of the same
// transaction, or 0.
func (t *transaction) addElements(table, set string, id uint32, es []element, timeout time.Duration, object string) {
	t.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, table, set, id, es, object, func(e element) []byte { return wire.Append(nil, e.attrs(timeout)...) })
}

// delElements removes members; data do not matter.
func (t *transaction) delElements(table, set string, es []element, object string) {
	t.elements(unix.NFT_MSG_DELSETELEM, 0, table, set, 0, es, object, func(e element) []byte {
		return wire.Append(nil, element{key: e.key, last: e.last, end: e.end}.attrs(0)...)
	})
}

func (t *transaction) elements(msg int, flags uint16, table, set string, id uint32, es []element, object string, encode func(element) []byte) {
	var list []wire.Attr
	size := 0
	send := func() {
		if len(list) == 0 {
			return
		}
		attrs := []wire.Attr{wire.String(unix.NFTA_SET_ELEM_LIST_TABLE, table), wire.String(unix.NFTA_SET_ELEM_LIST_SET, set)}
		if id != 0 {
			attrs = append(attrs, be32(unix.NFTA_SET_ELEM_LIST_SET_ID, id))
		}
		t.add(msg, flags, object, append(attrs, wire.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list...))...)
		list, size = nil, 0
	}
	for _, e := range es {
		b := encode(e)
		if size+len(b)+unix.NLA_HDRLEN > maxList {
			send()
		}
		list, size = append(list, wire.Bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b)), size+len(b)+unix.NLA_HDRLEN
	}
	send()
}

func (e element) attrs(timeout time.Duration) []wire.Attr {
	attrs := []wire.Attr{wire.Nest(unix.NFTA_SET_ELEM_KEY, wire.Bytes(unix.NFTA_DATA_VALUE, e.key))}
	if e.last != nil {
		attrs = append(attrs, wire.Nest(keyEnd, wire.Bytes(unix.NFTA_DATA_VALUE, e.last)))
	}
	if e.end {
		attrs = append(attrs, be32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END))
	}
	if e.data != nil {
		attrs = append(attrs, e.data.attr())
	}
	if e.open {
		attrs = append(attrs, wire.Bytes(unix.NFTA_SET_ELEM_USERDATA, binary.NativeEndian.AppendUint32([]byte{1, 4}, 1)))
	}
	if timeout > 0 {
		attrs = append(attrs, wire.BE64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(max(timeout.Milliseconds(), 1))))
	}
	return attrs
}
