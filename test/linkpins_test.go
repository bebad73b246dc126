package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"salp/internal/admin"
	"salp/internal/lab"
)

// pinFile has a rule for every condition and every kind of target. LIST is replaced by a list's file.
const pinFile = `resolvers: {servers: ["10.1.0.10:53"], min_ttl: 1s}
lists: {few: {addresses: LIST}}
links:
  virtua: {interface: wan1, gateway: [192.0.2.1, "2001:db8:1::1"], weight: 2}
  embratel: {interface: wan2, gateway: [198.51.100.1, "2001:db8:2::1"]}
  lte: {interface: wan3, gateway: [100.64.3.1, "2001:db8:3::1"], metered: true}
balance:
  inside: {interfaces: [lan0, guest0], networks: [10.1.0.0/24, 10.2.0.0/24, "fd00:1::/64", "fd00:2::/64"]}
  spread: flow
  groups:
    wired: {links: [virtua, embratel], spread: client}
    reserve: {links: [embratel, lte]}
  rules:
    - {to: [bank.example], link: embratel}
    - {to: ["list:few"], link: [lte, embratel], strict: true}
    - {dscp: [ef, cs3], link: lte}
    - {dscp: af41, protocol: udp, ports: [7000-7999], link: embratel}
    - {interfaces: [guest0], link: reserve}
    - {protocol: icmp, link: embratel}
    - {from: [10.1.0.101, "fd00:1::101"], protocol: tcp, ports: [25, 80-90], link: wired}
    - {from: [10.1.0.102, "fd00:1::102"], to: [203.0.113.0/24, "2001:db8:80::/64"], link: [embratel, blackhole]}
    - {to: [203.0.113.29, "2001:db8:80::29"], link: blackhole}
    - {protocol: tcp, ports: [25], link: embratel, strict: true}
  default: balanced
`

// pinned is a flow and the link that it is to take, by what is down.
type pinned struct {
	what   string
	from   *lab.Host
	source string // the last part of the address; "": any
	to     string // the last part of the server's, or a whole address
	port   string
	dscp   int
	want   [4]string // all up; embratel down; embratel and lte down; all down. Words of which one must be so
}

// dialTOS connects with a DiffServ code point.
func dialTOS(h *lab.Host, source netip.Addr, to string, dscp int, within time.Duration) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: within, KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		_ = c.Control(func(fd uintptr) {
			if netip.MustParseAddrPort(to).Addr().Is4() {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TOS, dscp<<2)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TCLASS, dscp<<2)
			}
		})
		return err
	}}
	if source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	err = h.Do(func() (err error) {
		conn, err = d.Dial("tcp", to)
		return err
	})
	return conn, err
}

// takes says by which link a TCP flow leaves, or "refused" or "silence".
func (o *office) takes(h *lab.Host, source netip.Addr, to string, dscp int) string {
	c, err := dialTOS(h, source, to, dscp, 300*time.Millisecond*slowdown)
	if err != nil {
		var timeout net.Error
		switch {
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
			return "refused"
		case errors.As(err, &timeout) && timeout.Timeout():
			return "silence"
		}
		return err.Error()
	}
	defer c.Close()
	link, err := toldLink(c)
	if errors.Is(err, syscall.ECONNRESET) || err != nil && err.Error() == "EOF" {
		return "refused"
	}
	if err != nil {
		return err.Error()
	}
	return link
}

// guest makes a second inside network, on guest0.
func (o *office) guest() *lab.Host {
	o.Helper()
	h, err := o.net.Host("guest")
	o.must(err)
	o.must(o.net.Join(o.net.Gateway, "guest0", h, "e0"))
	o.must(o.net.Gateway.Addr("guest0", "10.2.0.1/24", "fd00:2::1/64"))
	o.must(h.Addr("e0", "10.2.0.100/24", "fd00:2::100/64"))
	o.must(h.Default("10.2.0.1", "fd00:2::1"))
	return h
}

// pinOffice is an office with three providers, a guest network and a name server, and pinFile in it,
// with rules of listeners and more of a file.
func pinOffice(t *testing.T, listenerRules, more string) (o *office, guest *lab.Host, s *salp) {
	o = newOfficeOf(t, 4, 3)
	guest = o.guest()
	dns, err := o.net.Web.ServeDNS("10.1.0.10:53")
	o.must(err)
	dns.Set("bank.example", time.Second, "203.0.113.20", "2001:db8:80::20")
	list := filepath.Join(o.dir, "list.txt")
	o.must(os.WriteFile(list, []byte("203.0.113.24/31 # two\n2001:db8:80::24\n2001:db8:80::25/128\n"), 0o644))
	s = o.start(strings.NewReplacer("LIST", list, "  default", listenerRules+"  default").Replace(pinFile) + more)
	s.await("three links", func(st *admin.Status) bool { return linkStates(st) == "virtua up, embratel up, lte up" })
	return o, guest, s
}

// wantPins has every flow made a few times, in both families.
func (o *office) wantPins(when int, cases []pinned) {
	o.Helper()
	states := []string{"all up", "embratel down", "embratel and lte down", "all down"}
	for _, c := range cases {
		for _, f := range paths {
			source, to := netip.Addr{}, net.JoinHostPort(f.server+c.to, c.port)
			if c.source != "" {
				source = netip.MustParseAddr(f.client + c.source)
			}
			if c.to == "gateway" {
				to = net.JoinHostPort(f.gateway, c.port)
			}
			for range 4 {
				by := o.takes(c.from, source, to, c.dscp)
				if !strings.Contains(c.want[when], by) {
					o.Errorf("%s, %s, %s: by %s, want %s", states[when], f.name, c.what, by, c.want[when])
				}
				if by == "silence" || !strings.Contains(c.want[when], by) {
					break
				}
			}
		}
	}
}

// TestLinkPins has flows that meet each condition a rule can have, and rules with each kind of target, while links go down one by one.
func TestLinkPins(t *testing.T) {
	o, guest, s := pinOffice(t, `    - {listener: dialled, link: [lte, virtua]}
    - {listener: strictly, link: lte, strict: true}
`, `listeners:
  dialled: {listen: ["10.1.0.1:8001", "[fd00:1::1]:8001"], pool: far}
  strictly: {listen: ["10.1.0.1:8002", "[fd00:1::1]:8002"], pool: far, timeouts: {connect: 2s}}
  access: {listen: ["10.1.0.1:8003", "[fd00:1::1]:8003"], pool: far, access: by}
pools:
  far: {servers: ["203.0.113.13:80", "[2001:db8:80::13]:80"]}
access:
  by: [{allow: {from: [10.1.0.103, "fd00:1::103"]}, link: lte}, {allow: {}, link: reserve}]
`)
	client := o.net.Client
	const any, none = "virtua|embratel", "refused"
	cases := []pinned{
		{what: "a name", from: client, source: "100", to: "20", port: "80", want: [4]string{"embratel", "virtua", "virtua", "embratel"}},
		{what: "a list, strict", from: client, source: "100", to: "24", port: "80", want: [4]string{"lte", "lte", none, none}},
		{what: "EF", from: client, source: "100", to: "10", port: "80", dscp: 46, want: [4]string{"lte", "lte", "virtua", "lte"}},
		{what: "CS3", from: client, source: "100", to: "10", port: "80", dscp: 24, want: [4]string{"lte", "lte", "virtua", "lte"}},
		{what: "AF41 by TCP", from: client, source: "100", to: "10", port: "80", dscp: 34, want: [4]string{any, "virtua", "virtua", any}},
		{what: "a guest", from: guest, to: "10", port: "80", want: [4]string{"embratel", "lte", "virtua", "embratel"}},
		{what: "a group that keeps a client together", from: client, source: "101", to: "10", port: "80", want: [4]string{any, "virtua", "virtua", any}},
		{what: "the same with another port", from: client, source: "101", to: "10", port: "91", want: [4]string{any, "virtua", "virtua", any}},
		{what: "or else nothing", from: client, source: "102", to: "10", port: "80", want: [4]string{"embratel", "silence", "silence", "silence"}},
		{what: "blackhole", from: client, source: "100", to: "29", port: "80", want: [4]string{"silence", "silence", "silence", "silence"}},
		{what: "mail, strict", from: client, source: "100", to: "10", port: "25", want: [4]string{"embratel", none, none, none}},
		{what: "mail of this host's own, strict", from: o.net.Gateway, to: "10", port: "25", want: [4]string{"embratel", none, none, none}},
		{what: "this host's own to a name", from: o.net.Gateway, to: "20", port: "80", want: [4]string{"embratel", "virtua", "virtua", "embratel"}},
		{what: "this host's own EF", from: o.net.Gateway, to: "10", port: "80", dscp: 46, want: [4]string{"lte", "lte", "virtua", "lte"}},
		{what: "anything", from: client, source: "103", to: "10", port: "80", want: [4]string{any, "virtua", "virtua", any}},
		{what: "a listener by a rule", from: client, source: "100", to: "gateway", port: "8001", want: [4]string{"lte", "lte", "virtua", "lte"}},
		{what: "a listener by a strict rule", from: client, source: "100", to: "gateway", port: "8002", want: [4]string{"lte", "lte", none, none}},
		{what: "an access rule that names a link", from: client, source: "103", to: "gateway", port: "8003", want: [4]string{"lte", "lte", "virtua", "lte"}},
		{what: "an access rule that names a group", from: client, source: "100", to: "gateway", port: "8003", want: [4]string{"embratel", "lte", "virtua", "embratel"}},
	}
	_, err := o.net.Internet.Serve("[::]:91", lab.Tell)
	o.must(err)
	o.wantPins(0, cases)
	o.wantPings("embratel")
	s.setLink("embratel", "down")
	o.wantPins(1, cases)
	s.setLink("lte", "down")
	o.wantPins(2, cases)
	o.wantPings("virtua")
	s.setLink("virtua", "down")
	o.wantPins(3, cases)
	if st, _ := s.status(); st.Linkless == nil || st.Linkless.Refused < 10 || st.Linkless.Dropped < 10 {
		t.Errorf("status: %+v", st.Linkless)
	}
	if out, _ := o.command("link", "--run-dir", s.dir); !strings.Contains(out, "packets refused: no link was up") || !strings.Contains(out, "packets dropped by rules with blackhole") {
		t.Error(out)
	}
}

// wantPings has a ping of each family leave by the link.
func (o *office) wantPings(link string) {
	o.Helper()
	for _, f := range paths {
		var got string
		o.must(o.net.Client.Do(func() (err error) { got, err = ping(f.server + "10"); return err }))
		if got != "" {
			o.Errorf("%s: ping: %s", f.name, got)
		}
		n := map[string]string{"virtua": "1", "embratel": "2", "lte": "3"}[link]
		if out := o.gw("cat", "/proc/net/nf_conntrack"); !strings.Contains(out, map[string]string{"1": "mark=16777216", "2": "mark=33554432", "3": "mark=50331648"}[n]) {
			o.Errorf("%s: no ping by %s:\n%s", f.name, link, out)
		}
	}
}

// ping sends an echo request and waits for the answer. problem is what went wrong.
func ping(to string) (problem string, err error) {
	network, local, kind, proto := "ip4:icmp", "0.0.0.0", icmp.Type(ipv4.ICMPTypeEcho), 1
	reply := icmp.Type(ipv4.ICMPTypeEchoReply)
	if strings.Contains(to, ":") {
		network, local, kind, proto, reply = "ip6:ipv6-icmp", "::", ipv6.ICMPTypeEchoRequest, 58, ipv6.ICMPTypeEchoReply
	}
	c, err := icmp.ListenPacket(network, local)
	if err != nil {
		return "", err
	}
	defer c.Close()
	message, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: 77, Seq: 1, Data: []byte("salp")}}).Marshal(nil)
	if err != nil {
		return "", err
	}
	if _, err := c.WriteTo(message, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
		return err.Error(), nil
	}
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	for b := make([]byte, 200); ; {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return err.Error(), nil
		}
		if m, err := icmp.ParseMessage(proto, b[:n]); err == nil && m.Type == reply {
			return "", nil
		}
	}
}

// TestLinkPinsOfIntercepted has what is taken in, on two interfaces, follow the rules by its interface and its DSCP, and by the DSCP that Salp gives it.
func TestLinkPinsOfIntercepted(t *testing.T) {
	for _, source := range []string{"client", "proxy"} {
		for _, protocol := range []string{"tcp", "http"} {
			t.Run(source+" "+protocol, func(t *testing.T) {
				o, guest, s := pinOffice(t, "", `listeners:
  web: {intercept: {interfaces: [lan0, guest0], ports: [80, 85]}, source: `+source+`, protocol: `+protocol+`}
  marked: {intercept: {interfaces: [lan0], ports: [90, 95]}, source: `+source+`, protocol: `+protocol+`, dscp: ef}
`)
				client := o.net.Client
				ask := o.takes
				for port, handler := range map[string]lab.Handler{"90": lab.Tell, "85": linkHTTP, "95": linkHTTP} {
					_, err := o.net.Internet.Serve("[::]:"+port, handler)
					o.must(err)
				}
				if protocol == "http" {
					ask = o.asks
				}
				for _, f := range paths {
					to := func(port string) string { return net.JoinHostPort(f.server+"10", port) }
					for _, c := range []struct {
						what string
						from *lab.Host
						port string
						dscp int
						want string
					}{
						{"a guest", guest, "80", 0, "embratel"},
						{"EF", client, "80", 46, "lte"},
						{"a guest's CS3", guest, "80", 24, "lte"},
						{"anything", client, "80", 0, "virtua|embratel"},
						{"what gets EF from Salp", client, "90", 0, "lte"},
					} {
						source := map[*lab.Host]string{client: f.client + "100", guest: strings.NewReplacer("10.1.0.", "10.2.0.", "fd00:1:", "fd00:2:").Replace(f.client) + "100"}[c.from]
						for range 4 {
							port := c.port
							if protocol == "http" {
								port = port[:1] + "5"
							}
							if by := ask(c.from, netip.MustParseAddr(source), to(port), c.dscp); !strings.Contains(c.want, by) {
								t.Errorf("%s, %s: by %q, want %s", f.name, c.what, by, c.want)
							}
						}
					}
				}
				s.await("carrying all", func(st *admin.Status) bool { return sum(st, accepted) == 40 })
			})
		}
	}
}

// linkHTTP answers each request with the name of the link that it came by.
func linkHTTP(c *net.TCPConn) {
	for in := bufio.NewReader(c); ; {
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		link := linkOf(lab.Remote(c).Addr())
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(link), link)
	}
}

// asks sends a request to a server of linkHTTP and says by which link it came.
func (o *office) asks(h *lab.Host, source netip.Addr, to string, dscp int) string {
	c, err := dialTOS(h, source, to, dscp, 3*time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x.example\r\n\r\n"); err != nil {
		return err.Error()
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err.Error()
	}
	body, _ := io.ReadAll(answer.Body)
	return string(body)
}

// TestLinkSpreadOfHTTP: requests of a client leave by the link that the spreading gives it, also where connections to servers are shared by clients.
func TestLinkSpreadOfHTTP(t *testing.T) {
	o := newOffice(t, 20)
	s := o.start(`listeners:
  pooled: {listen: ["10.1.0.1:8000", "[fd00:1::1]:8000"], protocol: http, pool: far}
  web: {intercept: {interfaces: [lan0], ports: [85]}, protocol: http}
pools: {far: {servers: ["203.0.113.13:85"]}}
` + plainLinks("  spread: client\n", ""))
	s.awaitLinks(bothUp)
	_, err := o.net.Internet.Serve("[::]:85", linkHTTP)
	o.must(err)
	for _, to := range []string{"10.1.0.1:8000", "203.0.113.14:85", "[fd00:1::1]:8000", "[2001:db8:80::14]:85"} {
		by := map[string]string{}
		links := map[string]int{}
		for round := range 3 {
			for i := 100; i < 120; i++ {
				source := fmt.Sprint("10.1.0.", i)
				if strings.HasPrefix(to, "[") {
					source = fmt.Sprint("fd00:1::", i)
				}
				link := o.asks(o.net.Client, netip.MustParseAddr(source), to, 0)
				if round > 0 && by[source] != link {
					t.Errorf("%s: %s went by %s, and then by %s", to, source, by[source], link)
				}
				by[source] = link
				links[link]++
			}
		}
		if len(links) != 2 || links["virtua"]+links["embratel"] != 60 {
			t.Errorf("%s: %v", to, links)
		}
	}
	s.await("using most connections to servers again", func(st *admin.Status) bool {
		return sum(st, func(l admin.Listener) uint64 { return l.Counters.Reused }) >= 200
	})
}
