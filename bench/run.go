package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"salp/bench/procstat"
	"salp/bench/traffic"
)

// sample is what one measurement of a peer gave. Of the row with idle connections only the memory counts, of the others the rest.
type sample struct {
	Cost        float64 // the peer's own processor time for a unit, or its memory for a connection, in the row's unit of cost
	Rate        float64 // units per second
	Machine     float64 // processor time of the whole machine for a unit, client and server included
	Way         float64 // the share of Machine that packets took on their way through filters and routing, with -profile
	Failures    int64   // connections that failed
	Descriptors float64 // of the peer, for a connection
	Kernel      float64 // kB of kernel memory for a connection, on the whole machine
}

// measureAll measures the peers in turn, row by row and mode by mode, and that as often as there are rounds.
func measureAll(ctx context.Context, o options, peers []contender, r *report, progress io.Writer) error {
	for _, row := range o.rows {
		for _, m := range o.modes {
			for round := range o.rounds {
				for i := range peers {
					c := peers[(i+round)%len(peers)] // so that nobody is always the one after the same other
					if c.carries != nil && !c.carries(row) || !slices.Contains(c.modes, m) || !m.carries(row) {
						continue
					}
					s, err := o.insist(ctx, row, m, c, r, progress)
					if err != nil {
						return err
					}
					r.add(row, m, c.name, s)
					fmt.Fprintf(progress, "%-11s %-12s round %d %-15s %s\n", row.name, m, round+1, c.name, s.line(row))
				}
			}
		}
	}
	return nil
}

// attempts is how often a measurement is tried. Each that failed is told in the report.
const attempts = 3

func (o options) insist(ctx context.Context, row row, m mode, c contender, r *report, progress io.Writer) (s sample, err error) {
	for range attempts {
		if s, err = o.measure(ctx, row, m, c); err == nil {
			return s, nil
		}
		err = fmt.Errorf("%s, %s, %s: %w", row.name, m, c.name, err)
		if ctx.Err() != nil {
			break
		}
		r.Failed = append(r.Failed, err.Error())
		fmt.Fprintln(progress, "failed:", err)
	}
	return s, err
}

func (s sample) line(r row) string {
	if r.job.Hold {
		return fmt.Sprintf("%8.2f %s, %.1f descriptors", s.Cost, r.cost, s.Descriptors)
	}
	return fmt.Sprintf("%8.2f %s %12.1f %s, machine %8.2f, %d failures", s.Cost, r.cost, s.Rate, r.rate, s.Machine, s.Failures)
}

// longest bounds one measurement.
const longest = time.Minute

// measure runs one measurement in a network of its own.
func (o options) measure(ctx context.Context, r row, m mode, c contender) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	n, err := newNetwork()
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	n.http = r.job.HTTP
	if o.firewall {
		if err := n.guard(ctx); err != nil {
			return s, err
		}
	}
	if err := n.suit(m); err != nil {
		return s, err
	}
	server, err := n.serve()
	if err != nil {
		return s, err
	}
	defer server.stop()
	p := c.make()
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := p.start(ctx, n, m); err != nil {
		return s, fmt.Errorf("starting it: %w", err)
	}
	t := trial{ctx: ctx, options: o, row: r, mode: m, net: n, peer: p, server: server}
	t.job = r.job
	t.job.Target, t.job.Sources, t.job.Loops = n.target(p, m), n.clients, min(trafficLoops(), r.job.Connections)
	if r.job.Hold {
		return t.memory()
	}
	return t.speed()
}

// trial is a measurement whose peer and server run.
type trial struct {
	ctx     context.Context
	options options
	row     row
	mode    mode
	net     *network
	peer    peer
	server  *player
	job     traffic.Job
	pids    []int // of the peer
}

// sleep waits unless the bench is interrupted.
func (t *trial) sleep(d time.Duration) error {
	select {
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	case <-time.After(d):
		return nil
	}
}

// moment is what a rate is made of two of.
type moment struct {
	count   traffic.Count
	peer    time.Duration
	machine time.Duration
}

func (t *trial) moment(client *player) (m moment, err error) {
	if err := client.ask(&m.count); err != nil {
		return m, err
	}
	if m.peer, err = procstat.CPU(t.pids); err != nil {
		return m, err
	}
	m.machine, err = procstat.MachineCPU()
	return m, err
}

// speed measures processor time and rate over a window in which the load is steady.
func (t *trial) speed() (s sample, err error) {
	client, err := t.net.load(t.job)
	if err != nil {
		return s, err
	}
	defer client.stop()
	e, err := t.look()
	if err != nil {
		return s, err
	}
	if err := t.sleep(t.options.warm); err != nil {
		return s, err
	}
	from, err := t.moment(client)
	if err != nil {
		return s, err
	}
	samples, err := t.observe()
	if err != nil {
		return s, err
	}
	to, err := t.moment(client)
	if err != nil {
		return s, err
	}
	way, err := shareOf(t.ctx, samples)
	if err != nil {
		return s, err
	}
	if err := t.prove(e, to.count); err != nil {
		return s, err
	}
	units := t.row.units(from.count, to.count)
	if units <= 0 {
		return s, fmt.Errorf("nothing was carried in %v", t.options.window)
	}
	return sample{
		Cost:     t.row.per(to.peer-from.peer, units),
		Rate:     units / (to.count.Elapsed - from.count.Elapsed).Seconds(),
		Machine:  t.row.per(to.machine-from.machine, units),
		Way:      way,
		Failures: to.count.Failures,
	}, nil
}

// look learns the peer's processes and, where connections are kept, counts their sockets.
func (t *trial) look() (e evidence, err error) {
	if t.pids, err = t.peer.pids(); err != nil {
		return e, err
	}
	e = evidence{mode: t.mode, clients: t.net.clients, outside: t.net.outside, ways: t.net.ways, servers: t.net.servers, steady: !t.job.Reconnect, http: t.job.HTTP}
	if e.steady {
		e.clientHalf, e.serverHalf, err = t.net.halves(t.pids)
	}
	return e, err
}

// prove completes the evidence and has the peer judge it.
func (t *trial) prove(e evidence, c traffic.Count) (err error) {
	if e.gateway, err = t.net.counters(); err != nil { // the network is new: they began at nought
		return err
	}
	if err := t.server.ask(&e.seen); err != nil {
		return err
	}
	e.exchanges = c.Exchanges
	e.answered = int64(t.job.Connections) // a client starts to count when all have had an answer
	if t.job.Reconnect {
		e.answered = c.Exchanges
	}
	if err := t.peer.prove(e); err != nil {
		return fmt.Errorf("not in the path: %w", err)
	}
	return t.tolerable(c)
}

// tolerable refuses a measurement in which connections failed: what failed was cheap, and would flatter the peer.
func (t *trial) tolerable(c traffic.Count) error {
	if c.Failures*1000 > c.Connections {
		return fmt.Errorf("%d of %d connections failed, the first with: %s", c.Failures, c.Connections, c.FirstError)
	}
	return nil
}

// settle is how long memory is given to come to rest, and pioneers the connections that go before the measured ones so that what
// a peer allocates once does not count.
const (
	settle   = 500 * time.Millisecond
	pioneers = 200
)

// memory measures by how much the peer grows with connections that are open and silent.
func (t *trial) memory() (s sample, err error) {
	before := t.job
	before.Connections = pioneers
	client, err := t.net.load(before)
	if err != nil {
		return s, err
	}
	client.stop()
	if err := t.sleep(settle); err != nil {
		return s, err
	}
	if t.pids, err = t.peer.pids(); err != nil {
		return s, err
	}
	from, err := t.holdings()
	if err != nil {
		return s, err
	}
	if client, err = t.net.load(t.job); err != nil {
		return s, err
	}
	defer client.stop()
	if err := t.sleep(settle); err != nil {
		return s, err
	}
	to, err := t.holdings()
	if err != nil {
		return s, err
	}
	e, err := t.look()
	if err != nil {
		return s, err
	}
	var c traffic.Count
	if err := client.ask(&c); err != nil {
		return s, err
	}
	count := float64(t.job.Connections)
	s = sample{
		Cost:        float64(to.user.PSS-from.user.PSS) / 1e3 / count,
		Kernel:      float64(to.kernel-from.kernel) / 1e3 / count,
		Descriptors: float64(to.descriptors-from.descriptors) / count,
		Failures:    c.Failures,
	}
	return s, t.prove(e, c)
}

// holdings is what the peer and the kernel hold at a moment.
type holdings struct {
	user        procstat.Memory
	kernel      int64
	descriptors int
}

func (t *trial) holdings() (h holdings, err error) {
	if h.user, err = procstat.MemoryOf(t.pids); err != nil {
		return h, err
	}
	d, err := procstat.DescriptorsOf(t.pids)
	if err != nil {
		return h, err
	}
	h.descriptors = d.Count
	h.kernel, err = procstat.KernelMemory()
	return h, err
}
