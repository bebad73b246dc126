package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

var links = Scene{
	Name:    "links",
	Summary: "an office with two providers: shares by weight, a pin, a port forward on both links, a provider that falls silent",
	build:   buildOffice,
	run:     showLinks,
}

// linksFile is the gateway's configuration: examples/two-links.yaml, with a check that is quick enough to watch.
const linksFile = `links:
  virtua:
    interface: wan1
    gateway: 192.0.2.1
    weight: 2
    check: {ping: [203.0.113.10, 203.0.113.11, 203.0.113.12], every: 500ms, rise: 2}
  embratel:
    interface: wan2
    gateway: 198.51.100.1
    weight: 1
    check: {ping: [203.0.113.10, 203.0.113.11, 203.0.113.12], every: 500ms, rise: 2}
balance:
  inside: {interfaces: [lan0], networks: [10.1.0.0/24]}
  spread: flow
  rules:
    - {ports: [25], link: embratel}
forward:
  - {links: [virtua, embratel], port: 8080, to: "10.1.0.10:80"}
`

const (
	linkFlows   = 3000
	linkClients = 20
	mostAstray  = 4.0 // percent that a share may be off its weight: four and a half standard deviations of the draw
)

// officeLinks are the links of linksFile with the networks of their providers.
var officeLinks = []struct {
	name, own string
	network   netip.Prefix
	weight    int
}{
	{"virtua", "192.0.2.10", netip.MustParsePrefix("192.0.2.0/24"), 2},
	{"embratel", "198.51.100.10", netip.MustParsePrefix("198.51.100.0/24"), 1},
}

// linkOf names the link that an address belongs to.
func linkOf(a netip.Addr) string {
	for _, l := range officeLinks {
		if l.network.Contains(a) {
			return l.name
		}
	}
	return a.String()
}

// buildOffice builds the network. The providers drop what has a source that is not theirs to carry, as real ones do (BCP 38).
func buildOffice(s *stage) error {
	office, err := s.lab.Office(linkClients, 2)
	if err != nil {
		return err
	}
	for _, p := range office.Providers {
		for _, name := range []string{"all", "c0"} {
			if err := p.Sysctl("net/ipv4/conf/"+name+"/rp_filter", "1"); err != nil {
				return err
			}
		}
	}
	s.office = office
	s.net = &lab.Net{Lab: s.lab, Gateway: office.Gateway, Clients: []*lab.Host{office.Client, office.Web}, Servers: []*lab.Host{office.Internet}}
	for _, serve := range []struct {
		host *lab.Host
		port string
	}{{office.Internet, "80"}, {office.Internet, "25"}, {office.Web, "80"}} {
		if _, err := serve.host.Serve("0.0.0.0:"+serve.port, lab.Tell); err != nil {
			return err
		}
	}
	return nil
}

// drill is the scene with what its acts share.
type drill struct {
	*stage
	gateway *gateway
	number  int
}

func showLinks(ctx context.Context, s *stage) error {
	d := &drill{stage: s}
	p := s.page
	p.line("%s", p.bold("An office with two providers"))
	p.line("Seven namespaces on this machine; nothing outside them is touched. The gateway is the real one: salp run, without any listener.")
	p.blank()
	p.line("   %s             %s", p.bold("office"), p.bold("gateway"))
	p.line("   10.1.0.100 … .119  ──┐             wan1 192.0.2.10     ──  virtua    ──┐")
	p.line("                        ├── 10.1.0.1                                      ├──  203.0.113.10 … .29")
	p.line("   web 10.1.0.10      ──┘             wan2 198.51.100.10  ──  embratel  ──┘")
	before, err := readState(s.net.Gateway)
	if err != nil {
		return err
	}
	if d.gateway, err = s.startGateway(ctx, linksFile); err != nil {
		return err
	}
	if _, err := d.gateway.await(ctx, bothProbed); err != nil {
		return fmt.Errorf("the links are not both up: %w", err)
	}
	for _, act := range []func(context.Context) error{d.shares, d.pin, d.forward, d.silence} {
		d.number++
		if err := act(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return d.end(ctx, before)
}

func bothProbed(st *admin.Status) bool {
	for _, l := range st.Links {
		if !l.Up || !l.Checked {
			return false
		}
	}
	return len(st.Links) == len(officeLinks) && st.Kernel.InSync
}

// ask makes a connection from a client and returns whom the server saw.
func ask(host *lab.Host, from, to string) (seen lab.Peer, err error) {
	o := lab.DialOptions{Timeout: 2 * time.Second}
	if from != "" {
		o.From = netip.AddrPortFrom(netip.MustParseAddr(from), 0)
	}
	c, err := host.DialWith(to, o)
	if err != nil {
		return seen, err
	}
	defer c.Close()
	return told(c)
}

func told(c net.Conn) (lab.Peer, error) {
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return lab.Peer{}, err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return lab.Peer{}, err
	}
	return lab.ParseTold(strings.TrimSpace(line))
}

// shares makes many flows and counts by which link they left.
func (d *drill) shares(ctx context.Context) error {
	p := d.page
	p.heading(d.number, "Shares by weight", fmt.Sprintf("%d connections from %d clients to 20 servers. Who does not have an address of the link gets it (masquerade).", linkFlows, linkClients))
	p.blank()
	p.block(strings.Split(strings.TrimRight(linksFile[:strings.Index(linksFile, "balance:")], "\n"), "\n"))
	began := time.Now()
	counts, sources, err := d.flows(ctx)
	if err != nil {
		return err
	}
	took := time.Since(began)
	p.blank()
	rows := [][]cell{{{"link", p.dim}, {"weight", p.dim}, {"wanted", p.dim}, {"flows", p.dim}, {"share", p.dim}, {"the servers see", p.dim}}}
	total := 0
	for _, l := range officeLinks {
		total += l.weight
	}
	for _, l := range officeLinks {
		wanted, share := 100*float64(l.weight)/float64(total), 100*float64(counts[l.name])/linkFlows
		if off := share - wanted; off > mostAstray || off < -mostAstray {
			return fmt.Errorf("link %s has %.1f %% of the flows, and its weight says %.1f %%", l.name, share, wanted)
		}
		rows = append(rows, []cell{{l.name, p.bold}, plain(fmt.Sprint(l.weight)), plain(fmt.Sprintf("%.1f %%", wanted)), plain(fmt.Sprint(counts[l.name])),
			{fmt.Sprintf("%.1f %%", share), p.good}, plain(sources[l.name].String())})
	}
	p.table(rows)
	p.blank()
	p.line("    %s", p.dim(fmt.Sprintf("(decided by the kernel, for the first packet of each flow, and kept in its conntrack mark; took %.1f s)", took.Seconds())))
	return nil
}

// flows makes the connections, several at a time.
func (d *drill) flows(ctx context.Context) (counts map[string]int, sources map[string]netip.Addr, err error) {
	counts, sources = map[string]int{}, map[string]netip.Addr{}
	var mutex sync.Mutex
	var wait sync.WaitGroup
	next := make(chan int)
	for range 16 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for i := range next {
				seen, failed := ask(d.office.Client, fmt.Sprintf("10.1.0.%d", 100+i%linkClients), fmt.Sprintf("203.0.113.%d:80", 10+i/linkClients%20))
				mutex.Lock()
				if failed != nil {
					err = errors.Join(err, failed)
				} else {
					name := linkOf(seen.From.Addr())
					counts[name]++
					sources[name] = seen.From.Addr()
				}
				mutex.Unlock()
			}
		}()
	}
	for i := 0; i < linkFlows && ctx.Err() == nil; i++ {
		next <- i
	}
	close(next)
	wait.Wait()
	return counts, sources, errors.Join(err, ctx.Err())
}

// pin shows that mail leaves by one link alone.
func (d *drill) pin(context.Context) error {
	p := d.page
	p.heading(d.number, "A pin", "Mail always leaves by embratel, whose address has the reverse name.")
	p.blank()
	p.block([]string{"- {ports: [25], link: embratel}"})
	const times = 20
	for i := range times {
		seen, err := ask(d.office.Client, fmt.Sprintf("10.1.0.%d", 100+i), "203.0.113.10:25")
		if err != nil {
			return err
		}
		if name := linkOf(seen.From.Addr()); name != "embratel" {
			return fmt.Errorf("a connection to port 25 left by %s", name)
		}
	}
	p.blank()
	p.line("    %s", p.good(fmt.Sprintf("%d of %d connections to port 25 came from 198.51.100.10", times, times)))
	return nil
}

// forward shows that a server inside is reached by either link, and answers by the one that the question came in by.
func (d *drill) forward(context.Context) error {
	p := d.page
	p.heading(d.number, "A port forward on both links", "The office's default route leads to virtua; answers leave by the link that the question came in by all the same.")
	p.blank()
	p.block([]string{`- {links: [virtua, embratel], port: 8080, to: "10.1.0.10:80"}`})
	p.blank()
	rows := [][]cell{{{"link", p.dim}, {"somebody out there dials", p.dim}, {"the web server sees", p.dim}, {"answers that the other provider had to drop", p.dim}}}
	for i, l := range officeLinks {
		other := d.office.Providers[1-i]
		dropped, err := foreign(other)
		if err != nil {
			return err
		}
		seen, err := ask(d.office.Internet, "203.0.113.20", l.own+":8080")
		if err != nil {
			return fmt.Errorf("the port forward of %s: %w", l.name, err)
		}
		if seen.From.Addr() != netip.MustParseAddr("203.0.113.20") {
			return fmt.Errorf("the web server sees %s instead of the client", seen.From)
		}
		after, err := foreign(other)
		if err != nil {
			return err
		}
		if after != dropped {
			return fmt.Errorf("%d answers for %s left by the other link", after-dropped, l.name)
		}
		rows = append(rows, []cell{{l.name, p.bold}, plain(l.own + ":8080"), {seen.From.String(), p.bold}, {"0", p.good}})
	}
	p.table(rows)
	return nil
}

// foreign counts the packets that a provider dropped for their source. (proc_pid_net(5), netstat)
func foreign(provider *lab.Host) (n int, err error) {
	err = provider.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/netstat")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			for i, w := range words {
				if i < len(names) && names[i] == "IPReversePathFilter" {
					_, err := fmt.Sscan(w, &n)
					return err
				}
			}
			names = words
		}
		return errors.New("the kernel does not count reverse path drops")
	})
	return n, err
}

// silence has a provider fall silent and counts the seconds.
func (d *drill) silence(ctx context.Context) error {
	p := d.page
	p.heading(d.number, "A provider falls silent", "Its router still answers, and carries nothing any more. Ten clients a second connect all the while.")
	callers := d.call(ctx)
	pause(ctx, 400*time.Millisecond)
	if err := d.office.Providers[0].Sysctl("net/ipv4/ip_forward", "0"); err != nil {
		return err
	}
	silent := time.Now()
	st, err := d.gateway.await(ctx, func(st *admin.Status) bool { return len(st.Links) == 2 && !st.Links[0].Up && st.Kernel.InSync })
	if err != nil {
		return fmt.Errorf("the silent provider is not found: %w", err)
	}
	found := time.Since(silent)
	reason := st.Links[0].Reason
	pause(ctx, time.Second)
	if err := d.office.Providers[0].Sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	back := time.Now()
	if _, err := d.gateway.await(ctx, func(st *admin.Status) bool { return len(st.Links) == 2 && st.Links[0].Up && st.Kernel.InSync }); err != nil {
		return fmt.Errorf("the provider is not used again: %w", err)
	}
	events := []event{{0, "virtua carries nothing any more"}, {found, "salp takes the link down: " + reason}}
	calls := callers()
	lost, late := 0, 0
	var slowest time.Duration
	for _, c := range calls {
		slowest = max(slowest, c.took)
		since := c.at.Sub(silent)
		switch {
		case c.err == nil:
		case since > found:
			late++
		default:
			lost++
		}
	}
	if late > 0 {
		return fmt.Errorf("%d connections failed that began after the link was down", late)
	}
	events = append(events, event{found, "every new connection leaves by embratel; what was on virtua is forgotten, and begins anew"},
		event{back.Sub(silent), "virtua carries again"}, event{time.Since(silent), "salp takes the link up again"})
	p.timeline(events)
	p.blank()
	p.line("    %s", p.good(fmt.Sprintf("%d connections tried: %d failed; the slowest, which began on the silent link, took %.1f s", len(calls), lost, slowest.Seconds())))
	return nil
}

// call has connections made all the while, until the function that it returns is called, which returns them all.
func (d *drill) call(ctx context.Context) func() []call {
	ctx, stop := context.WithCancel(ctx)
	var mutex sync.Mutex
	var all []call
	var wait sync.WaitGroup
	tick := time.NewTicker(100 * time.Millisecond)
	wait.Add(1)
	go func() {
		defer wait.Done()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			wait.Add(1)
			go func() {
				defer wait.Done()
				c := call{at: time.Now()}
				_, c.err = ask(d.office.Client, "", fmt.Sprintf("203.0.113.%d:80", 10+i%20))
				c.took = time.Since(c.at)
				mutex.Lock()
				defer mutex.Unlock()
				all = append(all, c)
			}()
		}
	}()
	return func() []call {
		stop()
		tick.Stop()
		wait.Wait()
		return all
	}
}

// end shows the status, and that nothing is left.
func (d *drill) end(ctx context.Context, before state) error {
	d.number++
	p := d.page
	p.heading(d.number, "salp link", "What an operator sees.")
	text, err := d.net.Gateway.Run(ctx, d.binary, "link", "--run-dir", d.gateway.runDir)
	if err != nil {
		return err
	}
	p.blank()
	p.block(strings.Split(strings.TrimRight(text, "\n"), "\n"))
	d.number++
	p.heading(d.number, "salp down", "Links need no process and stay as they are when Salp is killed or restarted. This is what removes them.")
	if _, err := d.down(ctx, d.gateway); err != nil {
		return err
	}
	after, err := readState(d.net.Gateway)
	if err != nil {
		return err
	}
	if wrong := before.differences(after); len(wrong) > 0 {
		return fmt.Errorf("the gateway is not as it was before:\n%s", strings.Join(wrong, "\n"))
	}
	p.blank()
	p.line("    %d tables, ip rules, routes and settings of the gateway compared with those before the demo: %s.", len(after), p.good("they are all the same"))
	return nil
}
