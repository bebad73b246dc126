package test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/kernel/conntrack"
	"salp/internal/lab"
)

// held is a flow that lasts, and the link that it took when it began.
type held struct {
	tcp *net.TCPConn
	udp *net.UDPConn
	id  uint32
	by  string
}

// hold opens so many TCP connections and UDP flows from the client and leaves them open.
func (o *office) hold(f int, tcp, udp int, c *catcher) []*held {
	o.Helper()
	var all []*held
	for i := range tcp {
		conn, err := o.net.Client.Dial(net.JoinHostPort(paths[f].server+strconv.Itoa(10+i%20), "80"))
		o.must(err)
		o.Cleanup(func() { conn.Close() })
		o.must(conn.SetDeadline(time.Now().Add(2 * patience)))
		line := make([]byte, 200)
		n, err := conn.Read(line)
		o.must(err)
		seen, err := lab.ParseTold(strings.TrimSpace(string(line[:n])))
		o.must(err)
		all = append(all, &held{tcp: conn, by: linkOf(seen.From.Addr())})
	}
	for i := range udp {
		h := &held{id: uint32(1000*f + i)}
		o.must(o.net.Client.Do(func() (err error) {
			conn, err := net.Dial("udp", net.JoinHostPort(paths[f].server+"10", "7777"))
			if err == nil {
				h.udp = conn.(*net.UDPConn)
			}
			return err
		}))
		o.Cleanup(func() { h.udp.Close() })
		h.by = h.ask(o, c)
		all = append(all, h)
	}
	return all
}

// ask sends a packet on a UDP flow and says by which link it came.
func (h *held) ask(o *office, c *catcher) string {
	o.Helper()
	c.mu.Lock()
	delete(c.by, h.id)
	c.mu.Unlock()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		_, _ = h.udp.Write(binary.BigEndian.AppendUint32(nil, h.id))
		for range 20 {
			if by, ok := c.seen()[h.id]; ok {
				return by
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return "nowhere"
}

// works says that a TCP connection carries a byte there and back within a while.
func (h *held) works(within time.Duration) error {
	_ = h.tcp.SetDeadline(time.Now().Add(within))
	if _, err := h.tcp.Write([]byte{'x'}); err != nil {
		return err
	}
	_, err := io.ReadFull(h.tcp, make([]byte, 1))
	return err
}

// TestLinkGoesDown takes a link down under TCP and UDP flows. With reset its own TCP connections are reset at their next byte and its UDP flows
// go on by the other link, with keep they stay; those of the other link never notice, neither then nor when the first is back.
func TestLinkGoesDown(t *testing.T) {
	for _, what := range []string{"reset", "keep"} {
		t.Run(what, func(t *testing.T) {
			o := newOffice(t, 1)
			o.bcp38()
			s := o.start(plainLinks("  spread: flow\n  on_link_down: "+what+"\n", ""))
			c := o.catch(o.net.Internet, "[::]:7777")
			o.goesDown(s, what, c, o.holdBoth(24, 12, c))
		})
	}
}

// holdBoth holds so many flows of each family.
func (o *office) holdBoth(tcp, udp int, c *catcher) (flows []*held) {
	for f := range paths {
		flows = append(flows, o.hold(f, tcp, udp, c)...)
	}
	return flows
}

// goesDown takes virtua down under flows, and lets it come back.
func (o *office) goesDown(s *salp, what string, c *catcher, flows []*held) {
	t := o.T
	t.Helper()
	s.setLink("virtua", "down")
	if what == "reset" {
		for end := time.Now().Add(patience); time.Now().Before(end) && !strings.Contains(s.log.String(), "flows of the link are forgotten"); time.Sleep(5 * time.Millisecond) {
		}
	}
	n := map[string]int{}
	for _, h := range flows {
		switch {
		case h.udp != nil && what == "reset" && h.by == "virtua":
			n["UDP moved"]++
			if by := h.ask(o, c); by != "embratel" {
				t.Errorf("a UDP flow of the lost link goes by %s", by)
			}
		case h.udp != nil:
			n["UDP stays"]++
			if by := h.ask(o, c); by != h.by {
				t.Errorf("a UDP flow of %s goes by %s", h.by, by)
			}
		case what == "reset" && h.by == "virtua":
			n["TCP reset"]++
			began := time.Now()
			if err := h.works(patience); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("a TCP connection of the lost link: %v", err)
			} else if took := time.Since(began); took > slowdown*time.Second {
				t.Errorf("reset after %v", took)
			}
			h.by = ""
		default:
			n["TCP stays"]++
			if err := h.works(patience); err != nil {
				t.Errorf("a TCP connection of %s: %v", h.by, err)
			}
		}
	}
	t.Log(n)
	if counts := o.spread(20, func(i int) string { return fmt.Sprintf("203.0.113.%d:80", 10+i) }); counts["embratel"] != 20 {
		t.Errorf("new flows: %v", counts)
	}
	s.setLink("virtua", "ready")
	for _, h := range flows {
		if h.tcp != nil && h.by != "" {
			if err := h.works(patience); err != nil {
				t.Errorf("virtua is back, and a connection of %s: %v", h.by, err)
			}
		}
	}
	if n := o.foreign(); n != 0 {
		t.Errorf("the providers had to drop %d packets", n)
	}
}

// TestLinkPinsAndForwards: rules, what leaves by which address, port forwards on both links, from inside too, and this host's own traffic.
func TestLinkPinsAndForwards(t *testing.T) {
	o := newOffice(t, 2)
	o.bcp38()
	reverse("1")(o)
	s := o.start(strings.Replace(plainLinks(`  spread: flow
  rules:
    - {ports: [25], link: embratel}
    - {to: [203.0.113.80, "2001:db8:80::80"], link: embratel}
    - {from: [10.1.0.101, "fd00:1::101"], link: [embratel, virtua]}
    - {to: [203.0.113.29, "2001:db8:80::29"], link: blackhole}
    - {to: [203.0.113.28, "2001:db8:80::28"], link: virtua, strict: true}
`, `forward:
  - {port: 8080, protocol: [tcp, udp], to: "10.1.0.10:80"}
  - {port: 8080, protocol: [tcp, udp], to: "[fd00:1::10]:80"}
`), "weight: 1}", "weight: 1, masquerade: [198.51.100.99, \"2001:db8:2::99\"]}", 1))
	o.must(o.net.Gateway.Addr("wan2", "198.51.100.99/32", "2001:db8:2::99/128")) // somebody must answer for it
	_, err := o.net.Web.Serve("[::]:80", lab.Tell)
	o.must(err)
	udp := o.catch(o.net.Web, "[::]:80")
	for _, f := range paths {
		at := func(host, port string) string { return net.JoinHostPort(f.server+host, port) }
		for range 10 {
			for to, source := range map[string]string{at("10", "25"): "", at("80", "80"): "", at("11", "80"): f.client + "101"} {
				if by := o.by(o.net.Client, source, to); by != "embratel" {
					t.Errorf("%s from %q by %s", to, source, by)
				}
			}
		}
		if c, err := o.net.Client.DialWith(at("29", "80"), lab.DialOptions{Timeout: 300 * time.Millisecond, From: netip.AddrPortFrom(netip.MustParseAddr(f.client+"100"), 0)}); err == nil {
			c.Close()
			t.Error("blackhole: connected")
		}
		wantMasquerade(o, at("80", "80"), []string{"198.51.100.99", "2001:db8:2::99"})
		for i, own := range f.own {
			// From outside: the server sees the asker, whatever the default route says.
			if seen := o.told(o.net.Internet, f.server+"10", net.JoinHostPort(own, "8080")); seen != f.server+"10" {
				t.Errorf("%s port 8080 from outside: the server saw %s", own, seen)
			}
			// From inside: by the gateway, as the server would answer directly.
			if seen := o.told(o.net.Client, f.client+"100", net.JoinHostPort(own, "8080")); seen != f.gateway {
				t.Errorf("%s port 8080 from inside: the server saw %s", own, seen)
			}
			o.forwardsUDP(udp, f.server+"11", own, uint32(100+10*i))
			// This host's own sockets: bound ones stay.
			link := []string{"virtua", "embratel"}[i]
			for range 5 {
				if by := o.by(o.net.Gateway, own, at("12", "80")); by != link {
					t.Errorf("bound to %s: by %s", own, by)
				}
			}
		}
		counts := map[string]int{}
		for i := range 60 {
			counts[o.by(o.net.Gateway, "", at(strconv.Itoa(10+i%18), "80"))]++
		}
		if counts["virtua"]+counts["embratel"] != 60 || counts["virtua"] < 28 || counts["embratel"] < 8 {
			t.Errorf("this host's own, unbound: %v", counts)
		}
		if by := o.by(o.net.Gateway, "", at("80", "80")); by != "embratel" {
			t.Errorf("this host's own, pinned: by %s", by)
		}
	}
	if n := o.foreign() + o.counter("leaked-virtua") + o.counter("leaked-embratel"); n != 0 || o.counter("dropped") == 0 {
		t.Errorf("%d packets had a foreign source, %d were dropped", n, o.counter("dropped"))
	}
	s.setLink("virtua", "down")
	for _, f := range paths {
		began := time.Now()
		if by := o.by(o.net.Client, f.client+"100", net.JoinHostPort(f.server+"28", "80")); !strings.Contains(by, "refused") || time.Since(began) > 2*slowdown*time.Second {
			t.Errorf("strict, link down: %s after %v", by, time.Since(began))
		}
	}
	s.setLink("embratel", "down")
	counts := o.spread(30, func(i int) string { return fmt.Sprintf("203.0.113.%d:80", 10+i%18) }) // last_resort: all
	if counts["virtua"]+counts["embratel"] != 30 {
		t.Errorf("all down, the last resort: %v", counts)
	}
}

// told connects and returns whom the server saw.
func (o *office) told(from *lab.Host, source, to string) string {
	o.Helper()
	c, err := from.DialWith(to, lab.DialOptions{Timeout: 3 * time.Second, From: netip.AddrPortFrom(netip.MustParseAddr(source), 0)})
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	line := make([]byte, 200)
	n, err := c.Read(line)
	if err != nil {
		return err.Error()
	}
	seen, err := lab.ParseTold(strings.TrimSpace(string(line[:n])))
	o.must(err)
	return seen.From.Addr().String()
}

func wantMasquerade(o *office, to string, addresses []string) {
	o.Helper()
	for range 3 {
		source := "10.1.0.100"
		if strings.Contains(to, "[") {
			source = "fd00:1::100"
		}
		if seen := o.told(o.net.Client, source, to); !strings.Contains(strings.Join(addresses, " "), seen) {
			o.Errorf("%s saw %s, want one of %v", to, seen, addresses)
		}
	}
}

// forwardsUDP asks the inside server by a link's address from outside, and wants the answer from that address.
func (o *office) forwardsUDP(c *catcher, from, link string, id uint32) {
	o.Helper()
	var conn net.Conn
	o.must(o.net.Internet.Do(func() (err error) {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
		conn, err = d.Dial("udp", net.JoinHostPort(link, "8080"))
		return err
	}))
	defer conn.Close()
	for range 5 {
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write(binary.BigEndian.AppendUint32(nil, id))
		if n, err := conn.Read(make([]byte, 100)); err == nil && n == 4 {
			c.mu.Lock()
			defer c.mu.Unlock()
			if seen := c.from[id].Addr().String(); seen != from {
				o.Errorf("UDP to %s: the server saw %s", link, seen)
			}
			return
		}
	}
	o.Errorf("UDP to %s from outside: no answer", link)
}

// TestLinkGuard has conntrack forget flows while it does not pick up what it does not know: their packets are invalid, are not masqueraded,
// and must not leave.
func TestLinkGuard(t *testing.T) {
	o := newOffice(t, 1)
	o.bcp38()
	s := o.start(plainLinks("  spread: flow\n", ""))
	var flows []*held
	for f := range paths {
		flows = append(flows, o.hold(f, 20, 0, nil)...)
	}
	o.sysctls("net/netfilter/nf_conntrack_tcp_loose", "0")
	var c *conntrack.Conn
	o.must(o.net.Gateway.Do(func() (err error) { c, err = conntrack.Open(); return err }))
	defer c.Close()
	n, err := c.Flush(0x0f000000)
	if err != nil || n < len(flows) {
		t.Fatalf("forgot %d, %v", n, err)
	}
	for _, h := range flows {
		_ = h.tcp.SetDeadline(time.Now().Add(300 * time.Millisecond))
		_, _ = h.tcp.Write(make([]byte, 5000))
	}
	leaked := 0
	for end := time.Now().Add(patience); time.Now().Before(end) && leaked < 2*len(flows); time.Sleep(20 * time.Millisecond) {
		leaked = o.counter("leaked-virtua") + o.counter("leaked-embratel")
	}
	if foreign := o.foreign(); foreign != 0 || leaked < 2*len(flows) {
		t.Errorf("kept from leaving: %d; the providers had to drop %d", leaked, foreign)
	}
	t.Logf("%d packets were kept from leaving with an inside source", leaked)
	st, err := s.status()
	o.must(err)
	if int(st.Links[0].Leaked+st.Links[1].Leaked) < leaked {
		t.Errorf("status tells of %d and %d", st.Links[0].Leaked, st.Links[1].Leaked)
	}
	if out, _ := o.command("link", "--run-dir", s.dir); !strings.Contains(out, "packets dropped whose source is not the link's") {
		t.Error(out)
	}
}

// TestLinkNPT exchanges the inside prefix for the provider's, host part kept.
func TestLinkNPT(t *testing.T) {
	o := newOffice(t, 20)
	o.must(o.net.Internet.Route("2001:db8:a::/64", "2001:db8:ff1::2"))
	o.must(o.net.Providers[0].Route("2001:db8:a::/64", "2001:db8:1::10"))
	o.start(strings.Replace(plainLinks("  spread: flow\n  default: virtua\n", ""), "weight: 2}", "weight: 2, npt: \"2001:db8:a::/64\"}", 1))
	for i := 100; i < 120; i++ {
		if seen := o.told(o.net.Client, fmt.Sprintf("fd00:1::%d", i), "[2001:db8:80::10]:80"); seen != fmt.Sprintf("2001:db8:a::%d", i) {
			t.Errorf("the server saw %s", seen)
		}
	}
	if seen := o.told(o.net.Client, "10.1.0.105", "203.0.113.10:80"); seen != "192.0.2.10" {
		t.Errorf("IPv4: the server saw %s", seen)
	}
	if n := o.counter("leaked-virtua"); n != 0 {
		t.Errorf("%d packets were kept from leaving", n)
	}
}

// TestLinkRulesDeleted deletes all of Salp's ip rules again and again, as systemd-networkd does with rules it does not know; each time they are
// back within a second, and flows go on. So do routes when an interface or an address comes back.
func TestLinkRulesDeleted(t *testing.T) {
	o := newOffice(t, 1)
	o.must(o.net.Gateway.Route("203.0.113.99/32", "192.0.2.1")) // theirs, beside ours
	o.sysctls("net/netfilter/nf_conntrack_udp_timeout", "300")  // on a slow machine the UDP flows would end before they are looked at
	s := o.start(plainLinks("  spread: flow\n", ""))
	c := o.catch(o.net.Internet, "[::]:7777")
	flows := append(o.hold(0, 10, 4, c), o.hold(1, 10, 4, c)...)
	whole := o.gw("ip", "-4", "rule") + o.gw("ip", "-6", "rule") + o.gw("ip", "-4", "route", "show", "table", "8122") + o.gw("ip", "-6", "route", "show", "table", "8122")
	back := func(what string) {
		t.Helper()
		began := time.Now()
		for time.Since(began) < patience {
			if o.gw("ip", "-4", "rule")+o.gw("ip", "-6", "rule")+o.gw("ip", "-4", "route", "show", "table", "8122")+o.gw("ip", "-6", "route", "show", "table", "8122") == whole {
				if took := time.Since(began); took > slowdown*time.Second {
					t.Errorf("%s: back after %v", what, took)
				}
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatalf("%s: was\n%s\nis\n%s", what, whole, o.gw("ip", "-4", "rule")+o.gw("ip", "-6", "rule")+o.gw("ip", "route", "show", "table", "8122"))
	}
	// By few processes, and not often: each may see several repairs, and ten of them in ten seconds are a fight, in which Salp takes its time.
	batch := filepath.Join(o.dir, "delete")
	o.must(writeFile(batch, deletions(811, 818, 4)))
	for round := range 3 {
		for _, family := range []string{"-4", "-6"} {
			_, err := o.net.Gateway.Run(o.Context(), "ip", family, "-force", "-batch", batch)
			o.Logf("some are there less often: %v", err)
		}
		back(fmt.Sprintf("rules, time %d", round+1))
	}
	for _, h := range flows {
		if h.udp != nil {
			if by := h.ask(o, c); by != h.by {
				t.Errorf("a UDP flow of %s goes by %s", h.by, by)
			}
		} else if err := h.works(patience); err != nil {
			t.Errorf("a connection of %s: %v", h.by, err)
		}
	}
	o.gw("ip", "route", "flush", "table", "8122")
	o.gw("ip", "-6", "route", "flush", "table", "8122")
	back("routes")
	o.gw("ip", "addr", "del", "198.51.100.10/24", "dev", "wan2")
	s.await("without an address", func(st *admin.Status) bool { return st.Kernel.InSync })
	o.must(o.net.Gateway.Addr("wan2", "198.51.100.10/24"))
	back("address")
	o.must(o.net.Gateway.Down("wan2"))
	s.await("one link", func(st *admin.Status) bool {
		return strings.Contains(linkStates(st), "embratel down") && st.Kernel.InSync
	})
	if by := o.by(o.net.Client, "", "203.0.113.10:80"); by != "virtua" {
		t.Errorf("wan2 is down: by %s", by)
	}
	o.must(o.net.Gateway.Up("wan2"))
	o.must(o.net.Gateway.Addr("wan2", "2001:db8:2::10/64"))
	s.awaitLinks(bothUp)
	back("interface")
}

// deletions are commands of ip that delete all rules of some priorities, each as often as there may be rules of it.
func deletions(first, last, times int) string {
	var b strings.Builder
	for priority := first; priority <= last; priority++ {
		b.WriteString(strings.Repeat(fmt.Sprintf("rule del priority %d\n", priority), times))
	}
	return b.String()
}

// TestLinksOutliveTheirKeeper: after kill -9 flows go on and new ones are spread as before; a new keeper takes over; `salp down` leaves nothing.
func TestLinksOutliveTheirKeeper(t *testing.T) {
	o := newOffice(t, 10)
	o.bcp38()
	before := o.look()
	file := plainLinks("  spread: flow\n", "forward: [{port: 8080, to: \"10.1.0.10:80\"}]\n")
	s := o.start(file)
	_, err := o.net.Web.Serve("[::]:80", lab.Tell)
	o.must(err)
	flows := append(o.hold(0, 10, 0, nil), o.hold(1, 10, 0, nil)...)
	check := func(when string) {
		t.Helper()
		for _, h := range flows {
			if err := h.works(patience); err != nil {
				t.Errorf("%s: a connection of %s: %v", when, h.by, err)
			}
		}
		counts := o.spread(100, func(i int) string { return fmt.Sprintf("203.0.113.%d:80", 10+i%20) })
		if counts["virtua"]+counts["embratel"] != 100 || counts["embratel"] < 15 {
			t.Errorf("%s: new flows %v", when, counts)
		}
		if seen := o.told(o.net.Internet, "203.0.113.10", "198.51.100.10:8080"); seen != "203.0.113.10" {
			t.Errorf("%s: the forward: %s", when, seen)
		}
	}
	check("with a keeper")
	o.kill(s.Pid(), syscall.SIGKILL)
	<-s.Done()
	check("after kill -9")
	s = o.start(file)
	check("with the next keeper")
	s.stop()
	check("after a stop")
	s = o.start(file)
	check("after a start")
	o.kill(s.Pid(), syscall.SIGKILL)
	<-s.Done()
	s.down()
	o.wantAsBefore(before)
	if n := o.foreign(); n != 0 {
		t.Errorf("the providers had to drop %d packets", n)
	}
}

// TestLinksAndInterception has connections intercepted, with the client's address and port kept, on a host that masquerades by link: the halves are
// spread, pinned and masqueraded like any other flow, also with strict reverse-path checks and src_valid_mark.
func TestLinksAndInterception(t *testing.T) {
	for listener, mode := range map[string]string{"source: client, source_port: keep": "1", "source: client": "2", "source: proxy": "1", "source_port: keep, source: client": "2"} {
		t.Run(listener+" rp_filter "+mode, func(t *testing.T) {
			o := newOffice(t, 10)
			o.bcp38()
			reverse(mode)(o)
			o.sysctls("net/ipv4/conf/all/src_valid_mark", "1")
			before := o.look()
			s := o.start("listeners: {web: {intercept: {interfaces: [lan0], ports: [80, 25]}, " + listener + "}}\n" +
				plainLinks("  spread: flow\n  rules: [{ports: [25], link: embratel}]\n", ""))
			for _, f := range paths {
				counts := o.spread(120, func(i int) string { return net.JoinHostPort(f.server+strconv.Itoa(10+i%20), "80") })
				if counts["virtua"]+counts["embratel"] != 120 || counts["virtua"] < 60 || counts["embratel"] < 20 {
					t.Errorf("%s: %v", f.name, counts)
				}
				for range 5 {
					if by := o.by(o.net.Client, "", net.JoinHostPort(f.server+"10", "25")); by != "embratel" {
						t.Errorf("%s, pinned: by %s", f.name, by)
					}
				}
			}
			s.await("the way of 250 connections", func(st *admin.Status) bool { return sum(st, accepted) == 250 })
			if n := o.foreign() + o.counter("leaked-virtua") + o.counter("leaked-embratel"); n != 0 {
				t.Errorf("%d packets had a foreign source", n)
			}
			s.down()
			o.wantAsBefore(before)
		})
	}
}
