package plan

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/lab"
)

// These tests load a plan's text with nft and ip into the gateway of the standard network and send connections through a proxy of
// a few lines, so that what they prove is the recipe and nothing else.

// gateway is the standard network whose gateway has a plan.
type gateway struct {
	*lab.Net
	t        *testing.T
	ctx      context.Context
	patience time.Duration // of an echo
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	program(t, "nft")
	program(t, "ip")
	program(t, "sysctl")
	network, err := lab.Test(t).Standard(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return &gateway{network, t, ctx, 10 * time.Second}
}

func (g *gateway) sh(script string) string {
	g.t.Helper()
	out, err := g.Gateway.Run(g.ctx, "sh", "-ec", script)
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

func (g *gateway) nft(text string) {
	g.t.Helper()
	file := filepath.Join(g.t.TempDir(), "load.nft")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
	g.sh("nft -f " + file)
}

// load loads a plan. The table has no owner here, for nft ends when it has loaded it.
func (g *gateway) load(p Plan) {
	g.t.Helper()
	g.sh(p.SysctlText())
	g.nft(strings.ReplaceAll(p.NFTText(), "\tflags owner\n\n", ""))
	g.sh(p.IPText())
}

func (g *gateway) alive(yes bool) {
	g.t.Helper()
	g.nft("flush set inet salp alive\n")
	if yes {
		g.nft("add element inet salp alive { tcp timeout 1h }\n")
	}
}

// proxy carries what arrives at the listeners of an interception port to the original destination; with the client's address and
// port when keep is set.
func (g *gateway) proxy(port uint16, keep bool) {
	g.t.Helper()
	for _, f := range []Family{IPv4, IPv6} {
		ln, err := g.Gateway.Listen(netip.AddrPortFrom(loopback(f), port).String(), lab.ListenOptions{Transparent: true, Mark: markI | markZ})
		if err != nil {
			g.t.Fatal(err)
		}
		g.t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.AcceptTCP()
				if err != nil {
					return
				}
				go g.carry(c, keep)
			}
		}()
	}
}

func (g *gateway) carry(c *net.TCPConn, keep bool) {
	defer c.Close()
	d := net.Dialer{Timeout: 3 * time.Second, Control: transparent}
	if keep {
		d.LocalAddr = c.RemoteAddr()
	}
	var up net.Conn
	err := g.Gateway.Do(func() (err error) {
		up, err = d.Dial("tcp", c.LocalAddr().String())
		return err
	})
	if err != nil {
		return
	}
	defer up.Close()
	go func() {
		_, _ = io.Copy(up, c)
		_ = up.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, up)
	_ = c.CloseWrite()
}

func transparent(network, _ string, c syscall.RawConn) error {
	const ipTransparent, ipv6Transparent = 19, 75 // linux/in.h, linux/in6.h
	level, option := syscall.SOL_IP, ipTransparent
	if network == "tcp6" {
		level, option = syscall.SOL_IPV6, ipv6Transparent
	}
	var inner error
	err := c.Control(func(fd uintptr) {
		inner = syscall.SetsockoptInt(int(fd), level, option, 1)
		for option, value := range map[int]int{syscall.SO_REUSEADDR: 1, syscall.SO_MARK: markU | markZ} {
			if inner == nil {
				inner = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, option, value)
			}
		}
	})
	if err != nil {
		return err
	}
	return inner
}

func (g *gateway) serve(address string, handler lab.Handler) *lab.Server {
	g.t.Helper()
	s, err := g.Server().Serve(address, handler)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(s.Close)
	return s
}

// echo sends n bytes to the address, closes its half, and wants them back.
func (g *gateway) echo(to string, n int64) (local netip.AddrPort, err error) {
	c, err := g.Client().DialWith(to, lab.DialOptions{Timeout: 2 * time.Second})
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer c.Close()
	return lab.Local(c), g.echoOn(c, n)
}

func (g *gateway) echoOn(c *net.TCPConn, n int64) error {
	if err := c.SetDeadline(time.Now().Add(g.patience)); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(c, lab.Pattern(n))
		_ = c.CloseWrite()
	}()
	_, err := lab.CheckPattern(c)
	return err
}

const strictFirewall = `table inet firewall {
	chain input { type filter hook input priority 10; policy drop; ct state invalid counter drop comment "invalid"; ct state established,related accept; tcp dport { 80, 110 } accept; meta l4proto ipv6-icmp accept; }
	chain forward { type filter hook forward priority 10; policy drop; ct state invalid counter drop comment "invalid"; ct state established,related accept; tcp dport { 80, 81, 110, 3129 } accept; }
	chain output { type filter hook output priority 10; policy accept; ct state invalid counter drop comment "invalid"; }
}
`

// invalid says whether the strict firewall has dropped anything as invalid.
func (g *gateway) invalid() bool {
	g.t.Helper()
	return strings.Count(g.sh("nft list table inet firewall"), "counter packets 0 bytes 0 drop") != 3
}

const keepYAML = "listeners: {web: {intercept: {interfaces: [g0], ports: [80]}, source: client, source_port: keep}}\n"

// The client's address and port are kept, in bulk, beside a firewall that drops what is invalid, under each sysctl that has stopped
// other recipes.
func TestTrafficKeepsAddressAndPort(t *testing.T) {
	for _, sysctls := range []string{
		": as they are",
		"sysctl -qw net.ipv4.conf.all.src_valid_mark=1 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.g0.rp_filter=1 net.ipv4.conf.g1.rp_filter=1",
		"sysctl -qw net.ipv4.tcp_fwmark_accept=1 net.ipv4.conf.all.src_valid_mark=1",
		"sysctl -qw net.ipv4.tcp_syncookies=2",
		"sysctl -qw net.ipv4.tcp_syncookies=0",
		"sysctl -qw net.ipv4.ip_early_demux=0",
	} {
		t.Run(sysctls, func(t *testing.T) {
			g := newGateway(t)
			g.sh(sysctls)
			g.nft(strictFirewall)
			p := mustMake(t, parse(t, keepYAML), standard())
			g.load(p)
			g.alive(true)
			g.proxy(61440, true)
			for _, to := range []string{to4, to6} {
				server := g.serve(to, lab.Echo)
				for range 3 {
					local, err := g.echo(to, 8<<20)
					if err != nil {
						t.Fatal(err)
					}
					peer, ok := server.Last()
					if !ok || peer.From != local {
						t.Errorf("the server saw %v, the client was %v", peer.From, local)
					}
				}
			}
			if g.invalid() {
				t.Errorf("the firewall has dropped packets as invalid:\n%s", g.sh("nft list table inet firewall"))
			}
		})
	}
}

// The host masquerades towards the servers: they see the host, and every connection works, the client's port kept or not.
func TestTrafficThroughMasquerade(t *testing.T) {
	g := newGateway(t)
	g.nft(strictFirewall)
	g.nft("table inet theirs {\n\tchain post { type nat hook postrouting priority srcnat; policy accept; oifname \"g1\" masquerade; }\n}\n")
	g.load(mustMake(t, parse(t, keepYAML), standard()))
	g.alive(true)
	g.proxy(61440, true)
	for to, host := range map[string]string{to4: "10.0.2.1", to6: "fd00:2::1"} {
		server := g.serve(to, lab.Echo)
		for range 3 {
			if _, err := g.echo(to, 8<<20); err != nil {
				t.Fatalf("%s: %v\n%s", to, err, g.sh("cat /proc/net/nf_conntrack"))
			}
			if peer, ok := server.Last(); !ok || peer.From.Addr() != netip.MustParseAddr(host) {
				t.Errorf("the server saw %v", peer.From)
			}
		}
	}
	if g.invalid() {
		t.Errorf("the firewall has dropped packets as invalid:\n%s", g.sh("nft list table inet firewall"))
	}
}

// What the plan does not take in, or cannot, goes its way: no worker, no listener, a flow that was there before, another program's listener.
func TestTrafficPassesBy(t *testing.T) {
	g := newGateway(t)
	g.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	g.serve("0.0.0.0:3129", lab.Echo)
	old := map[string]*net.TCPConn{}
	for _, to := range []string{to4, to6, "10.0.2.2:110", "[fd00:2::2]:110"} {
		g.serve(to, lab.Echo)
		c, err := g.Client().Dial(to)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		old[to] = c
	}
	yaml := keepYAML + "  # and by NAT\n"
	yaml = strings.Replace(yaml, "listeners: {", "listeners: {nat: {intercept: {interfaces: [g0], ports: [110], method: redirect}}, plain: {intercept: {interfaces: [g0], ports: [81]}}, ", 1)
	p := mustMake(t, parse(t, yaml), standard())
	g.load(p)
	g.alive(true)
	for to, c := range old {
		if err := g.echoOn(c, 1<<20); err != nil {
			t.Errorf("flow from before to %s: %v", to, err)
		}
	}
	listener, err := g.Gateway.Listen("0.0.0.0:3129", lab.ListenOptions{Transparent: true})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if _, err := g.echo("10.0.2.2:3129", 1<<20); err != nil {
		t.Errorf("beside another program's transparent listener: %v", err)
	}
	g.serve("10.0.2.2:81", lab.Echo)
	if _, err := g.echo("10.0.2.2:81", 1<<20); err != nil { // nobody has opened the interception port
		t.Errorf("nobody listens: %v", err)
	}
	g.proxy(61441, true)
	g.alive(false)
	for to := range old {
		if _, err := g.echo(to, 1<<20); err != nil {
			t.Errorf("no worker, %s: %v", to, err)
		}
	}
}

// The test before would not prove much if it passed without the rules it is about.
func TestTrafficNeedsTheRules(t *testing.T) {
	t.Run("another program's listener", func(t *testing.T) {
		g := newGateway(t)
		g.serve("0.0.0.0:3129", lab.Echo)
		p := mustMake(t, parse(t, keepYAML), standard())
		dropRule(t, &p, "divert-socket", SocketWildcard{})
		g.load(p)
		listener, err := g.Gateway.Listen("0.0.0.0:3129", lab.ListenOptions{Transparent: true})
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		if _, err := g.echo("10.0.2.2:3129", 1<<20); err == nil {
			t.Error("forwarded traffic passes without the rule")
		}
	})
	t.Run("zone", func(t *testing.T) {
		g := newGateway(t)
		g.patience = 2 * time.Second
		g.nft(strictFirewall)
		p := mustMake(t, parse(t, keepYAML), standard())
		p.Tables[0].Chains = slices.DeleteFunc(p.Tables[0].Chains, func(c Chain) bool { return strings.HasPrefix(c.Name, "zone-") })
		g.load(p)
		g.alive(true)
		g.proxy(61440, true)
		g.serve(to4, lab.Echo)
		for range 40 { // it stalls when the two sequences have drifted far enough apart
			if _, err := g.echo(to4, 8<<20); err != nil || g.invalid() {
				return
			}
		}
		t.Error("without a zone, bulk passes a firewall that drops invalid packets")
	})
}

// Refused with a reset: what is not taken in and must not pass by, with the table that has an owner or after it, and the
// redirect listener's own port.
func TestTrafficIsRefused(t *testing.T) {
	g := newGateway(t)
	p := mustMake(t, parse(t, `
listeners:
  web: {intercept: {interfaces: [g0], ports: [80]}, on_failure: closed}
  nat: {intercept: {interfaces: [g0], ports: [110], method: redirect}, on_failure: closed}
`), standard())
	g.load(p)
	all := []string{to4, to6, "10.0.2.2:110", "[fd00:2::2]:110"}
	for _, to := range all {
		g.serve(to, lab.Echo)
	}
	refused := func(when, to string) {
		t.Helper()
		start := time.Now()
		if _, err := g.echo(to, 1); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s, %s: %v after %v", when, to, err, time.Since(start))
		}
	}
	for _, to := range all {
		refused("no worker", to)
	}
	g.alive(true)
	g.proxy(61440, false)
	for _, to := range []string{to4, to6} {
		if _, err := g.echo(to, 1<<20); err != nil {
			t.Errorf("with a worker, %s: %v", to, err)
		}
	}
	wild, err := g.Gateway.Listen("0.0.0.0:61441", lab.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer wild.Close()
	if c, err := g.Client().Dial("10.0.2.2:110"); err != nil {
		t.Errorf("redirected: %v", err)
	} else {
		c.Close()
	}
	refused("dialled directly", "10.0.1.1:61441")
	g.sh("nft delete table inet salp")
	for _, to := range all {
		refused("no keeper", to)
	}
	g.sh("nft delete table inet salp-closed")
	for _, to := range all {
		if _, err := g.echo(to, 1<<20); err != nil {
			t.Errorf("after removal, %s: %v", to, err)
		}
	}
}

// dropRule removes the rule of a chain that has the expression.
func dropRule(t *testing.T, p *Plan, chain string, e Expr) {
	t.Helper()
	for i := range p.Tables[0].Chains {
		c := &p.Tables[0].Chains[i]
		if n := slices.IndexFunc(c.Rules, func(r NFTRule) bool { return slices.Contains(r.Exprs, e) }); c.Name == chain && n >= 0 {
			c.Rules = slices.Delete(c.Rules, n, n+1)
			return
		}
	}
	t.Fatalf("chain %s has no rule with %s", chain, e.Text())
}
