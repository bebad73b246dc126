package test

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/admin"
	"salp/internal/lab"
)

// segments returns what a server's socket and the client's believe a TCP segment may have.
func (o *office) segments(to string, servers <-chan int) (server, client int) {
	o.Helper()
	c, err := o.net.Client.Dial(to)
	o.must(err)
	defer c.Close()
	select {
	case server = <-servers:
	case <-time.After(patience):
		o.Fatal("the server does not tell")
	}
	return server, maxSegment(c)
}

func maxSegment(c *net.TCPConn) (n int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1
	}
	_ = raw.Control(func(fd uintptr) { n, _ = unix.GetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_MAXSEG) })
	return n
}

// TestLinkShape: links with several addresses, a smaller MTU, a bound of the segment size, fixed addresses of both families, and one that costs by volume.
func TestLinkShape(t *testing.T) {
	o := newOffice(t, 2)
	o.bcp38()
	gw := o.net.Gateway
	o.must(gw.Addr("wan1", "192.0.2.11/24", "192.0.2.12/24", "2001:db8:1::11/64"))
	o.must(gw.Addr("wan2", "198.51.100.99/32", "2001:db8:2::99/128"))
	s := o.start(strings.NewReplacer("weight: 2}", `weight: 2, addresses: [192.0.2.11, 192.0.2.10, "2001:db8:1::11"], mtu: 1400}`,
		"weight: 1}", `weight: 1, metered: true, mss: 1200, masquerade: [198.51.100.99, "2001:db8:2::99"]}`).Replace(plainLinks("  spread: flow\n  rules: [{ports: [8083], link: embratel}]\n",
		"forward:\n  - {port: 8080, to: \"10.1.0.10:80\"}\n  - {port: 8080, to: \"[fd00:1::10]:80\"}\n")))
	s.awaitLinks(bothUp)
	_, err := o.net.Web.Serve("[::]:80", lab.Tell)
	o.must(err)
	sizes := make(chan int, 10)
	tell := func(c *net.TCPConn) { sizes <- maxSegment(c); _, _ = io.Copy(io.Discard, c) }
	for _, port := range []string{"8082", "8083"} {
		_, err := o.net.Internet.Serve("[::]:"+port, tell)
		o.must(err)
	}
	for _, own := range []string{"192.0.2.10", "192.0.2.11", "2001:db8:1::11", "198.51.100.10", "198.51.100.99", "2001:db8:2::10", "2001:db8:2::99"} {
		from := "203.0.113.20"
		if strings.Contains(own, ":") {
			from = "2001:db8:80::20"
		}
		if seen := o.told(o.net.Internet, from, net.JoinHostPort(own, "8080")); seen != from {
			t.Errorf("a forward by %s: the server saw %s", own, seen)
		}
	}
	for _, f := range paths {
		// What this host sends has the first of the link's addresses; sockets that are bound keep theirs, also one that the file does not name.
		if f.name == "IPv4" {
			for _, own := range []string{"192.0.2.10", "192.0.2.11", "192.0.2.12"} {
				if seen := o.told(gw, own, net.JoinHostPort(f.server+"10", "80")); seen != own {
					t.Errorf("bound to %s: the server saw %s", own, seen)
				}
			}
		}
		overhead := map[string]int{"IPv4": 40, "IPv6": 60}[f.name]
		const timestamps = 12
		server, client := o.segments(net.JoinHostPort(f.server+"10", "8082"), sizes)
		if want := 1400 - overhead - timestamps; server != want || client != want {
			t.Errorf("%s, mtu 1400: segments of %d and %d, want %d", f.name, server, client, want)
		}
		server, client = o.segments(net.JoinHostPort(f.server+"10", "8083"), sizes)
		if want := 1200 - timestamps; server != want || client != want {
			t.Errorf("%s, mss 1200: segments of %d and %d, want %d", f.name, server, client, want)
		}
		counts := o.spread(30, func(i int) string { return net.JoinHostPort(f.server+strconv.Itoa(10+i%20), "80") })
		if counts["virtua"] != 30 {
			t.Errorf("%s: a metered link is used: %v", f.name, counts)
		}
	}
	s.setLink("virtua", "down")
	for i, f := range paths {
		counts := o.spread(30, func(i int) string { return net.JoinHostPort(f.server+strconv.Itoa(10+i%20), "80") })
		if counts["embratel"] != 30 {
			t.Errorf("%s: the metered link alone is up: %v", f.name, counts)
		}
		if seen, want := o.told(o.net.Client, f.client+"100", net.JoinHostPort(f.server+"10", "80")), []string{"198.51.100.99", "2001:db8:2::99"}[i]; seen != want {
			t.Errorf("%s: the server saw %s, want %s", f.name, seen, want)
		}
	}
	if n := o.foreign() + o.counter("leaked-virtua") + o.counter("leaked-embratel"); n != 0 {
		t.Errorf("%d packets had a foreign source", n)
	}
}

// tunnel makes a point-to-point interface of that name in two hosts and carries packets between them, until it is closed.
type tunnel struct{ ends [2]*os.File }

func (o *office) tunnel(name string, a, b *lab.Host) *tunnel {
	o.Helper()
	t := &tunnel{}
	for i, h := range []*lab.Host{a, b} {
		o.must(h.Do(func() error {
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
			if err != nil {
				return err
			}
			request, err := unix.NewIfreq(name)
			if err != nil {
				return err
			}
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
				return err
			}
			t.ends[i] = os.NewFile(uintptr(fd), "tun")
			return nil
		}))
		o.Cleanup(func() { t.ends[i].Close() })
	}
	for i := range t.ends {
		go func() {
			for b := make([]byte, 65536); ; {
				n, err := t.ends[i].Read(b)
				if err != nil {
					return
				}
				_, _ = t.ends[1-i].Write(b[:n])
			}
		}()
	}
	return t
}

func (t *tunnel) close() {
	for _, e := range t.ends {
		e.Close()
	}
}

// TestLinkDialup has a link that is dialled, as PPP does: its interface is not there at first, has a peer in place of a gateway, goes away with all
// that it had, and comes back under another address.
func TestLinkDialup(t *testing.T) {
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("skipped: needs /dev/net/tun")
	}
	o := newOffice(t, 4)
	gw, provider := o.net.Gateway, o.net.Providers[1]
	o.run(o.net.Internet, "ip route add 100.64.9.0/24 via 172.16.2.2")
	s := o.start(strings.Replace(plainLinks("  spread: flow\n  rules: [{ports: [25], link: dialup}]\n", "forward: [{port: 8080, to: \"10.1.0.10:80\"}]\n"),
		"  embratel: {interface: wan2, gateway: [198.51.100.1, \"2001:db8:2::1\"], weight: 1}", "  dialup: {interface: ppp0, weight: 1}", 1))
	_, err := o.net.Web.Serve("[::]:80", lab.Tell)
	o.must(err)
	st := s.awaitLinks("virtua up, dialup down")
	if st.Links[1].Reason != "there is no interface ppp0" {
		t.Error(st.Links[1].Reason)
	}
	for round := range 2 {
		o.only("virtua", 6)
		address := fmt.Sprint("100.64.9.", 7+round)
		line := o.tunnel("ppp0", gw, provider)
		o.run(provider, "ip addr add 100.64.9.1 peer "+address+" dev ppp0")
		o.run(provider, "ip link set ppp0 up")
		o.run(gw, "ip addr add "+address+" peer 100.64.9.1 dev ppp0")
		o.run(gw, "ip link set ppp0 up")
		st = s.awaitLinks("virtua up, dialup up")
		if l := st.Links[1]; !slices.Equal(l.Addresses, []string{address}) || len(l.Gateways) != 0 {
			t.Errorf("%+v", l)
		}
		seen := map[string]int{}
		for i := range 30 {
			seen[o.by(o.net.Client, "", fmt.Sprintf("203.0.113.%d:80", 10+i%20))]++
		}
		if seen["virtua"]+seen[address] != 30 || seen[address] < 2 {
			t.Errorf("30 flows: %v", seen)
		}
		for _, from := range []*lab.Host{o.net.Client, gw} {
			if by := o.by(from, "", "203.0.113.10:25"); by != address {
				t.Errorf("pinned, %s: by %s", from.Name, by)
			}
		}
		if seen := o.told(o.net.Internet, "203.0.113.20", address+":8080"); seen != "203.0.113.20" {
			t.Errorf("the forward: the server saw %s", seen)
		}
		line.close()
		st = s.await("without the line", func(st *admin.Status) bool { return linkStates(st) == "virtua up, dialup down" })
		if st.Links[1].Reason != "there is no interface ppp0" {
			t.Error(st.Links[1].Reason)
		}
	}
	s.down()
}

// TestLinkRetries has connections meet a provider that refuses or swallows them, which nothing has noticed yet: they are made again by the other
// link before the client notices, whether the server sees the proxy or the client, and by an access rule's link, too.
func TestLinkRetries(t *testing.T) {
	o := newOffice(t, 2)
	o.bcp38()
	s := o.start(`listeners:
  proxy: {listen: ["10.1.0.1:8000", "[fd00:1::1]:8000"], pool: far, link: virtua, timeouts: {connect: 6s}}
  chosen: {listen: ["10.1.0.1:8001", "[fd00:1::1]:8001"], pool: far, access: by, timeouts: {connect: 6s}}
  inline: {intercept: {interfaces: [lan0], ports: [80]}, source: client, timeouts: {connect: 6s}}
pools: {far: {servers: ["203.0.113.13:80", "[2001:db8:80::13]:80"]}}
access: {by: [{allow: {}, link: virtua}]}
` + plainLinks("  spread: flow\n  rules: [{ports: [80], link: virtua}]\n", ""))
	s.awaitLinks(bothUp)
	retried := uint64(0)
	try := func(when, want, to string, within time.Duration) {
		began := time.Now()
		c, err := o.net.Client.DialWith(to, lab.DialOptions{Timeout: patience})
		if err != nil {
			t.Errorf("%s, %s: %v", when, to, err)
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		line := make([]byte, 200)
		n, err := c.Read(line)
		seen, _ := lab.ParseTold(strings.TrimSpace(string(line[:n])))
		if took := time.Since(began); err != nil || linkOf(seen.From.Addr()) != want || took > within*slowdown {
			t.Errorf("%s, %s: %q after %v, %v; want %s", when, to, line[:n], took, err, want)
		}
	}
	check := func(when, want string, within time.Duration) {
		t.Helper()
		var all sync.WaitGroup
		for _, f := range paths {
			for _, to := range []string{net.JoinHostPort(f.gateway, "8000"), net.JoinHostPort(f.gateway, "8001"), net.JoinHostPort(f.server+"13", "80")} {
				all.Go(func() { try(when, want, to, within) })
				if want == "embratel" {
					retried++
				}
			}
		}
		all.Wait()
		s.await("counting retries", func(st *admin.Status) bool {
			return sum(st, func(l admin.Listener) uint64 { return l.Counters.Retries }) == retried
		})
	}
	check("all is well", "virtua", time.Second)
	for _, limit := range []string{"net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"} { // or it would swallow most
		o.must(o.net.Providers[0].Sysctl(limit, "0"))
	}
	o.run(o.net.Providers[0], "ip route add unreachable 203.0.113.13")
	o.run(o.net.Providers[0], "ip -6 route add unreachable 2001:db8:80::13")
	// Over veth an ICMPv6 error comes while connect(2) still holds the socket, and counts only at the next SYN, a second later.
	check("the provider refuses", "embratel", 1500*time.Millisecond)
	o.run(o.net.Providers[0], "ip route replace blackhole 203.0.113.13")
	o.run(o.net.Providers[0], "ip -6 route replace blackhole 2001:db8:80::13")
	check("the provider swallows", "embratel", 5*time.Second)
	if n := o.foreign() + o.counter("leaked-virtua") + o.counter("leaked-embratel"); n != 0 {
		t.Errorf("%d packets had a foreign source", n)
	}
}
