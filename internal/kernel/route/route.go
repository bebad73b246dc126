// Package route writes the ip rules and routes of a plan into the kernel, reads them back, and tells what differs.
//
// All fields count: a rule or route that differs in one of them is somebody else's and is neither taken for ours nor removed. One
// thing is different about routes: the kernel itself changes and removes them with interfaces and addresses, so a route with our label
// that has the destination and metric of one of ours is ours, and is replaced.
package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"salp/internal/kernel/diff"
	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Conn is a lasting rtnetlink connection in one network namespace. It is safe for concurrent use.
//
// Interfaces, addresses and learned routes are listed by github.com/vishvananda/netlink. It cannot write for us: its Handle does not
// tell the port of its socket, by which we know our own changes when they are announced, passes none of the kernel's words on,
// and always asks for a rule that is like no other (see addRule). Nor can it list rules or hear of them: it drops their action,
// their flags and every condition that is newer than itself, so that another program's rule would pass for ours.
type Conn struct {
	s    *wire.Socket
	mu   sync.Mutex      // for list
	list *netlink.Handle // nil when closed
	ask  *netlink.Handle // for single answers; list is strict, which an IPv6 lookup does not pass (net/ipv6/route.c, inet6_rtm_valid_getroute_req)
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
	ask, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		list.Close()
		s.Close()
		return nil, fmt.Errorf("open netlink socket for lookups: %w", err)
	}
	_ = list.SetStrictCheck(true) // the kernel filters, and not we what may be a million routes
	return &Conn{s: s, list: list, ask: ask}, nil
}

// Close closes the connection.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list != nil {
		c.list.Close()
		c.ask.Close()
		c.list, c.ask = nil, nil
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

// WithoutReplaced returns s without the routes that those of other take the place of.
func (s State) WithoutReplaced(other State) State {
	s.Routes = slices.DeleteFunc(slices.Clone(s.Routes), func(r plan.Route) bool {
		return slices.ContainsFunc(other.Routes, func(o plan.Route) bool { return o.Key() == r.Key() })
	})
	return s
}

// Missing returns what of the wanted state the kernel does not hold. It is an error when a routing table that is wanted holds
// routes of others: such that are neither wanted nor known to be ours.
func (c *Conn) Missing(want, known State) (State, error) {
	live, err := c.live(want)
	if err != nil {
		return State{}, err
	}
	var taken *TakenError
	for _, o := range live.foreign(want, known) {
		if taken == nil {
			taken = &TakenError{Table: o.Table}
		}
		if o.Table == taken.Table {
			taken.Count++
		}
	}
	if taken != nil {
		return State{}, taken
	}
	return want.Without(live.State), nil
}

// Present returns what of the state the kernel holds.
func (c *Conn) Present(of State) (State, error) {
	live, err := c.live(of)
	return of.Without(of.Without(live.State)), err
}

// Waiting is a route that cannot be there as the host is now: its interface is gone or down, or an address is.
type Waiting struct {
	Route plan.Route
	Why   error
}

// Add adds the routes, then the rules. What is there already is success. It returns what it added, also with an error, and the
// routes that have to wait. A route of ours that stands where one is to go is replaced.
func (c *Conn) Add(s State) (done []diff.Change, waiting []Waiting, err error) {
	names, err := c.namesFor(s.Routes)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range s.Routes {
		added, err := c.addRoute(r, names)
		switch {
		case waits(r, err):
			waiting = append(waiting, Waiting{r, explain(err)})
		case err != nil:
			return done, waiting, explain(err)
		case added:
			done = append(done, Change(diff.Add, r.Text()))
		}
	}
	for _, r := range s.Rules {
		added, err := c.addRule(r)
		if err != nil {
			return done, waiting, explain(err)
		}
		if added {
			done = append(done, Change(diff.Add, r.Text()))
		}
	}
	return done, waiting, nil
}

// waits says whether the kernel refuses a route for what may be otherwise later. EINVAL is said of a source that is no address of
// this host (net/ipv4/fib_semantics.c, fib_valid_prefsrc; net/ipv6/route.c) and of a gateway that is.
func waits(r plan.Route, err error) bool {
	return r.Type == plan.RouteUnicast && (wire.Is(err, unix.ENODEV, unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTUNREACH) ||
		wire.Is(err, unix.EINVAL) && (r.Src.IsValid() || r.Via.IsValid()))
}

// addRoute adds a route, in place of one of ours with the same destination and metric. When it has to wait, that one goes, too: the
// plan does not want it any more.
func (c *Conn) addRoute(r plan.Route, names interfaces) (added bool, err error) {
	index, ok := names.index(r.Dev)
	if !ok {
		err = &wire.Error{Operation: "add", Object: name(r.Text()), Errno: unix.ENODEV}
	} else if _, err = c.s.Do(routeMessage(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "add", r, index)); err == nil {
		return true, nil
	}
	if !wire.Is(err, unix.EEXIST) && !waits(r, err) {
		return false, err
	}
	live, listErr := c.routes(r.Family, r.Table, names)
	if listErr != nil {
		return false, listErr
	}
	if slices.Contains(live.Routes, r) {
		return false, nil
	}
	n := slices.IndexFunc(live.Routes, func(o plan.Route) bool { return o.Key() == r.Key() })
	if n < 0 {
		return false, err
	}
	if wire.Is(err, unix.EEXIST) {
		_, err = c.s.Do(routeMessage(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, "add", r, index))
	}
	if waits(r, err) {
		_, removeErr := c.Remove(State{Routes: live.Routes[n : n+1]})
		err = errors.Join(err, removeErr)
	}
	return err == nil, err
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
	names, err := c.namesFor(s.Routes)
	if err != nil {
		return nil, err
	}
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
		index, ok := names.index(r.Dev)
		if !ok {
			continue // the route has gone with it
		}
		_, err := c.s.Do(routeMessage(unix.RTM_DELROUTE, 0, "remove", r, index))
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

// TakenError says that a routing table is in use by others.
type TakenError struct {
	Table uint32
	Count int // of routes that are not ours
}

// Error names the table and the setting that moves Salp to another.
func (e *TakenError) Error() string {
	return fmt.Sprintf("routing table %d holds %d routes that are not Salp's: set kernel.table, or for links kernel.link_table, to a number that nobody uses (ip route show table %d)", e.Table, e.Count, e.Table)
}

// live is what the kernel holds of ours, and the routes of others in tables that are to be ours.
type live struct {
	State
	others []plan.Route
}

// foreign returns the routes that are in the way of what is wanted.
func (l live) foreign(want, known State) []plan.Route {
	all := slices.Clone(l.others)
	for _, r := range l.Routes {
		same := func(o plan.Route) bool { return o.Key() == r.Key() }
		if !slices.ContainsFunc(want.Routes, same) && !slices.ContainsFunc(known.Routes, same) {
			all = append(all, r)
		}
	}
	return all
}

// live returns our rules, and what is in the tables of the state's routes.
func (c *Conn) live(of State) (live, error) {
	var out live
	names, err := c.namesFor(of.Routes)
	if err != nil {
		return out, err
	}
	for _, f := range []plan.Family{plan.IPv4, plan.IPv6} {
		var tables []uint32
		for _, r := range of.Routes {
			if r.Family == f && !slices.Contains(tables, r.Table) {
				tables = append(tables, r.Table)
			}
		}
		for _, t := range tables {
			in, err := c.routes(f, t, names)
			if err != nil {
				return out, err
			}
			out.Routes, out.others = append(out.Routes, in.Routes...), append(out.others, in.others...)
		}
		if !slices.ContainsFunc(of.Rules, func(r plan.Rule) bool { return r.Family == f }) {
			continue
		}
		rules, err := c.rules(f)
		if err != nil {
			return out, err
		}
		out.Rules = append(out.Rules, rules...)
	}
	return out, nil
}

func (c *Conn) rules(f plan.Family) ([]plan.Rule, error) {
	body := make([]byte, sizeofRule)
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

// routes returns what a table holds.
func (c *Conn) routes(f plan.Family, table uint32, names interfaces) (live, error) {
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[4] = family(f), shortTable(table)
	list, err := c.s.Dump(wire.Message{Type: unix.RTM_GETROUTE, Body: wire.Append(body, wire.U32(unix.RTA_TABLE, table)),
		Operation: "read", Object: fmt.Sprintf("ip routes of table %d", table)})
	if wire.Is(err, unix.ENOENT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP) {
		return live{}, nil // no such table yet
	}
	var out live
	for _, m := range list {
		r, index, ours, err := parseRoute(m.Data)
		if err != nil {
			return out, fmt.Errorf("read ip routes of table %d: %w", table, err)
		}
		if r.Table != table {
			continue // a kernel that does not filter
		}
		dev, known := names.name(index)
		if r.Dev = dev; ours && known {
			out.Routes = append(out.Routes, r)
		} else {
			out.others = append(out.others, r)
		}
	}
	return out, err
}

// interfaces are names by index.
type interfaces map[uint32]string

// namesFor lists the interfaces, when a route has another than lo.
func (c *Conn) namesFor(routes []plan.Route) (interfaces, error) {
	names := interfaces{loopback: "lo"}
	if !slices.ContainsFunc(routes, func(r plan.Route) bool { return r.Type == plan.RouteUnicast }) {
		return names, nil
	}
	list, err := c.s.Dump(wire.Message{Type: unix.RTM_GETLINK, Body: make([]byte, unix.SizeofIfInfomsg), Operation: "list", Object: "interfaces"})
	if err != nil {
		return nil, err
	}
	for _, m := range list {
		if len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		as, err := wire.Decode(m.Data[unix.SizeofIfInfomsg:])
		if err != nil {
			return nil, fmt.Errorf("list interfaces: %w", err)
		}
		names[binary.NativeEndian.Uint32(m.Data[4:])] = as.String(unix.IFLA_IFNAME)
	}
	return names, nil
}

// index returns 0 for no interface.
func (n interfaces) index(name string) (uint32, bool) {
	if name == "" {
		return 0, true
	}
	return keyOf(n, name)
}

// name returns "" for no interface. Of one that is not in the list, nothing of ours can be.
func (n interfaces) name(index uint32) (string, bool) {
	if index == 0 {
		return "", true
	}
	name, ok := n[index]
	return name, ok
}
