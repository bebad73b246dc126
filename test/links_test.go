package test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// office is an office with two providers, which drop what has a source that is not theirs to carry (BCP 38).
type office struct {
	*rig
	net     *lab.Office
	echoing *lab.Server // on port 81, once it is wanted
	tcp     *lab.Server // on every address of the Internet, port 80: tells whom it sees
}

func newOffice(t *testing.T, clients int) *office { t.Helper(); return newOfficeOf(t, clients, 2) }

// newOfficeOf is newOffice with so many providers, three at most: the third is lte.
func newOfficeOf(t *testing.T, clients, providers int) *office {
	t.Helper()
	needTools(t)
	t.Parallel()
	slots <- struct{}{}
	t.Cleanup(func() { <-slots })
	r := &rig{T: t}
	var err error
	r.dir, err = os.MkdirTemp("", "salp")
	r.must(err)
	r.must(os.Chmod(r.dir, 0o755))
	t.Cleanup(func() { os.RemoveAll(r.dir) })
	o := &office{rig: r}
	o.net, err = lab.Test(t).Office(clients, providers)
	r.must(err)
	r.net = &lab.Net{Lab: o.net.Lab, Gateway: o.net.Gateway, Clients: []*lab.Host{o.net.Client}, Servers: []*lab.Host{o.net.Internet, o.net.Web}}
	t.Cleanup(r.explain)
	for _, p := range o.net.Providers {
		r.must(p.Sysctl("net/ipv4/conf/all/rp_filter", "1"))
		r.must(p.Sysctl("net/ipv4/conf/c0/rp_filter", "1"))
	}
	o.tcp, err = o.net.Internet.Serve("[::]:80", lab.Tell)
	r.must(err)
	_, err = o.net.Internet.Serve("[::]:25", lab.Tell)
	r.must(err)
	return o
}

// linksFile is examples/two-links.yaml with a faster check, and what is replaced.
func linksFile(t *testing.T, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile("../examples/two-links.yaml")
	if err != nil {
		t.Fatal(err)
	}
	replace = append(replace, "every: 1s, fall: 3, rise: 3", "every: 300ms, fall: 3, rise: 2")
	return strings.NewReplacer(replace...).Replace(string(text))
}

// by says which link a flow from the client took, by the source that the server saw: "virtua", "embratel", or what happened instead.
func (o *office) by(from *lab.Host, source, to string) string {
	options := lab.DialOptions{Timeout: 3 * time.Second}
	if source != "" {
		options.From = netip.AddrPortFrom(netip.MustParseAddr(source), 0)
	}
	c, err := from.DialWith(to, options)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	link, err := toldLink(c)
	if err != nil {
		return err.Error()
	}
	return link
}

// toldLink reads the address that a server tells (lab.Tell), and says whose link it is of.
func toldLink(c net.Conn) (string, error) {
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	line := make([]byte, 200)
	n, err := c.Read(line)
	if err != nil {
		return "", err
	}
	seen, err := lab.ParseTold(strings.TrimSpace(string(line[:n])))
	if err != nil {
		return "", err
	}
	return linkOf(seen.From.Addr()), nil
}

func linkOf(a netip.Addr) string {
	switch {
	case netip.MustParsePrefix("192.0.2.0/24").Contains(a), netip.MustParsePrefix("2001:db8:1::/64").Contains(a):
		return "virtua"
	case netip.MustParsePrefix("198.51.100.0/24").Contains(a), netip.MustParsePrefix("2001:db8:2::/64").Contains(a):
		return "embratel"
	case netip.MustParsePrefix("100.64.3.0/24").Contains(a), netip.MustParsePrefix("2001:db8:3::/64").Contains(a):
		return "lte"
	}
	return a.String()
}

// spread makes so many flows from the client at once and counts them by link.
func (o *office) spread(flows int, to func(i int) string) map[string]int {
	counts := map[string]int{}
	var mutex sync.Mutex
	var wait sync.WaitGroup
	next := make(chan int)
	for range 8 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for i := range next {
				link := o.by(o.net.Client, "", to(i))
				mutex.Lock()
				counts[link]++
				mutex.Unlock()
			}
		}()
	}
	for i := range flows {
		next <- i
	}
	close(next)
	wait.Wait()
	return counts
}

// linkStates are the states of the links in a line.
func linkStates(st *admin.Status) string {
	var all []string
	for _, l := range st.Links {
		all = append(all, l.Name+" "+l.State)
	}
	return strings.Join(all, ", ")
}

func (s *salp) awaitLinks(want string) *admin.Status {
	s.r.Helper()
	return s.await("with "+want, func(st *admin.Status) bool {
		return serves(st) && linkStates(st) == want
	})
}

const bothUp = "virtua up, embratel up"

// checked waits until probes of both links have been answered.
func (s *salp) checked() {
	s.r.Helper()
	s.await("probing both links", func(st *admin.Status) bool {
		for _, l := range st.Links {
			if !l.Checked || !l.Up {
				return false
			}
		}
		return len(st.Links) == 2 && serves(st)
	})
}

// TestOfficeLinks runs examples/two-links.yaml: spreading, pins, the port forward on both links, a silent provider, and its return.
func TestOfficeLinks(t *testing.T) {
	o := newOffice(t, 20)
	before := o.look()
	s := o.start(linksFile(t))
	s.checked()
	if st, _ := s.status(); len(st.Workers) != 0 {
		t.Errorf("%d workers with links alone", len(st.Workers))
	}
	far := func(i int) string { return fmt.Sprintf("203.0.113.%d:80", 10+i%20) }
	counts := o.spread(300, far)
	if n := counts["virtua"]; n+counts["embratel"] != 300 || n < 170 || n > 230 {
		t.Errorf("300 flows: %v", counts)
	}
	for _, to := range []string{"203.0.113.10:25", "203.0.113.80:80"} {
		for range 5 {
			if link := o.by(o.net.Client, "", to); link != "embratel" {
				t.Errorf("%s by %s", to, link)
			}
		}
	}
	st, _ := s.status()
	if f := st.Links; f[0].Flows < 150 || f[1].Flows < 70 || f[0].BytesOut == 0 || f[0].Share < 0.6 || f[0].RTT == 0 || len(f[0].Targets) != 3 {
		t.Errorf("status: %+v", f)
	}

	// A silent provider.
	o.must(o.net.Providers[0].Sysctl("net/ipv4/ip_forward", "0"))
	began := time.Now()
	s.awaitLinks("virtua down, embratel up")
	if took := time.Since(began); took > (3*300*time.Millisecond+400*time.Millisecond)*slowdown {
		t.Errorf("found after %v", took)
	}
	if counts := o.spread(40, far); counts["embratel"] != 40 {
		t.Errorf("40 flows while virtua is down: %v", counts)
	}
	o.must(o.net.Providers[0].Sysctl("net/ipv4/ip_forward", "1"))
	s.awaitLinks(bothUp)
	if out, code := o.command("status", "--run-dir", s.dir); code != 0 || !strings.Contains(out, "embratel") {
		t.Errorf("status: %d\n%s", code, out)
	}
	if out, code := o.command("link", "virtua", "--run-dir", s.dir); code != 0 || !strings.Contains(out, "0 of 3 targets answer, 1 must") {
		t.Errorf("link: %d\n%s", code, out)
	}
	s.down()
	o.wantAsBefore(before)
}

// TestUpgradeWithLinks upgrades while flows are on both links: they go on, no rule changes, and no counter goes back.
func TestUpgradeWithLinks(t *testing.T) {
	o := newOffice(t, 20)
	s := o.start(linksFile(t))
	s.checked()
	var held []*conversation
	for i := range 20 {
		v, _ := o.tell(fmt.Sprintf("203.0.113.%d:80", 10+i))
		held = append(held, v)
	}
	st, err := s.status()
	o.must(err)
	before := st.Links
	pid := st.PID
	for range 3 {
		if out, code := o.command("upgrade", "--run-dir", s.dir, salpBin); code != 0 {
			t.Fatalf("salp upgrade: %s", out)
		}
		for _, v := range held {
			v.exchange("over the upgrade")
		}
		st, err = s.status()
		o.must(err)
		for i, l := range st.Links {
			was := before[i]
			if l.State != "up" || !l.Since.Equal(was.Since) || l.Flows < was.Flows || l.BytesIn < was.BytesIn || l.BytesOut < was.BytesOut {
				t.Errorf("link before: %+v\nafter: %+v", was, l)
			}
		}
		before = st.Links
		if link := o.by(o.net.Client, "", "203.0.113.10:25"); link != "embratel" {
			t.Errorf("a pinned flow went by %s", link)
		}
	}
	if st.PID != pid || !st.Kernel.InSync || st.Upgrade.Number != 3 {
		t.Errorf("status: %+v", st)
	}
	if log := s.log.String(); strings.Contains(log, "kernel follows") || strings.Contains(log, "kernel repaired") {
		t.Error("the kernel was changed")
	}
	for _, v := range held {
		v.conn.Close()
	}
	s.stop()
}
