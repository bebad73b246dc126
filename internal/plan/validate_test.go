package plan

import (
	"net/netip"
	"strings"
	"testing"
)

// Each case breaks one thing in a plan that is right, and the message must name it.
func TestValidate(t *testing.T) {
	loop := netip.MustParseAddrPort("127.0.0.1:5000")
	tproxyRule := []Expr{NFProto{IPv4}, L4Proto{[]byte{TCP}}, TProxy{loop}, SetMark{1}, accept}
	with := func(exprs ...Expr) func(*Plan) {
		return func(p *Plan) { p.Tables[0].Chains[1].Rules = []NFTRule{{Exprs: exprs}} }
	}
	for name, c := range map[string]struct {
		change func(*Plan)
		want   string // "" when it stays valid
	}{
		"nothing":                     {func(*Plan) {}, ""},
		"tproxy":                      {with(tproxyRule...), ""},
		"table twice":                 {func(p *Plan) { p.Tables = append(p.Tables, p.Tables[0]) }, "table salp is there twice"},
		"table name":                  {func(p *Plan) { p.Tables[0].Name = "a b" }, `the name "a b"`},
		"chain twice":                 {func(p *Plan) { p.Tables[0].Chains[1].Name = "base" }, "chain base is there twice"},
		"chain name too long":         {func(p *Plan) { p.Tables[0].Chains[1].Name = strings.Repeat("x", 256) }, "has 256 bytes"},
		"set twice":                   {func(p *Plan) { p.Tables[0].Sets = []Set{aliveSet, aliveSet} }, "set alive is there twice"},
		"no hook":                     {func(p *Plan) { p.Tables[0].Chains[0].Hook = "ingres" }, `no hook is called "ingres"`},
		"type without hook":           {func(p *Plan) { p.Tables[0].Chains[1].Type = "nat" }, "no hook"},
		"no type":                     {func(p *Plan) { p.Tables[0].Chains[0].Type = "" }, "no type"},
		"jump nowhere":                {with(Jump{"nowhere"}), "jumps to nowhere"},
		"jump to a base chain":        {with(Jump{"base"}), "no regular chain"},
		"jump round":                  {with(Jump{"more"}), "jumps back to itself"},
		"no such set":                 {with(InSet{Set: "dead"}), "no such set"},
		"comment too long":            {func(p *Plan) { p.Tables[0].Chains[0].Rules[0].Comment = strings.Repeat("x", 129) }, "129 bytes"},
		"comment with a quote":        {func(p *Plan) { p.Tables[0].Chains[0].Rules[0].Comment = `a "b"` }, "quote"},
		"empty rule":                  {with(), "empty"},
		"interface name too long":     {with(IIFName{Names: []string{"sixteencharacter"}}, accept), "no interface name"},
		"no interface":                {with(IIFName{}, accept), "matches nothing"},
		"ports out of order":          {with(DPort{Ranges: []PortRange{{80, 81}, {81, 90}}}, accept), "81-90 is backwards, or not after"},
		"port range backwards":        {with(DPort{Ranges: []PortRange{{81, 80}}}, accept), "backwards"},
		"protocol before port":        {with(L4Proto{[]byte{TCP}}, DPort{Ranges: []PortRange{{80, 80}}}, accept), "implies TCP"},
		"family before address":       {with(NFProto{IPv6}, Daddr{Prefix: linkLocal}, accept), "implies the family"},
		"prefix with host bits":       {with(Daddr{Prefix: netip.MustParsePrefix("10.0.0.1/8")}, accept), "beyond its length"},
		"verdict before match":        {with(accept, Mark{1, 1}), "after a verdict"},
		"mark before tproxy":          {with(NFProto{IPv4}, L4Proto{[]byte{TCP}}, SetMark{1}, TProxy{loop}), "stay changed when nobody listens"},
		"tproxy without family":       {with(L4Proto{[]byte{TCP}}, TProxy{loop}), "does not match ipv4"},
		"tproxy without protocol":     {with(NFProto{IPv4}, TProxy{loop}), "does not match TCP"},
		"tproxy without port":         {with(NFProto{IPv4}, L4Proto{[]byte{TCP}}, TProxy{netip.MustParseAddrPort("127.0.0.1:0")}), "no address and port"},
		"redirect without protocol":   {with(Redirect{80}), "does not match TCP"},
		"reset without protocol":      {with(L4Proto{[]byte{TCP, ICMP}}, RejectReset{}), "does not match TCP"},
		"address to a port":           {with(DNAT{Family: IPv4, To: loop}), "does not match TCP or UDP"},
		"address of the other family": {with(DNAT{Family: IPv6, To: loop}), "no address of its family"},
		"no such map":                 {with(VMap{Key: NumGen{Mod: 2}, Map: "m"}), "no map m"},
		"map with other keys": {func(p *Plan) {
			p.Tables[0].Sets = append(p.Tables[0].Sets, Set{Name: "m", Type: "mark", Data: "verdict"})
			p.Tables[0].Chains[1].Rules = []NFTRule{{Exprs: []Expr{VMap{Key: Fields{IPSaddr}, Map: "m"}}}}
		}, "keys of type mark, not ipv4_addr"},
		"map that jumps nowhere": {func(p *Plan) {
			p.Tables[0].Sets = append(p.Tables[0].Sets, Set{Name: "m", Type: "mark", Data: "verdict", Elements: []string{"1 : goto nowhere"}})
			p.Tables[0].Chains[1].Rules = []NFTRule{{Exprs: []Expr{VMap{Key: Fields{MarkKey}, Map: "m"}}}}
		}, "jumps to nowhere"},
		"entries that overlap":    {with(VMap{Key: NumGen{Mod: 9}, Entries: []VerdictRange{{0, 4, accept}, {4, 8, accept}}}), "not after the one before"},
		"hash without a seed":     {with(VMap{Key: JHash{Fields: Fields{IPSaddr}, Mod: 2}, Entries: []VerdictRange{{0, 1, accept}}}), "without a seed"},
		"set of another kind":     {with(In{Key: Fields{IPSaddr}, Set: AliveSet}, accept), "keys of type inet_proto"},
		"no such counter":         {with(Counter{Name: "c"}), "no such counter"},
		"bits outside":            {with(SetMarkBits{Mask: 1, Value: 2}), "outside its mask"},
		"no such state":           {with(CTState{States: []string{"old"}}, accept), "nothing is called"},
		"no rate":                 {with(RateOver{}), "no rate"},
		"meter without a set":     {with(Meter{Set: AliveSet, Key: Fields{IPSaddr}, Connections: 1}), "no such dynamic set"},
		"clamp without TCP":       {with(ClampMSS{}), "does not match TCP"},
		"prefixes of two lengths": {with(SNATPrefix{Pairs: []PrefixPair{{netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("fd01::/48")}}}), "one family and length"},
		"route chain elsewhere":   {func(p *Plan) { p.Tables[0].Chains[0].Type = "route" }, "no type route at hook prerouting"},
		"dynamic set without a size": {func(p *Plan) {
			p.Tables[0].Sets = append(p.Tables[0].Sets, Set{Name: "d", Type: "mark", Dynamic: true, Runtime: true})
		}, "needs a size"},
		"ip rule without mark":         {func(p *Plan) { p.Rules[0].Mark = 0 }, "no interface and mark"},
		"ip rule to an empty table":    {func(p *Plan) { p.Routes = nil }, "no route in that table"},
		"ip rule to the other family":  {func(p *Plan) { p.Routes[0].Family = IPv6 }, "no route in that table"},
		"ip rule without an interface": {func(p *Plan) { p.Rules[0].IIF = "" }, "no interface and mark"},
		"ip rule, a whole packet":      {func(p *Plan) { p.Rules[0] = Rule{Family: IPv4, Priority: 1, Table: 6}; p.Routes[0].Table = 6 }, "matches every packet"},
		"ip rule to main":              {func(p *Plan) { p.Rules[0] = Rule{Family: IPv4, Priority: 1, Table: MainTable, SuppressDefault: true} }, ""},
		"ip rule with a bad action":    {func(p *Plan) { p.Rules[0].Table, p.Rules[0].Action = 0, "nat" }, "no action"},
		"ip rule with two ends":        {func(p *Plan) { p.Rules[0].Action = RuleBlackhole }, "an action and a table"},
		"ip rule, other family":        {func(p *Plan) { p.Rules[0].From = linkLocal }, "other family"},
		"ip rule, mark and mask":       {func(p *Plan) { p.Rules[0].Mark = 2 }, "outside its mask"},
		"route in main":                {func(p *Plan) { p.Routes[0].Table = MainTable }, "not one of ours"},
		"route without a device":       {func(p *Plan) { p.Routes[0].Dev = "" }, "have a device"},
		"route to nowhere":             {func(p *Plan) { p.Routes[0].Type = "nat" }, "no type of route"},
		"blackhole with a device":      {func(p *Plan) { p.Routes[0].Type = RouteBlackhole }, "have a device"},
		"local route with an MTU":      {func(p *Plan) { p.Routes[0].MTU = 1400 }, "only a unicast route"},
		"onlink without a gateway":     {func(p *Plan) { p.Routes[0].Type, p.Routes[0].OnLink = RouteUnicast, true }, "no gateway"},
		"gateway of the other family":  {func(p *Plan) { p.Routes[0].Type, p.Routes[0].Via = RouteUnicast, netip.IPv6Loopback() }, "other family"},
		"route twice":                  {func(p *Plan) { p.Routes = append(p.Routes, p.Routes[0]) }, "another route with this destination"},
		"sysctl outside":               {func(p *Plan) { p.Sysctls = []Sysctl{{Name: "net/../../x", Value: "1"}} }, "below /proc/sys"},
	} {
		p := Plan{
			Tables: []Table{{Name: "salp", Sets: []Set{aliveSet}, Chains: []Chain{
				{Name: "base", Type: "filter", Hook: "prerouting", Rules: []NFTRule{rule("why", Jump{"more"})}},
				{Name: "more", Rules: []NFTRule{rule("why", InSet{Set: AliveSet}, accept)}},
			}}},
			Rules:  []Rule{{Family: IPv4, Priority: 1, Mark: 1, Mask: 1, IIF: "g0", Table: 5}},
			Routes: []Route{localDefault(IPv4, 5)},
		}
		c.change(&p)
		err := p.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestJumpsTooDeep(t *testing.T) {
	table := Table{Name: "salp"}
	for i := range 20 {
		name := string(rune('a' + i))
		table.Chains = append(table.Chains, Chain{Name: name, Rules: []NFTRule{rule("deeper", Jump{string(rune('a' + i + 1))})}})
	}
	table.Chains[19].Rules = []NFTRule{rule("end", accept)}
	if err := (Plan{Tables: []Table{table}}).Validate(); err == nil || !strings.Contains(err.Error(), "16 jumps away") {
		t.Errorf("got %v", err)
	}
}
