package keeper

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/health"
)

// job is the ID of the checks of a server.
func (k serverKey) job() string { return jobPool + k.pool + "/" + k.server + "/" + k.address.String() }

// jobPool begins the IDs of the jobs that check servers of pools.
const jobPool = "pool/"

// server is what the keeper believes of one address of a server. Until its first check has ended it counts as up: a gateway that starts carries
// traffic at once, and a server that does not work is found out by the first check, or passed over by a connect that fails.
type server struct {
	serverKey
	machine *health.Machine
	passive *health.Passive    // nil: errors are not counted
	last    *control.Result    // the last check; nil: none yet
	seen    map[*worker]uint64 // errors that a worker had told before

	state     control.ServerState
	since     time.Time // of state
	reason    string    // of a state that is not up
	recovered bool      // see control.Server
	downs     uint64    // how often it went down
}

// wishKey names a server as a whole, with all addresses that its name has.
type wishKey struct{ pool, server string }

// wish is what an operator wants of a server.
type wish struct {
	state control.ServerState // drain or maint
	since time.Time
}

// lookedUp is what a name is.
type lookedUp struct {
	addrs []netip.Addr // those it had last, also while it cannot be looked up
	err   string       // why it cannot be
}

// servers holds the servers of all pools of one configuration. It belongs to the keeper's loop.
type servers struct {
	cfg    *config.Config
	log    *slog.Logger
	all    []*server // in the order of the file, the addresses of a name sorted
	byKey  map[serverKey]*server
	byJob  map[string]*server
	wishes map[wishKey]wish
	names  map[string]*lookedUp
}

// newServers returns those of no configuration, which know what was remembered.
func newServers(m *remembered, log *slog.Logger) *servers {
	return (&servers{cfg: &config.Config{}, log: log, wishes: m.wishes, names: m.names}).with(m.servers)
}

func (s *servers) with(all []*server) *servers {
	s.all, s.byKey, s.byJob = all, map[serverKey]*server{}, map[string]*server{}
	for _, one := range all {
		s.byKey[one.serverKey], s.byJob[one.job()] = one, one
	}
	return s
}

// next returns the servers of another configuration. Those that both have are shared, so that what happens until it is in force is known to both;
// commit then gives them its policies.
func (s *servers) next(cfg *config.Config, now time.Time) *servers {
	n := &servers{cfg: cfg, log: s.log, wishes: s.wishes, names: s.names}
	n.with(s.all)
	n.build(now, false)
	return n
}

// commit puts the configuration in force: what it does not name any more is forgotten, and its policies hold.
func (s *servers) commit(now time.Time) {
	wishes, names := map[wishKey]wish{}, map[string]*lookedUp{}
	for _, p := range s.cfg.Pools {
		for i := range p.Servers {
			key := wishKey{p.Name, p.Servers[i].String()}
			if w, wished := s.wishes[key]; wished {
				wishes[key] = w
			}
			if host := p.Servers[i].Host; host != "" && s.names[host] != nil {
				names[host] = s.names[host]
			}
		}
	}
	s.wishes, s.names = wishes, names
	for _, one := range s.all {
		one.follow(s.cfg.Pool(one.pool), now)
		s.judge(one, now)
	}
}

// build makes the list of servers from the configuration and what names are now. An address that a name has newly is one that has recovered: it
// begins slowly where slow start is wanted. It tells whether there are others than before.
func (s *servers) build(now time.Time, later bool) (changed bool) {
	var all []*server
	for _, p := range s.cfg.Pools {
		for i := range p.Servers {
			c := &p.Servers[i]
			for _, address := range s.addresses(c) {
				key := serverKey{p.Name, c.String(), address}
				one := s.byKey[key]
				if one == nil {
					one = newServer(key, p, now)
					one.recovered = later && c.Host != ""
					s.judge(one, now)
				}
				all = append(all, one)
			}
		}
	}
	changed = !slices.Equal(all, s.all)
	s.with(all)
	return changed
}

// addresses returns all addresses of a server.
func (s *servers) addresses(c *config.Server) []netip.AddrPort {
	if c.Host == "" {
		return []netip.AddrPort{c.Address}
	}
	var all []netip.AddrPort
	if n := s.names[c.Host]; n != nil {
		for _, a := range n.addrs {
			all = append(all, netip.AddrPortFrom(a, c.Port))
		}
	}
	return all
}

func newServer(key serverKey, p *config.Pool, now time.Time) *server {
	one := &server{serverKey: key, state: control.ServerUp, since: now, seen: map[*worker]uint64{}}
	one.machine = health.New(policyOf(p), health.Verdict{Up: true, Since: now})
	one.follow(p, now)
	return one
}

func policyOf(p *config.Pool) health.Policy {
	if p.Check == nil {
		return health.Policy{}
	}
	return health.Policy{Rise: p.Check.Rise, Fall: p.Check.Fall}
}

// follow takes over the policies of a configuration. A pool whose servers are not checked any more has no reason to keep them down.
func (one *server) follow(p *config.Pool, now time.Time) {
	one.machine.SetPolicy(policyOf(p))
	if p.Check == nil {
		one.machine, one.last = health.New(health.Policy{}, health.Verdict{Up: true, Since: now}), nil
	}
	switch {
	case p.Passive == nil:
		one.passive = nil
	case one.passive == nil:
		one.passive = health.NewPassive(passiveOf(p))
	default:
		one.passive.SetPolicy(passiveOf(p))
	}
}

func passiveOf(p *config.Pool) health.PassivePolicy {
	return health.PassivePolicy{Errors: p.Passive.Errors, Window: p.Passive.Window, For: p.Passive.For}
}

// judge brings a server's state to what is known and wished of it, and tells whether it has changed. What an operator wants goes before what checks
// say, but for a drained server that does not work: clients that stick to it must not be sent there.
func (s *servers) judge(one *server, now time.Time) (changed bool) {
	state, reason := control.ServerUp, ""
	w, wished := s.wishes[wishKey{one.pool, one.server}]
	verdict := one.machine.Verdict()
	switch {
	case wished && w.state == control.ServerMaint:
		state, reason = control.ServerMaint, "by command"
	case !verdict.Up:
		state, reason = control.ServerDown, verdict.Reason
	case one.passive != nil && one.passive.Down(now):
		state, reason = control.ServerDown, fmt.Sprintf("its connections fail, until %s", one.passive.Until().Format(time.TimeOnly))
	case wished:
		state, reason = w.state, "by command"
	}
	one.reason = reason
	if state == one.state {
		return false
	}
	log := s.log.With("pool", one.pool, "server", one.server)
	if one.address.String() != one.server {
		log = log.With("address", one.address)
	}
	switch state {
	case control.ServerUp:
		log.Info("server up", "was", one.state, "for", now.Sub(one.since).Round(time.Millisecond))
	case control.ServerDown:
		one.downs++
		log.Warn("server down", "reason", reason)
	default:
		log.Info("server takes no new connections", "state", state, "reason", reason)
	}
	one.recovered = state == control.ServerUp
	one.state, one.since = state, now
	return true
}

// result takes in the end of a check, and tells whether a state has changed.
func (s *servers) result(r *control.Result) (changed bool) {
	one := s.byJob[r.ID]
	if one == nil {
		return false // of a server that went away meanwhile
	}
	one.last = r
	one.machine.Observe(0, health.Sample{At: r.At, Error: r.Error, RTT: r.RTT})
	return s.judge(one, r.At)
}

// failures takes in a worker's counters, and tells whether a state has changed. The last server of a pool that is up stays so: a bad one is better
// than none.
func (s *servers) failures(w *worker, stats []control.ServerStats, now time.Time) (changed bool) {
	for i := range stats {
		c := &stats[i]
		one := s.byKey[serverKey{c.Pool, c.Server, c.Address}]
		if one == nil || one.passive == nil {
			continue
		}
		total := c.Failures()
		before, known := one.seen[w]
		one.seen[w] = total
		if !known || total <= before || !one.passive.Count(now, total-before) {
			continue
		}
		if one.state == control.ServerUp && s.up(one.pool) == 1 {
			one.passive.Pardon()
			s.log.Warn("connections to a server fail, and it stays up as the last one of its pool", "pool", one.pool, "server", one.server, "address", one.address)
			continue
		}
		changed = s.judge(one, now) || changed
	}
	return changed
}

// up returns how many servers of a pool are up.
func (s *servers) up(pool string) (n int) {
	for _, one := range s.all {
		if one.pool == pool && one.state == control.ServerUp {
			n++
		}
	}
	return n
}

// ended forgets a worker.
func (s *servers) ended(w *worker) {
	for _, one := range s.all {
		delete(one.seen, w)
	}
}

// tick ends what is over, and tells whether a state has changed.
func (s *servers) tick(now time.Time) (changed bool) {
	for _, one := range s.all {
		if one.passive != nil && one.state == control.ServerDown {
			changed = s.judge(one, now) || changed
		}
	}
	return changed
}

// learn takes in what a name is, and tells whether there are other addresses, and if these are the first. When a name cannot be looked up the
// addresses stay, also when it is known to be gone: an operator who takes a server out of service does so in the configuration.
func (s *servers) learn(n *control.Name) (news, first bool) {
	have := s.names[n.Name]
	if have == nil {
		have = &lookedUp{}
		s.names[n.Name] = have
	}
	if n.Error != have.err {
		have.err = n.Error
		if n.Error != "" {
			s.log.Warn("a server's name cannot be looked up", "name", n.Name, "error", n.Error, "addresses_kept", len(have.addrs))
		}
	}
	if n.Error != "" || slices.Equal(n.Addresses, have.addrs) {
		return false, false
	}
	first = have.addrs == nil
	s.log.Info("a server's name has addresses", "name", n.Name, "addresses", strings.Trim(fmt.Sprint(n.Addresses), "[]"))
	have.addrs = slices.Clone(n.Addresses)
	return true, first
}

// unnamed returns whether a name has not been looked up yet.
func (s *servers) unnamed() bool {
	return slices.ContainsFunc(s.cfg.Names(), func(name string) bool { return s.names[name] == nil })
}

// nameless says why a name has no addresses.
func (s *servers) nameless(name string) string {
	switch n := s.names[name]; {
	case n == nil:
		return "the name has not been looked up yet"
	case n.err != "":
		return n.err
	}
	return "the name has no address"
}

// told returns what workers are told.
func (s *servers) told() *control.Pools {
	m := &control.Pools{Servers: []control.Server{}}
	for _, one := range s.all {
		m.Servers = append(m.Servers, control.Server{Pool: one.pool, Server: one.server, Address: one.address, State: one.state, Since: one.since, Recovered: one.recovered})
	}
	return m
}

// matches says whether an operator's word names a server: as the configuration does, without its port, or by one of its addresses.
func matches(c *config.Server, word string) bool {
	if c.Host != "" {
		return word == c.String() || strings.EqualFold(word, c.Host)
	}
	return word == c.String() || word == c.Address.Addr().String()
}

// find returns the servers that a word names: "POOL/SERVER", or "SERVER" when one pool alone has it.
func (s *servers) find(word string) (wishKey, error) {
	var found []wishKey
	pool, name, both := strings.Cut(word, "/")
	for _, p := range s.cfg.Pools {
		for i := range p.Servers {
			c := &p.Servers[i]
			if both && p.Name == pool && matches(c, name) || !both && matches(c, word) {
				found = append(found, wishKey{p.Name, c.String()})
			}
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		var words []string
		for _, f := range found {
			words = append(words, f.pool+"/"+f.server)
		}
		return wishKey{}, fmt.Errorf("%s is several servers: name one of %s", word, strings.Join(words, ", "))
	case both && s.cfg.Pool(pool) == nil:
		return wishKey{}, fmt.Errorf("there is no pool %s: 'salp pool' lists them", pool)
	}
	return wishKey{}, fmt.Errorf("there is no server %s: 'salp pool' lists them", word)
}

// wish has a server drained, in maintenance, or ready for what its checks say.
func (s *servers) wish(key wishKey, state control.ServerState, now time.Time) (changed bool) {
	if state == control.ServerUp {
		delete(s.wishes, key)
	} else if s.wishes[key].state != state {
		s.wishes[key] = wish{state, now}
	}
	for _, one := range s.all {
		if one.pool != key.pool || one.server != key.server {
			continue
		}
		if state == control.ServerUp && one.passive != nil {
			one.passive.Pardon() // the operator knows better
		}
		changed = s.judge(one, now) || changed
	}
	return changed
}

// sorted returns the wishes in order, for the state file.
func sorted(wishes map[wishKey]wish) []wishKey {
	var all []wishKey
	for key := range wishes {
		all = append(all, key)
	}
	slices.SortFunc(all, func(a, b wishKey) int {
		return cmp.Or(strings.Compare(a.pool, b.pool), strings.Compare(a.server, b.server))
	})
	return all
}
