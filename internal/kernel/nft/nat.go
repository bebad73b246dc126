package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// What the library's expressions cannot say, and the kernel tells when it lists a rule.
const (
	rangeAddresses = 1  // NF_NAT_RANGE_MAP_IPS
	rangePorts     = 2  // NF_NAT_RANGE_PROTO_SPECIFIED
	rangePrefix    = 64 // NF_NAT_RANGE_NETMAP
	counterObject  = 1  // NFT_OBJECT_COUNTER
	tcpMaxseg      = 2  // the TCP option's number
)

// raw adds an expression that the library does not have as we need it.
func (c *compiler) raw(name string, attrs ...wire.Attr) {
	as := []wire.Attr{wire.String(unix.NFTA_EXPR_NAME, name)}
	if len(attrs) > 0 {
		as = append(as, wire.Nest(unix.NFTA_EXPR_DATA, attrs...))
	}
	c.out = append(c.out, expression{own: wire.Append(nil, as...)})
}

// more compiles the matches and statements for routing and NAT.
func (c *compiler) more(e plan.Expr) error {
	switch e := e.(type) {
	case plan.In:
		return c.in(e)
	case plan.VMap:
		return c.vmap(e)
	case plan.SetMarkFrom:
		return c.setMarkFrom(e)
	case plan.CTState:
		return c.ctState(e)
	case plan.CTDirection:
		c.ct(expr.CtKeyDIRECTION)
		c.compare(false, []byte{bit(e.Reply)})
	case plan.CTStatus:
		mask, err := bits(e.Bits, plan.CTStatusBits)
		if err != nil {
			return err
		}
		c.ct(expr.CtKeySTATUS)
		c.bitwise(host32(mask), host32(0))
		c.compare(!e.Not, host32(0))
	case plan.SaddrType:
		return c.addrType(&expr.Fib{Register: unix.NFT_REG_1, FlagSADDR: true, FlagOIF: true, ResultADDRTYPE: true}, e.Types, e.Not)
	case plan.DSCP:
		return c.dscp(e)
	case plan.FlowAdd:
		c.raw("flow_offload", wire.String(flowName, e.Flowtable))
	case plan.SetMarkBits:
		if e.CT {
			c.ct(expr.CtKeyMARK)
		} else {
			c.meta(expr.MetaKeyMARK)
		}
		c.bitwise(host32(^e.Mask), host32(e.Value))
		c.setMark(e.CT)
	case plan.SetDirZone:
		c.immediate(unix.NFT_REG_1, binary.NativeEndian.AppendUint16(nil, e.Zone))
		c.raw("ct", be32(unix.NFTA_CT_KEY, unix.NFT_CT_ZONE), be32(unix.NFTA_CT_SREG, unix.NFT_REG_1), wire.U8(unix.NFTA_CT_DIRECTION, bit(e.Reply)))
	default:
		return c.nat(e)
	}
	return nil
}

func bit(set bool) byte {
	if set {
		return 1
	}
	return 0
}

func bits(names []string, all map[string]uint32) (mask uint32, err error) {
	for _, n := range names {
		b, ok := all[n]
		if !ok {
			return 0, fmt.Errorf("nothing is called %q", n)
		}
		mask |= b
	}
	if mask == 0 {
		return 0, fmt.Errorf("a match without a word")
	}
	return mask, nil
}

// ctState compares as nft does: any of the states, or not exactly the one.
func (c *compiler) ctState(e plan.CTState) error {
	mask, err := bits(e.States, plan.CTStates)
	if err != nil {
		return err
	}
	c.ct(expr.CtKeySTATE)
	if e.Not {
		c.compare(true, host32(mask))
		return nil
	}
	c.bitwise(host32(mask), host32(0))
	c.compare(true, host32(0))
	return nil
}

// dscp loads the bits where they are: in the second byte of IPv4's header, and across the first two of IPv6's.
func (c *compiler) dscp(e plan.DSCP) error {
	c.nfproto(e.Family)
	if e.Value > 63 {
		return fmt.Errorf("a DSCP is at most 63, not %d", e.Value)
	}
	if e.Family == plan.IPv6 {
		c.payload(network, 0, 2)
		c.bitwise([]byte{0x0f, 0xc0}, []byte{0, 0})
		c.compare(false, []byte{e.Value >> 2, e.Value << 6})
		return nil
	}
	c.payload(network, 1, 1)
	c.bitwise([]byte{0xfc}, []byte{0})
	c.compare(false, []byte{e.Value << 2})
	return nil
}

// nat compiles what ends a rule, and limits.
func (c *compiler) nat(e plan.Expr) error {
	switch e := e.(type) {
	case plan.DNAT:
		return c.dnat(e)
	case plan.SNAT:
		c.immediate(unix.NFT_REG_1, e.To.AsSlice())
		c.natTo(unix.NFT_NAT_SNAT, familyOf(e.To), unix.NFT_REG_1, 0, 0)
	case plan.SNATPrefix:
		return c.snatPrefix(e)
	case plan.Masquerade:
		c.raw("masq")
	case plan.NoTrack:
		c.put(&expr.Notrack{})
	case plan.Reject:
		c.put(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})
	case plan.ClampMSS:
		c.proto(unix.IPPROTO_TCP)
		if e.Size > 0 {
			c.immediate(unix.NFT_REG_1, binary.BigEndian.AppendUint16(nil, e.Size))
		} else {
			c.put(&expr.Rt{Register: unix.NFT_REG_1, Key: expr.RtTCPMSS})
			c.swap(2)
		}
		c.put(&expr.Exthdr{SourceRegister: unix.NFT_REG_1, Type: tcpMaxseg, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt})
	case plan.Goto:
		c.put(&expr.Verdict{Kind: expr.VerdictGoto, Chain: e.Chain})
	case plan.RateOver:
		return c.limit(e.Rate, true)
	case plan.RateUnder:
		return c.limit(e.Rate, false)
	case plan.Meter:
		return c.meter(e)
	case plan.CounterFrom:
		if _, err := c.load(e.Key, 0); err != nil {
			return err
		}
		c.raw("objref", be32(unix.NFTA_OBJREF_SET_SREG, unix.NFT_REG_1), wire.String(unix.NFTA_OBJREF_SET_NAME, e.Map))
	default:
		return fmt.Errorf("no such expression: %T", e)
	}
	return nil
}

func familyOf(a netip.Addr) plan.Family {
	if a.Is4() {
		return plan.IPv4
	}
	return plan.IPv6
}

// natTo adds the statement. Registers that are 0 are not there; the kernel lists the end of a range that is one value.
func (c *compiler) natTo(kind uint32, f plan.Family, addr, addrEnd, port uint32) {
	flags := uint32(rangeAddresses)
	attrs := []wire.Attr{be32(unix.NFTA_NAT_TYPE, kind), be32(unix.NFTA_NAT_FAMILY, uint32(nfproto(f))), be32(unix.NFTA_NAT_REG_ADDR_MIN, addr)}
	if addrEnd != 0 {
		flags |= rangePrefix
		attrs = append(attrs, be32(unix.NFTA_NAT_REG_ADDR_MAX, addrEnd))
	} else {
		attrs = append(attrs, be32(unix.NFTA_NAT_REG_ADDR_MAX, addr))
	}
	if port != 0 {
		flags |= rangePorts
		attrs = append(attrs, be32(unix.NFTA_NAT_REG_PROTO_MIN, port), be32(unix.NFTA_NAT_REG_PROTO_MAX, port))
	}
	c.raw("nat", append(attrs, be32(unix.NFTA_NAT_FLAGS, flags))...)
}

func (c *compiler) dnat(e plan.DNAT) error {
	if e.Map == "" {
		if !e.To.Addr().IsValid() || familyOf(e.To.Addr()) != e.Family {
			return fmt.Errorf("dnat without an address of its family")
		}
		c.immediate(unix.NFT_REG_1, e.To.Addr().AsSlice())
		if e.To.Port() == 0 {
			c.natTo(unix.NFT_NAT_DNAT, e.Family, unix.NFT_REG_1, 0, 0)
			return nil
		}
		c.immediate(unix.NFT_REG_2, port(e.To.Port()))
		c.natTo(unix.NFT_NAT_DNAT, e.Family, unix.NFT_REG_1, 0, unix.NFT_REG_2)
		return nil
	}
	if err := c.key(e.Key); err != nil {
		return err
	}
	if _, hashed := e.Key.(plan.Fields); !hashed && c.ranges[e.Map] {
		c.swap(4)
	}
	c.find(e.Map, unix.NFT_REG_1)
	at := uint32(0)
	if e.Port {
		at = register(words(addrLen(e.Family)))
	}
	c.natTo(unix.NFT_NAT_DNAT, e.Family, unix.NFT_REG_1, 0, at)
	return nil
}

func addrLen(f plan.Family) int {
	if f == plan.IPv6 {
		return 16
	}
	return 4
}

// snatPrefix looks the source up in a map of the rule's own whose data are the two ends of a range.
func (c *compiler) snatPrefix(e plan.SNATPrefix) error {
	if len(e.Pairs) == 0 {
		return fmt.Errorf("snat without a prefix")
	}
	family := familyOf(e.Pairs[0].From.Addr())
	kind, field := setTypes["ipv4_addr"], plan.IPSaddr
	if family == plan.IPv6 {
		kind, field = setTypes["ipv6_addr"], plan.IP6Saddr
	}
	var spans []span
	for _, p := range e.Pairs {
		if !p.From.IsValid() || !p.To.IsValid() || familyOf(p.From.Addr()) != family || familyOf(p.To.Addr()) != family {
			return fmt.Errorf("snat prefixes of two families")
		}
		from, to := prefixSpan(p.From), prefixSpan(p.To)
		from.data = &datum{value: append(to.first, to.last...)}
		spans = append(spans, from)
	}
	if _, err := c.load(plan.Fields{field}, 0); err != nil {
		return err
	}
	set := &anonymous{keyType: kind.number, keyLen: kind.length, order: kind.order, interval: true, data: kind.name, twice: true, elements: abutting(intervals(spans))}
	c.out = append(c.out, expression{Any: &expr.Lookup{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, IsDestRegSet: true, SetName: newMap}, set: set})
	c.natTo(unix.NFT_NAT_SNAT, family, unix.NFT_REG_1, register(words(kind.length)), 0)
	return nil
}

var units = map[string]expr.LimitTime{"second": expr.LimitTimeSecond, "minute": expr.LimitTimeMinute, "hour": expr.LimitTimeHour,
	"day": expr.LimitTimeDay, "week": expr.LimitTimeWeek}

func limitOf(r plan.Rate, over bool) (*expr.Limit, error) {
	unit, ok := units[r.Per]
	if !ok || r.Count == 0 || r.Burst == 0 {
		return nil, fmt.Errorf("no such rate: %d/%s burst %d", r.Count, r.Per, r.Burst)
	}
	return &expr.Limit{Type: expr.LimitTypePkts, Rate: r.Count, Unit: unit, Over: over, Burst: r.Burst}, nil
}

func (c *compiler) limit(r plan.Rate, over bool) error {
	l, err := limitOf(r, over)
	if err == nil {
		c.put(l)
	}
	return err
}

func (c *compiler) meter(e plan.Meter) error {
	if _, err := c.load(e.Key, 0); err != nil {
		return err
	}
	d := &expr.Dynset{SrcRegKey: unix.NFT_REG_1, SetName: e.Set, Operation: unix.NFT_DYNSET_OP_ADD, Timeout: e.Timeout}
	if e.Update {
		d.Operation = unix.NFT_DYNSET_OP_UPDATE
	}
	if e.Connections > 0 {
		d.Exprs = []expr.Any{&expr.Connlimit{Count: e.Connections, Flags: expr.NFT_CONNLIMIT_F_INV}}
		c.put(d)
		return nil
	}
	l, err := limitOf(e.Rate, true)
	if err != nil {
		return err
	}
	d.Exprs = []expr.Any{l}
	c.put(d)
	return nil
}
