package route

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// protocol labels our rules and routes as the kernel's own, because systemd-networkd deletes rules that carry any other label
// and that it does not know.
const protocol = unix.RTPROT_KERNEL

// From include/uapi/linux/fib_rules.h.
const (
	actionToTable     = 1 // FR_ACT_TO_TBL
	actionBlackhole   = 6 // FR_ACT_BLACKHOLE
	actionUnreachable = 7 // FR_ACT_UNREACHABLE
	actionProhibit    = 8 // FR_ACT_PROHIBIT

	flagsDetached = 0x8 | 0x10 // FIB_RULE_IIF_DETACHED, FIB_RULE_OIF_DETACHED: the interface does not exist now

	sizeofRule = 12 // struct fib_rule_hdr
)

var actions = map[plan.RuleAction]uint8{"": actionToTable, plan.RuleBlackhole: actionBlackhole, plan.RuleUnreachable: actionUnreachable, plan.RuleProhibit: actionProhibit}

var routeTypes = map[plan.RouteType]uint8{plan.RouteUnicast: unix.RTN_UNICAST, plan.RouteLocal: unix.RTN_LOCAL, plan.RouteBlackhole: unix.RTN_BLACKHOLE,
	plan.RouteUnreachable: unix.RTN_UNREACHABLE, plan.RouteThrow: unix.RTN_THROW}

const (
	loopback      = 1    // index of lo in every network namespace (net/core/dev.c, LOOPBACK_IFINDEX)
	defaultMetric = 1024 // of an IPv6 route that is given none (IP6_RT_PRIO_USER)

	// Flags of a route that say how its interface is now.
	flagsOfNow = unix.RTNH_F_DEAD | unix.RTNH_F_LINKDOWN | unix.RTNH_F_OFFLOAD | unix.RTNH_F_TRAP
)

func family(f plan.Family) uint8 {
	if f == plan.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func familyOf(b byte) plan.Family {
	if b == unix.AF_INET6 {
		return plan.IPv6
	}
	return plan.IPv4
}

// shortTable is the table number in the one byte that old headers have for it.
func shortTable(table uint32) uint8 {
	if table < 256 {
		return uint8(table)
	}
	return unix.RT_TABLE_UNSPEC
}

func ruleMessage(msg, flags uint16, op string, r plan.Rule) wire.Message {
	body := make([]byte, sizeofRule)
	body[0], body[4], body[7] = family(r.Family), shortTable(r.Table), actions[r.Action]
	attrs := []wire.Attr{wire.U32(unix.FRA_PRIORITY, r.Priority), wire.U8(unix.FRA_PROTOCOL, protocol)}
	if r.Mask != 0 {
		attrs = append(attrs, wire.U32(unix.FRA_FWMARK, r.Mark), wire.U32(unix.FRA_FWMASK, r.Mask))
	}
	if r.Action == "" {
		attrs = append(attrs, wire.U32(unix.FRA_TABLE, r.Table))
	}
	if r.SuppressDefault {
		attrs = append(attrs, wire.U32(unix.FRA_SUPPRESS_PREFIXLEN, 0))
	}
	if r.To.IsValid() {
		body[1] = byte(r.To.Bits())
		attrs = append(attrs, wire.Bytes(unix.FRA_DST, r.To.Addr().AsSlice()))
	}
	if r.From.IsValid() {
		body[2] = byte(r.From.Bits())
		attrs = append(attrs, wire.Bytes(unix.FRA_SRC, r.From.Addr().AsSlice()))
	}
	if r.IIF != "" {
		attrs = append(attrs, wire.String(unix.FRA_IIFNAME, r.IIF))
	}
	if r.OIF != "" {
		attrs = append(attrs, wire.String(unix.FRA_OIFNAME, r.OIF))
	}
	return wire.Message{Type: msg, Flags: flags, Body: wire.Append(body, attrs...), Operation: op, Object: name(r.Text())}
}

// ParseRule returns the rule of an RTM_NEWRULE or RTM_DELRULE message when it has the shape of ours and nothing besides.
func ParseRule(b []byte) (plan.Rule, bool) {
	if len(b) < sizeofRule {
		return plan.Rule{}, false
	}
	as, err := wire.Decode(b[sizeofRule:])
	flags := binary.NativeEndian.Uint32(b[8:])
	if err != nil || b[3] != 0 || flags&^flagsDetached != 0 || as.U8(unix.FRA_PROTOCOL) != protocol {
		return plan.Rule{}, false
	}
	r := plan.Rule{Family: familyOf(b[0]), Priority: as.U32(unix.FRA_PRIORITY), Mark: as.U32(unix.FRA_FWMARK), Mask: as.U32(unix.FRA_FWMASK),
		IIF: as.String(unix.FRA_IIFNAME), OIF: as.String(unix.FRA_OIFNAME)}
	action, known := keyOf(actions, b[7])
	if r.Action = action; !known {
		return plan.Rule{}, false
	}
	for _, a := range as {
		switch a.Type {
		case unix.FRA_PRIORITY, unix.FRA_FWMARK, unix.FRA_FWMASK, unix.FRA_PROTOCOL, unix.FRA_IIFNAME, unix.FRA_OIFNAME:
		case unix.FRA_TABLE:
			if action == "" {
				r.Table = as.U32(a.Type)
			}
		case unix.FRA_SUPPRESS_PREFIXLEN:
			r.SuppressDefault = as.U32(a.Type) == 0
			known = known && (r.SuppressDefault || as.U32(a.Type) == ^uint32(0))
		case unix.FRA_SUPPRESS_IFGROUP:
			known = known && as.U32(a.Type) == ^uint32(0)
		case unix.FRA_DST:
			r.To = prefix(a.Data, b[1])
		case unix.FRA_SRC:
			r.From = prefix(a.Data, b[2])
		default:
			return plan.Rule{}, false
		}
	}
	return r, known && r.To.IsValid() == (b[1] > 0) && r.From.IsValid() == (b[2] > 0)
}

func keyOf[K, V comparable](m map[K]V, v V) (K, bool) {
	for k, have := range m {
		if have == v {
			return k, true
		}
	}
	return *new(K), false
}

// prefix is the zero Prefix when it has no length: any address.
func prefix(b []byte, bits byte) netip.Prefix {
	a, ok := netip.AddrFromSlice(b)
	if !ok || bits == 0 {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, int(bits))
}

// routeMessage is a request about a route, whose device has the index.
func routeMessage(msg, flags uint16, op string, r plan.Route, index uint32) wire.Message {
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[4], body[5], body[6], body[7] = family(r.Family), shortTable(r.Table), protocol, scope(r), routeTypes[r.Type]
	attrs := []wire.Attr{wire.U32(unix.RTA_TABLE, r.Table)}
	if r.OnLink {
		binary.NativeEndian.PutUint32(body[8:], unix.RTNH_F_ONLINK)
	}
	if r.To.IsValid() {
		body[1] = byte(r.To.Bits())
		attrs = append(attrs, wire.Bytes(unix.RTA_DST, r.To.Addr().AsSlice()))
	}
	if r.Dev != "" {
		attrs = append(attrs, wire.U32(unix.RTA_OIF, index))
	}
	if r.Via.IsValid() {
		attrs = append(attrs, wire.Bytes(unix.RTA_GATEWAY, r.Via.AsSlice()))
	}
	if r.Src.IsValid() {
		attrs = append(attrs, wire.Bytes(unix.RTA_PREFSRC, r.Src.AsSlice()))
	}
	if r.Metric != 0 {
		attrs = append(attrs, wire.U32(unix.RTA_PRIORITY, r.Metric))
	}
	if r.MTU != 0 {
		attrs = append(attrs, wire.Nest(unix.RTA_METRICS, wire.U32(unix.RTAX_MTU, r.MTU)))
	}
	return wire.Message{Type: msg, Flags: flags, Body: wire.Append(body, attrs...), Operation: op, Object: name(r.Text())}
}

// scope is what ip(8) gives a route (iproute2, ip/iproute.c). IPv6 has none.
func scope(r plan.Route) uint8 {
	switch {
	case r.Family == plan.IPv6:
		return unix.RT_SCOPE_UNIVERSE
	case r.Type == plan.RouteLocal:
		return unix.RT_SCOPE_HOST
	case r.Type == plan.RouteUnicast && !r.Via.IsValid():
		return unix.RT_SCOPE_LINK
	}
	return unix.RT_SCOPE_UNIVERSE
}

var errShort = errors.New("a message about a route is too short")

// parseRoute reads a route. The index of its device is returned beside it, for its name is not in the message. ours is false when
// it has another label than ours, or anything that a plan cannot say.
func parseRoute(b []byte) (r plan.Route, index uint32, ours bool, err error) {
	if len(b) < unix.SizeofRtMsg {
		return r, 0, false, errShort
	}
	as, err := wire.Decode(b[unix.SizeofRtMsg:])
	if err != nil {
		return r, 0, false, err
	}
	flags := binary.NativeEndian.Uint32(b[8:]) &^ flagsOfNow
	r = plan.Route{Family: familyOf(b[0]), Table: uint32(b[4]), Metric: as.U32(unix.RTA_PRIORITY), OnLink: flags&unix.RTNH_F_ONLINK != 0}
	kind, known := keyOf(routeTypes, b[7])
	r.Type = kind
	ours = known && b[2] == 0 && b[3] == 0 && b[5] == protocol && flags&^unix.RTNH_F_ONLINK == 0
	for _, a := range as {
		switch a.Type {
		case unix.RTA_TABLE:
			r.Table = as.U32(a.Type)
		case unix.RTA_DST:
			r.To = prefix(a.Data, b[1])
		case unix.RTA_OIF:
			index = as.U32(a.Type)
		case unix.RTA_GATEWAY:
			r.Via, _ = netip.AddrFromSlice(a.Data)
		case unix.RTA_PREFSRC:
			r.Src, _ = netip.AddrFromSlice(a.Data)
		case unix.RTA_METRICS:
			ours = parseMetrics(a.Data, &r) && ours
		case unix.RTA_PRIORITY, unix.RTA_CACHEINFO:
		case unix.RTA_PREF:
			ours = ours && as.U8(a.Type) == 0 // medium
		default:
			ours = false
		}
	}
	if r.Family == plan.IPv6 && r.Metric == defaultMetric {
		r.Metric = 0
	}
	if kind != plan.RouteUnicast && kind != plan.RouteLocal {
		index = 0 // IPv6 says lo
	}
	return r, index, ours && b[6] == scope(r), nil
}

func parseMetrics(b []byte, r *plan.Route) bool {
	as, err := wire.Decode(b)
	if err != nil {
		return false
	}
	r.MTU = as.U32(unix.RTAX_MTU)
	for _, a := range as {
		if a.Type != unix.RTAX_MTU {
			return false
		}
	}
	return true
}
