package test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// networkd runs systemd-networkd in a host, with its files (name, text), in a mount namespace of its own: as in a container, where it needs
// neither udev nor a bus. It returns the process, which ends with the test.
func (o *office) networkd(h *lab.Host, files ...string) *lab.Process {
	o.Helper()
	program := "/lib/systemd/systemd-networkd"
	if _, err := os.Stat(program); err != nil {
		o.Skip("skipped: needs systemd-networkd")
	}
	dir, err := os.MkdirTemp(o.dir, "networkd-"+h.Name)
	o.must(err)
	for i := 0; i < len(files); i += 2 {
		o.must(os.WriteFile(filepath.Join(dir, files[i]+".network"), []byte(files[i+1]), 0o644))
	}
	o.must(os.Chmod(dir, 0o755))
	cmd := exec.CommandContext(o.Context(), "unshare", "-m", "sh", "-ec", `mount --make-rprivate /
mount -t tmpfs none /run
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network /run/systemd/netif
mount --bind "$1" /etc/systemd/network
mount -t sysfs -o ro none /sys
exec `+program, "sh", dir)
	log := &lab.Log{}
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=debug", "SYSTEMD_LOG_TARGET=console")
	cmd.Stdout, cmd.Stderr = log, log
	p, err := h.Start(cmd)
	o.must(err)
	o.Cleanup(func() {
		if o.Failed() {
			for l := range strings.Lines(log.String()) {
				if strings.Contains(l, "wan") || strings.Contains(l, "Remov") || strings.Contains(l, "c0") {
					o.Log("networkd in " + h.Name + ": " + strings.TrimSpace(l))
				}
			}
		}
	})
	return p
}

// waits polls a command in the gateway until its output has what is wanted, or no longer has it.
func (o *office) waits(command string, has bool, want string) {
	o.Helper()
	words := strings.Fields(command)
	o.await(fmt.Sprintf("%s: %q there: %v", command, want, has), func() bool {
		out, _ := o.net.Gateway.Run(context.Background(), words[0], words[1:]...)
		return strings.Contains(out, want) == has
	})
}

// TestLinksWithNetworkd runs systemd-networkd in the gateway and in a provider: the addresses and routers of the links are learned from what it
// gets by DHCP, by router advertisements and from its files; and when it deletes ip rules that it does not know, Salp's stay.
func TestLinksWithNetworkd(t *testing.T) {
	o := newOffice(t, 10)
	o.bcp38()
	gw, provider := o.net.Gateway, o.net.Providers[1]
	for _, dev := range []string{"wan1", "wan2"} {
		o.run(gw, "ip addr flush dev "+dev)
		o.run(gw, "ip -6 addr flush dev "+dev)
		o.must(gw.Down(dev))
	}
	o.networkd(provider, "c0", `[Match]
Name=c0
[Network]
Address=198.51.100.1/24
Address=2001:db8:2::1/64
DHCPServer=yes
IPv6SendRA=yes
LinkLocalAddressing=ipv6
KeepConfiguration=yes
[DHCPServer]
PoolOffset=50
PoolSize=1
EmitDNS=no
[IPv6SendRA]
RouterLifetimeSec=1800
EmitDNS=no
[IPv6Prefix]
Prefix=2001:db8:2::/64
`)
	host := []string{"wan1", "[Match]\nName=wan1\n[Network]\nAddress=192.0.2.10/24\nAddress=2001:db8:1::10/64\nGateway=192.0.2.1\nGateway=2001:db8:1::1\nIPv6AcceptRA=no\nLinkLocalAddressing=ipv6\n",
		"wan2", "[Match]\nName=wan2\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=yes\nKeepConfiguration=dhcp-on-stop\nLinkLocalAddressing=ipv6\n[DHCPv4]\nRouteMetric=300\nUseDNS=no\nClientIdentifier=mac\nSendRelease=no\n[IPv6AcceptRA]\nRouteMetric=300\n",
		"new0", "[Match]\nName=new*\n[Network]\nAddress=10.77.0.1/24\nLinkLocalAddressing=no\n"}
	first := o.networkd(gw, host...)
	s := o.launch(strings.NewReplacer(", gateway: [192.0.2.1, \"2001:db8:1::1\"]", "", ", gateway: [198.51.100.1, \"2001:db8:2::1\"]", "").Replace(plainLinks("  spread: flow\n", "")))
	whole := func(st *admin.Status) bool {
		return serves(st) && linkStates(st) == bothUp && len(st.Links[0].Addresses) == 2 && len(st.Links[1].Addresses) == 2 && len(st.Links[1].Gateways) == 2
	}
	st := s.await("on both links, by both families", whole)
	if l := st.Links[1]; !l.Learned || l.Addresses[0] != "198.51.100.50" || l.Gateways[0] != "198.51.100.1" || !strings.HasPrefix(l.Gateways[1], "fe80:") {
		t.Errorf("learned %+v", l)
	}
	spread := func(when string) {
		t.Helper()
		for _, f := range paths {
			counts := o.spread(60, func(i int) string { return net.JoinHostPort(f.server+strconv.Itoa(10+i%20), "80") })
			if counts["virtua"]+counts["embratel"] != 60 || counts["virtua"] < 25 || counts["embratel"] < 6 {
				t.Errorf("%s, %s: %v", when, f.name, counts)
			}
		}
	}
	spread("with networkd")
	flows := append(o.hold(0, 10, 0, nil), o.hold(1, 10, 0, nil)...)
	goOn := func(when string) {
		t.Helper()
		for _, h := range flows {
			if err := h.works(patience); err != nil {
				t.Errorf("%s: a connection of %s: %v", when, h.by, err)
			}
		}
	}
	rules := o.gw("ip", "-4", "rule") + o.gw("ip", "-6", "rule")
	for round, family := range []string{"-4", "-6"} {
		// networkd deletes rules of others when it sets up an interface.
		o.gw("ip", family, "rule", "add", "priority", "9000", "fwmark", "0x40/0x40", "lookup", "9000")
		time.Sleep(50 * time.Millisecond) // networkd must have heard of the rule
		name := fmt.Sprint("new", round)
		o.must(o.net.Join(gw, name, o.net.Web, fmt.Sprint("x", round)))
		o.waits("ip "+family+" rule", false, "9000")
		goOn("after networkd deleted a rule of others")
	}
	if now := o.gw("ip", "-4", "rule") + o.gw("ip", "-6", "rule"); now != rules {
		t.Errorf("rules were\n%s\nare\n%s", rules, now)
	}
	spread("after networkd set up other interfaces")
	o.must(first.Stop(patience))
	goOn("networkd has ended")
	o.networkd(gw, host...)
	o.waits("ip addr show dev wan2", true, "198.51.100.50")
	s.await("on both links, by both families again", whole)
	goOn("another networkd runs")
	spread("with another networkd")
	if st, _ := s.status(); !st.Kernel.InSync || st.Kernel.Repaired != 0 {
		t.Errorf("kernel: %+v", st.Kernel)
	}
	if n := o.foreign(); n != 0 {
		t.Errorf("the providers had to drop %d packets", n)
	}
	s.down()
}

// TestLinkByAdvertisements has the kernel itself learn the router of a link from router advertisements. Salp makes the host a router, which would
// end that, and it goes on; when the router says that it is none any more, the link is used for IPv4 alone.
func TestLinkByAdvertisements(t *testing.T) {
	o := newOffice(t, 4)
	gw := o.net.Gateway
	o.run(gw, "ip -6 addr flush dev wan2 scope global")
	o.sysctls("net/ipv6/conf/wan2/accept_ra", "1", "net/ipv6/conf/wan2/autoconf", "1")
	router := o.networkd(o.net.Providers[1], "c0", "[Match]\nName=c0\n[Network]\nAddress=198.51.100.1/24\nAddress=2001:db8:2::1/64\nIPv6SendRA=yes\nIPv6AcceptRA=no\n"+
		"LinkLocalAddressing=ipv6\n[IPv6SendRA]\nRouterLifetimeSec=1800\nEmitDNS=no\n[IPv6Prefix]\nPrefix=2001:db8:2::/64\n")
	o.waits("ip -6 route show default dev wan2", true, "proto ra")
	s := o.start(strings.Replace(plainLinks("  spread: flow\n", ""), ", gateway: [198.51.100.1, \"2001:db8:2::1\"]", ", gateway: 198.51.100.1", 1))
	s.await("on both links by IPv6", func(st *admin.Status) bool {
		return serves(st) && linkStates(st) == bothUp && len(st.Links[1].Gateways) == 2
	})
	o.waits("sysctl net.ipv6.conf.wan2.accept_ra net.ipv6.conf.all.forwarding", true, "accept_ra = 2\nnet.ipv6.conf.all.forwarding = 1")
	counts := o.spread(60, func(i int) string { return fmt.Sprintf("[2001:db8:80::%d]:80", 10+i%20) })
	if counts["virtua"]+counts["embratel"] != 60 || counts["embratel"] < 6 {
		t.Errorf("IPv6: %v", counts)
	}
	o.must(router.Stop(patience)) // it says so with a lifetime of zero
	s.await("without IPv6 on embratel", func(st *admin.Status) bool {
		return serves(st) && linkStates(st) == bothUp && len(st.Links[1].Gateways) == 1
	})
	counts = o.spread(20, func(i int) string { return fmt.Sprintf("[2001:db8:80::%d]:80", 10+i) })
	if counts["virtua"] != 20 {
		t.Errorf("IPv6 when embratel has no router: %v", counts)
	}
	o.both()
	s.down()
	o.waits("sysctl net.ipv6.conf.wan2.accept_ra net.ipv6.conf.all.forwarding", true, "accept_ra = 1\nnet.ipv6.conf.all.forwarding = 0")
}

// firewalld is the ruleset of firewalld 1.3 for an office: lan0 in the zone trusted, wan1 and wan2 in external, which masquerades.
const firewalld = `table inet firewalld {
	chain mangle_PREROUTING { type filter hook prerouting priority mangle + 10; policy accept; }
	chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; policy accept; }
	chain nat_POSTROUTING {
		type nat hook postrouting priority srcnat + 10; policy accept;
		oifname { "wan1", "wan2" } meta nfproto ipv4 masquerade
	}
	chain filter_PREROUTING {
		type filter hook prerouting priority filter + 10; policy accept;
		icmpv6 type { nd-neighbor-advert, nd-neighbor-solicit, nd-router-advert, nd-redirect } accept
		meta nfproto ipv6 fib saddr . mark . iif oif missing counter drop comment "rpfilter"
	}
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid counter drop comment "invalid"
		iifname "lan0" accept
		icmp type echo-reply accept
		meta l4proto ipv6-icmp accept
		reject with icmpx admin-prohibited
	}
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid counter drop comment "invalid"
		ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002::/24, 2002:a00::/24, 2002:7f00::/24, 2002:a9fe::/32, 2002:ac10::/28, 2002:c0a8::/32, 2002:e000::/19 } reject with icmpv6 addr-unreachable
		iifname "lan0" accept
		reject with icmpx admin-prohibited
	}
	chain filter_OUTPUT { type filter hook output priority filter + 10; policy accept; }
}
`

// iptablesRules are what ufw and people's own scripts make with iptables: default drop, invalid first, connection marks of their own, masquerade,
// and clamping.
const iptablesRules = `*mangle
:PREROUTING ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
-A PREROUTING -i lan0 -m dscp --dscp-class EF -j CONNMARK --set-xmark 0x40/0x40
-A PREROUTING -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff
-A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -s %[1]s -o wan1 -j MASQUERADE
-A POSTROUTING -s %[1]s -o wan2 -j MASQUERADE
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:before - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p %[2]s -j ACCEPT
-A INPUT -i lan0 -j ACCEPT
-A FORWARD -j before
-A before -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A before -m conntrack --ctstate INVALID -j DROP
-A before -i lan0 -j ACCEPT
-A before -m conntrack --ctstate DNAT -j ACCEPT
COMMIT
`

// TestLinksBesideFirewalls has links work next to rulesets as firewalld, ufw and iptables make them, with both families: spreading, pins, port
// forwards, this host's own traffic and probes; and a ruleset of others that is loaded anew changes nothing of Salp's.
func TestLinksBesideFirewalls(t *testing.T) {
	load := map[string]func(o *office){
		"firewalld": func(o *office) { o.nft("add table inet firewalld\ndelete table inet firewalld\n" + firewalld) },
		"iptables": func(o *office) {
			for _, f := range [][]string{{"iptables-nft-restore", "10.1.0.0/16", "icmp"}, {"ip6tables-nft-restore", "fd00:1::/64", "ipv6-icmp"}} {
				if _, err := exec.LookPath(f[0]); err != nil {
					o.Skip("skipped: needs the program " + f[0])
				}
				file := filepath.Join(o.dir, "iptables")
				o.must(os.WriteFile(file, []byte(fmt.Sprintf(iptablesRules, f[1], f[2])), 0o644))
				o.gw(f[0], file)
			}
		},
	}
	for name, firewall := range load {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, 20)
			o.bcp38()
			reverse("1")(o)
			firewall(o)
			check := "weight: 2, check: {ping: [203.0.113.10, \"2001:db8:80::10\"], quorum: 2, every: 300ms}"
			s := o.start(strings.NewReplacer("weight: 2", check, "weight: 1", strings.Replace(check, "2", "1", 1)).Replace(plainLinks("  spread: flow\n  rules: [{ports: [25], link: embratel}]\n",
				"forward:\n  - {port: 8080, to: \"10.1.0.10:80\"}\n  - {port: 8080, to: \"[fd00:1::10]:80\"}\n")))
			s.checked()
			_, err := o.net.Web.Serve("[::]:80", lab.Tell)
			o.must(err)
			flows := append(o.hold(0, 10, 0, nil), o.hold(1, 10, 0, nil)...)
			for round := range 2 {
				for _, f := range paths {
					counts := o.spread(90, func(i int) string { return net.JoinHostPort(f.server+strconv.Itoa(10+i%20), "80") })
					if counts["virtua"]+counts["embratel"] != 90 || counts["virtua"] < 40 || counts["embratel"] < 12 {
						t.Errorf("%s: %v", f.name, counts)
					}
					for range 5 {
						if by := o.by(o.net.Client, "", net.JoinHostPort(f.server+"10", "25")); by != "embratel" {
							t.Errorf("%s, pinned: by %s", f.name, by)
						}
						if by := o.by(o.net.Gateway, "", net.JoinHostPort(f.server+"10", "25")); by != "embratel" {
							t.Errorf("%s, this host's own, pinned: by %s", f.name, by)
						}
					}
					for _, own := range f.own {
						if seen := o.told(o.net.Internet, f.server+"10", net.JoinHostPort(own, "8080")); seen != f.server+"10" {
							t.Errorf("%s port 8080 from outside: the server saw %s", own, seen)
						}
					}
				}
				if round == 0 {
					firewall(o) // its own reload
				}
			}
			for _, h := range flows {
				if err := h.works(patience); err != nil {
					t.Errorf("a connection of %s: %v", h.by, err)
				}
			}
			if st, _ := s.status(); linkStates(st) != bothUp || st.Links[0].Loss+st.Links[1].Loss > 0 || !st.Kernel.InSync || st.Kernel.Repaired > 0 {
				t.Errorf("%s, %+v", linkStates(st), st.Kernel)
			}
			if n := o.foreign() + o.counter("leaked-virtua") + o.counter("leaked-embratel"); n != 0 {
				t.Errorf("%d packets had a foreign source", n)
			}
			s.down()
			if tables := o.gw("nft", "list", "tables"); strings.Contains(tables, "salp") {
				t.Error(tables)
			}
		})
	}
}
