package test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// uncheckedLinks are two links without checks, which spread each flow for itself.
const uncheckedLinks = `links:
  virtua: {interface: wan1, gateway: 192.0.2.1}
  embratel: {interface: wan2, gateway: 198.51.100.1}
balance:
  inside: {interfaces: [lan0], networks: [10.1.0.0/24, "fd00:1::/64"]}
  spread: flow
`

// run runs a command in a host.
func (o *office) run(h *lab.Host, command string) {
	o.Helper()
	words := strings.Fields(command)
	if out, err := h.Run(o.Context(), words[0], words[1:]...); err != nil {
		o.Fatalf("%s: %v: %s", command, err, out)
	}
}

// holdFlow opens a connection that leaves by the link of that name.
func (o *office) holdFlow(link string) *net.TCPConn {
	o.Helper()
	for range 60 {
		c, err := o.net.Client.DialWith("203.0.113.13:81", lab.DialOptions{Timeout: 3 * time.Second})
		o.must(err)
		o.Cleanup(func() { c.Close() })
		if o.echoes(c) != nil {
			o.Fatal("no echo")
		}
		if seen, ok := o.echo().Last(); ok && linkOf(seen.From.Addr()) == link {
			return c
		}
		c.Close()
	}
	o.Fatal("no flow leaves by " + link)
	return nil
}

// echo is a server on port 81 of every address of the Internet.
func (o *office) echo() *lab.Server {
	o.Helper()
	if o.echoing == nil {
		var err error
		o.echoing, err = o.net.Internet.Serve("[::]:81", lab.Echo)
		o.must(err)
	}
	return o.echoing
}

// echoes sends something and wants it back.
func (o *office) echoes(c *net.TCPConn) error {
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 4))
	return err
}

// only wants so many flows to leave by one link alone.
func (o *office) only(link string, flows int) {
	o.Helper()
	if counts := o.spread(flows, func(i int) string { return fmt.Sprintf("203.0.113.%d:80", 13+i%10) }); counts[link] != flows {
		o.Errorf("%d flows: %v, and all should leave by %s", flows, counts, link)
	}
}

// both wants flows by both links.
func (o *office) both() {
	o.Helper()
	if counts := o.spread(40, func(i int) string { return fmt.Sprintf("203.0.113.%d:80", 13+i%10) }); counts["virtua"] < 5 || counts["embratel"] < 5 || counts["virtua"]+counts["embratel"] != 40 {
		o.Errorf("40 flows: %v", counts)
	}
}

// Carrier loss takes a link down at once: new flows leave by the other, and those that it had begin anew. The flows of the other link, and
// those of a link that comes back, are not touched. A cable that is plugged in again brings the link back.
func TestLinkCarrier(t *testing.T) {
	o := newOffice(t, 10)
	o.echo()
	s := o.start(uncheckedLinks)
	s.awaitLinks(bothUp)
	mine, other := o.holdFlow("virtua"), o.holdFlow("embratel")
	o.must(o.net.Providers[0].Down("c0"))
	began := time.Now()
	s.awaitLinks("virtua down, embratel up")
	if took := time.Since(began); took > time.Second*slowdown {
		t.Errorf("carrier loss is found after %v", took)
	}
	o.only("embratel", 20)
	if err := o.echoes(mine); err == nil || errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("a flow of the dead link: %v", err)
	}
	if err := o.echoes(other); err != nil {
		t.Errorf("a flow of the other link: %v", err)
	}
	o.must(o.net.Providers[0].Up("c0"))
	o.run(o.net.Providers[0], "ip route replace default via 172.16.1.1")
	s.awaitLinks(bothUp)
	o.both()
	if err := o.echoes(other); err != nil {
		t.Errorf("a flow of the other link when the first is back: %v", err)
	}
}

// A provider whose router answers and who reaches too few of the targets is down.
func TestLinkQuorum(t *testing.T) {
	o := newOffice(t, 2)
	s := o.start(linksFile(t, "quorum: 1", "quorum: 2"))
	s.checked()
	o.run(o.net.Providers[0], "ip route add blackhole 203.0.113.11")
	time.Sleep(time.Second) // two of three targets answer
	if st, _ := s.status(); linkStates(st) != bothUp {
		t.Errorf("with a quorum: %s", linkStates(st))
	}
	o.run(o.net.Providers[0], "ip route add blackhole 203.0.113.12")
	st := s.awaitLinks("virtua down, embratel up")
	if !strings.Contains(st.Links[0].Reason, "1 of 3 targets answer, 2 must") {
		t.Error(st.Links[0].Reason)
	}
	o.run(o.net.Providers[0], "ip route del blackhole 203.0.113.12")
	s.awaitLinks(bothUp)
}

// Gateways are learned from others' default routes and followed, for IPv4 and IPv6, and addresses as well.
func TestLinkLearns(t *testing.T) {
	o := newOffice(t, 2)
	gw, provider := o.net.Gateway, o.net.Providers[1]
	o.run(provider, "ip addr add 198.51.100.2/24 dev c0")
	o.run(provider, "ip -6 addr add fe80::5/64 dev c0 nodad")
	file := strings.NewReplacer(", gateway: 198.51.100.1", "", ", gateway: 192.0.2.1", "").Replace(uncheckedLinks) + "  rules: [{ports: [80], link: embratel, strict: true}]\n"
	s := o.start(file)
	st := s.awaitLinks("virtua up, embratel down")
	if reason := st.Links[1].Reason; reason != "no default route tells the gateway of wan2" {
		t.Error(reason)
	}
	if got := o.by(o.net.Client, "", "203.0.113.13:80"); !strings.Contains(got, "refused") && !strings.Contains(got, "unreachable") {
		t.Errorf("a strict rule while its link is down: %s", got)
	}
	table := func(family, want string) {
		t.Helper()
		o.await("the table of embratel to have "+want, func() bool {
			out, _ := gw.Run(t.Context(), "ip", family, "route", "show", "table", "8122")
			return strings.Contains(out, want)
		})
	}
	o.run(gw, "ip route add default via 198.51.100.1 dev wan2 proto dhcp metric 300")
	s.awaitLinks(bothUp)
	table("-4", "default via 198.51.100.1 dev wan2")
	o.only("embratel", 4)
	o.run(gw, "ip route add default via 198.51.100.2 dev wan2 proto dhcp metric 200")
	o.run(gw, "ip route del default via 198.51.100.1 dev wan2 proto dhcp metric 300")
	table("-4", "default via 198.51.100.2 dev wan2")
	o.only("embratel", 4)
	o.run(gw, "ip -6 route add default via fe80::5 dev wan2 proto ra metric 512")
	table("-6", "default via fe80::5 dev wan2")
	o.await("IPv6 by embratel", func() bool { return o.by(o.net.Client, "", "[2001:db8:80::13]:80") == "embratel" })
	// Another lease: the address changes, the flows of the old one end, new ones have the new.
	o.run(gw, "ip addr del 198.51.100.10/24 dev wan2")
	o.run(gw, "ip addr add 198.51.100.77/24 dev wan2")
	o.run(gw, "ip route replace default via 198.51.100.2 dev wan2 proto dhcp metric 200")
	o.await("flows from the new address", func() bool {
		o.by(o.net.Client, "", "203.0.113.13:80")
		last, ok := o.tcp.Last()
		return ok && last.From.Addr() == netip.MustParseAddr("198.51.100.77")
	})
	if st, _ := s.status(); len(st.Links[1].Addresses) == 0 || st.Links[1].Addresses[0] != "198.51.100.77" || !st.Links[1].Learned {
		t.Errorf("%+v", st.Links[1])
	}
	o.run(gw, "ip route del default via 198.51.100.2 dev wan2 proto dhcp metric 200")
	o.run(gw, "ip -6 route del default via fe80::5 dev wan2 proto ra metric 512")
	s.awaitLinks("virtua up, embratel down")
}

// await polls until something is so.
func (o *office) await(what string, is func() bool) {
	o.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			o.Fatal("waited in vain for " + what)
		}
	}
}

// When all targets are dead both links are down, and flows go on by both, or are refused, or go where the host's own table leads.
func TestLinksAllDown(t *testing.T) {
	for word, want := range map[string]string{"all": "", "reject": "refused", "main": "virtua"} {
		t.Run(word, func(t *testing.T) {
			o := newOffice(t, 2)
			s := o.start(linksFile(t, "  spread: flow", "  spread: flow\n  last_resort: "+word))
			s.checked()
			for _, n := range []string{"10", "11", "12"} {
				o.must(o.net.Internet.RemoveAddr("lo", "203.0.113."+n+"/32"))
			}
			s.awaitLinks("virtua down, embratel down")
			if want == "" {
				o.both()
				return
			}
			if word == "main" { // which has to masquerade itself
				o.nft("table ip own { chain p { type nat hook postrouting priority 100; oifname \"wan1\" masquerade; }; }\n")
			}
			if got := o.by(o.net.Client, "", "203.0.113.15:80"); !strings.Contains(got, want) {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

// TestLinksAllDownInBothFamilies is the same when an operator has taken both links down.
func TestLinksAllDownInBothFamilies(t *testing.T) {
	o := newOffice(t, 2)
	o.nft("table inet own { chain p { type nat hook postrouting priority 100; oifname \"wan1\" masquerade; }; }\n") // for main, which does not do it
	for _, word := range []string{"all", "reject", "main"} {
		s := o.start(plainLinks("  spread: flow\n  last_resort: "+word+"\n  rules: [{ports: [25], link: embratel, strict: true}]\n", ""))
		var flows []*held
		if word == "all" {
			flows = append(o.hold(0, 12, 0, nil), o.hold(1, 12, 0, nil)...)
		}
		s.setLink("virtua", "down")
		o.await("the flows of virtua to be forgotten", func() bool {
			return len(flows) == 0 || strings.Contains(s.log.String(), "flows of the link are forgotten")
		})
		for i := 0; i < 2; i++ { // those of the last link go on when it goes down, too, as it is used
			for _, h := range flows {
				if err := h.works(patience); (err == nil) != (h.by == "embratel") {
					t.Errorf("both links are down: %v, and a connection of %s: %v", i == 1, h.by, err)
				}
			}
			s.setLink("embratel", "down")
		}
		for _, f := range paths {
			for _, from := range []*lab.Host{o.net.Client, o.net.Gateway} {
				seen := map[string]int{}
				for i := range 20 {
					seen[o.by(from, "", net.JoinHostPort(f.server+fmt.Sprint(10+i%20), "80"))]++
				}
				refused := 0
				for by, n := range seen {
					if strings.Contains(by, "refused") {
						refused += n
					}
				}
				if word == "all" && (seen["virtua"] < 3 || seen["embratel"] < 1 || seen["virtua"]+seen["embratel"] != 20) || word == "reject" && refused != 20 || word == "main" && seen["virtua"] != 20 {
					t.Errorf("%s, %s, %s: %v", word, f.name, from.Name, seen)
				}
				if by := o.by(from, "", net.JoinHostPort(f.server+"10", "25")); !strings.Contains(by, "refused") {
					t.Errorf("%s, %s, %s, a strict rule: %s", word, f.name, from.Name, by)
				}
			}
		}
		s.setLink("virtua", "ready")
		o.await("the flows of embratel to be forgotten", func() bool {
			return len(flows) == 0 || strings.Count(s.log.String(), "flows of the link are forgotten") == 2
		})
		for _, h := range flows {
			if err := h.works(patience); err == nil {
				t.Errorf("virtua alone is up, and a connection of %s goes on", h.by)
			}
		}
		s.setLink("embratel", "ready")
		s.down()
	}
}

// A webhook is told of every change, by JSON, and a program, as nobody; one that takes too long is killed.
func TestLinkWebhook(t *testing.T) {
	o := newOffice(t, 1)
	told := make(chan map[string]any, 10)
	_, err := o.net.Web.Serve("0.0.0.0:80", func(c *net.TCPConn) {
		request, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		var body map[string]any
		if json.NewDecoder(request.Body).Decode(&body) == nil && request.Method == "POST" {
			told <- body
		}
		fmt.Fprint(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	})
	o.must(err)
	file := filepath.Join(o.dir, "told")
	o.must(os.WriteFile(file, nil, 0o666))
	o.must(os.Chmod(file, 0o666))
	s := o.start(uncheckedLinks + "  on_change: {webhook: \"http://10.1.0.10/links\", timeout: 500ms, run: [/bin/sh, -c, 'echo $SALP_LINK $SALP_WAS $SALP_STATE $SALP_INTERFACE $SALP_REASON $(id -u) >> " + file + "; sleep 60 & sleep 60']}\n")
	s.awaitLinks(bothUp)
	o.must(o.net.Providers[1].Down("c0"))
	select {
	case got := <-told:
		if got["link"] != "embratel" || got["state"] != "down" || got["was"] != "up" || got["interface"] != "wan2" || got["reason"] != "interface wan2 has no carrier" {
			t.Errorf("told %v", got)
		}
	case <-time.After(patience):
		t.Error("the webhook is not called")
	}
	o.await("the program to be killed", func() bool { return strings.Contains(s.log.String(), "its time was over") })
	if text, _ := os.ReadFile(file); string(text) != "embratel up down wan2 interface wan2 has no carrier 65534\n" {
		t.Errorf("the program was told %q", text)
	}
}

// throughProxy is a listener that clients dial, for servers on the Internet.
const throughProxy = `listeners:
  proxy: {listen: ["10.1.0.1:8000"], pool: far, link: virtua, timeouts: {connect: 6s}}
  inline: {intercept: {interfaces: [lan0], ports: [81]}, source: client}
pools:
  far: {servers: ["203.0.113.13:80"]}
`

// Salp's own connections take the link that their listener names, with its address. A connect that fails by one link is made again by
// another before the client notices, and what is on a link that goes down is reset, so that the client begins anew.
func TestLinksOfWorker(t *testing.T) {
	o := newOffice(t, 10)
	o.echo()
	s := o.start(throughProxy + uncheckedLinks)
	s.awaitLinks(bothUp)
	for range 5 {
		if link := o.by(o.net.Client, "", "10.1.0.1:8000"); link != "virtua" {
			t.Errorf("by %s", link)
		}
	}
	// The client's policy decides about what is taken in, and the client is masqueraded.
	mine := o.holdFlow("virtua")
	s.await("counting what it took in", func(st *admin.Status) bool { return sum(st, accepted) >= 6 })
	// A provider that swallows everything, which nothing has noticed yet.
	o.must(o.net.Providers[0].Sysctl("net/ipv4/ip_forward", "0"))
	began := time.Now()
	c, err := o.net.Client.DialWith("10.1.0.1:8000", lab.DialOptions{Timeout: 3 * time.Second})
	o.must(err)
	defer c.Close()
	o.must(c.SetDeadline(time.Now().Add(10 * time.Second)))
	line, err := bufio.NewReader(c).ReadString('\n')
	seen, _ := lab.ParseTold(strings.TrimSpace(line))
	if err != nil || linkOf(seen.From.Addr()) != "embratel" {
		t.Errorf("after %v: %q, %v", time.Since(began), line, err)
	}
	s.await("counting one retry", func(st *admin.Status) bool { return st.Listeners[0].Counters.Retries == 1 })
	// The link goes down while a connection is being made by it, and while another has one.
	result := make(chan string, 1)
	go func() {
		c, err := o.net.Client.DialWith("10.1.0.1:8000", lab.DialOptions{Timeout: 3 * time.Second})
		if err != nil {
			result <- err.Error()
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		line, _ := bufio.NewReader(c).ReadString('\n')
		seen, _ := lab.ParseTold(strings.TrimSpace(line))
		result <- linkOf(seen.From.Addr())
	}()
	time.Sleep(200 * time.Millisecond) // until its SYN is on the way
	o.must(o.net.Providers[0].Down("c0"))
	began = time.Now()
	s.awaitLinks("virtua down, embratel up")
	if got := <-result; got != "embratel" || time.Since(began) > time.Second*slowdown {
		t.Errorf("a connect on a link that goes down: by %s after %v", got, time.Since(began))
	}
	o.must(mine.SetDeadline(time.Now().Add(3 * time.Second)))
	if _, err := mine.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection on a link that went down: %v", err)
	}
	s.await("counting it", func(st *admin.Status) bool { return st.Listeners[1].Counters.Errors["link_down"] == 1 })
	for range 5 {
		if link := o.by(o.net.Client, "", "10.1.0.1:8000"); link != "embratel" {
			t.Errorf("by %s while virtua is down", link)
		}
	}
}

// Links outlive a stop and a kill -9 with their flows, and the next start goes on from there; `salp down` removes them.
func TestLinksPersist(t *testing.T) {
	o := newOffice(t, 10)
	o.echo()
	before := o.look()
	s := o.start(uncheckedLinks)
	s.awaitLinks(bothUp)
	held := []*net.TCPConn{o.holdFlow("virtua"), o.holdFlow("embratel")}
	if out, code := o.command("link", "virtua", "drain", "--run-dir", s.dir); code != 0 || !strings.Contains(out, "virtua: drain; 1 of 2 links are up") {
		t.Errorf("%d %s", code, out)
	}
	o.only("embratel", 20)
	goOn := func(when string) {
		t.Helper()
		for i, c := range held {
			if err := o.echoes(c); err != nil {
				t.Errorf("%s, flow %d: %v", when, i, err)
			}
		}
	}
	goOn("drained")
	s.stop()
	goOn("after a stop")
	o.only("embratel", 10)
	s = o.start(uncheckedLinks)
	s.awaitLinks("virtua drain, embratel up")
	goOn("after the next start")
	o.must(s.Signal(syscall.SIGKILL))
	<-s.Done()
	goOn("after a kill")
	o.only("embratel", 10)
	s = o.start(uncheckedLinks)
	if out, code := o.command("link", "virtua", "ready", "--run-dir", s.dir); code != 0 {
		t.Errorf("%d %s", code, out)
	}
	s.awaitLinks(bothUp)
	goOn("made ready")
	o.both()
	s.down()
	o.wantAsBefore(before)
}

// What explain says of a flow is what the flow does.
func TestExplainFlows(t *testing.T) {
	o := newOffice(t, 20)
	file := strings.Replace(uncheckedLinks, "spread: flow", "spread: client-and-destination", 1) + "  rules:\n    - {ports: [25], link: embratel}\n    - {from: [10.1.0.119], link: virtua}\n"
	s := o.start(file)
	s.awaitLinks(bothUp)
	explain := func(args ...string) (e struct {
		Link, Decides, Action string
		Among                 []string
		Confirmed             bool
	}) {
		t.Helper()
		out, code := o.command(append([]string{"explain", "--json", "-c", s.file, "--run-dir", s.dir}, args...)...)
		if code != 0 {
			t.Fatalf("explain %v: %d %s", args, code, out)
		}
		o.must(json.Unmarshal([]byte(out), &e))
		return e
	}
	var mutex sync.Mutex
	links := map[string]int{}
	for i := range 20 {
		source, to := fmt.Sprintf("10.1.0.%d", 100+i), fmt.Sprintf("203.0.113.%d:80", 10+(i*7)%20)
		e := explain(source, to)
		did := o.by(o.net.Client, source, to)
		if e.Link != did || !e.Confirmed {
			t.Errorf("%s to %s: explain says %+v, it took %s", source, to, e, did)
		}
		mutex.Lock()
		links[did]++
		mutex.Unlock()
	}
	if len(links) != 2 {
		t.Errorf("the flows took %v", links)
	}
	for i := range 4 {
		source, to := fmt.Sprintf("fd00:1::%d", 100+i), fmt.Sprintf("[2001:db8:80::%d]:80", 10+i)
		if e, did := explain(source, to), o.by(o.net.Client, source, to); e.Link != did {
			t.Errorf("%s to %s: explain says %+v, it took %s", source, to, e, did)
		}
	}
	if e := explain("10.1.0.100", "203.0.113.10:25"); e.Link != "embratel" || !strings.HasSuffix(e.Decides, "salp.yaml:8") || len(e.Among) != 0 {
		t.Errorf("%+v", e)
	}
	if e := explain("10.1.0.119", "203.0.113.10:80"); e.Link != "virtua" || !strings.HasSuffix(e.Decides, "salp.yaml:9") {
		t.Errorf("%+v", e)
	}
	if e := explain("10.1.0.100", "10.1.0.10:80"); e.Action != "local" {
		t.Errorf("%+v", e)
	}
	out, code := o.command("explain", "--run-dir", s.dir, "10.1.0.100", "203.0.113.10:25")
	for _, want := range []string{"in by lan0", "decides", "link: embratel", "kernel: by wan2 via 198.51.100.1, table 8122, as said"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("explain does not say %q: %d\n%s", want, code, out)
		}
	}
}

// TestLinksGuide runs every configuration of docs/links.md in the network that it is written for: both links come up, flows leave by the links
// that may have them, and nothing is left at the end.
func TestLinksGuide(t *testing.T) {
	blocks := fileBlocks(t, "../docs/links.md")
	if len(blocks) < 7 {
		t.Fatalf("%d blocks", len(blocks))
	}
	o := newOffice(t, 20)
	o.echo()
	before := o.look()
	_, err := o.net.Web.Serve("0.0.0.0:80", lab.Tell)
	o.must(err)
	for i, block := range blocks {
		s := o.start(block)
		st := s.awaitLinks("fibre up, cable up")
		if strings.Contains(block, "check:") {
			s.checked()
		}
		counts := o.spread(30, func(i int) string { return fmt.Sprintf("203.0.113.%d:80", 13+i%10) })
		fibre, cable := counts["virtua"], counts["embratel"] // as the networks of this test are called
		switch {
		case fibre+cable != 30:
			t.Errorf("block %d: %v\n%s", i+1, counts, block)
		case st.Links[1].Metered && cable > 0:
			t.Errorf("block %d: %d flows by the metered link", i+1, cable)
		}
		if strings.Contains(block, "strict: true") {
			for _, to := range []string{"203.0.113.13:25", "203.0.113.80:80"} {
				if link := o.by(o.net.Client, "", to); link != "embratel" {
					t.Errorf("block %d: %s by %s", i+1, to, link)
				}
			}
		}
		if strings.Contains(block, "port: 8080") {
			for _, at := range []string{"192.0.2.10:8080", "198.51.100.10:8080"} {
				if seen := o.by(o.net.Internet, "203.0.113.20", at); seen != "203.0.113.20" {
					t.Errorf("block %d: the web server at %s sees %s", i+1, at, seen)
				}
			}
		}
		if strings.Contains(block, "listen:") {
			if link := o.by(o.net.Client, "", "10.1.0.1:8000"); link != "embratel" {
				t.Errorf("block %d: the listener's connection by %s", i+1, link)
			}
		}
		s.down()
		o.wantAsBefore(before)
	}
}
