package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Numbers that x/sys/unix lacks, from include/uapi/linux/netfilter/nf_tables.h.
const (
	nftaTProxyFamily  = 1
	nftaTProxyRegAddr = 2
	nftaTProxyRegPort = 3

	nftaSocketKey  = 1
	nftaSocketDReg = 2

	nftaRangeSReg = 1
	nftaRangeOp   = 2
	nftaRangeFrom = 3
	nftaRangeTo   = 4

	socketTransparent = 0
	socketMark        = 1
	socketWildcard    = 2

	fibResultAddrType = 3
	fibFlagDaddr      = 1 << 1

	redirFlagPort = 1 << 1 // NF_NAT_RANGE_PROTO_SPECIFIED
	statusDNAT    = 1 << 5 // IPS_DST_NAT
	policyAccept  = 1      // NF_ACCEPT
	maxComment    = 128    // as nft allows
)

// expression is one nf_tables expression as it goes over the wire: a name and attributes.
type expression struct {
	name  string
	attrs []wire.Attr
	set   *anonymous // the set that a lookup makes along with its rule, or nil
}

// anonymous is a set that lives and dies with one rule.
type anonymous struct {
	keyType  uint32
	keyLen   int
	order    uint32 // byte order of the key, as nft notes it for itself
	interval bool
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
}

// compile translates a rule of a plan.
func compile(r plan.NFTRule) (rule, error) {
	var c compiler
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
		return c.iifname(e)
	case plan.L4Proto:
		return c.l4proto(e)
	case plan.NFProto:
		c.nfproto(e.Family)
	case plan.DPort:
		return c.dport(e)
	case plan.TCPFlags:
		c.tcp()
		c.load("payload", be32(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1), be32(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_TRANSPORT_HEADER),
			be32(unix.NFTA_PAYLOAD_OFFSET, 13), be32(unix.NFTA_PAYLOAD_LEN, 1))
		c.bitwise([]byte{e.Mask}, []byte{0})
		c.compare(e.Not, []byte{e.Value})
	case plan.SocketTransparent:
		c.socket(socketTransparent)
		c.compare(false, []byte{1})
	case plan.SocketWildcard:
		c.socket(socketWildcard)
		c.compare(false, []byte{1})
	case plan.SocketMark:
		c.socket(socketMark)
		c.masked(e.Mask, e.Value)
	case plan.Mark:
		c.meta(unix.NFT_META_MARK)
		c.masked(e.Mask, e.Value)
	case plan.CTMark:
		c.ct(unix.NFT_CT_MARK)
		c.masked(e.Mask, e.Value)
	case plan.CTDNAT:
		c.ct(unix.NFT_CT_STATUS)
		c.bitwise(host32(statusDNAT), host32(0))
		c.compare(!e.Not, host32(0))
	case plan.InSet:
		c.meta(unix.NFT_META_L4PROTO)
		c.lookup(e.Not, wire.String(unix.NFTA_LOOKUP_SET, e.Set), nil)
	case plan.DaddrType:
		return c.daddrType(e)
	case plan.Daddr:
		return c.daddr(e)
	default:
		return c.statement(e)
	}
	return nil
}

func (c *compiler) statement(e plan.Expr) error {
	switch e := e.(type) {
	case plan.SetMark:
		c.meta(unix.NFT_META_MARK)
		c.bitwise(host32(^e.Bits), host32(e.Bits))
		c.load("meta", be32(unix.NFTA_META_KEY, unix.NFT_META_MARK), be32(unix.NFTA_META_SREG, unix.NFT_REG_1))
	case plan.SetCTMark:
		set := e.Bits
		if e.Clear {
			set = 0
		}
		c.ct(unix.NFT_CT_MARK)
		c.bitwise(host32(^e.Bits), host32(set))
		c.load("ct", be32(unix.NFTA_CT_KEY, unix.NFT_CT_MARK), be32(unix.NFTA_CT_SREG, unix.NFT_REG_1))
	case plan.SetZone:
		c.immediate(unix.NFT_REG_1, binary.NativeEndian.AppendUint16(nil, e.Zone))
		c.load("ct", be32(unix.NFTA_CT_KEY, unix.NFT_CT_ZONE), be32(unix.NFTA_CT_SREG, unix.NFT_REG_1))
	case plan.TProxy:
		c.tproxy(e.To)
	case plan.Redirect:
		c.immediate(unix.NFT_REG_1, binary.BigEndian.AppendUint16(nil, e.Port))
		c.load("redir", be32(unix.NFTA_REDIR_REG_PROTO_MIN, unix.NFT_REG_1), be32(unix.NFTA_REDIR_REG_PROTO_MAX, unix.NFT_REG_1),
			be32(unix.NFTA_REDIR_FLAGS, redirFlagPort))
	case plan.RejectReset:
		c.tcp()
		c.load("reject", be32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST), wire.U8(unix.NFTA_REJECT_ICMP_CODE, 0))
	case plan.Counter:
		c.load("counter", wire.BE64(unix.NFTA_COUNTER_BYTES, 0), wire.BE64(unix.NFTA_COUNTER_PACKETS, 0))
	case plan.Jump:
		c.verdict(unix.NFT_JUMP, e.Chain)
	case plan.Verdict:
		code, ok := verdicts[e.Word]
		if !ok {
			return fmt.Errorf("no such verdict: %q", e.Word)
		}
		c.verdict(code, "")
	default:
		return fmt.Errorf("no such expression: %T", e)
	}
	return nil
}

const nfReturn = -5 // NFT_RETURN

var verdicts = map[string]int32{"accept": 1, "drop": 0, "return": nfReturn}

func be32(t uint16, v uint32) wire.Attr { return wire.BE32(t, v) }

func host32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func value(t uint16, b []byte) wire.Attr {
	return wire.Nest(t, wire.Bytes(unix.NFTA_DATA_VALUE, b))
}

func (c *compiler) load(name string, attrs ...wire.Attr) {
	c.out = append(c.out, expression{name: name, attrs: attrs})
}

func (c *compiler) meta(key uint32) {
	c.load("meta", be32(unix.NFTA_META_KEY, key), be32(unix.NFTA_META_DREG, unix.NFT_REG_1))
}

func (c *compiler) ct(key uint32) {
	c.load("ct", be32(unix.NFTA_CT_KEY, key), be32(unix.NFTA_CT_DREG, unix.NFT_REG_1))
}

func (c *compiler) socket(key uint32) {
	c.load("socket", be32(nftaSocketKey, key), be32(nftaSocketDReg, unix.NFT_REG_1))
}

func (c *compiler) compare(not bool, b []byte) {
	op := uint32(unix.NFT_CMP_EQ)
	if not {
		op = unix.NFT_CMP_NEQ
	}
	c.cmp(op, b)
}

func (c *compiler) cmp(op uint32, b []byte) {
	c.load("cmp", be32(unix.NFTA_CMP_SREG, unix.NFT_REG_1), be32(unix.NFTA_CMP_OP, op), value(unix.NFTA_CMP_DATA, b))
}

func (c *compiler) bitwise(mask, xor []byte) {
	c.load("bitwise", be32(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1), be32(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1),
		be32(unix.NFTA_BITWISE_LEN, uint32(len(mask))), value(unix.NFTA_BITWISE_MASK, mask), value(unix.NFTA_BITWISE_XOR, xor))
}

func (c *compiler) masked(mask, want uint32) {
	c.bitwise(host32(mask), host32(0))
	c.compare(false, host32(want))
}

func (c *compiler) immediate(register uint32, b []byte) {
	c.load("immediate", be32(unix.NFTA_IMMEDIATE_DREG, register), value(unix.NFTA_IMMEDIATE_DATA, b))
}

func (c *compiler) verdict(code int32, chain string) {
	attrs := []wire.Attr{be32(unix.NFTA_VERDICT_CODE, uint32(code))}
	if chain != "" {
		attrs = append(attrs, wire.String(unix.NFTA_VERDICT_CHAIN, chain))
	}
	c.load("immediate", be32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT),
		wire.Nest(unix.NFTA_IMMEDIATE_DATA, wire.Nest(unix.NFTA_DATA_VERDICT, attrs...)))
}

// lookup matches the register in a set: a named one, or (set not nil) one that is made with the rule.
func (c *compiler) lookup(not bool, name wire.Attr, set *anonymous) {
	attrs := []wire.Attr{be32(unix.NFTA_LOOKUP_SREG, unix.NFT_REG_1), name}
	if not {
		attrs = append(attrs, be32(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV))
	}
	c.out = append(c.out, expression{name: "lookup", attrs: attrs, set: set})
}

var newSet = wire.String(unix.NFTA_LOOKUP_SET, "__set%d") // the kernel fills in a free number

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

func (c *compiler) iifname(e plan.IIFName) error {
	var keys [][]byte
	for _, n := range e.Names {
		k, err := ifname(n)
		if err != nil {
			return err
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return fmt.Errorf("iifname without a name")
	}
	c.meta(unix.NFT_META_IIFNAME)
	c.member(e.Not, setTypes["ifname"], keys)
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
	c.meta(unix.NFT_META_L4PROTO)
	c.member(false, setType{number: setTypes["inet_proto"].number, length: 1, order: hostOrder}, keys)
	if len(keys) == 1 {
		c.l4 = e.Protos[0]
	}
	return nil
}

// tcp makes sure that the rule matches nothing but TCP from here on.
func (c *compiler) tcp() {
	if c.l4 == unix.IPPROTO_TCP {
		return
	}
	c.meta(unix.NFT_META_L4PROTO)
	c.compare(false, []byte{unix.IPPROTO_TCP})
	c.l4 = unix.IPPROTO_TCP
}

func (c *compiler) nfproto(f plan.Family) {
	if c.family == f {
		return
	}
	c.meta(unix.NFT_META_NFPROTO)
	c.compare(false, []byte{nfproto(f)})
	c.family = f
}

func nfproto(f plan.Family) byte {
	if f == plan.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func (c *compiler) dport(e plan.DPort) error {
	if len(e.Ranges) == 0 {
		return fmt.Errorf("dport without a port")
	}
	for _, r := range e.Ranges {
		if r.First > r.Last {
			return fmt.Errorf("dport range %d-%d runs backwards", r.First, r.Last)
		}
	}
	c.tcp()
	c.load("payload", be32(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1), be32(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_TRANSPORT_HEADER),
		be32(unix.NFTA_PAYLOAD_OFFSET, 2), be32(unix.NFTA_PAYLOAD_LEN, 2))
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
			spans = append(spans, span{port(r.First), port(r.Last)})
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
	c.cmp(unix.NFT_CMP_GTE, port(r.First))
	c.cmp(unix.NFT_CMP_LTE, port(r.Last))
}

func port(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

var routeTypes = map[string]uint32{"unicast": unix.RTN_UNICAST, "local": unix.RTN_LOCAL, "broadcast": unix.RTN_BROADCAST,
	"anycast": unix.RTN_ANYCAST, "multicast": unix.RTN_MULTICAST, "blackhole": unix.RTN_BLACKHOLE, "unreachable": unix.RTN_UNREACHABLE,
	"prohibit": unix.RTN_PROHIBIT}

func (c *compiler) daddrType(e plan.DaddrType) error {
	var keys [][]byte
	for _, t := range e.Types {
		n, ok := routeTypes[t]
		if !ok {
			return fmt.Errorf("no such route type: %q", t)
		}
		keys = append(keys, host32(n))
	}
	if len(keys) == 0 {
		return fmt.Errorf("fib daddr type without a type")
	}
	c.load("fib", be32(unix.NFTA_FIB_DREG, unix.NFT_REG_1), be32(unix.NFTA_FIB_RESULT, fibResultAddrType), be32(unix.NFTA_FIB_FLAGS, fibFlagDaddr))
	c.member(e.Not, setType{number: fibAddrType, length: 4, order: hostOrder}, keys)
	return nil
}

func (c *compiler) daddr(e plan.Daddr) error {
	if !e.Prefix.IsValid() {
		return fmt.Errorf("daddr without a prefix")
	}
	family, offset := plan.IPv4, uint32(16)
	if e.Prefix.Addr().Is6() {
		family, offset = plan.IPv6, 24
	}
	c.nfproto(family)
	addr, bits := e.Prefix.Masked().Addr().AsSlice(), e.Prefix.Bits()
	length := len(addr)
	if bits > 0 && bits%8 == 0 {
		length = bits / 8 // whole bytes: the shorter load needs no mask
	}
	c.load("payload", be32(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1), be32(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER),
		be32(unix.NFTA_PAYLOAD_OFFSET, offset), be32(unix.NFTA_PAYLOAD_LEN, uint32(length)))
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
	family := uint32(unix.NFPROTO_IPV4)
	if addr.Is6() {
		family = unix.NFPROTO_IPV6
	}
	c.immediate(unix.NFT_REG_1, addr.AsSlice())
	c.immediate(unix.NFT_REG_2, port(to.Port()))
	c.load("tproxy", be32(nftaTProxyFamily, family), be32(nftaTProxyRegAddr, unix.NFT_REG_1), be32(nftaTProxyRegPort, unix.NFT_REG_2))
}
