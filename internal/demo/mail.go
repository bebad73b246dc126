package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/lab"
)

var mail = Scene{
	Name:    "mail",
	Summary: "a mail cluster that sees its senders: a server killed, one drained, a reload and an upgrade under load; then by the kernel path",
	clients: 2, servers: 3,
	run: showMail,
}

// mailFile is the configuration of the first half, kernelFile of the second.
const mailFile = `drain: 2s
listeners:
  smtp:
    listen: ["10.0.1.1:25"]
    source: client
    pool: mail
pools:
  mail:
    balance: least-connections
    servers: ["10.0.2.2:25", "10.0.2.3:25", "10.0.2.4:25"]
    check: {every: 200ms, timeout: 200ms, rise: 1, fall: 1, expect: "220 "}
`

const kernelFile = `drain: 2s
listeners:
  smtp:
    listen: ["10.0.1.1:25"]
    via: kernel
    source: client
    pool: mail
pools:
  mail:
    balance: source
    servers: ["10.0.2.2:25", "10.0.2.3:25", "10.0.2.4:25"]
    check: {every: 200ms, timeout: 200ms, rise: 1, fall: 1, expect: "220 "}
`

const mailTo = "10.0.1.1:25"

// cluster is the mail servers and their senders.
type cluster struct {
	*stage
	servers []*mailServer
	senders []sender
	gateway *gateway
	number  int // of the act
}

type sender struct {
	host    *lab.Host
	address netip.Addr
}

func showMail(ctx context.Context, s *stage) error {
	c := &cluster{stage: s}
	if err := c.build(); err != nil {
		return err
	}
	p := s.page
	p.line("%s", p.bold("A mail cluster behind one address"))
	p.line("Seven namespaces and two switches on this machine; nothing outside them is touched. The gateway is the real one: salp run.")
	p.blank()
	p.line("   six senders                  gateway                   mx1  10.0.2.2:25")
	p.line("   10.0.1.2 … 10.0.1.33  ────  10.0.1.1:25, 10.0.2.1  ──  mx2  10.0.2.3:25")
	p.line("                                                          mx3  10.0.2.4:25")
	var err error
	if c.gateway, err = s.startGateway(ctx, mailFile); err != nil {
		return err
	}
	for _, act := range []func(context.Context) error{c.showSenders, c.killOne, c.drainOne, c.reloadAndUpgrade, c.byKernel} {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.number++
		if err := act(ctx); err != nil {
			return err
		}
	}
	return c.end(ctx)
}

// build starts the servers and gives the senders their addresses.
func (c *cluster) build() error {
	for i, host := range c.net.Servers {
		m := &mailServer{name: fmt.Sprintf("mx%d", i+1), host: host}
		if err := m.start(); err != nil {
			return err
		}
		c.servers = append(c.servers, m)
	}
	for i, host := range c.net.Clients {
		for _, last := range []int{i + 2, 22 + 10*i, 23 + 10*i} {
			address := netip.AddrFrom4([4]byte{10, 0, 1, byte(last)})
			if last != i+2 {
				if err := host.Addr("e0", address.String()+"/24"); err != nil {
					return err
				}
			}
			c.senders = append(c.senders, sender{host, address})
		}
	}
	return nil
}

// await waits until so many servers are up.
func (c *cluster) await(ctx context.Context, up int) (*admin.Status, error) {
	st, err := c.gateway.await(ctx, func(st *admin.Status) bool { return st.Alive && serversUp(st) == up })
	if err != nil {
		return nil, fmt.Errorf("%d servers should be up: %w", up, err)
	}
	return st, nil
}

func serversUp(st *admin.Status) (up int) {
	for _, p := range st.Pools {
		for _, s := range p.Servers {
			if s.State == control.ServerUp {
				up++
			}
		}
	}
	return up
}

// showSenders has each sender send a message, and shows the servers' logs.
func (c *cluster) showSenders(ctx context.Context) error {
	c.page.heading(c.number, "Every server sees its senders", "Six senders dial the gateway's address. The servers' own logs have the senders' addresses.")
	c.page.blank()
	c.page.block(snippet(mailFile, "smtp"))
	c.page.block(snippet(mailFile, "mail"))
	if _, err := c.await(ctx, len(c.servers)); err != nil {
		return err
	}
	return c.eachSends()
}

// eachSends has each sender send one message and compares what the servers logged.
func (c *cluster) eachSends() error {
	p := c.page
	before := c.logged()
	rows := [][]cell{{{"sender", p.dim}, {"is taken by", p.dim}, {"whose log has", p.dim}, {"", p.dim}}}
	for _, s := range c.senders {
		name, err := sendMail(s.host, s.address, mailTo)
		if err != nil {
			return fmt.Errorf("%s sends: %w", s.address, err)
		}
		i := slices.IndexFunc(c.servers, func(m *mailServer) bool { return m.name == name })
		if i < 0 {
			return fmt.Errorf("%s was served by %q", s.address, name)
		}
		log := c.servers[i].deliveries(before[i])
		last := log[len(log)-1]
		if last.client != s.address || last.helo != heloOf(s.address) {
			return fmt.Errorf("%s logged %s (%s) for sender %s", name, last.client, last.helo, s.address)
		}
		rows = append(rows, []cell{plain(s.address.String()), plain(name), {fmt.Sprintf("connect from %s, helo=<%s>", last.client, last.helo), p.bold}, {"the sender", p.good}})
	}
	p.blank()
	p.table(rows)
	return nil
}

func (c *cluster) logged() []int {
	var n []int
	for _, m := range c.servers {
		n = append(n, len(m.deliveries(0)))
	}
	return n
}

// session is one message that was sent, or not.
type session struct {
	began time.Time
	took  time.Duration
	by    string
	err   error
}

// senders that go on sending.
type sending struct {
	stop  context.CancelFunc
	ended sync.WaitGroup

	mu       sync.Mutex
	sessions []session
}

// sessionEvery is how long each sender pauses between two messages.
const sessionEvery = 15 * time.Millisecond

// enough is how many sessions show something; a slow machine gets some time for them.
const (
	enough       = 50
	enoughWithin = 10 * time.Second
)

func (s *sending) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

func (c *cluster) startSending() *sending {
	ctx, cancel := context.WithCancel(context.Background())
	s := &sending{stop: cancel}
	for _, from := range c.senders {
		s.ended.Go(func() {
			for ctx.Err() == nil {
				one := session{began: time.Now()}
				one.by, one.err = sendMail(from.host, from.address, mailTo)
				one.took = time.Since(one.began)
				s.mu.Lock()
				s.sessions = append(s.sessions, one)
				s.mu.Unlock()
				pause(ctx, sessionEvery)
			}
		})
	}
	return s
}

// finish ends the sending and tells how it went. Sessions that began before cut may have been cut; others that failed are an error.
func (c *cluster) finish(ctx context.Context, s *sending, cut time.Time) error {
	for end := time.Now().Add(enoughWithin); ctx.Err() == nil && s.count() < enough+len(c.senders) && time.Now().Before(end); {
		pause(ctx, sessionEvery)
	}
	s.stop()
	s.ended.Wait()
	var done, torn int
	var slowest time.Duration
	for _, one := range s.sessions {
		switch {
		case one.err == nil:
			done++
			slowest = max(slowest, one.took)
		case one.began.Before(cut):
			torn++
		default:
			return fmt.Errorf("a session that began %v after it failed: %w", one.began.Sub(cut).Round(time.Millisecond), one.err)
		}
	}
	line := fmt.Sprintf("%d sessions, each a whole message; the slowest took %d ms", done, slowest.Milliseconds())
	if torn > 0 {
		line += fmt.Sprintf("; %d that ran at that moment were cut", torn)
	}
	c.page.line("    %s", line)
	c.page.line("    %s", c.page.good("no new session failed"))
	if done < enough {
		return fmt.Errorf("only %d sessions: that shows nothing", done)
	}
	return nil
}

// killOne kills a server under load.
func (c *cluster) killOne(ctx context.Context) error {
	c.page.heading(c.number, "A server is killed", "Six senders go on sending. mx2 is killed, with all that it has open. A connect that is refused goes to another server.")
	c.page.blank()
	return c.kill(ctx)
}

// kill kills mx2 under load and starts it again.
func (c *cluster) kill(ctx context.Context) error {
	load := c.startSending()
	pause(ctx, settle)
	c.servers[1].kill()
	killed := time.Now()
	if _, err := c.await(ctx, 2); err != nil {
		load.stop()
		return err
	}
	found := time.Since(killed)
	pause(ctx, settle)
	c.page.line("    %s", fmt.Sprintf("after %d ms its check says that it is down", found.Milliseconds()))
	if err := c.finish(ctx, load, killed); err != nil {
		return err
	}
	if err := c.servers[1].start(); err != nil {
		return err
	}
	_, err := c.await(ctx, 3)
	return err
}

// drainOne drains a server under load.
func (c *cluster) drainOne(ctx context.Context) error {
	c.page.heading(c.number, "A server is drained", "It takes no new sessions, and what runs goes on to its end.")
	c.page.blank()
	return c.drain(ctx)
}

func (c *cluster) drain(ctx context.Context) error {
	load := c.startSending()
	pause(ctx, settle)
	if err := c.command(ctx, "pool", "10.0.2.4:25", "drain"); err != nil {
		load.stop()
		return err
	}
	pause(ctx, settle) // for those that run
	quiet := len(c.servers[2].deliveries(0))
	pause(ctx, settle)
	if n := len(c.servers[2].deliveries(quiet)); n > 0 {
		load.stop()
		return fmt.Errorf("mx3 took %d messages after it was drained", n)
	}
	c.page.line("    mx3 takes nothing any more")
	if err := c.command(ctx, "pool", "10.0.2.4:25", "ready"); err != nil {
		load.stop()
		return err
	}
	if _, err := c.await(ctx, 3); err != nil {
		return err
	}
	return c.finish(ctx, load, time.Time{})
}

// command runs a salp command as an operator would and shows it.
func (c *cluster) command(ctx context.Context, args ...string) error {
	out, err := c.net.Gateway.Run(ctx, c.binary, append(args, "--run-dir", c.gateway.runDir)...)
	if err != nil {
		return fmt.Errorf("salp %s: %w: %s", strings.Join(args, " "), err, out)
	}
	c.page.line("    %s %s", c.page.bold("# salp "+strings.Join(args, " ")), c.page.dim("→ "+strings.TrimSpace(out)))
	return nil
}

// reloadAndUpgrade changes the configuration and the binary under load.
func (c *cluster) reloadAndUpgrade(ctx context.Context) error {
	c.page.heading(c.number, "A reload and an upgrade", "The configuration, and then the program itself, are replaced while the senders go on.")
	c.page.blank()
	load := c.startSending()
	pause(ctx, settle)
	err := errors.Join(
		os.WriteFile(c.gateway.file, []byte(strings.Replace(mailFile, "least-connections", "round-robin", 1)), 0o644),
		c.command(ctx, "reload"),
		c.command(ctx, "upgrade", c.binary),
	)
	if err != nil {
		load.stop()
		return err
	}
	pause(ctx, settle)
	return c.finish(ctx, load, time.Time{})
}

// byKernel shows the same without a process in the way of the bytes.
func (c *cluster) byKernel(ctx context.Context) error {
	p := c.page
	p.heading(c.number, "The same by the kernel", "via: kernel sends connections to servers by nft maps. No program touches a byte; Salp watches the servers.")
	p.blank()
	p.block(snippet(kernelFile, "smtp"))
	if err := errors.Join(os.WriteFile(c.gateway.file, []byte(kernelFile), 0o644), c.command(ctx, "reload")); err != nil {
		return err
	}
	if _, err := c.await(ctx, 3); err != nil {
		return err
	}
	if err := c.eachSends(); err != nil {
		return err
	}
	p.blank()
	p.line("    mx2 is killed under load. Its refusals do not reach the senders: TCP's own second try, a second later, goes to another server.")
	if err := c.kill(ctx); err != nil {
		return err
	}
	p.blank()
	if err := c.drain(ctx); err != nil {
		return err
	}
	if st, err := c.gateway.status(ctx); err == nil && len(st.Workers) > 0 {
		p.line("    %s", p.dim("(a worker of before still drains)"))
	}
	return nil
}

// end removes the gateway.
func (c *cluster) end(ctx context.Context) error {
	c.page.blank()
	if out, err := c.down(ctx, c.gateway); err != nil {
		return fmt.Errorf("salp down: %w: %s", err, out)
	}
	c.page.line("    %s %s", c.page.bold("# salp down"), c.page.dim("→ nothing of Salp is left in the kernel"))
	return nil
}
