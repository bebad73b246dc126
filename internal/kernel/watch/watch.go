// Package watch hears what other programs do to the kernel objects of a plan, and who they are.
package watch

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"salp/internal/kernel/route"
	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Kind says what a notice is about.
type Kind int

const (
	Drift  Kind = iota // an object of the plan, or one that got into its way, was changed
	Facts              // an interface or address changed, so that the plan may have to
	Sysctl             // a network setting changed: which one is not said
)

// Notice is one change that somebody else made.
type Notice struct {
	Kind Kind
	What string // "ip rule removed: …"
	By   string // "nft (process 4711)", or "" when the kernel does not say
}

// Filter says what a plan's objects are.
type Filter struct {
	Tables []string // nft tables of the inet family
	Rules  []plan.Rule
	Routes []plan.Route
	Own    []uint32 // netlink ports whose changes are our own
}

// Conn hears the notifications of one network namespace. It decodes them itself: vishvananda/netlink's subscriptions tell
// nothing of rules, and not which program's socket a change came from.
type Conn struct{ nft, route *wire.Listener }

const nfnlGroupNftables = 7 // NFNLGRP_NFTABLES

var routeGroups = []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF}

// Open prepares to listen in the network namespace of the calling thread.
func Open() (*Conn, error) {
	n, err := wire.Listen(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	r, err := wire.Listen(unix.NETLINK_ROUTE)
	if err != nil {
		n.Close()
		return nil, err
	}
	return &Conn{n, r}, nil
}

// Close ends a Run, too.
func (c *Conn) Close() error { return errors.Join(c.nft.Close(), c.route.Close()) }

// Run hears until stop closes, and calls do for each notice: from two goroutines at once. What was lost when notifications came
// too fast is told as a Drift. filter is asked for each notification. Only one Run can be at a time.
func (c *Conn) Run(stop <-chan struct{}, filter func() Filter, do func(Notice)) error {
	defer c.nft.Leave(nfnlGroupNftables)
	defer c.route.Leave(routeGroups...)
	if err := errors.Join(c.nft.Join(nfnlGroupNftables), c.route.Join(routeGroups...)); err != nil {
		return fmt.Errorf("listen to kernel notifications: %w", err)
	}
	c.nft.Rest()
	c.route.Rest()
	var heard transactions
	errs := make(chan error, 2)
	go func() { errs <- hear(c.nft, do, func(m netlink.Message) { heard.message(m, filter(), do) }) }()
	go func() { errs <- hear(c.route, do, func(m netlink.Message) { routing(m, filter(), do) }) }()
	var first error
	running := 2
	select {
	case <-stop:
	case first = <-errs:
		running = 1
	}
	c.nft.Wake()
	c.route.Wake()
	for range running {
		first = errors.Join(first, <-errs)
	}
	return first
}

func hear(l *wire.Listener, do func(Notice), message func(netlink.Message)) error {
	for {
		switch err := l.Receive(message); {
		case errors.Is(err, wire.ErrLost):
			do(Notice{Kind: Drift, What: "more changes than could be heard"})
			do(Notice{Kind: Facts, What: "more changes than could be heard"})
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("listen to kernel notifications: %w", err)
		}
	}
}

// transactions gathers what is announced of an nft transaction until its end, which names who did it.
type transactions struct{ pending []string }

const maxPending = 32 // of one transaction; the rest is not told

func (t *transactions) message(m netlink.Message, f Filter, do func(Notice)) {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < 4 {
		return
	}
	own := slices.Contains(f.Own, m.Header.PID)
	if own && m.Header.Type&0xff != unix.NFT_MSG_NEWGEN {
		return // the alive element comes by here twice a second
	}
	as, err := wire.Decode(m.Data[4:])
	if err != nil {
		return
	}
	if m.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
		who := by(int(as.BE32(unix.NFTA_GEN_PROC_PID)), as.String(unix.NFTA_GEN_PROC_NAME))
		for _, what := range t.pending {
			do(Notice{Kind: Drift, What: what, By: who})
		}
		t.pending = nil
		return
	}
	const tableName = 1 // the table's name has this number in every kind of message
	table := as.String(tableName)
	if m.Data[0] != unix.NFPROTO_INET || !slices.Contains(f.Tables, table) || len(t.pending) >= maxPending {
		return
	}
	if what := describe(int(m.Header.Type&0xff), table, as); !strings.Contains(what, " __set") { // a rule's own set comes and goes with it
		t.pending = append(t.pending, what)
	}
}

func describe(msg int, table string, as wire.Attrs) string {
	object, verb := "nft object of table inet "+table, "changed"
	switch msg {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		object = "nft table inet " + table
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		object = "nft chain inet " + table + " " + as.String(unix.NFTA_CHAIN_NAME)
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		object = "nft rule inet " + table + " " + as.String(unix.NFTA_RULE_CHAIN)
	case unix.NFT_MSG_NEWSET, unix.NFT_MSG_DELSET:
		object = "nft set inet " + table + " " + as.String(unix.NFTA_SET_NAME)
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		object = "nft set element inet " + table + " " + as.String(unix.NFTA_SET_ELEM_LIST_SET)
	}
	switch msg {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_NEWSET, unix.NFT_MSG_NEWSETELEM:
		verb = "added"
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM:
		verb = "removed"
	}
	return object + " " + verb
}

func routing(m netlink.Message, f Filter, do func(Notice)) {
	if slices.Contains(f.Own, m.Header.PID) {
		return
	}
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		link(m, do)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		do(Notice{Kind: Facts, What: "address " + addressOf(m.Data) + verb(m.Header.Type == unix.RTM_DELADDR), By: byPort(m.Header.PID)})
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		if r, ok := route.ParseRule(m.Data); ok && slices.Contains(f.Rules, r) {
			do(Notice{Kind: Drift, What: "ip rule " + verb(m.Header.Type == unix.RTM_DELRULE) + ": " + r.Text(), By: byPort(m.Header.PID)})
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if t := tableOf(m.Data); slices.ContainsFunc(f.Routes, func(r plan.Route) bool { return r.Table == t }) {
			do(Notice{Kind: Drift, What: fmt.Sprintf("ip route in table %d %s", t, verb(m.Header.Type == unix.RTM_DELROUTE)), By: byPort(m.Header.PID)})
		} else if defaultRoute(m.Data) {
			do(Notice{Kind: Facts, What: "default route " + verb(m.Header.Type == unix.RTM_DELROUTE), By: byPort(m.Header.PID)})
		}
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		do(Notice{Kind: Sysctl, What: "network setting changed"})
	}
}

func link(m netlink.Message, do func(Notice)) {
	if len(m.Data) < unix.SizeofIfInfomsg {
		return
	}
	as, err := wire.Decode(m.Data[unix.SizeofIfInfomsg:])
	if err != nil {
		return
	}
	what := "changed"
	if m.Header.Type == unix.RTM_DELLINK {
		what = "removed"
	}
	do(Notice{Kind: Facts, What: "interface " + as.String(unix.IFLA_IFNAME) + " " + what, By: byPort(m.Header.PID)})
}

// addressOf is the address of a message, with a space after it, or "".
func addressOf(b []byte) string {
	if len(b) < unix.SizeofIfAddrmsg {
		return ""
	}
	as, err := wire.Decode(b[unix.SizeofIfAddrmsg:])
	if err != nil {
		return ""
	}
	raw, ok := as.Get(unix.IFA_LOCAL)
	if !ok {
		raw, _ = as.Get(unix.IFA_ADDRESS)
	}
	addr, ok := netip.AddrFromSlice(raw)
	if !ok {
		return ""
	}
	return netip.PrefixFrom(addr, int(b[1])).String() + " "
}

func verb(removed bool) string {
	if removed {
		return "removed"
	}
	return "added"
}

// defaultRoute says that a route message is about one that a link's gateway may be learned from.
func defaultRoute(b []byte) bool {
	return len(b) >= unix.SizeofRtMsg && b[1] == 0 && b[7] == unix.RTN_UNICAST && slices.Contains(route.Teachers, int(b[5]))
}

// tableOf is the routing table of a route message. A router may hear a million of these: the short field settles most.
func tableOf(b []byte) uint32 {
	if len(b) < unix.SizeofRtMsg {
		return 0
	}
	if b[4] != unix.RT_TABLE_UNSPEC && b[4] != unix.RT_TABLE_COMPAT {
		return uint32(b[4])
	}
	as, err := wire.Decode(b[unix.SizeofRtMsg:])
	if err != nil {
		return 0
	}
	return as.U32(unix.RTA_TABLE)
}

// byPort names the program behind a netlink port. The first socket of a process has the process id for port; others have
// none that says anything.
func byPort(port uint32) string {
	if port == 0 || port > 1<<22 { // PID_MAX_LIMIT
		return ""
	}
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", port))
	return by(int(port), strings.TrimSpace(string(comm)))
}

func by(pid int, name string) string {
	switch {
	case pid == 0:
		return ""
	case name == "":
		return fmt.Sprintf("process %d, gone since", pid)
	}
	return fmt.Sprintf("%s (process %d)", name, pid)
}
