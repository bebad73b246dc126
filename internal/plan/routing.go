package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// MainTable is the number of the host's own routing table. Rules may look into it; no route of ours is ever in it. (ip-route(8))
const MainTable = 254

// Rule is an ip rule: packets that have all of what is set look into Table, or meet with Action. (ip-rule(8))
// It carries protocol kernel, because systemd-networkd deletes rules of any other that it did not make.
type Rule struct {
	Family          Family       `json:"family"`
	Priority        uint32       `json:"priority"`
	From            netip.Prefix `json:"from,omitzero"` // the zero Prefix is any
	To              netip.Prefix `json:"to,omitzero"`
	IIF             string       `json:"iif,omitempty"` // ingress interface; lo: what this host sends
	OIF             string       `json:"oif,omitempty"` // the interface that a local socket is bound to
	Mark            uint32       `json:"mark,omitempty"`
	Mask            uint32       `json:"mask,omitempty"`             // 0: no matter which mark
	Table           uint32       `json:"table,omitempty"`            // 0 when there is an Action
	SuppressDefault bool         `json:"suppress_default,omitempty"` // what the table's default route would decide goes on to the next rule (suppress_prefixlength 0)
	Action          RuleAction   `json:"action,omitempty"`
}

// RuleAction is what a rule does instead of looking into a table.
type RuleAction string

const (
	RuleBlackhole   RuleAction = "blackhole"   // drop in silence
	RuleUnreachable RuleAction = "unreachable" // answer that the network is unreachable
	RuleProhibit    RuleAction = "prohibit"    // answer that it is administratively prohibited
)

// RouteType is what a route does with a packet. (ip-route(8), Route types)
type RouteType string

const (
	RouteUnicast     RouteType = "unicast"
	RouteLocal       RouteType = "local"     // deliver to this host
	RouteBlackhole   RouteType = "blackhole" // drop in silence
	RouteUnreachable RouteType = "unreachable"
	RouteThrow       RouteType = "throw" // go on with the next rule
)

// Route is a route in a table of ours. It carries protocol kernel, as a Rule does. (ip-route(8))
type Route struct {
	Family Family       `json:"family"`
	Table  uint32       `json:"table"`
	Type   RouteType    `json:"type"`
	To     netip.Prefix `json:"to,omitzero"`  // the zero Prefix is the default route
	Via    netip.Addr   `json:"via,omitzero"` // the gateway; none: the destination is on the link
	Dev    string       `json:"dev,omitempty"`
	Src    netip.Addr   `json:"src,omitzero"` // the source that unbound sockets get; the kernel chooses when there is none
	Metric uint32       `json:"metric,omitempty"`
	MTU    uint32       `json:"mtu,omitempty"`    // bytes; 0: the device's
	OnLink bool         `json:"onlink,omitempty"` // the gateway is on the link though no address of ours says so
}

// Text is the command that adds the rule.
func (r Rule) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "ip %srule add pref %d", ipFlag(r.Family), r.Priority)
	for _, part := range []struct {
		is   bool
		word string
	}{
		{r.From.IsValid(), " from " + r.From.String()}, {r.To.IsValid(), " to " + r.To.String()},
		{r.IIF != "", " iif " + r.IIF}, {r.OIF != "", " oif " + r.OIF},
		{r.Mask != 0, fmt.Sprintf(" fwmark 0x%x/0x%x", r.Mark, r.Mask)},
		{r.Action != "", " " + string(r.Action)},
		{r.Action == "" && r.Table == MainTable, " lookup main"},
		{r.Action == "" && r.Table != MainTable, fmt.Sprintf(" lookup %d", r.Table)},
		{r.SuppressDefault, " suppress_prefixlength 0"},
	} {
		if part.is {
			b.WriteString(part.word)
		}
	}
	return b.String() + " protocol kernel"
}

// Text is the command that adds the route.
func (r Route) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "ip %sroute add ", ipFlag(r.Family))
	if r.Type != RouteUnicast {
		b.WriteString(string(r.Type) + " ")
	}
	b.WriteString(r.toText())
	if r.Via.IsValid() {
		b.WriteString(" via " + r.Via.String())
	}
	if r.Dev != "" {
		b.WriteString(" dev " + r.Dev)
	}
	fmt.Fprintf(&b, " table %d proto kernel", r.Table)
	if r.Src.IsValid() {
		b.WriteString(" src " + r.Src.String())
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", r.MTU)
	}
	if r.OnLink {
		b.WriteString(" onlink")
	}
	return b.String()
}

func (r Route) toText() string {
	if r.To.IsValid() {
		return r.To.String()
	}
	return "default"
}

// Key is the route without what a change in place may change: a table holds one route of each key.
func (r Route) Key() Route {
	return Route{Family: r.Family, Table: r.Table, To: r.To, Metric: r.Metric}
}

// localDefault makes everything local that is looked up in the table.
func localDefault(f Family, table uint32) Route {
	return Route{Family: f, Table: table, Type: RouteLocal, Dev: "lo"}
}

func (p Plan) validateRule(r Rule) error {
	switch {
	case r.IIF != "" && validIfname(r.IIF) != nil:
		return validIfname(r.IIF)
	case r.OIF != "" && validIfname(r.OIF) != nil:
		return validIfname(r.OIF)
	case r.Mark&^r.Mask != 0:
		return errors.New("the mark is outside its mask")
	case !ofFamily(r.From, r.Family) || !ofFamily(r.To, r.Family):
		return errors.New("a prefix is of the other family, or has bits beyond its length")
	case r.Action != "":
		return r.validateAction()
	case r.Table == MainTable:
		return nil
	case !slices.ContainsFunc(p.Routes, func(o Route) bool { return o.Family == r.Family && o.Table == r.Table }):
		return errors.New("there is no route in that table")
	case r.Mask == 0 && r.IIF == "" && r.OIF == "" && !r.From.IsValid() && !r.To.IsValid():
		return errors.New("it matches every packet")
	case slices.Contains(p.Routes, localDefault(r.Family, r.Table)) && (r.IIF == "" || r.Mark == 0):
		return errors.New("it makes packets local, and names no interface and mark")
	}
	return nil
}

// validateAction also finds the table that an action leaves no room for.
func (r Rule) validateAction() error {
	if r.Table != 0 || r.SuppressDefault {
		return errors.New("it has an action and a table")
	}
	if !slices.Contains([]RuleAction{RuleBlackhole, RuleUnreachable, RuleProhibit}, r.Action) {
		return fmt.Errorf("no action of a rule is called %q", r.Action)
	}
	return nil
}

func ofFamily(p netip.Prefix, f Family) bool {
	return !p.IsValid() || p.Addr().Is4() == (f == IPv4) && p == p.Masked() && p.Bits() > 0
}

func (r Route) validate() error {
	unicast := r.Type == RouteUnicast
	switch {
	case r.Table == 0 || r.Table >= 253 && r.Table <= 255:
		return errors.New("the table is not one of ours")
	case !slices.Contains([]RouteType{RouteUnicast, RouteLocal, RouteBlackhole, RouteUnreachable, RouteThrow}, r.Type):
		return fmt.Errorf("no type of route is called %q", r.Type)
	case (unicast || r.Type == RouteLocal) != (r.Dev != ""):
		return errors.New("unicast and local routes have a device, and no others")
	case r.Dev != "" && validIfname(r.Dev) != nil:
		return validIfname(r.Dev)
	case !unicast && (r.Via.IsValid() || r.Src.IsValid() || r.MTU != 0 || r.OnLink):
		return errors.New("only a unicast route has a gateway, a source or an MTU")
	case r.OnLink && !r.Via.IsValid():
		return errors.New("it is onlink and has no gateway")
	case !ofFamily(r.To, r.Family), !addrOf(r.Via, r.Family), !addrOf(r.Src, r.Family):
		return errors.New("an address is of the other family, or the prefix has bits beyond its length")
	case r.Family == IPv6 && r.Metric == 1024:
		return errors.New("a metric of 1024 is what IPv6 has when there is none: leave it out")
	}
	return nil
}

func addrOf(a netip.Addr, f Family) bool {
	return !a.IsValid() || a.Is4() == (f == IPv4) && a.Zone() == ""
}
