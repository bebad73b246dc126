package keeper

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"salp/internal/config"
	"salp/internal/control"
)

const twoServers = `listeners: {mail: {listen: ["10.0.1.1:25"], pool: mail}}
pools:
  mail:
    servers: ["10.0.2.2:25", "10.0.2.3:25"]
    check: {every: 1s, rise: 2, fall: 2}
    passive: {errors: 3, window: 10s, for: 30s}
`

// pools is what a test has of servers, with a clock of its own.
type pools struct {
	*testing.T
	*servers
	dir string
	now time.Time
}

func newPools(t *testing.T, text string) *pools {
	t.Helper()
	p := &pools{T: t, dir: t.TempDir(), now: time.Now()}
	p.start(text)
	return p
}

// start is a keeper that starts with that configuration, in the run directory of the one before.
func (p *pools) start(text string) {
	p.Helper()
	known, err := recallServers(p.dir, p.now)
	if err != nil {
		p.Fatal(err)
	}
	p.servers = newServers(known, slog.New(slog.NewTextHandler(io.Discard, nil)))
	p.reload(text)
}

func (p *pools) reload(text string) {
	p.Helper()
	cfg, err := config.Parse("salp.yaml", []byte(text))
	if err != nil {
		p.Fatal(err)
	}
	p.servers = p.servers.next(cfg, p.now)
	p.servers.commit(p.now)
}

// check ends a check of each server a second later: "." is good, "x" bad, "-" none.
func (p *pools) check(outcomes string) {
	p.now = p.now.Add(time.Second)
	for i, o := range outcomes {
		r := &control.Result{ID: p.all[i].job(), At: p.now}
		switch o {
		case 'x':
			r.Error = "connection refused"
		case '-':
			continue
		}
		p.result(r)
	}
}

// states are the servers' states in a word.
func (p *pools) states() string {
	var all []string
	for _, s := range p.told().Servers {
		text := fmt.Sprintf("%s %s", s.Address.Addr(), s.State)
		if s.Recovered {
			text += " recovered"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func (p *pools) want(states string) {
	p.Helper()
	if got := p.states(); got != states {
		p.Errorf("%s, want %s", got, states)
	}
}

func (p *pools) wishFor(word string, state control.ServerState) {
	p.Helper()
	key, err := p.find(word)
	if err != nil {
		p.Fatal(err)
	}
	p.wish(key, state, p.now)
}

func TestServerStates(t *testing.T) {
	p := newPools(t, twoServers)
	p.want("10.0.2.2 up, 10.0.2.3 up")
	p.check("x.") // the first check decides
	p.want("10.0.2.2 down, 10.0.2.3 up")
	p.check(".x")
	p.want("10.0.2.2 down, 10.0.2.3 up")
	p.check("..")
	p.want("10.0.2.2 up recovered, 10.0.2.3 up")
	p.check(".x")
	p.check(".x")
	p.want("10.0.2.2 up recovered, 10.0.2.3 down")

	// A reload keeps what is known, and counts on.
	p.reload(strings.Replace(twoServers, `"10.0.2.3:25"`, `"10.0.2.4:25", "10.0.2.3:25"`, 1))
	p.want("10.0.2.2 up recovered, 10.0.2.4 up, 10.0.2.3 down")
	p.check("-..")
	p.check("-..")
	p.want("10.0.2.2 up recovered, 10.0.2.4 up, 10.0.2.3 up recovered")

	// Without checks nothing keeps a server down.
	p.check("..x")
	p.check("..x")
	p.reload(strings.Replace(twoServers, "    check: {every: 1s, rise: 2, fall: 2}\n", "", 1))
	p.want("10.0.2.2 up recovered, 10.0.2.3 up recovered")
	w := &control.Watch{}
	p.jobs(w)
	if len(w.Jobs) != 0 {
		t.Errorf("jobs without checks: %+v", w.Jobs)
	}
}

func TestWishes(t *testing.T) {
	p := newPools(t, twoServers)
	p.check("..")
	p.wishFor("mail/10.0.2.2", control.ServerDrain)
	p.want("10.0.2.2 drain, 10.0.2.3 up")
	p.check("x.")
	p.check("x.")
	p.want("10.0.2.2 down, 10.0.2.3 up") // clients that stick to it must go elsewhere
	p.check("..")
	p.check("..")
	p.want("10.0.2.2 drain, 10.0.2.3 up")
	p.wishFor("10.0.2.3:25", control.ServerMaint)
	p.want("10.0.2.2 drain, 10.0.2.3 maint")
	w := &control.Watch{}
	p.jobs(w)
	if len(w.Jobs) != 1 || w.Jobs[0].Probe.Target.String() != "10.0.2.2:25" {
		t.Errorf("a server in maintenance is checked: %+v", w.Jobs)
	}
	p.reload(twoServers)
	p.want("10.0.2.2 drain, 10.0.2.3 maint")
	if err := p.remember(p.dir, p.now); err != nil {
		t.Fatal(err)
	}
	p.start(twoServers)
	p.want("10.0.2.2 drain, 10.0.2.3 maint")
	p.wishFor("10.0.2.2", control.ServerUp)
	p.wishFor("10.0.2.3", control.ServerUp)
	p.want("10.0.2.2 up recovered, 10.0.2.3 up recovered")

	// A server that a configuration does not have is forgotten with what was wished of it.
	p.wishFor("10.0.2.3", control.ServerMaint)
	p.reload(strings.Replace(twoServers, `, "10.0.2.3:25"`, "", 1))
	p.reload(twoServers)
	if s := p.states(); strings.Contains(s, "maint") {
		t.Error(s)
	}
	for word, want := range map[string]string{
		"other/10.0.2.2": "there is no pool other", "mail/10.9.9.9": "there is no server mail/10.9.9.9", "10.9.9.9": "there is no server 10.9.9.9",
	} {
		if _, err := p.find(word); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", word, err)
		}
	}
	p.reload(twoServers + "  more: {servers: [\"10.0.2.2:25\", \"mx.test:25\"]}\n")
	if _, err := p.find("10.0.2.2"); err == nil || !strings.Contains(err.Error(), "mail/10.0.2.2:25, more/10.0.2.2:25") {
		t.Errorf("%v", err)
	}
	if key, err := p.find("MX.test"); err != nil || key.server != "mx.test:25" {
		t.Errorf("%v, %v", key, err)
	}
}

func TestRestartRemembers(t *testing.T) {
	p := newPools(t, twoServers)
	p.check(".x")
	if err := p.remember(p.dir, p.now); err != nil {
		t.Fatal(err)
	}
	p.start(twoServers)
	p.want("10.0.2.2 up, 10.0.2.3 down")
	p.check("x.") // what was known a moment ago counts on
	p.want("10.0.2.2 up, 10.0.2.3 down")
	if err := p.remember(p.dir, p.now); err != nil {
		t.Fatal(err)
	}
	p.now = p.now.Add(time.Hour)
	p.start(twoServers)
	p.want("10.0.2.2 up, 10.0.2.3 down")
	p.check("x.") // what is old is believed until the first check
	p.want("10.0.2.2 down, 10.0.2.3 up recovered")
	if err := os.WriteFile(poolsPath(p.dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := recallServers(p.dir, p.now); err == nil || m == nil {
		t.Errorf("a broken file: %v, %v", m, err)
	}
}

func TestPassive(t *testing.T) {
	p := newPools(t, twoServers)
	p.check("..")
	w := &worker{}
	errors := func(server string, n uint64) {
		p.now = p.now.Add(100 * time.Millisecond)
		p.failures(w, []control.ServerStats{{Pool: "mail", Server: server, Address: netip.MustParseAddrPort(server),
			Errors: map[string]uint64{control.ErrorConnectRefused: n / 2, control.ErrorServerReset: n - n/2, control.ErrorIdle: 100}}}, p.now)
	}
	errors("10.0.2.2:25", 50) // what a worker had counted before it was first heard
	errors("10.0.2.2:25", 52)
	p.want("10.0.2.2 up, 10.0.2.3 up")
	errors("10.0.2.2:25", 53)
	p.want("10.0.2.2 down, 10.0.2.3 up")
	if r := p.all[0].reason; !strings.HasPrefix(r, "its connections fail, until ") {
		t.Error(r)
	}
	p.check("..") // a check that is good does not end it early
	p.want("10.0.2.2 down, 10.0.2.3 up")
	errors("10.0.2.3:25", 0)
	errors("10.0.2.3:25", 9)
	p.want("10.0.2.2 down, 10.0.2.3 up") // the last one stays
	p.now = p.now.Add(31 * time.Second)
	if !p.tick(p.now) {
		t.Error("not over")
	}
	p.want("10.0.2.2 up recovered, 10.0.2.3 up")
	errors("10.0.2.2:25", 60)
	p.want("10.0.2.2 down, 10.0.2.3 up")
	p.wishFor("10.0.2.2", control.ServerUp) // the operator knows better
	p.want("10.0.2.2 up recovered, 10.0.2.3 up")
	p.ended(w)
	if len(p.all[0].seen) != 0 {
		t.Error("a worker that ended is remembered")
	}
}

func TestNamesOfServers(t *testing.T) {
	const text = "listeners: {mail: {listen: [\"10.0.1.1:25\"], pool: mail}}\npools: {mail: {servers: [\"mx.test:25\"], check: {rise: 2, fall: 2}}}\n"
	p := newPools(t, text)
	name := func(err string, addrs ...string) {
		n := &control.Name{Name: "mx.test", Error: err}
		for _, a := range addrs {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
		}
		if news, first := p.learn(n); news {
			p.build(p.now, !first)
		}
	}
	p.want("")
	if !p.unnamed() || !strings.Contains(p.nameless("mx.test"), "not been looked up yet") {
		t.Error("the name is known")
	}
	name("no such name: mx.test")
	if p.unnamed() || p.nameless("mx.test") != "no such name: mx.test" {
		t.Error(p.nameless("mx.test"))
	}
	name("", "10.0.2.2", "10.0.2.3")
	p.want("10.0.2.2 up, 10.0.2.3 up")
	p.check("x.")
	name("", "10.0.2.2", "10.0.2.4", "fd00::2")
	p.want("10.0.2.2 down, 10.0.2.4 up recovered, fd00::2 up recovered")
	name("no answer") // the addresses stay
	p.want("10.0.2.2 down, 10.0.2.4 up recovered, fd00::2 up recovered")
	p.wishFor("mx.test", control.ServerDrain)
	p.want("10.0.2.2 down, 10.0.2.4 drain, fd00::2 drain")
	name("", "10.0.2.5")
	p.want("10.0.2.5 drain")
	p.wishFor("mx.test:25", control.ServerUp)
	if err := p.remember(p.dir, p.now); err != nil {
		t.Fatal(err)
	}
	p.start(text) // the addresses are there before DNS answers
	p.want("10.0.2.5 up")
	w := &control.Watch{}
	p.jobs(w)
	if len(w.Names) != 1 || len(w.Jobs) != 1 || w.Jobs[0].ID != "pool/mail/mx.test:25/10.0.2.5:25" {
		t.Errorf("%+v", w)
	}
}
