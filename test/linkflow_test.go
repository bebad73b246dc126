package test

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/admin"
	"salp/internal/lab"
)

// plainLinks has both families, no checks, and what is put in its place; the links are virtua and embratel, 2:1.
func plainLinks(balance, more string) string {
	return `links:
  virtua: {interface: wan1, gateway: [192.0.2.1, "2001:db8:1::1"], weight: 2}
  embratel: {interface: wan2, gateway: [198.51.100.1, "2001:db8:2::1"], weight: 1}
balance:
  inside: {interfaces: [lan0], networks: [10.1.0.0/16, "fd00:1::/64"]}
` + balance + more
}

// bcp38 makes the providers drop, and count, what has a source that is not theirs.
func (o *office) bcp38() {
	o.Helper()
	for i, p := range o.net.Providers {
		v4, v6 := lab.Wan(i + 1)
		file := filepath.Join(o.dir, "bcp38.nft")
		o.must(writeFile(file, fmt.Sprintf(`table inet bcp38 {
	counter foreign { }
	chain in {
		type filter hook prerouting priority raw; policy accept;
		iifname "c0" ip saddr != { %s0/24, 0.0.0.0 } counter name foreign drop
		iifname "c0" ip6 saddr != { %s/64, fe80::/10, :: } counter name foreign drop
	}
}
`, v4, v6)))
		_, err := p.Run(o.Context(), "nft", "-f", file)
		o.must(err)
	}
}

// foreign returns how many packets the providers have dropped for their source.
func (o *office) foreign() int {
	o.Helper()
	n := 0
	for _, p := range o.net.Providers {
		out, err := p.Run(o.Context(), "nft", "list", "counter", "inet", "bcp38", "foreign")
		o.must(err)
		n += packetsIn(out)
	}
	return n
}

// packetsIn is the first count in a listing of counters.
func packetsIn(listing string) int {
	_, rest, _ := strings.Cut(listing, "packets ")
	words := strings.Fields(rest)
	if len(words) == 0 {
		return -1
	}
	n, _ := strconv.Atoi(words[0])
	return n
}

func (o *office) counter(name string) int {
	o.Helper()
	return packetsIn(o.gw("nft", "list", "counter", "inet", "salp-links", name))
}

// setLink takes a link down, or lets it be ready again, and waits until the kernel follows.
func (s *salp) setLink(name, state string) {
	s.r.Helper()
	if out, code := s.r.command("link", name, state, "--run-dir", s.dir); code != 0 {
		s.r.Fatalf("salp link %s %s: %d\n%s", name, state, code, out)
	}
	want := map[string]string{"ready": name + " up", "down": name + " down", "drain": name + " drain"}[state]
	s.await(want, func(st *admin.Status) bool { return strings.Contains(linkStates(st), want) && st.Kernel.InSync })
}

// paths has for each family what the office's addresses begin with.
var paths = []struct {
	name, server, client, gateway string
	own                           [2]string
}{
	{"IPv4", "203.0.113.", "10.1.0.", "10.1.0.1", [2]string{"192.0.2.10", "198.51.100.10"}},
	{"IPv6", "2001:db8:80::", "fd00:1::", "fd00:1::1", [2]string{"2001:db8:1::10", "2001:db8:2::10"}},
}

func reverse(mode string) func(o *office) {
	return func(o *office) {
		for _, i := range []string{"all", "lan0", "wan1", "wan2"} {
			o.sysctls("net/ipv4/conf/"+i+"/rp_filter", mode)
		}
	}
}

// theirs is a firewall of others: it drops by default and what is invalid first, has its own bits of both marks, and masquerades a guest network.
const theirs = `table inet fw {
	chain early {
		type filter hook prerouting priority mangle - 5; policy accept;
		meta mark set meta mark or 0x00000011
		ct mark set ct mark or 0x00002200
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state invalid counter drop
		meta mark & 0x00000011 != 0x00000011 counter drop comment "our bits are gone"
		ct mark & 0x00002200 != 0x00002200 counter drop comment "our bits are gone"
		ct state established,related accept
		ct status dnat accept
		iifname "lan0" accept
	}
	chain post { type nat hook postrouting priority srcnat; policy accept; ip saddr 10.99.0.0/16 masquerade; }
}
`

// TestLinkShares has 3,000 flows spread by weight, then a few for each other setting of the host; nothing may leave with a foreign source.
func TestLinkShares(t *testing.T) {
	for _, c := range []struct {
		name    string
		flows   int
		prepare func(o *office)
	}{
		{"strict", 3000, reverse("1")},
		{"loose", 300, reverse("2")},
		{"off", 300, reverse("0")},
		{"no default route", 300, func(o *office) { // of the host's own: a DHCP client may be told to add none
			reverse("1")(o)
			o.run(o.net.Gateway, "ip route del default")
			o.run(o.net.Gateway, "ip -6 route del default")
		}},
		{"beside a firewall", 300, func(o *office) { reverse("1")(o); o.nft(theirs) }},
		{"src_valid_mark", 300, func(o *office) {
			reverse("1")(o)
			o.sysctls("net/ipv4/conf/all/src_valid_mark", "1")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newOffice(t, 50)
			o.bcp38()
			c.prepare(o)
			before := o.look()
			s := o.start(plainLinks("  spread: flow\n", ""))
			for _, f := range paths {
				began := time.Now()
				flows := c.flows / 2
				counts := o.spread(flows, func(i int) string { return net.JoinHostPort(f.server+strconv.Itoa(10+i%20), "80") })
				t.Logf("%s: %d flows in %v: %v", f.name, flows, time.Since(began).Round(time.Millisecond), counts)
				share := float64(counts["virtua"]) / float64(flows)
				slack := 4.5 * math.Sqrt(2./3*1/3/float64(flows)) // standard deviations of the draw: once in 150,000 times
				if counts["virtua"]+counts["embratel"] != flows || share < 2./3-slack || share > 2./3+slack {
					t.Errorf("%s: %v, want 2:1 of %d", f.name, counts, flows)
				}
			}
			if n := o.foreign(); n != 0 {
				t.Errorf("the providers had to drop %d packets", n)
			}
			if n := o.counter("leaked-virtua") + o.counter("leaked-embratel"); n != 0 {
				t.Errorf("%d packets were kept from leaving", n)
			}
			if c.name == "beside a firewall" {
				for l := range strings.Lines(o.gw("nft", "list", "chain", "inet", "fw", "forward")) {
					if strings.Contains(l, "counter") && !strings.Contains(l, "packets 0 ") {
						t.Errorf("the firewall dropped: %s", strings.TrimSpace(l))
					}
				}
			}
			s.down()
			o.wantAsBefore(before)
		})
	}
}

// catcher is a UDP server that notes by which link each numbered packet came.
type catcher struct {
	conn *net.UDPConn
	mu   sync.Mutex
	by   map[uint32]string
	from map[uint32]netip.AddrPort
}

func (o *office) catch(h *lab.Host, address string) *catcher {
	o.Helper()
	c := &catcher{by: map[uint32]string{}, from: map[uint32]netip.AddrPort{}}
	o.catchAt(h, address, c)
	return c
}

// catchAt has a catcher listen at an address. One that is not a wildcard answers from it, whichever way the answer takes.
func (o *office) catchAt(h *lab.Host, address string, c *catcher) {
	o.Helper()
	o.must(h.Do(func() (err error) {
		c.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		return err
	}))
	conn := c.conn
	_ = conn.SetReadBuffer(4 << 20)
	o.Cleanup(func() { conn.Close() })
	go c.serve(conn)
}

func (c *catcher) serve(conn *net.UDPConn) {
	b := make([]byte, 100)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if n == 4 {
			c.mu.Lock()
			id, a := binary.BigEndian.Uint32(b), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			c.by[id], c.from[id] = linkOf(a.Addr()), a
			c.mu.Unlock()
			_, _ = conn.WriteToUDPAddrPort(b[:n], from)
		}
	}
}

func (c *catcher) seen() map[uint32]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[uint32]string{}
	for id, by := range c.by {
		all[id] = by
	}
	return all
}

// throw sends one numbered packet from any address of the inside, each by a socket of its own, so that each is a new flow.
func throw(h *lab.Host, id uint32, from netip.Addr, to netip.AddrPort) error {
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if from.Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	return h.Do(func() error {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
			return err
		}}
		c, err := d.Dial("udp", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(binary.BigEndian.AppendUint32(nil, id))
		return err
	})
}

// thrown is the source and the destination of a numbered packet, so that there are as many different ones as flows of what is to be spread.
func thrown(spread string, family int, id uint32, port uint16) (from netip.Addr, to netip.AddrPort) {
	high, low, server := byte(id>>8), byte(id), byte(10+id%20)
	switch {
	case family == 4 && spread == "destination":
		from, to = netip.MustParseAddr("10.1.0.100"), netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, high, low}), port)
	case family == 4:
		from, to = netip.AddrFrom4([4]byte{10, 1, 1 + high, low}), netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, server}), port)
	case spread == "destination":
		from, to = netip.MustParseAddr("fd00:1::100"), netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8:81::%x", 1+id)), port)
	default:
		from, to = netip.MustParseAddr(fmt.Sprintf("fd00:1::1:%x", 1+id)), netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8:80::%d", server)), port)
	}
	if spread == "flow" {
		from = map[int]netip.Addr{4: netip.MustParseAddr("10.1.0.100"), 6: netip.MustParseAddr("fd00:1::100")}[family]
	}
	return from, to
}

// TestLinkSpreading throws 10,000 packets of each family, each a flow, from as many clients: the weights hold within 2 %, a client (and
// destination) always takes the same link, and when a link goes down nobody but its own clients move; when it is back, they return.
func TestLinkSpreading(t *testing.T) {
	for _, spread := range []string{"flow", "client", "client-and-destination", "destination"} {
		t.Run(spread, func(t *testing.T) {
			o := newOffice(t, 1)
			s := o.start(plainLinks("  spread: "+spread+"\n", ""))
			for _, r := range []string{"203.0.0.0/16", "2001:db8:81::/64"} { // as many servers as flows
				o.run(o.net.Internet, "ip route add local "+r+" dev lo")
			}
			first := [2]map[uint32]string{o.volley(spread, 4, 7001), o.volley(spread, 6, 7001)}
			s.setLink("embratel", "down")
			for i := range first { // another port each time, or the kernel might choose a flow's old port again, which is a flow of a link already
				if second := o.volley(spread, 4+2*i, 7002); count(second, "virtua") != len(second) {
					t.Errorf("embratel is down: %d of %d by virtua", count(second, "virtua"), len(second))
				}
			}
			s.setLink("embratel", "ready")
			for i, f := range first {
				third := o.volley(spread, 4+2*i, 7003)
				moved := 0
				for id, by := range third {
					if was, ok := f[id]; ok && was != by {
						moved++
					}
				}
				if moved > 0 && spread != "flow" {
					t.Errorf("%d of %d are on another link than at first", moved, len(third))
				}
				for when, by := range map[string]map[uint32]string{"at first": f, "in the end": third} {
					share := float64(count(by, "virtua")) / float64(len(by))
					t.Logf("IPv%d, %s: %d of %d by virtua", 4+2*i, when, count(by, "virtua"), len(by))
					if share < 2./3-0.02 || share > 2./3+0.02 {
						t.Errorf("IPv%d, %s: %d of %d by virtua, which has two thirds", 4+2*i, when, count(by, "virtua"), len(by))
					}
				}
			}
		})
	}
}

// volley throws all packets of a family and says by which link each came.
func (o *office) volley(spread string, family int, port uint16) map[uint32]string {
	o.Helper()
	const flows = 10_000
	c := o.catch(o.net.Internet, map[int]string{4: "0.0.0.0:", 6: "[::]:"}[family]+strconv.Itoa(int(port)))
	for id := range uint32(flows) {
		from, to := thrown(spread, family, id, port)
		o.must(throw(o.net.Client, id, from, to))
	}
	for end := time.Now().Add(patience); time.Now().Before(end) && len(c.seen()) < flows; time.Sleep(10 * time.Millisecond) {
	}
	c.conn.Close()
	if len(c.seen()) < flows-20 {
		o.Errorf("%d of %d packets came", len(c.seen()), flows)
	}
	return c.seen()
}

func count(by map[uint32]string, link string) (n int) {
	for _, b := range by {
		if b == link {
			n++
		}
	}
	return n
}
