package nft

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Attributes and flags that x/sys/unix lacks.
const (
	nftaTableUserdata = 6
	nftaTableOwner    = 7
	tableFlagOwner    = 2 // NFT_TABLE_F_OWNER, Linux 5.12
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
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM:
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
	flags := uint32(unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT)
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	t.add(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, object, wire.String(unix.NFTA_SET_TABLE, table), wire.String(unix.NFTA_SET_NAME, newSet),
		be32(unix.NFTA_SET_FLAGS, flags), be32(unix.NFTA_SET_KEY_TYPE, s.keyType), be32(unix.NFTA_SET_KEY_LEN, uint32(s.keyLen)),
		be32(unix.NFTA_SET_ID, t.setID), wire.Nest(unix.NFTA_SET_DESC, be32(unix.NFTA_SET_DESC_SIZE, uint32(len(s.elements)))),
		wire.Bytes(unix.NFTA_SET_USERDATA, setUserdata(s.order, s.interval)))
	t.addElements(table, newSet, t.setID, s.elements, 0, object)
	return t.setID
}

func (t *transaction) addSet(table string, s plan.Set) error {
	kind, ok := setTypes[s.Type]
	if !ok {
		return fmt.Errorf("%s: no such set type: %q", setName(table, s.Name), s.Type)
	}
	t.setID++
	t.add(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE|unix.NLM_F_EXCL, setName(table, s.Name), wire.String(unix.NFTA_SET_TABLE, table),
		wire.String(unix.NFTA_SET_NAME, s.Name), be32(unix.NFTA_SET_FLAGS, setFlags(s)), be32(unix.NFTA_SET_KEY_TYPE, kind.number),
		be32(unix.NFTA_SET_KEY_LEN, uint32(kind.length)), be32(unix.NFTA_SET_ID, t.setID),
		wire.Bytes(unix.NFTA_SET_USERDATA, setUserdata(kind.order, false)))
	return nil
}

func setFlags(s plan.Set) uint32 {
	var flags uint32
	if s.Interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if s.Timeout {
		flags |= unix.NFT_SET_TIMEOUT
	}
	return flags
}

func (t *transaction) delSet(table, set string) {
	t.add(unix.NFT_MSG_DELSET, 0, setName(table, set), wire.String(unix.NFTA_SET_TABLE, table), wire.String(unix.NFTA_SET_NAME, set))
}

// flushSet removes all elements of a set; it has no quarrel with an empty one.
func (t *transaction) flushSet(table, set string) {
	t.add(unix.NFT_MSG_DELSETELEM, 0, "elements of "+setName(table, set), wire.String(unix.NFTA_SET_ELEM_LIST_TABLE, table),
		wire.String(unix.NFTA_SET_ELEM_LIST_SET, set))
}

// maxElements is how many members go into one message: an attribute holds less than 64 KiB.
const maxElements = 1000

// addElements adds members; with a timeout above zero they go by themselves after it. id is that of a set of the same
// transaction, or 0.
func (t *transaction) addElements(table, set string, id uint32, es []element, timeout time.Duration, object string) {
	for part := range slices.Chunk(es, maxElements) {
		var list []wire.Attr
		for _, e := range part {
			list = append(list, wire.Nest(unix.NFTA_LIST_ELEM, e.attrs(timeout)...))
		}
		attrs := []wire.Attr{wire.String(unix.NFTA_SET_ELEM_LIST_TABLE, table), wire.String(unix.NFTA_SET_ELEM_LIST_SET, set)}
		if id != 0 {
			attrs = append(attrs, be32(unix.NFTA_SET_ELEM_LIST_SET_ID, id))
		}
		t.add(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, object, append(attrs, wire.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list...))...)
	}
}

func (e element) attrs(timeout time.Duration) []wire.Attr {
	attrs := []wire.Attr{wire.Nest(unix.NFTA_SET_ELEM_KEY, wire.Bytes(unix.NFTA_DATA_VALUE, e.key))}
	if e.end {
		attrs = append(attrs, be32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END))
	}
	if e.open {
		attrs = append(attrs, wire.Bytes(unix.NFTA_SET_ELEM_USERDATA, binary.NativeEndian.AppendUint32([]byte{1, 4}, 1)))
	}
	if timeout > 0 {
		attrs = append(attrs, wire.BE64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(max(timeout.Milliseconds(), 1))))
	}
	return attrs
}
