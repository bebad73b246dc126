package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

const (
	callEvery = 10 * time.Millisecond // how often the client of the last acts connects
	callBound = 3 * time.Second       // a connection that takes longer has failed
	settle    = 300 * time.Millisecond
)

// call is one connection of that client.
type call struct {
	at     time.Time
	took   time.Duration
	direct bool // the server saw the client itself: the connection passed Salp by
	err    error
}

// caller connects to a server again and again and notes how it went.
type caller struct {
	host  *lab.Host
	to    string
	stop  context.CancelFunc
	ended sync.WaitGroup

	mu    sync.Mutex
	calls []call
}

func (s *stage) startCaller(to string) *caller {
	ctx, cancel := context.WithCancel(context.Background())
	c := &caller{host: s.net.Client(), to: to, stop: cancel}
	c.ended.Go(func() {
		tick := time.NewTicker(callEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			c.ended.Go(c.call) // each on its own, so that a slow one hides no other
			<-tick.C
		}
	})
	return c
}

func (c *caller) call() {
	start := time.Now()
	direct, err := c.connect()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, call{start, time.Since(start), direct, err})
}

func (c *caller) connect() (direct bool, err error) {
	conn, err := c.host.DialWith(c.to, lab.DialOptions{Timeout: callBound})
	if err != nil {
		return false, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(callBound)); err != nil {
		return false, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return false, err
	}
	seen, err := lab.ParseTold(line)
	return seen.From.Addr() == lab.Local(conn).Addr(), err
}

// finish stops calling and returns the calls that began at or after since.
func (c *caller) finish(since time.Time) []call {
	c.stop()
	c.ended.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	var late []call
	for _, k := range c.calls {
		if !k.at.Before(since) {
			late = append(late, k)
		}
	}
	return late
}

// first returns when the first call began, at or after since, that went as wanted.
func first(calls []call, since time.Time, direct bool) (at time.Duration, found bool) {
	for _, k := range calls {
		d := k.at.Sub(since)
		if k.err == nil && k.direct == direct && d >= 0 && (!found || d < at) {
			at, found = d, true
		}
	}
	return at, found
}

// trouble kills the worker, then the keeper, while a client goes on connecting, and then removes what is left.
func (s *stage) trouble(ctx context.Context, number int, g *gateway, before state) error {
	if err := s.killWorker(ctx, number, g); err != nil {
		return fmt.Errorf("killing the worker: %w", err)
	}
	if err := s.killKeeper(ctx, number+1, g); err != nil {
		return fmt.Errorf("killing the keeper: %w", err)
	}
	if err := s.cleanUp(ctx, number+2, g, before); err != nil {
		return fmt.Errorf("salp down: %w", err)
	}
	return nil
}

func (s *stage) killWorker(ctx context.Context, number int, g *gateway) error {
	p := s.page
	p.heading(number, "The worker is killed", "A client connects every 10 ms, as in the second act. The worker gets a kill -9.")
	status, err := g.status(ctx)
	if err != nil {
		return err
	}
	pid, found := worker(status)
	if !found {
		return errors.New("no worker runs")
	}
	carried, _, err := s.visit("10.0.2.2:81")
	if err != nil {
		return err
	}
	defer carried.Close()
	caller := s.startCaller("10.0.2.2:80")
	pause(ctx, settle)
	killed := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	fresh, err := g.await(ctx, func(st *admin.Status) bool {
		now, found := worker(st)
		return st.Alive && found && now != pid
	})
	pause(ctx, settle)
	calls := caller.finish(killed)
	if err != nil {
		return err
	}
	now, _ := worker(fresh)
	events := []event{{0, fmt.Sprintf("worker %d is killed", pid)}}
	if _, err := carried.Read(make([]byte, 1)); err != nil {
		events[0].text += ", and with it the connection that it carried"
	}
	if at, found := first(calls, killed, true); found {
		events = append(events, event{at, "new connections go straight to the server"})
		last := lastDirect(calls)
		if back, found := first(calls, last, false); found {
			events = append(events, event{last.Sub(killed) + back, fmt.Sprintf("they pass through Salp again: worker %d", now)})
		}
	} else {
		events = append(events, event{fresh.Workers[0].Since.Sub(killed), fmt.Sprintf("worker %d goes on; the kernel held new connections until then", now)})
	}
	p.timeline(events)
	return p.tally(calls)
}

// lastDirect returns when the last call began that passed Salp by.
func lastDirect(calls []call) (last time.Time) {
	for _, k := range calls {
		if k.direct && k.at.After(last) {
			last = k.at
		}
	}
	return last
}

func (s *stage) killKeeper(ctx context.Context, number int, g *gateway) error {
	p := s.page
	p.heading(number, "The keeper is killed", "It holds the nft table. The kernel removes that with it, so nothing is left to take connections in.")
	caller := s.startCaller("10.0.2.2:80")
	pause(ctx, settle)
	killed := time.Now()
	if err := g.process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	pause(ctx, 2*settle)
	calls := caller.finish(killed)
	events := []event{{0, fmt.Sprintf("keeper %d is killed", g.process.Pid())}}
	at, found := first(calls, killed, true)
	if !found {
		return errors.New("no connection went straight to the server")
	}
	p.timeline(append(events, event{at, "new connections go straight to the server"}))
	return p.tally(calls)
}

// cleanUp shows that `salp down` works without the keeper and leaves the machine as it was.
func (s *stage) cleanUp(ctx context.Context, number int, g *gateway, before state) error {
	p := s.page
	p.heading(number, "salp down", "Rules, routes and settings outlive a kill -9. The state file says what they were before.")
	left, err := readState(s.net.Gateway)
	if err != nil {
		return err
	}
	found := before.differences(left)
	if _, err := s.down(ctx, g); err != nil {
		return err
	}
	after, err := readState(s.net.Gateway)
	if err != nil {
		return err
	}
	if wrong := before.differences(after); len(wrong) > 0 {
		return fmt.Errorf("the gateway is not as it was before:\n%s", strings.Join(wrong, "\n"))
	}
	p.blank()
	p.line("    %d tables, ip rules, routes and settings of the gateway compared with those before the demo:", len(after))
	p.line("    before salp down %s differed, and now %s.", p.bold(fmt.Sprint(len(found))), p.good("they are all the same"))
	return nil
}

// event is a line of a timeline.
type event struct {
	at   time.Duration
	text string
}

func (p *page) timeline(events []event) {
	p.blank()
	for _, e := range events {
		p.line("    %s  %s", p.bold(fmt.Sprintf("%6.3f s", e.at.Seconds())), e.text)
	}
}

// tally sums calls up. Those that were open when something was killed may be cut with it; a call that began after another had already
// got through must not be.
func (p *page) tally(calls []call) error {
	var direct, through, failed int
	var slowest time.Duration
	var last error
	var safe time.Time // when the first call began that went straight
	for _, k := range calls {
		if k.direct && k.err == nil && (safe.IsZero() || k.at.Before(safe)) {
			safe = k.at
		}
	}
	for _, k := range calls {
		slowest = max(slowest, k.took)
		switch {
		case k.err != nil:
			failed++
			if safe.IsZero() || k.at.After(safe) {
				last = k.err
			}
		case k.direct:
			direct++
		default:
			through++
		}
	}
	text := fmt.Sprintf("%d connections tried: %d answered straight, %d through Salp, %d cut in the midst; the slowest took %d ms",
		len(calls), direct, through, failed, slowest.Milliseconds())
	p.blank()
	if failed > 0 {
		p.line("    %s", p.warn(text))
	} else {
		p.line("    %s", p.good(text))
	}
	if last != nil {
		return fmt.Errorf("a connection failed: %w", last)
	}
	return nil
}

// pause waits, or returns when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
