package nft

import (
	"bytes"
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Registers are counted here in words of four bytes, as the kernel does. It lists one that begins a register of sixteen bytes under
// that register's number, and so must we. (nf_tables_api.c: nft_dump_register)
func register(word int) uint32 {
	if word%4 == 0 {
		return uint32(unix.NFT_REG_1 + word/4)
	}
	return uint32(unix.NFT_REG32_00 + word)
}

// words is how many registers of four bytes a value takes.
func words(bytes int) int { return (bytes + 3) / 4 }

// fieldSource says where a field comes from: a header, or a key of meta or ct.
type fieldSource struct {
	kind   string // its set type
	family plan.Family
	proto  byte
	load   func(c *compiler, to uint32)
}

func header(base expr.PayloadBase, offset, length int) func(*compiler, uint32) {
	return func(c *compiler, to uint32) {
		c.put(&expr.Payload{DestRegister: to, Base: base, Offset: uint32(offset), Len: uint32(length)})
	}
}

func metaKey(key expr.MetaKey) func(*compiler, uint32) {
	return func(c *compiler, to uint32) { c.put(&expr.Meta{Key: key, Register: to}) }
}

func ctMark(c *compiler, to uint32) { c.put(&expr.Ct{Key: expr.CtKeyMARK, Register: to}) }

// ctOriginal loads a part of the tuple of the connection's first packet.
func ctOriginal(key uint32) func(*compiler, uint32) {
	return func(c *compiler, to uint32) {
		c.raw("ct", be32(unix.NFTA_CT_KEY, key), be32(unix.NFTA_CT_DREG, to), wire.U8(unix.NFTA_CT_DIRECTION, 0))
	}
}

const (
	network   = expr.PayloadBaseNetworkHeader
	transport = expr.PayloadBaseTransportHeader
)

var fields = map[plan.Field]fieldSource{
	plan.IPSaddr:    {"ipv4_addr", plan.IPv4, 0, header(network, 12, 4)},
	plan.IPDaddr:    {"ipv4_addr", plan.IPv4, 0, header(network, 16, 4)},
	plan.IP6Saddr:   {"ipv6_addr", plan.IPv6, 0, header(network, 8, 16)},
	plan.IP6Daddr:   {"ipv6_addr", plan.IPv6, 0, header(network, 24, 16)},
	plan.TCPSPort:   {"inet_service", 0, unix.IPPROTO_TCP, header(transport, 0, 2)},
	plan.TCPDPort:   {"inet_service", 0, unix.IPPROTO_TCP, header(transport, 2, 2)},
	plan.UDPSPort:   {"inet_service", 0, unix.IPPROTO_UDP, header(transport, 0, 2)},
	plan.UDPDPort:   {"inet_service", 0, unix.IPPROTO_UDP, header(transport, 2, 2)},
	plan.THSPort:    {"inet_service", 0, 0, header(transport, 0, 2)},
	plan.THDPort:    {"inet_service", 0, 0, header(transport, 2, 2)},
	plan.L4ProtoKey: {"inet_proto", 0, 0, metaKey(expr.MetaKeyL4PROTO)},
	plan.MarkKey:    {"mark", 0, 0, metaKey(expr.MetaKeyMARK)},
	plan.CTMarkKey:  {"mark", 0, 0, ctMark},
	plan.IIFNameKey: {"ifname", 0, 0, metaKey(expr.MetaKeyIIFNAME)},
	plan.OIFNameKey: {"ifname", 0, 0, metaKey(expr.MetaKeyOIFNAME)},

	plan.IPOriginalDaddr:  {"ipv4_addr", 0, 0, ctOriginal(unix.NFT_CT_DST_IP)},
	plan.IP6OriginalDaddr: {"ipv6_addr", 0, 0, ctOriginal(unix.NFT_CT_DST_IP6)},
}

// load puts fields one after the other into the registers from a word on, what they imply before them, and returns the length in bytes.
func (c *compiler) load(fs plan.Fields, word int) (int, error) {
	if len(fs) == 0 {
		return 0, fmt.Errorf("a key without a field")
	}
	for _, f := range fs {
		source, ok := fields[f]
		if !ok {
			return 0, fmt.Errorf("no such field: %q", f)
		}
		if source.family != 0 {
			c.nfproto(source.family)
		}
		if source.proto != 0 {
			c.proto(source.proto)
		}
	}
	total := 0
	for _, f := range fs {
		fields[f].load(c, register(word))
		length := setTypes[fields[f].kind].length
		word += words(length)
		total += 4 * words(length)
		if len(fs) == 1 {
			total = length
		}
	}
	return total, nil
}

// key puts a key into the first register.
func (c *compiler) key(k plan.Key) error {
	switch k := k.(type) {
	case plan.Fields:
		_, err := c.load(k, 0)
		return err
	case plan.NumGen:
		kind := uint32(unix.NFT_NG_INCREMENTAL)
		if k.Random {
			kind = unix.NFT_NG_RANDOM
		}
		c.put(&expr.Numgen{Register: unix.NFT_REG_1, Modulus: k.Mod, Type: kind})
	case plan.JHash:
		length, err := c.load(k.Fields, 4)
		if err != nil {
			return err
		}
		c.put(&expr.Hash{SourceRegister: unix.NFT_REG_2, DestRegister: unix.NFT_REG_1, Length: uint32(length), Modulus: k.Mod, Seed: k.Seed, Type: expr.HashTypeJenkins})
	case plan.MaskedMark:
		if k.CT {
			c.ct(expr.CtKeyMARK)
		} else {
			c.meta(expr.MetaKeyMARK)
		}
		c.bitwise(host32(k.Mask), host32(0))
	default:
		return fmt.Errorf("no such key: %T", k)
	}
	return nil
}

// find looks the first register up in a named map; what is found goes to a register.
func (c *compiler) find(name string, to uint32) {
	c.put(&expr.Lookup{SourceRegister: unix.NFT_REG_1, DestRegister: to, IsDestRegSet: true, SetName: name})
}

func (c *compiler) in(e plan.In) error {
	if _, err := c.load(e.Key, 0); err != nil {
		return err
	}
	c.lookup(e.Not, e.Set, nil)
	return nil
}

// swap turns a number in the first register into network order, in which the keys of intervals are compared.
func (c *compiler) swap(length int) {
	c.put(&expr.Byteorder{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Op: expr.ByteorderHton, Len: uint32(length), Size: uint32(length)})
}

func (c *compiler) vmap(e plan.VMap) error {
	if err := c.key(e.Key); err != nil {
		return err
	}
	if e.Map != "" {
		if _, hashed := e.Key.(plan.Fields); !hashed && c.ranges[e.Map] {
			c.swap(4)
		}
		c.find(e.Map, unix.NFT_REG_VERDICT)
		return nil
	}
	kind := setTypes["numgen"]
	if _, marks := e.Key.(plan.MaskedMark); marks {
		kind = setTypes["mark"]
	}
	set := &anonymous{keyType: kind.number, keyLen: kind.length, order: kind.order, data: "verdict"}
	for _, r := range e.Entries {
		set.interval = set.interval || r.First != r.Last
	}
	var spans []span
	for _, r := range e.Entries {
		do, err := verdictOf(r.Do)
		if err != nil {
			return err
		}
		spans = append(spans, span{numberKey(r.First, set.interval), numberKey(r.Last, set.interval), do})
	}
	if set.interval {
		c.swap(4)
		set.elements = abutting(intervals(spans))
	} else {
		for _, sp := range spans {
			set.elements = append(set.elements, element{key: sp.first, data: sp.data})
		}
	}
	c.out = append(c.out, expression{Any: &expr.Lookup{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: newMap}, set: set})
	return nil
}

// abutting leaves out the ends of ranges at which the next one begins, as nft does in a map of a rule's own.
func abutting(es []element) []element {
	var out []element
	for i, e := range es {
		if !e.end || i+1 == len(es) || !bytes.Equal(e.key, es[i+1].key) {
			out = append(out, e)
		}
	}
	return out
}

const newMap = "__map%d" // the kernel fills in a free number

// verdictOf is a verdict as the datum of a map.
func verdictOf(e plan.Expr) (*datum, error) {
	switch e := e.(type) {
	case plan.Jump:
		return &datum{code: int32(expr.VerdictJump), chain: e.Chain}, nil
	case plan.Goto:
		return &datum{code: int32(expr.VerdictGoto), chain: e.Chain}, nil
	case plan.Verdict:
		if kind, ok := verdicts[e.Word]; ok {
			return &datum{code: int32(kind)}, nil
		}
	}
	return nil, fmt.Errorf("no such verdict: %s", e.Text())
}

func (c *compiler) setMarkFrom(e plan.SetMarkFrom) error {
	if err := c.key(e.Key); err != nil {
		return err
	}
	if _, hashed := e.Key.(plan.Fields); !hashed && c.ranges[e.Map] {
		c.swap(4)
	}
	c.find(e.Map, unix.NFT_REG_1)
	c.setMark(e.CT)
	return nil
}

// setMark writes the first register to the packet mark or the conntrack mark.
func (c *compiler) setMark(ct bool) {
	if ct {
		c.put(&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: unix.NFT_REG_1})
		return
	}
	c.put(&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: unix.NFT_REG_1})
}
