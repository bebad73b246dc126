// Package route writes the ip rules and local routes of a plan into the kernel, reads them back, and tells what differs.
//
// All fields count: a rule or route that differs in one of them is somebody else's and is neither taken for ours nor removed.
package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"salp/internal/kernel/diff"
	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// protocol labels our rules and routes as the kernel's own, because systemd-networkd deletes rules that carry any other label
// and that it does not know.
const protocol = unix.RTPROT_KERNEL

const (
	actionToTable = 1   // FR_ACT_TO_TBL
	flagDetached  = 0x8 // FIB_RULE_IIF_DETACHED: the interface does not exist now
	loopback      = 1   // index of lo in every network namespace (net/core/dev.c, LOOPBACK_IFINDEX)
)

// Conn is a lasting rtnetlink connection in one network namespace. It is safe for concurrent use.
//
// Interfaces, addresses and routes are listed by github.com/vishvananda/netlink. It cannot write for us: its Handle does not
// tell the port of its socket, by which we know our own changes when they are announced, passes none of the kernel's words on,
// and always asks for a rule that is like no other (see addRule). Nor can it list rules or hear of them: it drops their action,
// their flags and every condition that is newer than itself, so that another program's rule would pass for ours.
type Conn struct {
	s    *wire.Socket
	mu   sync.Mutex      // for list
	list *netlink.Handle // nil when closed
}

// Open opens the connection in the network namespace of the calling thread.
func Open() (*Conn, error) {
	s, err := wire.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	list, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("open netlink socket for lists: %w", err)
	}
	_ = list.SetStrictCheck(true) // the kernel filters, and not we what may be a million routes
	return &Conn{s: s, list: list}, nil
}

// Close closes the connection.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list != nil {
		c.list.Close()
		c.list = nil
	}
	return c.s.Close()
}

// Port is the netlink port under which this connection's changes are announced.
func (c *Conn) Port() uint32 { return c.s.Port() }

// State is the part of a plan that this package writes.
type State struct {
	Rules  []plan.Rule
	Routes []plan.Route
}

// Without returns what of s is not in other.
func (s State) Without(other State) State {
	var out State
	for _, r := range s.Rules {
		if !slices.Contains(other.Rules, r) {
			out.Rules = append(out.Rules, r)
		}
	}
	for _, r := range s.Routes {
		if !slices.Contains(other.Routes, r) {
			out.Routes = append(out.Routes, r)
		}
	}
	return out
}

// Missing returns what of the wanted state the kernel does not hold. It is an error when a routing table that is wanted holds
// routes of others.
func (c *Conn) Missing(want State) (State, error) {
	live, err := c.live(want)
	if err != nil {
		return State{}, err
	}
	return want.Without(live), nil
}

// Present returns what of the state the kernel holds.
func (c *Conn) Present(of State) (State, error) {
	missing, err := c.missingAnyway(of)
	return of.Without(missing), err
}

// missingAnyway is Missing for what is to go, where routes of others do not matter.
func (c *Conn) missingAnyway(of State) (State, error) {
	live, err := c.live(of)
	var taken *TakenError
	if errors.As(err, &taken) {
		err = nil
	}
	return of.Without(live), err
}

// Add adds the routes, then the rules. What is there already is success. It returns what it added, also with an error.
func (c *Conn) Add(s State) ([]diff.Change, error) {
	var done []diff.Change
	for _, r := range s.Routes {
		_, err := c.s.Do(routeMessage(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "add", r))
		if wire.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			return done, explain(err)
		}
		done = append(done, Change(diff.Add, r.Text()))
	}
	for _, r := range s.Rules {
		added, err := c.addRule(r)
		if err != nil {
			return done, explain(err)
		}
		if added {
			done = append(done, Change(diff.Add, r.Text()))
		}
	}
	return done, nil
}

// addRule adds a rule that may be there. The kernel's "exists" also means another one that has all of this and a condition more
// (net/core/fib_rules.c, rule_exists), so that it is looked up before it is believed.
func (c *Conn) addRule(r plan.Rule) (added bool, err error) {
	_, err = c.s.Do(ruleMessage(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "add", r))
	if !wire.Is(err, unix.EEXIST) {
		return err == nil, err
	}
	live, err := c.rules(r.Family)
	if err != nil || slices.Contains(live, r) {
		return false, err
	}
	_, err = c.s.Do(ruleMessage(unix.RTM_NEWRULE, unix.NLM_F_CREATE, "add", r))
	return err == nil, err
}

// Remove removes the rules, then the routes. What is not there is success. It goes on after an error and returns what it
// removed.
func (c *Conn) Remove(s State) ([]diff.Change, error) {
	var done []diff.Change
	var errs []error
	for _, r := range s.Rules {
		_, err := c.s.Do(ruleMessage(unix.RTM_DELRULE, 0, "remove", r))
		if wire.Is(err, unix.ENOENT, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			errs = append(errs, explain(err))
			continue
		}
		done = append(done, Change(diff.Remove, r.Text()))
	}
	for _, r := range s.Routes {
		_, err := c.s.Do(routeMessage(unix.RTM_DELROUTE, 0, "remove", r))
		if wire.Is(err, unix.ESRCH, unix.ENOENT, unix.ENODEV, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			errs = append(errs, explain(err))
			continue
		}
		done = append(done, Change(diff.Remove, r.Text()))
	}
	return done, errors.Join(errs...)
}

// Changes tells all of a state as changes of one kind.
func (s State) Changes(op diff.Op) []diff.Change {
	var out []diff.Change
	for _, r := range s.Routes {
		out = append(out, Change(op, r.Text()))
	}
	for _, r := range s.Rules {
		out = append(out, Change(op, r.Text()))
	}
	return out
}

// Change tells of a rule or route by its text, the ip(8) command that adds it.
func Change(op diff.Op, text string) diff.Change {
	object, what, _ := strings.Cut(text, " add ")
	if op == diff.Add {
		return diff.Change{Op: op, Object: object, Want: what}
	}
	return diff.Change{Op: op, Object: object, Was: what}
}

// name is the rule or route in an error, where another verb goes before it.
func name(text string) string {
	object, what, _ := strings.Cut(text, " add ")
	return object + " " + what
}

func explain(err error) error {
	var e *wire.Error
	if errors.As(err, &e) {
		switch e.Errno {
		case unix.EACCES:
			e.Hint = "IPv6 is switched off on the loopback interface: sysctl -w net/ipv6/conf/lo/disable_ipv6=0, or switch it off on all"
		case unix.EAFNOSUPPORT, unix.EOPNOTSUPP:
			e.Hint = "this kernel lacks policy routing for the family (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES)"
		}
	}
	return err
}

func family(f plan.Family) uint8 {
	if f == plan.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func ruleMessage(msg, flags uint16, op string, r plan.Rule) wire.Message {
	body := make([]byte, 12) // struct fib_rule_hdr
	body[0], body[4], body[7] = family(r.Family), shortTable(r.Table), actionToTable
	body = wire.Append(body, wire.U32(unix.FRA_PRIORITY, r.Priority), wire.U32(unix.FRA_FWMARK, r.Mark), wire.U32(unix.FRA_FWMASK, r.Mask),
		wire.U32(unix.FRA_TABLE, r.Table), wire.U8(unix.FRA_PROTOCOL, protocol))
	if r.IIF != "" {
		body = wire.Append(body, wire.String(unix.FRA_IIFNAME, r.IIF))
	}
	return wire.Message{Type: msg, Flags: flags, Body: body, Operation: op, Object: name(r.Text())}
}

// shortTable is the table number in the one byte that old headers have for it.
func shortTable(table uint32) uint8 {
	if table < 256 {
		return uint8(table)
	}
	return unix.RT_TABLE_UNSPEC
}

func routeMessage(msg, flags uint16, op string, r plan.Route) wire.Message {
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[4], body[5], body[7] = family(r.Family), shortTable(r.Table), protocol, unix.RTN_LOCAL
	if r.Family == plan.IPv4 {
		body[6] = unix.RT_SCOPE_HOST
	}
	body = wire.Append(body, wire.U32(unix.RTA_TABLE, r.Table), wire.U32(unix.RTA_OIF, loopback))
	return wire.Message{Type: msg, Flags: flags, Body: body, Operation: op, Object: name(r.Text())}
}

// TakenError says that a routing table is in use by others.
type TakenError struct {
	Table uint32
	Count int // of routes that are not ours
}

// Error names the table and the setting that moves Salp to another.
func (e *TakenError) Error() string {
	return fmt.Sprintf("routing table %d holds %d routes that are not Salp's: set kernel.table to a number that nobody uses (ip route show table %d)", e.Table, e.Count, e.Table)
}

// live returns our rules, and our routes in the tables of want.
func (c *Conn) live(want State) (State, error) {
	var out State
	var taken error
	for _, f := range []plan.Family{plan.IPv4, plan.IPv6} {
		var tables []uint32
		for _, r := range want.Routes {
			if r.Family == f && !slices.Contains(tables, r.Table) {
				tables = append(tables, r.Table)
			}
		}
		for _, t := range tables {
			ours, others, err := c.routes(f, t)
			if err != nil {
				return out, err
			}
			if others > 0 && taken == nil {
				taken = &TakenError{Table: t, Count: others}
			}
			out.Routes = append(out.Routes, ours...)
		}
		if !slices.ContainsFunc(want.Rules, func(r plan.Rule) bool { return r.Family == f }) {
			continue
		}
		rules, err := c.rules(f)
		if err != nil {
			return out, err
		}
		out.Rules = append(out.Rules, rules...)
	}
	return out, taken
}

func (c *Conn) rules(f plan.Family) ([]plan.Rule, error) {
	body := make([]byte, 12)
	body[0] = family(f)
	list, err := c.s.Dump(wire.Message{Type: unix.RTM_GETRULE, Body: body, Operation: "read", Object: "ip rules"})
	if wire.Is(err, unix.EAFNOSUPPORT, unix.EOPNOTSUPP) {
		return nil, nil
	}
	var out []plan.Rule
	for _, m := range list {
		if r, ok := ParseRule(m.Data); ok {
			out = append(out, r)
		}
	}
	return out, err
}

// ParseRule returns the rule of an RTM_NEWRULE or RTM_DELRULE message when it has the shape of ours and nothing besides.
func ParseRule(b []byte) (plan.Rule, bool) {
	if len(b) < 12 {
		return plan.Rule{}, false
	}
	as, err := wire.Decode(b[12:])
	flags := binary.NativeEndian.Uint32(b[8:])
	if err != nil || b[1] != 0 || b[2] != 0 || b[3] != 0 || b[7] != actionToTable || flags&^flagDetached != 0 || as.U8(unix.FRA_PROTOCOL) != protocol {
		return plan.Rule{}, false
	}
	for _, a := range as {
		switch a.Type {
		case unix.FRA_PRIORITY, unix.FRA_FWMARK, unix.FRA_FWMASK, unix.FRA_TABLE, unix.FRA_PROTOCOL, unix.FRA_IIFNAME:
		case unix.FRA_SUPPRESS_PREFIXLEN, unix.FRA_SUPPRESS_IFGROUP:
			if as.U32(a.Type) != ^uint32(0) {
				return plan.Rule{}, false
			}
		default:
			return plan.Rule{}, false
		}
	}
	r := plan.Rule{Family: plan.IPv4, Priority: as.U32(unix.FRA_PRIORITY), Mark: as.U32(unix.FRA_FWMARK), Mask: as.U32(unix.FRA_FWMASK),
		IIF: as.String(unix.FRA_IIFNAME), Table: as.U32(unix.FRA_TABLE)}
	if b[0] == unix.AF_INET6 {
		r.Family = plan.IPv6
	}
	return r, true
}

// routes returns our routes in a table and how many others it holds.
func (c *Conn) routes(f plan.Family, table uint32) (ours []plan.Route, others int, err error) {
	list, err := whole(c, fmt.Sprintf("ip routes of table %d", table), func(h *netlink.Handle) ([]netlink.Route, error) {
		return h.RouteListFiltered(int(family(f)), &netlink.Route{Table: int(table)}, netlink.RT_FILTER_TABLE)
	})
	if wire.Is(err, unix.ENOENT, unix.EAFNOSUPPORT) {
		return nil, 0, nil // no such table yet
	}
	for _, r := range list {
		if isDefault(r.Dst) && r.Protocol == protocol && r.Type == unix.RTN_LOCAL && r.LinkIndex == loopback && r.Gw == nil {
			ours = append(ours, plan.Route{Family: f, Table: table})
		} else {
			others++
		}
	}
	return ours, others, err
}

func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	bits, _ := dst.Mask.Size()
	return bits == 0
}
