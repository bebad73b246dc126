package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"salp/internal/access"
	"salp/internal/config"
	"salp/internal/egress"
	"salp/internal/keeper"
	"salp/internal/kernel"
	"salp/internal/kernel/route"
	"salp/internal/plan"
)

// flowFlags say of a flow what the rules of links can ask beside its addresses.
type flowFlags struct {
	proto string
	dscp  uint8
	in    string
}

func (f *flowFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.proto, "proto", "tcp", "the flow's `protocol`: tcp, udp, icmp, gre, esp or sctp")
	flags.Uint8Var(&f.dscp, "dscp", 0, "the DiffServ `code point` of its first packet")
	flags.StringVar(&f.in, "in", "", "the `interface` that it comes in by (default: the one that the way back to SRC leads out by)")
}

// flowExplanation is what `salp explain` says about a flow.
type flowExplanation struct {
	From      string     `json:"from"`
	To        string     `json:"to"`
	Protocol  string     `json:"protocol"`
	Interface string     `json:"interface,omitempty"` // that it comes in by; none for what the gateway sends itself
	Listener  string     `json:"listener,omitempty"`  // that takes it in
	Steps     []flowStep `json:"rules"`
	Decides   string     `json:"decides"` // file:line of the rule, or what decides in the place of one
	Action    string     `json:"action"`  // link, main, local, blackhole, reject
	Link      string     `json:"link,omitempty"`
	Among     []string   `json:"among,omitempty"` // the links that such flows are spread over, when there are several
	Spread    string     `json:"spread,omitempty"`
	Why       string     `json:"why"`
	Kernel    *route.Way `json:"kernel,omitempty"` // what the kernel's routing answers for the link's mark
	Confirmed bool       `json:"confirmed"`        // that is what is said above
	Note      string     `json:"note,omitempty"`   // why it could not be asked, or what differs
}

// flowStep is one rule that was asked.
type flowStep struct {
	Rule  string `json:"rule"`            // file:line
	Text  string `json:"text"`            // its first line in the file
	Unmet string `json:"unmet,omitempty"` // the condition that is not met; none: the rule decides
}

// explainFlow tells which link a flow takes.
func explainFlow(env *environment, file, runDir string, src, dst string, f *flowFlags, asJSON bool) error {
	cfg, err := config.Load(file)
	if err != nil {
		return tellFaults(env, err)
	}
	if len(cfg.Links) == 0 {
		return errors.New("the configuration has no links: the host's own routing table decides; for requests give --client and --url")
	}
	host, err := kernel.Open(kernel.Options{RunDir: runDir})
	if err != nil {
		return err
	}
	defer host.Close()
	x := &explainer{cfg: cfg, host: host, runDir: runDir}
	e, err := x.flow(src, dst, f)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(env.Stdout, e)
	}
	e.print(env.Stdout)
	return nil
}

// explainer is what an explanation is made from.
type explainer struct {
	cfg    *config.Config
	host   *kernel.Host
	runDir string
	facts  plan.Facts
	rules  *egress.Rules
	state  egress.State
}

// parseFlow reads the arguments.
func parseFlow(src, dst string, f *flowFlags) (flow egress.Flow, err error) {
	if flow.From, err = netip.ParseAddr(src); err != nil {
		return flow, usageError{fmt.Errorf("%q is not the address of a client", src)}
	}
	flow.Client, flow.Protocol, flow.DSCP = flow.From, config.Transport(f.proto), f.dscp
	if flow.To, err = netip.ParseAddrPort(dst); err != nil {
		a, failed := netip.ParseAddr(dst)
		if failed != nil {
			return flow, usageError{fmt.Errorf("%q is not an address with a port: names are not looked up here", dst)}
		}
		flow.To = netip.AddrPortFrom(a, 0)
	}
	if flow.From.Is4() != flow.To.Addr().Is4() {
		return flow, usageError{errors.New("the two addresses are not of the same family")}
	}
	known := []config.Transport{config.TransportTCP, config.TransportUDP, config.TransportICMP, config.TransportGRE, config.TransportESP, config.TransportSCTP}
	if !slices.Contains(known, flow.Protocol) {
		return flow, usageError{fmt.Errorf("--proto: no protocol that rules know is called %q", f.proto)}
	}
	return flow, nil
}

func (x *explainer) flow(src, dst string, f *flowFlags) (*flowExplanation, error) {
	flow, err := parseFlow(src, dst, f)
	if err != nil {
		return nil, err
	}
	if err := x.gather(); err != nil {
		return nil, err
	}
	e := &flowExplanation{From: src, To: dst, Protocol: f.proto}
	own := x.own(flow.From)
	if flow.Interface = f.in; flow.Interface == "" && !own {
		way, err := x.host.Lookup(netip.Addr{}, flow.From, 0, "")
		if err != nil {
			return nil, fmt.Errorf("by which interface %s comes in is not known: %w (name it with --in)", src, err)
		}
		flow.Interface = way.Dev
	}
	e.Interface = flow.Interface
	wish := ""
	if l := x.takenBy(&flow); l != nil {
		e.Listener, wish = l.Name, l.Marking.Link
		flow.Listener = l.Name
		if l.Source != config.SourceClient {
			flow.From = netip.Addr{}
		}
	} else if own {
		flow.From = netip.Addr{}
	} else if why := x.outside(&flow); why != "" {
		e.Action, e.Decides, e.Why = string(egress.Main), "the host's own routing table", why
		x.confirm(e, &flow, 0)
		return e, nil
	}
	c := x.rules.Choose(&flow, &x.state, wish)
	x.tell(e, &flow, c, wish)
	mark := uint32(0)
	if c.Action == egress.Send {
		mark = x.cfg.Kernel.LinkMark(c.Link)
	}
	if e.Link != "" || c.Action == egress.Main || c.Action == egress.Local {
		x.confirm(e, &flow, mark)
	}
	return e, nil
}

// gather reads what is known of the links now, and the lists.
func (x *explainer) gather() error {
	var err error
	if x.facts, err = x.host.Facts(); err != nil {
		return err
	}
	if err := keeper.KnowLinks(&x.facts, x.cfg, x.runDir, x.host); err != nil {
		return err
	}
	lists := map[string]*access.AddressSet{}
	for name, prefixes := range x.facts.Lists {
		lists[name] = access.NewAddressSet(prefixes)
	}
	x.rules = egress.New(x.cfg, lists)
	for _, l := range x.facts.Links {
		x.state.Links = append(x.state.Links, egress.Link{Up: l.Up, Weight: l.Weight, IPv4: l.IPv4.Usable(), IPv6: l.IPv6.Usable()})
	}
	for _, i := range x.facts.Interfaces {
		for _, a := range i.Addresses {
			x.state.Local = append(x.state.Local, a.Masked())
		}
	}
	return nil
}

// own says that an address is one of this host's.
func (x *explainer) own(a netip.Addr) bool {
	return slices.ContainsFunc(x.facts.Interfaces, func(i plan.Interface) bool {
		return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
	})
}

// takenBy returns the listener that takes the flow in, nil when none does.
func (x *explainer) takenBy(f *egress.Flow) *config.Listener {
	if f.Protocol != config.TransportTCP || f.Interface == "" {
		return nil
	}
	for _, l := range x.cfg.Listeners {
		if l.Intercept == nil || !slices.Contains(l.Intercept.Interfaces, f.Interface) {
			continue
		}
		if slices.ContainsFunc(l.Intercept.Ports, func(p config.PortRange) bool { return p.First <= f.To.Port() && f.To.Port() <= p.Last }) {
			return l
		}
	}
	return nil
}

// outside says why a flow is none that links are about, "" when it is.
func (x *explainer) outside(f *egress.Flow) string {
	inside := x.cfg.Balance.Inside
	switch {
	case !slices.Contains(inside.Interfaces, f.Interface):
		return f.Interface + " is not one of balance.inside.interfaces"
	case len(inside.Networks) > 0 && !slices.ContainsFunc(inside.Networks, func(p netip.Prefix) bool { return p.Contains(f.From) }):
		return f.From.String() + " is in none of balance.inside.networks"
	}
	return ""
}

// tell says what was chosen, and why.
func (x *explainer) tell(e *flowExplanation, f *egress.Flow, c egress.Choice, wish string) {
	e.Action = string(c.Action)
	e.Decides = x.decides(e, f, c, wish)
	var named []string
	strict := false
	switch {
	case wish != "":
		named = []string{wish}
	case c.Rule >= 0:
		named, strict = x.cfg.Balance.Rules[c.Rule].Links, x.cfg.Balance.Rules[c.Rule].Strict
	default:
		named = []string{x.cfg.Balance.Default}
	}
	switch c.Action {
	case egress.Local:
		e.Decides, e.Why = "no rule is asked", "the destination is in a network of the host's own, where no link leads"
		return
	case egress.Blackhole:
		e.Why = "such flows are dropped"
		return
	case egress.Reject:
		e.Why = fmt.Sprintf("none of %s is up, and nothing else will do", strings.Join(named, ", "))
		return
	case egress.Main:
		e.Why = "no link is up, and balance.last_resort says that the host's own routing table decides"
		return
	}
	e.Why = "it is for " + c.Name
	switch {
	case c.Fallback:
		e.Why = fmt.Sprintf("%s is not up, so any link that is up will do", strings.Join(named, ", "))
	case c.Assumed:
		e.Why = "no link is up: balance.last_resort uses them as if they were"
	case c.Name != named[0]:
		e.Why = fmt.Sprintf("it is for %s, and %s is not up", strings.Join(named, ", "), strings.Join(named[:slices.Index(named, c.Name)], ", "))
	}
	link := c.Link
	if len(c.Among) > 1 {
		e.Spread = string(x.rules.Spread(c.Name))
		for _, n := range c.Among {
			e.Among = append(e.Among, x.cfg.Links[n-1].Name)
		}
		if e.Listener == "" { // the kernel spreads
			link = plan.HashedLink(x.cfg, x.facts, named, strict, f.From, f.To.Addr())
		} else if e.Spread == string(config.SpreadFlow) {
			link = 0
		}
	}
	if link > 0 {
		e.Link = x.cfg.Links[link-1].Name
	}
}

// decides asks every rule up to the one that decides.
func (x *explainer) decides(e *flowExplanation, f *egress.Flow, c egress.Choice, wish string) string {
	if wish != "" {
		return x.place(config.Path{"listeners", e.Listener, "link"})
	}
	for i := range x.cfg.Balance.Rules {
		rule := &x.cfg.Balance.Rules[i]
		fault := x.cfg.Fault(config.Path{"balance", "rules", i}, "", "")
		s := flowStep{Rule: x.place(config.Path{"balance", "rules", i}), Text: strings.TrimSpace(fault.Source), Unmet: x.rules.Refuses(rule, f, &x.state)}
		e.Steps = append(e.Steps, s)
		if i == c.Rule {
			return s.Rule
		}
	}
	return "balance.default: " + x.cfg.Balance.Default
}

// place is file:line of a value.
func (x *explainer) place(at config.Path) string {
	fault := x.cfg.Fault(at, "", "")
	return fmt.Sprintf("%s:%d", fault.File, fault.Line)
}

// confirm asks the kernel's routing for the way of the flow.
func (x *explainer) confirm(e *flowExplanation, f *egress.Flow, mark uint32) {
	want := ""
	if e.Link != "" {
		l, n := x.cfg.Link(e.Link)
		want, mark = l.Interface, x.cfg.Kernel.LinkMark(n)
	}
	iif, from := f.Interface, f.From
	if e.Listener != "" || !from.IsValid() {
		iif, from = "", netip.Addr{} // Salp's own connection, which begins here
	}
	way, err := x.host.Lookup(from, f.To.Addr(), mark, iif)
	if err != nil {
		e.Note = "the kernel knows no way: " + err.Error()
		return
	}
	e.Kernel = &way
	e.Confirmed = want == "" || way.Dev == want
	if !e.Confirmed {
		e.Note = fmt.Sprintf("the kernel sends it by %s: does the gateway run?", way.Dev)
	}
}

// print writes the explanation for a person.
func (e *flowExplanation) print(w io.Writer) {
	p := painter(w)
	by := ""
	if e.Interface != "" {
		by = " in by " + e.Interface
	}
	fmt.Fprintf(w, "%s from %s to %s%s\n", e.Protocol, e.From, e.To, by)
	if e.Listener != "" {
		fmt.Fprintf(w, "taken in by listener %s: what follows is about Salp's connection to the server\n", e.Listener)
	}
	for _, s := range e.Steps {
		if s.Unmet != "" {
			fmt.Fprintf(w, "  %s  %s  %s\n", s.Rule, p.dim(s.Text), "not met: "+s.Unmet)
		} else {
			fmt.Fprintf(w, "  %s  %s  %s\n", s.Rule, s.Text, p.green("decides"))
		}
	}
	switch {
	case e.Link != "":
		fmt.Fprintf(w, "link: %s (%s)\n", p.bold(e.Link), e.Why)
	case len(e.Among) > 0:
		fmt.Fprintf(w, "link: one of %s, each flow for itself, by weight (%s)\n", p.bold(strings.Join(e.Among, ", ")), e.Why)
	default:
		fmt.Fprintf(w, "%s: %s (%s)\n", e.Action, e.Why, e.Decides)
	}
	if e.Link != "" && len(e.Among) > 1 {
		fmt.Fprintf(w, "      of %s, by %s\n", strings.Join(e.Among, ", "), e.Spread)
	}
	if len(e.Steps) > 0 && e.Steps[len(e.Steps)-1].Unmet != "" {
		fmt.Fprintf(w, "      no rule decides: %s\n", e.Decides)
	}
	if k := e.Kernel; k != nil {
		via := "without a gateway"
		if k.Gateway.IsValid() {
			via = "via " + k.Gateway.String()
		}
		verdict := ""
		if e.Link != "" && e.Confirmed {
			verdict = ", " + p.green("as said")
		}
		fmt.Fprintf(w, "kernel: by %s %s, table %d%s\n", k.Dev, via, k.Table, verdict)
	}
	if e.Note != "" {
		fmt.Fprintf(w, "%s %s\n", p.yellow("mind:"), e.Note)
	}
}
