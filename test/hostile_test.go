package test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"salp/internal/admin"
	"salp/internal/lab"
)

// firewall is a strict host firewall that knows nothing of Salp: it drops by default and drops what is invalid first. It accepts on
// input the servers' ports, because what is taken in is delivered locally.
const firewall = `table inet fw {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state invalid counter drop
		ct state established,related accept
		iifname "lo" accept
		meta l4proto ipv6-icmp accept
		iifname "g0" tcp dport { 80-90, 61440-61450 } accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state invalid counter drop
		ct state established,related accept
		iifname "g0" oifname "g1" tcp dport 80-90 accept
	}
	chain output {
		type filter hook output priority filter; policy drop;
		ct state invalid counter drop
		meta l4proto ipv6-icmp accept
		ct state established,related,new accept
	}
}
`

// settings are what other software sets on machines like this, each of which breaks the usual recipes for TPROXY.
var settings = []struct {
	name    string
	prepare func(r *rig)
}{
	{"nothing", func(*rig) {}},
	{"src_valid_mark", func(r *rig) { r.sysctls("net/ipv4/conf/all/src_valid_mark", "1") }},
	{"strict rp_filter", strictReversePath},
	{"src_valid_mark and strict rp_filter", func(r *rig) {
		strictReversePath(r)
		r.sysctls("net/ipv4/conf/all/src_valid_mark", "1")
	}},
	{"tcp_fwmark_accept", func(r *rig) { r.sysctls("net/ipv4/tcp_fwmark_accept", "1") }},
	{"fwmark_reflect", func(r *rig) {
		r.sysctls("net/ipv4/fwmark_reflect", "1", "net/ipv6/fwmark_reflect", "1")
	}},
	{"SYN cookies forced", func(r *rig) { r.sysctls("net/ipv4/tcp_syncookies", "2") }},
	{"no early demux", func(r *rig) { r.sysctls("net/ipv4/ip_early_demux", "0") }},
	{"default-drop firewall", func(r *rig) { r.nft(firewall) }},
	{"all at once", func(r *rig) {
		strictReversePath(r)
		r.sysctls("net/ipv4/conf/all/src_valid_mark", "1", "net/ipv4/tcp_fwmark_accept", "1", "net/ipv4/tcp_syncookies", "2")
		r.nft(firewall)
	}},
}

func strictReversePath(r *rig) {
	r.sysctls("net/ipv4/conf/all/rp_filter", "1", "net/ipv4/conf/g0/rp_filter", "1", "net/ipv4/conf/g1/rp_filter", "1")
}

// sysctls sets values of the gateway: name, value, name, value …
func (r *rig) sysctls(pairs ...string) {
	r.Helper()
	for i := 0; i < len(pairs); i += 2 {
		r.must(r.net.Gateway.Sysctl(pairs[i], pairs[i+1]))
	}
}

// TestHostileSettings has every mode carry a request and a bulk echo under settings that others make.
func TestHostileSettings(t *testing.T) {
	for _, setting := range settings {
		t.Run(setting.name, func(t *testing.T) {
			r := newRig(t, 1)
			setting.prepare(r)
			r.serve(portTell, lab.Tell)
			for _, name := range []string{"inbound", "inbound-redirect", "outbound-keep", "full-any", "full-keep"} {
				m := modeNamed(name)
				s := r.start(m.config(portTell))
				for _, f := range families {
					v, seen := r.tell(m.to(f, portTell))
					m.wantSeen(r, f, lab.Local(v.conn), seen, portTell)
					if err := v.bulk(2 << 20); err != nil {
						r.Errorf("%s, %s, echo of 2 MiB: %v", name, f.name, err)
					}
				}
				s.stop()
			}
			if setting.name == "default-drop firewall" || setting.name == "all at once" {
				r.wantNothingInvalid()
			}
		})
	}
}

// TestBehindMasquerade has the host masquerade towards the servers, beside a strict firewall: they see the host, and every mode works.
func TestBehindMasquerade(t *testing.T) {
	r := newRig(t, 1)
	strictReversePath(r)
	r.nft(firewall)
	r.nft("table inet theirs {\n\tchain post { type nat hook postrouting priority srcnat; policy accept; oifname \"g1\" masquerade; }\n}\n")
	r.serve(portTell, lab.Tell)
	for _, name := range []string{"inbound", "inbound-redirect", "outbound-keep", "full-any", "full-keep"} {
		m := modeNamed(name)
		s := r.start(m.config(portTell))
		for i, f := range families {
			for range 20 {
				v, seen := r.tell(m.to(f, portTell))
				if host := []string{"10.0.2.1", "fd00:2::1"}[i]; seen.From.Addr().String() != host {
					r.Errorf("%s, %s: the server saw %v, not %s", name, f.name, seen.From, host)
				}
				v.conn.Close()
			}
			v, _ := r.tell(m.to(f, portTell))
			if err := v.bulk(4 << 20); err != nil {
				r.Errorf("%s, %s, echo of 4 MiB: %v", name, f.name, err)
			}
		}
		s.stop()
	}
	r.wantNothingInvalid()
}

// wantNothingInvalid wants the firewall's counters of invalid packets to be zero: conntrack understood both halves.
func (r *rig) wantNothingInvalid() {
	r.Helper()
	for l := range strings.Lines(r.gw("nft", "list", "table", "inet", "fw")) {
		if strings.Contains(l, "invalid") && !strings.Contains(l, "packets 0 ") {
			r.Errorf("the firewall called packets invalid: %s", strings.TrimSpace(l))
		}
	}
}

// bulk sends n bytes to an echoing server, reads them back at the same time, checks each, and ends the connection.
func (v *conversation) bulk(n int64) error {
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(v.conn, lab.Pattern(n))
		if err == nil {
			err = v.conn.CloseWrite()
		}
		sent <- err
	}()
	got, err := lab.CheckPattern(v.read)
	if err == nil && got != n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		v.conn.Close()
		<-sent
		return err
	}
	return <-sent
}

// foreign is what other programs have in the kernel: a table on the same hooks that uses other bits of both marks, and rules, one of
// them with Salp's own priority.
const foreign = `table inet foreign {
	set seen { type ipv4_addr; flags timeout; timeout 1h; }
	chain pre {
		type filter hook prerouting priority mangle; policy accept;
		meta mark set meta mark or 0x00000100
		ct mark set ct mark or 0x00000200
		counter
	}
	chain out {
		type route hook output priority mangle; policy accept;
		meta mark set meta mark or 0x00000400
	}
}
table ip nat2 {
	chain post { type nat hook postrouting priority srcnat; policy accept; ip daddr 192.0.2.1 masquerade; }
}
`

func (r *rig) addForeign() {
	r.Helper()
	r.nft(foreign)
	r.gw("ip", "rule", "add", "priority", "810", "to", "198.51.100.0/24", "lookup", "77")
	r.gw("ip", "rule", "add", "priority", "500", "fwmark", "0x100/0x100", "lookup", "78", "protocol", "99")
	r.gw("ip", "-6", "rule", "add", "priority", "810", "to", "2001:db8::/32", "lookup", "77")
	r.gw("ip", "route", "add", "198.51.100.0/24", "via", "10.0.2.2", "table", "77", "protocol", "static")
	r.gw("ip", "-6", "route", "add", "2001:db8::/32", "via", "fd00:2::2", "table", "77")
}

// TestForeignStateStays has Salp run beside other programs' tables, rules and routes, which must stay as they are, byte for byte,
// while it runs and after; and both must work.
func TestForeignStateStays(t *testing.T) {
	r := newRig(t, 1)
	r.serve(portTell, lab.Tell)
	r.addForeign()
	foreignNow := func() string {
		return r.gw("nft", "-a", "-s", "list", "table", "inet", "foreign") + r.gw("nft", "-a", "-s", "list", "table", "ip", "nat2") +
			r.gw("ip", "-d", "rule", "list", "lookup", "77") + r.gw("ip", "-d", "rule", "list", "lookup", "78") + r.gw("ip", "-6", "-d", "rule", "list", "lookup", "77") +
			r.gw("ip", "-d", "route", "show", "table", "77") + r.gw("ip", "-6", "-d", "route", "show", "table", "77")
	}
	before, theirs := r.look(), foreignNow()
	m := modeNamed("full-keep")
	s := r.start(m.config(portTell))
	for _, f := range families {
		v, seen := r.tell(m.to(f, portTell))
		m.wantSeen(r, f, lab.Local(v.conn), seen, portTell)
		r.must(v.bulk(1 << 20))
	}
	if now := foreignNow(); now != theirs {
		r.Errorf("what others have was\n%s\nand is\n%s", theirs, now)
	}
	s.stop()
	r.wantAsBefore(before)
}

// TestOddSettingsComeBack starts from settings that the kernel changes by itself when forwarding is switched.
func TestOddSettingsComeBack(t *testing.T) {
	for _, odd := range []struct {
		name  string
		pairs []string
	}{
		{"redirects refused", []string{"net/ipv4/conf/all/accept_redirects", "0", "net/ipv4/conf/g1/accept_redirects", "0"}},
		{"one interface forwards", []string{"net/ipv4/conf/g1/forwarding", "1", "net/ipv6/conf/g1/forwarding", "1"}},
		{"forwards already", []string{"net/ipv4/ip_forward", "1", "net/ipv6/conf/all/forwarding", "1"}},
		{"forwards but for one interface", []string{
			"net/ipv4/ip_forward", "1", "net/ipv6/conf/all/forwarding", "1", "net/ipv4/conf/g1/forwarding", "0", "net/ipv6/conf/g1/forwarding", "0"}},
	} {
		t.Run(odd.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.serve(portTell, lab.Tell)
			r.sysctls(odd.pairs...)
			before := r.look()
			s := r.start(modeNamed("inbound").config(portTell))
			r.tell(at("10.0.2.2", portTell))
			s.stop()
			r.wantAsBefore(before)
		})
	}
}

// TestOthersFlush has another program flush the whole ruleset, and delete rules and routes, under traffic: no connection may fail, what is
// Salp's and flushable must be back within a second, and the repair must be told.
func TestOthersFlush(t *testing.T) {
	for _, onFailure := range []string{"open", "closed"} {
		t.Run(onFailure, func(t *testing.T) {
			r := newRig(t, 1)
			r.serve(portTell, lab.Tell)
			m := modeNamed("inbound")
			m.more = "    on_failure: " + onFailure + "\n"
			s := r.start(m.config(portTell))
			held, _ := r.tell(at("10.0.2.2", portTell))
			load := r.load(m.to(families[0], portTell))
			r.gw("nft", "flush", "ruleset")
			held.exchange("after the flush")
			s.await("repaired", func(st *admin.Status) bool { return st.Kernel.InSync })
			held.exchange("still there")
			load.finish()

			r.gw("ip", "rule", "flush", "protocol", "kernel", "priority", "810")
			start := time.Now()
			s.awaitRules()
			if took := time.Since(start); took > slowdown*time.Second {
				r.Errorf("repairing the ip rules took %v", took)
			}
			r.gw("ip", "route", "flush", "table", "8110")
			s.awaitRules()
			if v, seen := r.tell(at("10.0.2.2", portTell)); seen.From == lab.Local(v.conn) {
				r.Error("after the repair a connection passed by")
			}
			st := s.await("told of repairs", func(st *admin.Status) bool { return len(st.Kernel.Repairs) > 0 })
			r.Logf("repairs: %+v", st.Kernel.Repairs)
		})
	}
}

// awaitRules waits until each family has its rule for g0 and its route.
func (s *salp) awaitRules() {
	s.r.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		good := false
		s.r.must(s.r.net.Gateway.Do(func() (err error) {
			good, err = rulesAreThere()
			return err
		}))
		if good {
			return
		}
	}
	s.r.Fatal("rules or routes that another program deleted do not come back")
}

func rulesAreThere() (bool, error) {
	for _, family := range []int{nl.FAMILY_V4, nl.FAMILY_V6} {
		rules, err := netlink.RuleList(family)
		if err != nil {
			return false, err
		}
		if !slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.IifName == "g0" && r.Table == 8110 }) {
			return false, nil
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: 8110}, netlink.RT_FILTER_TABLE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return false, err
		}
		if len(routes) != 1 {
			return false, nil
		}
	}
	return true, nil
}

// load connects again and again until finish.
type load struct {
	r       *rig
	stop    chan struct{}
	ended   sync.WaitGroup
	mu      sync.Mutex
	through int
	direct  int
	slowest time.Duration
	errs    []error
}

func (r *rig) load(to string) *load {
	l := &load{r: r, stop: make(chan struct{})}
	for range 2 {
		l.ended.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				case <-time.After(2 * time.Millisecond):
					l.one(to)
				}
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	return l
}

func (l *load) one(to string) {
	start := time.Now()
	direct, err := l.r.probe(to, 4*time.Second)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slowest = max(l.slowest, time.Since(start))
	switch {
	case err != nil:
		l.errs = append(l.errs, err)
	case direct:
		l.direct++
	default:
		l.through++
	}
}

func (l *load) end() {
	l.r.Helper()
	time.Sleep(200 * time.Millisecond)
	close(l.stop)
	l.ended.Wait()
	l.r.Logf("load: %d connections through Salp, %d direct, %d failed, the slowest took %v", l.through, l.direct, len(l.errs), l.slowest)
	if l.through+l.direct == 0 {
		l.r.Error("no connection was made")
	}
}

// finish ends the load and wants no connection to have failed or to have passed Salp by.
func (l *load) finish() {
	l.r.Helper()
	l.end()
	if len(l.errs) > 0 {
		l.r.Errorf("%d of %d connections failed, the first with: %v", len(l.errs), l.through+l.direct+len(l.errs), l.errs[0])
	}
	if l.through == 0 || l.direct > 0 {
		l.r.Errorf("%d connections passed Salp by", l.direct)
	}
}

// mayLose ends the load and wants at most so many connections to have failed, and none to have taken longer.
func (l *load) mayLose(most int, bound time.Duration) {
	l.r.Helper()
	l.end()
	if len(l.errs) > most {
		l.r.Errorf("%d connections failed, at most %d may; the first with: %v", len(l.errs), most, l.errs[0])
	}
	if l.slowest > bound {
		l.r.Errorf("a connection took %v", l.slowest)
	}
}
