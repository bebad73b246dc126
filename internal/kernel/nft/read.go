package nft

import (
	"bytes"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
)

// table is an nft table as the kernel holds it.
type table struct {
	name     string
	flags    uint32
	owner    uint32 // netlink port of the socket that owns it, or 0
	userdata []byte
	chains   []*chain
	sets     map[string]*set
	counters []string

	flowtables []flowtable
}

type chain struct {
	name, kind   string
	based        bool
	hook, policy uint32
	priority     int32
	rules        []string // canonical forms in order
}

type set struct {
	name                string
	keyType, keyLen     uint32
	flags               uint32
	elements            []element
	objectType, dataLen uint32
	dataType, size      uint32
	lapse               uint64 // milliseconds
	userdata            []byte
}

func (t *table) chain(name string) *chain {
	for _, c := range t.chains {
		if c.name == name {
			return c
		}
	}
	return nil
}

// dump reads all objects of a kind of the inet family.
func dump(s *wire.Socket, msg int, object string, attrs ...wire.Attr) ([]wire.Attrs, error) {
	replies, err := s.Dump(wire.Message{Type: subsystem(msg), Body: body(unix.NFPROTO_INET, attrs...), Operation: "read", Object: object})
	if err != nil {
		return nil, err
	}
	var out []wire.Attrs
	for _, m := range replies {
		if len(m.Data) < 4 {
			continue
		}
		as, err := wire.Decode(m.Data[4:])
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", object, err)
		}
		out = append(out, as)
	}
	return out, nil
}

// generation is a number that changes with every transaction.
func generation(s *wire.Socket) (uint32, error) {
	replies, err := s.Do(wire.Message{Type: subsystem(unix.NFT_MSG_GETGEN), Body: body(unix.AF_UNSPEC), Operation: "read", Object: "nft generation"})
	if err != nil || len(replies) == 0 || len(replies[0].Data) < 4 {
		return 0, err
	}
	as, err := wire.Decode(replies[0].Data[4:])
	return as.BE32(unix.NFTA_GEN_ID), err
}

// tables lists the tables of the inet family, without what is in them.
func tables(s *wire.Socket) ([]*table, error) {
	list, err := dump(s, unix.NFT_MSG_GETTABLE, "nft tables")
	if wire.Is(err, unix.EOPNOTSUPP, unix.ENOENT) {
		return nil, nil // the family was never used
	}
	var out []*table
	for _, as := range list {
		mark, _ := as.Get(nftaTableUserdata)
		out = append(out, &table{name: as.String(unix.NFTA_TABLE_NAME), flags: as.BE32(unix.NFTA_TABLE_FLAGS),
			owner: as.BE32(nftaTableOwner), userdata: mark, sets: map[string]*set{}})
	}
	return out, err
}

// read returns the named tables that exist, whole, as they were at one moment.
func read(s *wire.Socket, names []string) (map[string]*table, error) {
	for range 16 {
		before, err := generation(s)
		if err != nil {
			return nil, err
		}
		out, err := readOnce(s, names)
		if err != nil && !wire.Is(err, unix.ENOENT) { // a table may go between listing and reading it
			return nil, err
		}
		after, genErr := generation(s)
		if genErr != nil {
			return nil, genErr
		}
		if before == after && err == nil {
			return out, nil
		}
	}
	return nil, fmt.Errorf("read nft tables: other programs change them faster than they can be read")
}

func readOnce(s *wire.Socket, names []string) (map[string]*table, error) {
	all, err := tables(s)
	if err != nil {
		return nil, err
	}
	out := map[string]*table{}
	for _, t := range all {
		if !slices.Contains(names, t.name) {
			continue
		}
		out[t.name] = t
		for _, fill := range []func(*wire.Socket, *table) error{readSets, readCounters, readFlowtables, readChains, readRules} {
			if err := fill(s, t); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func readSets(s *wire.Socket, t *table) error {
	list, err := dump(s, unix.NFT_MSG_GETSET, "sets of nft table inet "+t.name, wire.String(unix.NFTA_SET_TABLE, t.name))
	if err != nil {
		return err
	}
	for _, as := range list {
		if as.String(unix.NFTA_SET_TABLE) != t.name {
			continue
		}
		one := &set{name: as.String(unix.NFTA_SET_NAME), keyType: as.BE32(unix.NFTA_SET_KEY_TYPE), keyLen: as.BE32(unix.NFTA_SET_KEY_LEN),
			flags: as.BE32(unix.NFTA_SET_FLAGS), objectType: as.BE32(unix.NFTA_SET_OBJ_TYPE), dataLen: as.BE32(unix.NFTA_SET_DATA_LEN),
			dataType: as.BE32(unix.NFTA_SET_DATA_TYPE), size: as.Nested(unix.NFTA_SET_DESC).BE32(unix.NFTA_SET_DESC_SIZE), lapse: as.BE64(unix.NFTA_SET_TIMEOUT)}
		one.userdata, _ = as.Get(unix.NFTA_SET_USERDATA)
		t.sets[one.name] = one
		if one.flags&flagEval != 0 {
			continue // run-time state, and perhaps a great deal
		}
		if one.elements, err = readElements(s, t.name, one.name); err != nil {
			return err
		}
	}
	return nil
}

// readCounters reads the names of a table's named counters.
func readCounters(s *wire.Socket, t *table) error {
	list, err := counterObjects(s, t.name)
	for _, as := range list {
		t.counters = append(t.counters, as.String(unix.NFTA_OBJ_NAME))
	}
	return err
}

func counterObjects(s *wire.Socket, table string) ([]wire.Attrs, error) {
	list, err := dump(s, unix.NFT_MSG_GETOBJ, "counters of nft table inet "+table, wire.String(unix.NFTA_OBJ_TABLE, table), be32(unix.NFTA_OBJ_TYPE, counterObject))
	return slices.DeleteFunc(list, func(as wire.Attrs) bool {
		return as.String(unix.NFTA_OBJ_TABLE) != table || as.BE32(unix.NFTA_OBJ_TYPE) != counterObject
	}), err
}

func readElements(s *wire.Socket, table, set string) ([]element, error) {
	list, err := dump(s, unix.NFT_MSG_GETSETELEM, setName(table, set), wire.String(unix.NFTA_SET_ELEM_LIST_TABLE, table),
		wire.String(unix.NFTA_SET_ELEM_LIST_SET, set))
	if err != nil {
		return nil, err
	}
	var out []element
	for _, as := range list {
		for _, one := range as.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS) {
			attrs, err := wire.Decode(one.Data)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", setName(table, set), err)
			}
			key, _ := attrs.Nested(unix.NFTA_SET_ELEM_KEY).Get(unix.NFTA_DATA_VALUE)
			last, _ := attrs.Nested(keyEnd).Get(unix.NFTA_DATA_VALUE)
			out = append(out, element{key: key, last: last, data: datumOf(attrs), end: attrs.BE32(unix.NFTA_SET_ELEM_FLAGS)&unix.NFT_SET_ELEM_INTERVAL_END != 0})
		}
	}
	return out, nil
}

func readChains(s *wire.Socket, t *table) error {
	list, err := dump(s, unix.NFT_MSG_GETCHAIN, "chains of nft table inet "+t.name)
	for _, as := range list {
		if as.String(unix.NFTA_CHAIN_TABLE) != t.name {
			continue
		}
		c := &chain{name: as.String(unix.NFTA_CHAIN_NAME), kind: as.String(unix.NFTA_CHAIN_TYPE), based: as.Has(unix.NFTA_CHAIN_HOOK)}
		if c.based {
			hook := as.Nested(unix.NFTA_CHAIN_HOOK)
			c.hook, c.priority = hook.BE32(unix.NFTA_HOOK_HOOKNUM), int32(hook.BE32(unix.NFTA_HOOK_PRIORITY))
			c.policy = as.BE32(unix.NFTA_CHAIN_POLICY)
		}
		t.chains = append(t.chains, c)
	}
	return err
}

func readRules(s *wire.Socket, t *table) error {
	list, err := dump(s, unix.NFT_MSG_GETRULE, "rules of nft table inet "+t.name, wire.String(unix.NFTA_RULE_TABLE, t.name))
	for _, as := range list {
		if as.String(unix.NFTA_RULE_TABLE) != t.name {
			continue
		}
		if c := t.chain(as.String(unix.NFTA_RULE_CHAIN)); c != nil {
			c.rules = append(c.rules, t.ruleForm(as))
		}
	}
	return err
}

// ruleForm is a rule's canonical form.
func (t *table) ruleForm(as wire.Attrs) string {
	var b bytes.Buffer
	for _, one := range as.Nested(unix.NFTA_RULE_EXPRESSIONS) {
		b.WriteString(canonical(one.Data, t.ownMembers))
	}
	data, _ := as.Get(unix.NFTA_RULE_USERDATA)
	return withComment(b.String(), commentOf(data))
}

// ownMembers is the form of a set that belongs to one rule, or "".
func (t *table) ownMembers(name string) string {
	s := t.sets[name]
	if s == nil || s.flags&unix.NFT_SET_ANONYMOUS == 0 {
		return ""
	}
	return s.form()
}

// form is the canonical form of the contents.
func (s *set) form() string {
	return members(s.keyType, s.flags&unix.NFT_SET_INTERVAL != 0, s.elements)
}

// commentOf finds the comment in user data as nft writes it.
func commentOf(data []byte) string {
	for len(data) >= 2 && len(data) >= 2+int(data[1]) {
		if data[0] == 0 {
			return string(bytes.TrimRight(data[2:2+int(data[1])], "\x00"))
		}
		data = data[2+int(data[1]):]
	}
	return ""
}
