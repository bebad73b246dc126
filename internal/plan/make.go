package plan

import (
	"slices"

	"salp/internal/config"
)

// Make computes what cfg wants in the kernel of a host with the facts f. It is pure: equal arguments give equal plans.
// The error is a config.Errors, in the order of the file, with every value that this host cannot give.
func Make(cfg *config.Config, f Facts) (Plan, error) {
	if errs := check(cfg, f); len(errs) > 0 {
		return Plan{}, errs
	}
	r := newRecipe(cfg, f)
	var p Plan
	for _, t := range []Table{r.table(), r.closedTable(), r.poolsTable(cfg)} {
		if len(t.Chains) > 0 {
			p.Tables = append(p.Tables, t)
		}
	}
	if len(p.Tables) > 0 {
		p.Marks = r.kernel.Marks
	}
	p.Rules, p.Routes, p.Sysctls = r.rules(), r.routes(), r.sysctls()
	if links := newLinkRecipe(cfg, f, r.transparent()); links != nil {
		p.Tables = append(p.Tables, links.table())
		rules, routes := links.rulesAndRoutes()
		p.Rules, p.Routes = append(p.Rules, rules...), append(p.Routes, routes...)
		p.Sysctls = append(p.Sysctls, links.sysctls()...)
		p.LinkMarks = links.mask
	}
	return p, nil
}

// recipe is what the chains are made from.
//
// An intercepted connection has two halves: the client half, from the client to a listener of ours that answers in the server's
// name, and the upstream half, from us to the server. A half one of whose ends has an address that is not this host's is
// transparent: its packets would be forwarded if no rule made them local.
type recipe struct {
	kernel   config.Kernel
	marks    Marks
	families []Family
	facts    Facts

	tproxied    []taken // client halves are transparent
	redirected  []taken // client halves are NATed
	closed      []taken // of either kind: refused when not taken in
	borrows     bool    // some listener has source: client, so upstream halves are transparent
	keeps       bool    // some listener keeps the client's address of what it takes in, so that the halves need a conntrack zone to be told apart
	interfaces  []Interface
	listeners   []*config.Listener
	intercepted bool
	forwards    bool // some listener's connections are carried by the kernel
	links       bool
}

// taken is what one listener takes in, and the local port it arrives at.
type taken struct {
	name       string
	listener   *config.Listener
	interfaces []string
	ports      []PortRange
	port       uint16
	client     bool   // the server sees the client's address
	limits     string // the chain that bounds new connections, or ""
}

func newRecipe(cfg *config.Config, f Facts) *recipe {
	r := &recipe{kernel: cfg.Kernel, marks: MarksIn(cfg.Kernel.Marks), families: families(f), facts: f, links: len(cfg.Links) > 0}
	r.interfaces, r.listeners = byName(f.Interfaces), cfg.Listeners
	local := Ports(cfg, f)
	for _, l := range cfg.Listeners {
		r.borrows = r.borrows || l.Source == config.SourceClient && l.Via != config.ViaKernel
		r.forwards = r.forwards || l.Via == config.ViaKernel
		if l.Intercept == nil {
			continue
		}
		r.keeps = r.keeps || l.Source == config.SourceClient
		t := taken{name: l.Name, listener: l, interfaces: ifnames(l.Intercept.Interfaces), ports: joined(l.Intercept.Ports), port: local[l.Name],
			client: l.Source == config.SourceClient}
		if l.Intercept.Method == config.MethodRedirect {
			r.redirected = append(r.redirected, t)
		} else {
			r.tproxied = append(r.tproxied, t)
		}
		if l.OnFailure == config.OnFailureClosed {
			r.closed = append(r.closed, t)
		}
		r.intercepted = true
	}
	return r
}

func families(f Facts) []Family {
	if f.IPv6 {
		return []Family{IPv4, IPv6}
	}
	return []Family{IPv4}
}

// ifnames returns the names once each, in nft's order.
func ifnames(names []string) []string {
	return slices.Compact(slices.SortedFunc(slices.Values(names), compareIfnames))
}

// joined returns the ranges in ascending order, those that touch or overlap made one.
func joined(ranges []config.PortRange) []PortRange {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b config.PortRange) int { return int(a.First) - int(b.First) })
	var out []PortRange
	for _, r := range sorted {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, PortRange(r))
	}
	return out
}

// transparent says whether any half of any connection is.
func (r *recipe) transparent() bool { return len(r.tproxied) > 0 || r.borrows }

// table is the table that lives as long as the keeper: the kernel removes it with the keeper's socket, and traffic passes by.
func (r *recipe) table() Table {
	t := Table{Name: r.kernel.NFTable, Owner: true}
	if r.intercepted {
		t.Sets = []Set{aliveSet}
	}
	r.limits(&t)
	for _, taken := range [][]taken{r.tproxied, r.redirected} {
		for i := range taken {
			taken[i].limits = t.limited(taken[i].listener, r.families)
		}
	}
	t.Chains = slices.Concat(t.Chains, r.zoneChains(), r.divertChains(), r.redirectChains())
	return t
}

// AliveSet is the name of the set that holds tcp while a worker carries traffic; package kernel refreshes it.
// It is in the first table of a plan that intercepts.
const AliveSet = "alive"

var aliveSet = Set{Name: AliveSet, Type: "inet_proto", Timeout: true, Runtime: true}

// Matches and statements that several chains share.

// arrives matches what a listener takes in.
func (t taken) arrives() []Expr { return []Expr{IIFName{Names: t.interfaces}, DPort{Ranges: t.ports}} }

// bareSYN matches the first packet of a connection. ECN and other flags may be there too.
var bareSYN = TCPFlags{Mask: FIN | SYN | RST | ACK, Value: SYN}

// notBareSYN matches every other TCP packet.
var notBareSYN = TCPFlags{Mask: FIN | SYN | RST | ACK, Value: SYN, Not: true}

var (
	accept = Verdict{Word: "accept"}
	back   = Verdict{Word: "return"}
)

// icmp matches the messages of the families there are.
func (r *recipe) icmp() L4Proto {
	if r.facts.IPv6 {
		return L4Proto{Protos: []byte{ICMP, ICMPv6}}
	}
	return L4Proto{Protos: []byte{ICMP}}
}

// ownTraffic makes a chain leave alone what a worker sent to a server and what came round to us again.
func (r *recipe) ownTraffic() NFTRule {
	return rule("our own way to a server, come round: never taken in again", Mark{r.marks.Upstream, r.marks.Upstream}, back)
}

// hostsOwn returns from a chain when a connection is for this host or this link.
func (r *recipe) hostsOwn(first ...Expr) []NFTRule {
	rules := []NFTRule{rule("for this host itself: not taken in",
		slices.Concat(first, []Expr{DaddrType{Types: []string{"local", "broadcast", "anycast", "multicast"}}, back})...)}
	if r.facts.IPv6 {
		rules = append(rules, rule("link-local: nobody can answer in its name from another link",
			slices.Concat(first, []Expr{Daddr{Prefix: linkLocal}, back})...))
	}
	return rules
}

func rule(comment string, exprs ...Expr) NFTRule { return NFTRule{Exprs: exprs, Comment: comment} }
