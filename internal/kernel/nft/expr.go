package nft

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

const (
	fibAddrType  = 38     // nft's data type of route types
	statusDNAT   = 1 << 5 // IPS_DST_NAT
	policyAccept = 1      // NF_ACCEPT
	maxComment   = 128    // as nft allows
)

// expression is one nf_tables expression. The library encodes it.
type expression struct {
	expr.Any
	set *anonymous // the set that a lookup makes along with its rule, or nil
	own []byte     // encoded, when the library has no such expression
}

// encode returns the name and the attributes. id is that of the lookup's own set in the transaction.
func (e expression) encode(id uint32) []byte {
	if e.own != nil {
		return e.own
	}
	what := e.Any
	if l, ok := what.(*expr.Lookup); ok && e.set != nil {
		with := *l
		with.SetID = id
		what = &with
	}
	b, err := expr.Marshal(unix.NFPROTO_INET, what)
	if err != nil {
		panic("nft: " + err.Error()) // only for an attribute of a length that nobody sets
	}
	return b
}

// anonymous is a set that lives and dies with one rule.
type anonymous struct {
	keyType  uint32
	keyLen   int
	order    uint32 // byte order of the key, as nft notes it for itself
	interval bool
	data     string // the type of what it maps to, as nft spells it; "" for a set
	twice    bool   // the data are two of those: a range
	elements []element
}

// rule is a plan.NFTRule in the kernel's terms.
type rule struct {
	exprs   []expression
	comment string
	text    string
}

// compiler turns the matches and statements of one rule into the expressions that nft itself would write for the same text.
// It keeps what the rule has already established, because nft writes a dependency (`meta l4proto tcp` before `tcp dport`)
// once, and leaves it out again when it lists the rule.
type compiler struct {
	out    []expression
	l4     byte
	family plan.Family
	ranges map[string]bool // named maps with intervals, whose numbers are compared in network order
}

// compile translates a rule of a plan. ranges are the names of the table's maps with intervals.
func compile(r plan.NFTRule, ranges map[string]bool) (rule, error) {
	c := compiler{ranges: ranges}
	for _, e := range r.Exprs {
		if err := c.add(e); err != nil {
			return rule{}, err
		}
	}
	if len(r.Comment) > maxComment {
		return rule{}, fmt.Errorf("comment of %d bytes, nft allows %d: %q", len(r.Comment), maxComment, r.Comment)
	}
	return rule{exprs: c.out, comment: r.Comment, text: r.Text()}, nil
}

func (c *compiler) add(e plan.Expr) error {
	switch e := e.(type) {
	case plan.IIFName:
		return c.ifname(expr.MetaKeyIIFNAME, e.Names, e.Not)
	case plan.OIFName:
		return c.ifname(expr.MetaKeyOIFNAME, e.Names, e.Not)
	case plan.L4Proto:
		return c.l4proto(e)
	case plan.NFProto:
		c.nfproto(e.Family)
	case plan.DPort:
		return c.ports(e, 2)
	case plan.SPort:
		return c.ports(plan.DPort(e), 0)
	case plan.TCPFlags:
		c.proto(unix.IPPROTO_TCP)
		c.payload(expr.PayloadBaseTransportHeader, 13, 1)
		c.bitwise([]byte{e.Mask}, []byte{0})
		c.compare(e.Not, []byte{e.Value})
	case plan.SocketTransparent:
		c.socket(expr.SocketKeyTransparent)
		c.compare(false, []byte{1})
	case plan.SocketWildcard:
		c.socket(expr.SocketKeyWildcard)
		c.compare(false, []byte{1})
	case plan.SocketMark:
		c.socket(expr.SocketKeyMark)
		c.masked(e.Mask, e.Value)
	case plan.Mark:
		c.meta(expr.MetaKeyMARK)
		c.masked(e.Mask, e.Value)
	case plan.CTMark:
		c.ct(expr.CtKeyMARK)
		c.masked(e.Mask, e.Value)
	case plan.CTDNAT:
		c.ct(expr.CtKeySTATUS)
		c.bitwise(host32(statusDNAT), host32(0))
		c.compare(!e.Not, host32(0))
	case plan.InSet:
		c.meta(expr.MetaKeyL4PROTO)
		c.lookup(e.Not, e.Set, nil)
	case plan.DaddrType:
		return c.addrType(&expr.Fib{Register: unix.NFT_REG_1, FlagDADDR: true, ResultADDRTYPE: true}, e.Types, e.Not)
	case plan.Daddr:
		return c.addr(e, 16, 24)
	case plan.Saddr:
		return c.addr(plan.Daddr(e), 12, 8)
	default:
		return c.statement(e)
	}
	return nil
}

func (c *compiler) statement(e plan.Expr) error {
	switch e := e.(type) {
	case plan.SetMark:
		c.meta(expr.MetaKeyMARK)
		c.bitwise(host32(^e.Bits), host32(e.Bits))
		c.put(&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: unix.NFT_REG_1})
	case plan.SetCTMark:
		set := e.Bits
		if e.Clear {
			set = 0
		}
		c.ct(expr.CtKeyMARK)
		c.bitwise(host32(^e.Bits), host32(set))
		c.put(&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: unix.NFT_REG_1})
	case plan.SetZone:
		c.immediate(unix.NFT_REG_1, binary.NativeEndian.AppendUint16(nil, e.Zone))
		c.put(&expr.Ct{Key: expr.CtKeyZONE, SourceRegister: true, Register: unix.NFT_REG_1})
	case plan.TProxy:
		c.tproxy(e.To)
	case plan.Redirect:
		c.immediate(unix.NFT_REG_1, binary.BigEndian.AppendUint16(nil, e.Port))
		c.put(&expr.Redir{RegisterProtoMin: unix.NFT_REG_1, RegisterProtoMax: unix.NFT_REG_1, Flags: expr.NF_NAT_RANGE_PROTO_SPECIFIED})
	case plan.RejectReset:
		c.proto(unix.IPPROTO_TCP)
		c.put(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	case plan.Counter:
		if e.Name == "" {
			c.put(&expr.Counter{})
			return nil
		}
		c.raw("objref", be32(unix.NFTA_OBJREF_IMM_TYPE, counterObject), wire.String(unix.NFTA_OBJREF_IMM_NAME, e.Name))
	case plan.Jump:
		c.put(&expr.Verdict{Kind: expr.VerdictJump, Chain: e.Chain})
	case plan.Verdict:
		kind, ok := verdicts[e.Word]
		if !ok {
			return fmt.Errorf("no such verdict: %q", e.Word)
		}
		c.put(&expr.Verdict{Kind: kind})
	default:
		return c.more(e)
	}
	return nil
}

var verdicts = map[string]expr.VerdictKind{"accept": expr.VerdictAccept, "drop": expr.VerdictDrop, "return": expr.VerdictReturn}

func host32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func (c *compiler) put(e expr.Any) { c.out = append(c.out, expression{Any: e}) }

func (c *compiler) meta(key expr.MetaKey) { c.put(&expr.Meta{Key: key, Register: unix.NFT_REG_1}) }

func (c *compiler) ct(key expr.CtKey) { c.put(&expr.Ct{Key: key, Register: unix.NFT_REG_1}) }

func (c *compiler) socket(key expr.SocketKey) {
	c.put(&expr.Socket{Key: key, Register: unix.NFT_REG_1})
}

func (c *compiler) payload(base expr.PayloadBase, offset, length int) {
	c.put(&expr.Payload{DestRegister: unix.NFT_REG_1, Base: base, Offset: uint32(offset), Len: uint32(length)})
}

func (c *compiler) compare(not bool, b []byte) {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	c.cmp(op, b)
}

func (c *compiler) cmp(op expr.CmpOp, b []byte) {
	c.put(&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: b})
}

func (c *compiler) bitwise(mask, xor []byte) {
	c.put(&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: uint32(len(mask)), Mask: mask, Xor: xor})
}

func (c *compiler) masked(mask, want uint32) {
	c.bitwise(host32(mask), host32(0))
	c.compare(false, host32(want))
}

func (c *compiler) immediate(register uint32, b []byte) {
	c.put(&expr.Immediate{Register: register, Data: b})
}

// lookup matches the register in a set: a named one, or (set not nil) one that is made with the rule.
func (c *compiler) lookup(not bool, name string, set *anonymous) {
	c.out = append(c.out, expression{Any: &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: name, Invert: not}, set: set})
}

const newSet = "__set%d" // the kernel fills in a free number

// member compares the register with one value or looks it up among several.
func (c *compiler) member(not bool, kind setType, keys [][]byte) {
	if len(keys) == 1 {
		c.compare(not, keys[0])
		return
	}
	set := &anonymous{keyType: kind.number, keyLen: kind.length, order: kind.order}
	for _, k := range keys {
		set.elements = append(set.elements, element{key: k})
	}
	c.lookup(not, newSet, set)
}

func (c *compiler) ifname(which expr.MetaKey, names []string, not bool) error {
	var keys [][]byte
	for _, n := range names {
		k, err := ifname(n)
		if err != nil {
			return err
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return fmt.Errorf("an interface match without a name")
	}
	c.meta(which)
	c.member(not, setTypes["ifname"], keys)
	return nil
}

func (c *compiler) l4proto(e plan.L4Proto) error {
	var keys [][]byte
	for _, p := range e.Protos {
		keys = append(keys, []byte{p})
	}
	if len(keys) == 0 {
		return fmt.Errorf("l4proto without a protocol")
	}
	c.meta(expr.MetaKeyL4PROTO)
	c.member(false, setType{number: setTypes["inet_proto"].number, length: 1, order: hostOrder}, keys)
	if len(keys) == 1 {
		c.l4 = e.Protos[0]
	}
	return nil
}

// proto makes sure that the rule matches nothing but that protocol from here on.
func (c *compiler) proto(p byte) {
	if c.l4 == p {
		return
	}
	c.meta(expr.MetaKeyL4PROTO)
	c.compare(false, []byte{p})
	c.l4 = p
}

func (c *compiler) nfproto(f plan.Family) {
	if c.family == f {
		return
	}
	c.meta(expr.MetaKeyNFPROTO)
	c.compare(false, []byte{nfproto(f)})
	c.family = f
}

func nfproto(f plan.Family) byte {
	if f == plan.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// ports matches the port at an offset in the header of the transport protocol.
func (c *compiler) ports(e plan.DPort, offset int) error {
	if len(e.Ranges) == 0 {
		return fmt.Errorf("a port match without a port")
	}
	for _, r := range e.Ranges {
		if r.First > r.Last {
			return fmt.Errorf("the range %d-%d runs backwards", r.First, r.Last)
		}
	}
	c.proto(cmp.Or(e.Proto, unix.IPPROTO_TCP))
	c.payload(expr.PayloadBaseTransportHeader, offset, 2)
	ports := joined(e.Ranges)
	if len(e.Ranges) == 1 {
		c.portRange(ports[0])
		return nil
	}
	set := &anonymous{keyType: setTypes["inet_service"].number, keyLen: 2, order: networkOrder}
	for _, r := range e.Ranges {
		set.interval = set.interval || r.First != r.Last
	}
	if !set.interval {
		for _, r := range e.Ranges {
			set.elements = append(set.elements, element{key: port(r.First)})
		}
	} else {
		var spans []span
		for _, r := range ports {
			spans = append(spans, span{first: port(r.First), last: port(r.Last)})
		}
		set.elements = intervals(spans)
	}
	c.lookup(false, newSet, set)
	return nil
}

func (c *compiler) portRange(r plan.PortRange) {
	if r.First == r.Last {
		c.compare(false, port(r.First))
		return
	}
	c.cmp(expr.CmpOpGte, port(r.First))
	c.cmp(expr.CmpOpLte, port(r.Last))
}

func port(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

var routeTypes = map[string]uint32{"unicast": unix.RTN_UNICAST, "local": unix.RTN_LOCAL, "broadcast": unix.RTN_BROADCAST,
	"anycast": unix.RTN_ANYCAST, "multicast": unix.RTN_MULTICAST, "blackhole": unix.RTN_BLACKHOLE, "unreachable": unix.RTN_UNREACHABLE,
	"prohibit": unix.RTN_PROHIBIT}

func (c *compiler) addrType(of *expr.Fib, types []string, not bool) error {
	var keys [][]byte
	for _, t := range types {
		n, ok := routeTypes[t]
		if !ok {
			return fmt.Errorf("no such route type: %q", t)
		}
		keys = append(keys, host32(n))
	}
	if len(keys) == 0 {
		return fmt.Errorf("fib type without a type")
	}
	c.put(of)
	c.member(not, setType{number: fibAddrType, length: 4, order: hostOrder}, keys)
	return nil
}

// addr matches the address at an offset in the header of its family.
func (c *compiler) addr(e plan.Daddr, offset4, offset6 int) error {
	if !e.Prefix.IsValid() {
		return fmt.Errorf("an address match without a prefix")
	}
	family, offset := plan.IPv4, offset4
	if e.Prefix.Addr().Is6() {
		family, offset = plan.IPv6, offset6
	}
	c.nfproto(family)
	addr, bits := e.Prefix.Masked().Addr().AsSlice(), e.Prefix.Bits()
	length := len(addr)
	if bits > 0 && bits%8 == 0 {
		length = bits / 8 // whole bytes: the shorter load needs no mask
	}
	c.payload(expr.PayloadBaseNetworkHeader, offset, length)
	if length == len(addr) && bits < 8*length {
		mask := make([]byte, length)
		for i := range bits {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		c.bitwise(mask, make([]byte, length))
	}
	c.compare(e.Not, addr[:length])
	return nil
}

func (c *compiler) tproxy(to netip.AddrPort) {
	addr := to.Addr().Unmap()
	family := byte(unix.NFPROTO_IPV4)
	if addr.Is6() {
		family = unix.NFPROTO_IPV6
	}
	c.immediate(unix.NFT_REG_1, addr.AsSlice())
	c.immediate(unix.NFT_REG_2, port(to.Port()))
	c.put(&expr.TProxy{Family: family, RegAddr: unix.NFT_REG_1, RegPort: unix.NFT_REG_2})
}
