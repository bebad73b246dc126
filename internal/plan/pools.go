package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"salp/internal/config"
)

// The kernel path: a table without an owner, so that it goes on as it is when Salp dies. The first packet of a connection to a listener
// is looked up in a map from numbers to servers, sent to that server by NAT, and connection tracking does the rest. When a server goes down
// or comes back only elements of such maps change.
//
// The numbers are buckets. With balance: source a hash of the client's address is the bucket, and each server has those buckets in which it
// wins (rendezvous hashing), so only a lost server's clients move.
const (
	hashBuckets = 4096 // enough that shares differ by a few percent at most
	turnBuckets = 256  // in turn
	drawBuckets = 65536

	hashSeed = 0x5a1b0a7d // any number but 0: the same on every gateway, so that two of them choose alike

	beforeDNAT = -110 // before others' dstnat chains
	beforeSNAT = 90

	servicesChain = "services"
)

// PoolsTable is the name of the table of the kernel path.
func PoolsTable(k config.Kernel) string { return k.NFTable + "-pools" }

// poolServer is one address of one server, as a kernel-path listener of one family sees it.
type poolServer struct {
	ServerFact
	label  string // number in the pool, from 1, and for further addresses of a name a second one
	weight int
	backup bool
}

// serversOf returns the servers of a pool: as the facts have them, else those that have an address in the file, all up.
func serversOf(p *config.Pool, facts []ServerFact) []poolServer {
	var all []poolServer
	for i := range p.Servers {
		c := &p.Servers[i]
		var mine []ServerFact
		for _, f := range facts {
			if f.Pool == p.Name && f.Server == c.String() {
				mine = append(mine, f)
			}
		}
		if mine == nil && c.Host == "" {
			mine = []ServerFact{{Pool: p.Name, Server: c.String(), Address: c.Address, Up: true}}
		}
		for j, f := range mine {
			label := fmt.Sprint(i + 1)
			if j > 0 {
				label += fmt.Sprintf(".%d", j+1)
			}
			all = append(all, poolServer{f, label, c.Weight, c.Backup})
		}
	}
	return all
}

// fit returns the servers of a family that get connections now: those that are up, and backups when no other is.
func fit(all []poolServer, f Family) []poolServer {
	var regular, backups []poolServer
	for _, s := range all {
		switch {
		case !s.Up || s.weight == 0 || s.Address.Addr().Is4() != (f == IPv4):
		case s.backup:
			backups = append(backups, s)
		default:
			regular = append(regular, s)
		}
	}
	if len(regular) > 0 {
		return regular
	}
	return backups
}

// ServerCounters are the names of the counters of one address of a server on the kernel path.
type ServerCounters struct {
	ServerFact
	Connections map[string]string // new connections, by listener: what the counter has as packets
	In, Out     string            // bytes to the server and from it
	Offloaded   bool              // its flows pass no rules, so bytes are not counted
}

// CountersOf names the counters of the kernel path's servers, so that their values can be told. Offloading says that the table has a flowtable.
func CountersOf(cfg *config.Config, servers []ServerFact, offloading bool) []ServerCounters {
	var all []ServerCounters
	offloaded := uncounted(cfg, servers)
	for _, p := range cfg.Pools {
		users := kernelUsers(cfg, p.Name)
		if len(users) == 0 {
			continue
		}
		for _, s := range serversOf(p, servers) {
			c := ServerCounters{ServerFact: s.ServerFact, Connections: map[string]string{}, In: "in-" + p.Name + "-" + s.label, Out: "out-" + p.Name + "-" + s.label}
			for _, l := range users {
				c.Connections[l.Name] = connectionsCounter(l, s)
				c.Offloaded = c.Offloaded || offloading && offloaded[serviceKey(s.Address, protoNumber(l.Transport))]
			}
			all = append(all, c)
		}
	}
	return all
}

func kernelUsers(cfg *config.Config, pool string) (users []*config.Listener) {
	for _, l := range cfg.Listeners {
		if l.Via == config.ViaKernel && l.Pool == pool {
			users = append(users, l)
		}
	}
	return users
}

func connectionsCounter(l *config.Listener, s poolServer) string {
	return "new-" + l.Name + "-" + s.label
}

func protoNumber(t config.Transport) byte {
	if t == config.TransportUDP {
		return UDP
	}
	return TCP
}

// poolsTable is the table of the kernel path. Its Chains are empty when no listener has it.
func (r *recipe) poolsTable(cfg *config.Config) Table {
	t := poolsTable{recipe: r, Table: Table{Name: PoolsTable(r.kernel)}, accounted: map[string]bool{}, uncounted: uncounted(cfg, r.facts.Servers)}
	if f := t.flowtable(cfg); f != nil {
		t.Flowtables = []Flowtable{*f}
	}
	for _, l := range cfg.Listeners {
		if l.Via == config.ViaKernel {
			t.listener(l, cfg.Pool(l.Pool))
		}
	}
	if len(t.Chains) == 0 {
		return t.Table
	}
	t.finish()
	return t.Table
}

// poolsTable is the table while it is made.
type poolsTable struct {
	*recipe
	Table
	direct    []NFTRule           // to the listeners' chains, for wildcard addresses
	services  map[Family][]string // elements: address, protocol and port of listeners, and the chain
	proxied   map[Family][]string // elements: servers that see Salp's address
	shown     map[Family][]string // elements: servers that see the client's
	counted   map[Family][]countedServer
	accounted map[string]bool     // elements: counted servers
	uncounted map[string]bool     // elements: servers that are not counted when there is a flowtable
	offloaded map[Family][]string // elements: listeners' addresses and servers whose flows go past the rules
	ruled     map[Family][]string // elements: the same of other listeners, whose flows do not
	checked   map[Family]bool     // servers of the family are checked
	retried   map[Family][]string // elements: servers whose clients would get another one if they tried again
}

// serviceKey spells an address, a protocol and a port as a key of sets.
func serviceKey(a netip.AddrPort, proto byte) string {
	return fmt.Sprintf("%s . %s . %d", a.Addr().WithZone(""), protoText(proto), a.Port())
}

func add(to *map[Family][]string, f Family, element string) {
	if *to == nil {
		*to = map[Family][]string{}
	}
	if !slices.Contains((*to)[f], element) {
		(*to)[f] = append((*to)[f], element)
	}
}

// digit names a family in names.
func (f Family) digit() string {
	if f == IPv6 {
		return "6"
	}
	return "4"
}

// listener adds the chains of one listener: one for each family that clients come in, and one for each server.
func (t *poolsTable) listener(l *config.Listener, p *config.Pool) {
	servers := serversOf(p, t.facts.Servers)
	proto := protoNumber(l.Transport)
	var limits []NFTRule
	if chain := t.Table.limited(l, t.families); chain != "" {
		limits = []NFTRule{rule("its rates", Jump{Chain: chain})}
	}
	for _, f := range t.families {
		chain := "listener-" + l.Name + "-" + f.digit()
		used := false
		for _, a := range l.Listen {
			if a.Addr().Is4() != (f == IPv4) {
				continue
			}
			used = true
			if a.Addr().IsUnspecified() {
				t.direct = append(t.direct, rule("listener "+l.Name, NFProto{Family: f}, DaddrType{Types: []string{"local"}},
					DPort{Ranges: onePort(a), Proto: proto}, Goto{Chain: chain}))
				continue
			}
			add(&t.services, f, serviceKey(a, proto)+" : goto "+chain)
		}
		if used {
			t.family(l, p, f, chain, limits, servers)
		}
	}
}

func (t *poolsTable) family(l *config.Listener, p *config.Pool, f Family, chain string, limits []NFTRule, servers []poolServer) {
	proto := protoNumber(l.Transport)
	fits := fit(servers, f)
	key, slots := choice(l, p.Balance, f, fits)
	slots.Name = "servers-" + l.Name + "-" + f.digit()
	t.Sets = append(t.Sets, slots)
	refuse := []Expr{L4Proto{Protos: []byte{TCP}}, RejectReset{}}
	if proto == UDP {
		refuse = []Expr{Reject{}}
	}
	t.Chains = append(t.Chains, Chain{Name: chain, Rules: append(limits[:len(limits):len(limits)],
		rule("choose a server", VMap{Key: key, Map: slots.Name}),
		rule("no server is up", refuse...))})
	for _, s := range servers {
		if s.Address.Addr().Is4() != (f == IPv4) {
			continue
		}
		counter := connectionsCounter(l, s)
		t.counter(counter)
		t.Chains = append(t.Chains, Chain{Name: serverChain(l, s), Rules: []NFTRule{
			rule("server "+s.Server, Counter{Name: counter}, L4Proto{Protos: []byte{proto}}, DNAT{Family: f, To: s.Address}),
		}})
		element := serviceKey(s.Address, proto)
		if l.Source == config.SourceClient {
			add(&t.shown, f, element)
		} else {
			add(&t.proxied, f, element)
		}
		t.account(s, f, proto)
		t.offload(l, f, element)
		if proto == TCP && p.Check != nil {
			t.tryAgain(s, f, fits, element)
		}
	}
}

// tryAgain notes that refusals of a server are not for clients, if another server is fit. It takes checks: who refuses everybody is to be found out.
func (t *poolsTable) tryAgain(s poolServer, f Family, fits []poolServer, element string) {
	if t.checked == nil {
		t.checked = map[Family]bool{}
	}
	t.checked[f] = true
	if slices.ContainsFunc(fits, func(other poolServer) bool { return other.Address != s.Address }) {
		add(&t.retried, f, element)
	}
}

// counter adds a named counter once.
func (t *poolsTable) counter(name string) {
	if !slices.Contains(t.Counters, name) {
		t.Counters = append(t.Counters, name)
	}
}

func serverChain(l *config.Listener, s poolServer) string { return "to-" + l.Name + "-" + s.label }

// choice is how a bucket is found, and whose each bucket is.
func choice(l *config.Listener, balance config.Balance, f Family, servers []poolServer) (Key, Set) {
	to := func(s poolServer) string { return "goto " + serverChain(l, s) }
	set := Set{Data: "verdict"}
	switch balance {
	case config.BalanceSource:
		set.Type = NumberType(hashBuckets)
		for i := range hashBuckets {
			if len(servers) > 0 {
				set.Elements = append(set.Elements, fmt.Sprintf("%d : %s", i, to(servers[winner(uint64(i), servers)])))
			}
		}
		return JHash{Fields: Fields{SaddrOf(f)}, Mod: hashBuckets, Seed: hashSeed}, set
	case config.BalanceRoundRobin:
		set.Type = NumberType(turnBuckets)
		for i, s := range inTurn(servers) {
			set.Elements = append(set.Elements, fmt.Sprintf("%d : %s", i, to(servers[s])))
		}
		return NumGen{Mod: turnBuckets}, set
	case config.BalanceFirst:
		servers = servers[:min(1, len(servers))]
	}
	set.Type, set.Interval = NumberType(drawBuckets), true
	total, sum, first := 0, 0, 0
	for _, s := range servers {
		total += s.weight
	}
	for _, s := range servers {
		sum += s.weight
		end := sum * drawBuckets / total
		set.Elements = append(set.Elements, fmt.Sprintf("%d-%d : %s", first, end-1, to(s)))
		first = end
	}
	return NumGen{Random: true, Mod: drawBuckets}, set
}

// inTurn deals the buckets so that each server has them evenly spread, as many as its weight says. (smooth weighted round robin, as in nginx)
func inTurn(servers []poolServer) []int {
	if len(servers) == 0 {
		return nil
	}
	total, credit := 0, make([]int, len(servers))
	for _, s := range servers {
		total += s.weight
	}
	turns := make([]int, turnBuckets)
	for i := range turns {
		best := 0
		for j, s := range servers {
			credit[j] += s.weight
			if credit[j] > credit[best] {
				best = j
			}
		}
		credit[best] -= total
		turns[i] = best
	}
	return turns
}

// finish adds the chains that are hooked, and the sets that they look into.
func (t *poolsTable) finish() {
	services := Chain{Name: servicesChain}
	post := Chain{Name: "own-address", Type: "nat", Hook: "postrouting", Priority: beforeSNAT}
	if len(t.proxied)+len(t.shown) == 0 {
		post.Hook = ""
	}
	for _, f := range t.families {
		service := Fields{DaddrOf(f), L4ProtoKey, THDPort}
		named := func(name string, elements map[Family][]string, data string) string {
			if len(elements[f]) == 0 {
				return ""
			}
			name += f.digit()
			t.Sets = append(t.Sets, Set{Name: name, Type: service.SetType(), Data: data, Elements: elements[f]})
			return name
		}
		if set := named("listeners", t.services, "verdict"); set != "" {
			services.Rules = append(services.Rules, rule("the listener of that address, if there is one", VMap{Key: service, Map: set}))
		}
		if set := named("proxied", t.proxied, ""); set != "" {
			post.Rules = append(post.Rules, rule("source: proxy", CTStatus{Bits: []string{"dnat"}}, In{Key: service, Set: set}, Masquerade{}))
		}
		if set := named("shown", t.shown, ""); set != "" {
			post.Rules = append(post.Rules, t.hairpins(f, service, set)...)
		}
	}
	services.Rules = append(services.Rules, t.direct...)
	jump := []NFTRule{rule("what clients dial", Jump{Chain: servicesChain})}
	hooked := []Chain{
		{Name: "arrive", Type: "nat", Hook: "prerouting", Priority: beforeDNAT, Rules: jump},
		{Name: "depart", Type: "nat", Hook: "output", Priority: beforeDNAT, Rules: jump},
		services,
	}
	if post.Hook != "" {
		hooked = append(hooked, post)
	}
	t.Chains = slices.Concat(hooked, t.accounting(), t.Chains)
}

// hairpins give Salp's address to those clients alone who are in the network of the server, which would answer them directly, past Salp.
func (t *poolsTable) hairpins(f Family, service Fields, set string) []NFTRule {
	var rules []NFTRule
	for _, i := range t.interfaces {
		for _, p := range i.Addresses {
			if i.Loopback || p.Addr().Is4() != (f == IPv4) || p.Addr().IsLinkLocalUnicast() || !t.anyServerIn(f, p) {
				continue
			}
			rules = append(rules, rule("the server would answer its neighbour directly", CTStatus{Bits: []string{"dnat"}},
				In{Key: service, Set: set}, Saddr{Prefix: p.Masked()}, Daddr{Prefix: p.Masked()}, Masquerade{}))
		}
	}
	return rules
}

func (t *poolsTable) anyServerIn(f Family, p netip.Prefix) bool {
	return slices.ContainsFunc(t.shown[f], func(element string) bool {
		addr, _, _ := strings.Cut(element, " . ")
		a, err := netip.ParseAddr(addr)
		return err == nil && p.Contains(a)
	})
}
