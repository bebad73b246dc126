package test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// checkedLinks is two links with checks of virtua alone.
func checkedLinks(check string) string {
	return strings.Replace(plainLinks("  spread: flow\n", ""), "weight: 2}", "weight: 2, check: {"+check+"}}", 1)
}

// probed waits until virtua has been probed and is up.
func (s *salp) probed() {
	s.r.Helper()
	s.await("probed", func(st *admin.Status) bool {
		return serves(st) && linkStates(st) == bothUp && st.Links[0].Checked
	})
}

// TestLinkProbes has every kind of probe, by both families, find that its target alone cannot be reached through the link, though it can by the
// other, which is the host's default route.
func TestLinkProbes(t *testing.T) {
	o := newOffice(t, 1)
	dns, err := o.net.Internet.ServeDNS("203.0.113.15:53")
	o.must(err)
	dns6, err := o.net.Internet.ServeDNS("[2001:db8:80::15]:53")
	o.must(err)
	_, err = o.net.Internet.Serve("[::]:8081", lab.HTTP(10))
	o.must(err)
	o.run(o.net.Gateway, "ip route replace default via 198.51.100.1")
	o.run(o.net.Gateway, "ip -6 route replace default via 2001:db8:2::1")
	s := o.start(checkedLinks(`ping: [203.0.113.12, "2001:db8:80::12"], tcp: ["203.0.113.13:80", "[2001:db8:80::13]:80"],
    http: ["http://203.0.113.14:8081/x", "http://[2001:db8:80::14]:8081/x"], dns: [203.0.113.15, "2001:db8:80::15"], dns_name: any.example,
    quorum: 8, every: 200ms, fall: 2, rise: 1, damping: 0`))
	s.probed()
	if st, _ := s.status(); len(st.Links[0].Targets) != 8 || st.Links[0].RTT == 0 || st.Links[0].Loss != 0 {
		t.Errorf("%+v", st.Links[0])
	}
	for i, what := range []string{"ping ", "tcp ", "http ", "dns "} {
		for _, f := range paths {
			host := fmt.Sprint(f.server, 12+i)
			family := map[string]string{"IPv4": "-4", "IPv6": "-6"}[f.name]
			o.run(o.net.Providers[0], "ip "+family+" route add blackhole "+host)
			st := s.await("without "+what+host, func(st *admin.Status) bool { return linkStates(st) == "virtua down, embratel up" })
			if !strings.Contains(st.Links[0].Reason, "7 of 8 targets answer, 8 must") {
				t.Error(st.Links[0].Reason)
			}
			for _, target := range st.Links[0].Targets {
				if of := strings.HasPrefix(target.Name, what) && strings.Contains(target.Name, host); of != (target.Error != "") {
					t.Errorf("%s%s is dead, and of %s: %q", what, host, target.Name, target.Error)
				}
			}
			o.run(o.net.Providers[0], "ip "+family+" route del blackhole "+host)
			s.awaitLinks(bothUp)
		}
	}
	if dns.Queries() == 0 || dns6.Queries() == 0 {
		t.Error("no name server was asked")
	}
	dns.Fail(2) // SERVFAIL is no answer
	s.awaitLinks("virtua down, embratel up")
}

// TestLinkLossAndLatency takes a link down that loses half of the probes, none of them thrice in a row, and one whose probes take long.
func TestLinkLossAndLatency(t *testing.T) {
	o := newOffice(t, 1)
	delay := o.slowServer("[::]:8081", 0)
	s := o.start(strings.Replace(checkedLinks("ping: [203.0.113.12], every: 100ms, fall: 3, rise: 2, window: 12, loss: 30%, damping: 0"), "weight: 1}",
		"weight: 1, check: {http: [\"http://203.0.113.14:8081/\"], every: 300ms, timeout: 250ms, fall: 2, rise: 2, window: 4, latency: 80ms, damping: 0}}", 1))
	s.checked()
	o.must(writeFile(o.dir+"/lossy.nft", "table ip lossy { chain c { type filter hook forward priority 0; iifname \"c0\" icmp type echo-request numgen inc mod 2 == 0 drop; }; }\n"))
	o.run(o.net.Providers[0], "nft -f "+o.dir+"/lossy.nft")
	st := s.awaitLinks("virtua down, embratel up")
	if !strings.Contains(st.Links[0].Reason, "% of the last") || !strings.Contains(st.Links[0].Reason, "were lost, more than 30 %") {
		t.Error(st.Links[0].Reason)
	}
	o.run(o.net.Providers[0], "nft delete table ip lossy")
	s.awaitLinks(bothUp)
	delay.Store(int64(150 * time.Millisecond))
	st = s.awaitLinks("virtua up, embratel down")
	if !strings.Contains(st.Links[1].Reason, "on average, more than 80ms") {
		t.Error(st.Links[1].Reason)
	}
	delay.Store(0)
	s.awaitLinks(bothUp)
}

// TestLinkDamping has a provider come and go: after the fourth time its link stays down until it has been good for a fifth of the time.
func TestLinkDamping(t *testing.T) {
	o := newOffice(t, 1)
	provider := o.net.Providers[0]
	const hold = 2 * time.Second
	s := o.start(checkedLinks("ping: [203.0.113.12], every: 100ms, fall: 1, rise: 1, damping: 10s"))
	s.probed()
	for i := range 4 {
		o.run(provider, "ip route add blackhole 203.0.113.12")
		s.awaitLinks("virtua down, embratel up")
		back := time.Now()
		o.run(provider, "ip route del blackhole 203.0.113.12")
		if i == 3 {
			st := s.await("held down", func(st *admin.Status) bool { return st.Links[0].Flapping && st.Links[0].Targets[0].Error == "" })
			if linkStates(st) != "virtua down, embratel up" {
				t.Errorf("after going down four times: %s", linkStates(st))
			}
		}
		s.awaitLinks(bothUp)
		if took := time.Since(back); i == 3 && (took < hold-200*time.Millisecond || took > slowdown*(hold+time.Second)) || i < 3 && took > slowdown*hold/2 {
			t.Errorf("time %d: up again after %v", i+1, took)
		}
	}
	if st, _ := s.status(); len(st.Links[0].History) != 8 || st.Links[0].Downs != 4 {
		t.Errorf("%+v", st.Links[0])
	}
}

// TestLinkAdapts has the weight of a link follow its load: what is under a heavy load gets fewer new flows, never fewer than a quarter of its share.
func TestLinkAdapts(t *testing.T) {
	o := newOffice(t, 4)
	_, err := o.net.Internet.Serve("[::]:8082", lab.Sink)
	o.must(err)
	file := strings.NewReplacer("weight: 2}", "bandwidth: 20Mbit, adapt: load}", "weight: 1}", "bandwidth: 20Mbit}").Replace(plainLinks("  spread: flow\n  rules: [{ports: [8082], link: virtua}]\n", ""))
	s := o.start(file)
	st := s.awaitLinks(bothUp)
	if st.Links[0].Share != 0.5 {
		t.Errorf("share %v", st.Links[0].Share)
	}
	o.run(o.net.Gateway, "tc qdisc add dev wan1 root tbf rate 19mbit burst 20000 limit 100000")
	c, err := o.net.Client.Dial("203.0.113.13:8082")
	o.must(err)
	defer c.Close()
	go func() { _, _ = c.ReadFrom(lab.Pattern(1 << 40)) }()
	st = s.await("giving virtua less", func(st *admin.Status) bool { return serves(st) && st.Links[0].Share < 0.25 })
	if share := st.Links[0].Share; share < 0.19 {
		t.Errorf("share %v, and a quarter of the weight is the least", share)
	}
	counts := o.spread(400, func(i int) string { return fmt.Sprintf("203.0.113.%d:80", 13+i%10) })
	if counts["virtua"]+counts["embratel"] != 400 || counts["virtua"] > 130 || counts["virtua"] < 45 {
		t.Errorf("400 flows: %v", counts)
	}
}

// TestLinkAdaptsToLatency has the weight of a link follow how long its probes take, in both directions.
func TestLinkAdaptsToLatency(t *testing.T) {
	o := newOffice(t, 4)
	delay := o.slowServer("[::]:8081", 10*time.Millisecond)
	s := o.start(strings.NewReplacer("weight: 2}", `weight: 1, adapt: latency, check: {http: ["http://203.0.113.14:8081/"], every: 500ms, timeout: 450ms, window: 4}}`).
		Replace(plainLinks("  spread: flow\n", "")))
	s.awaitLinks(bothUp)
	s.await("probed", func(st *admin.Status) bool { return serves(st) && st.Links[0].RTT > 0 && st.Links[0].Share == 0.5 })
	delay.Store(int64(300 * time.Millisecond))
	st := s.await("giving virtua less", func(st *admin.Status) bool { return serves(st) && st.Links[0].Share < 0.3 })
	if share := st.Links[0].Share; share < 0.19 {
		t.Errorf("share %v, and a quarter of the weight is the least", share)
	}
	counts := o.spread(400, func(i int) string { return fmt.Sprintf("203.0.113.%d:80", 13+i%10) })
	if counts["virtua"]+counts["embratel"] != 400 || counts["virtua"] > 150 || counts["virtua"] < 45 {
		t.Errorf("400 flows: %v", counts)
	}
	delay.Store(int64(10 * time.Millisecond))
	s.await("giving virtua its share again", func(st *admin.Status) bool { return serves(st) && st.Links[0].Share > 0.4 })
}

// slowServer answers HTTP on the Internet, each request after the time that it returns.
func (o *office) slowServer(address string, first time.Duration) *atomic.Int64 {
	o.Helper()
	delay := new(atomic.Int64)
	delay.Store(int64(first))
	_, err := o.net.Internet.Serve(address, func(c *net.TCPConn) {
		_, _ = bufio.NewReader(c).ReadString('\n')
		time.Sleep(time.Duration(delay.Load()))
		fmt.Fprint(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	})
	o.must(err)
	return delay
}
