// Package monitor is the unprivileged process beside the worker that looks after what is outside: it probes servers and links, follows names and
// calls webhooks, as the keeper tells it, and tells what came of it. So root reads no byte from the network, and probing goes on while workers change.
//
// It decides nothing: verdicts are the keeper's. It needs no privilege but CAP_NET_RAW, for ping and marks.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"time"

	"salp/internal/control"
	"salp/internal/resolve"
)

const (
	// mostProbes bounds the probes under way; those beyond it begin late.
	mostProbes = 4096
	// mostResults bounds the results in one message.
	mostResults = 1024
)

// Run serves the keeper at the other end of the control socket, descriptor controlFD, until that closes or ctx ends; only the latter is an error.
func Run(ctx context.Context, controlFD uintptr, log *slog.Logger) error {
	conn, err := control.FromFD(controlFD)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &monitor{
		context: ctx, conn: conn, log: log, jobs: map[string]*job{}, names: map[string]context.CancelFunc{},
		results: make(chan control.Result, mostResults), named: make(chan control.Name, mostResults),
		slots: make(chan struct{}, mostProbes), messages: make(chan control.Message),
	}
	m.page = newPage(m)
	if err := conn.Send(control.Message{Ready: &control.Ready{}}); err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	go m.receive()
	return m.serve()
}

// monitor is what the process does now. It belongs to the goroutine of serve, but for the channels.
type monitor struct {
	context  context.Context
	conn     *control.Conn
	log      *slog.Logger
	jobs     map[string]*job
	names    map[string]context.CancelFunc
	page     *page
	resolver *resolve.Resolver
	asked    *control.Resolvers // what resolver was made for

	results  chan control.Result
	named    chan control.Name
	slots    chan struct{}
	messages chan control.Message // closed when the keeper is gone
}

// serve is the loop: what the keeper says goes in, results go out, and a Beat says that it turns.
func (m *monitor) serve() error {
	beat := time.NewTicker(control.BeatEvery)
	defer beat.Stop()
	for {
		var out control.Message
		select {
		case <-m.context.Done():
			return context.Cause(m.context)
		case in, open := <-m.messages:
			if !open {
				return nil // the keeper has ended us, or itself
			}
			m.take(in)
			continue
		case <-beat.C:
			out.Beat = &control.Beat{}
		case r := <-m.results:
			out.Results = &control.Results{Results: gather(r, m.results)}
		case n := <-m.named:
			out.Names = &control.Names{Names: gather(n, m.named)}
		}
		if err := m.conn.Send(out); err != nil {
			m.log.Debug("the keeper does not take a message", "error", err)
		}
	}
}

// gather returns first and what else waits already.
func gather[T any](first T, from <-chan T) []T {
	all := []T{first}
	for len(all) < mostResults {
		select {
		case next := <-from:
			all = append(all, next)
		default:
			return all
		}
	}
	return all
}

// receive passes on the keeper's messages.
func (m *monitor) receive() {
	defer close(m.messages)
	for {
		in, fds, err := m.conn.Receive()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				m.log.Debug("control socket", "error", err)
			}
			return
		}
		switch {
		case in.Page != nil:
			m.page.serve(in.Page, fds)
			continue
		case in.Status != nil:
			m.page.told(in.Status)
			continue
		}
		for _, fd := range fds {
			os.NewFile(uintptr(fd), "unwanted").Close()
		}
		select {
		case m.messages <- in:
		case <-m.context.Done():
			return
		}
	}
}

func (m *monitor) take(in control.Message) {
	switch {
	case in.Watch != nil:
		m.watch(in.Watch)
	case in.Call != nil:
		go m.call(in.Call, m.resolver)
	default:
		m.log.Warn("the keeper sent a message that is not for a monitor")
	}
}

// watch brings what is done to what is wanted; what stays the same is not disturbed.
func (m *monitor) watch(w *control.Watch) {
	if m.asked == nil || !reflect.DeepEqual(*m.asked, w.Resolvers) {
		m.asked = &w.Resolvers
		m.resolver = resolve.New(resolve.Options{Servers: w.Resolvers.Servers, Timeout: w.Resolvers.Timeout, MinTTL: w.Resolvers.MinTTL, MaxTTL: w.Resolvers.MaxTTL})
		for name, stop := range m.names {
			stop()
			delete(m.names, name)
		}
	}
	wanted := map[string]bool{}
	for _, j := range w.Jobs {
		wanted[j.ID] = true
		if old, runs := m.jobs[j.ID]; runs {
			if reflect.DeepEqual(old.Job, j) {
				continue
			}
			old.stop()
		}
		m.jobs[j.ID] = m.start(j)
	}
	for id, j := range m.jobs {
		if !wanted[id] {
			j.stop()
			delete(m.jobs, id)
		}
	}
	m.follow(w.Names)
}

// follow looks after the names that are wanted.
func (m *monitor) follow(names []string) {
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
		if _, runs := m.names[name]; runs {
			continue
		}
		ctx, stop := context.WithCancel(m.context)
		m.names[name] = stop
		go m.resolver.Follow(ctx, name, func(a resolve.Answer, err error) {
			n := control.Name{Name: name, Addresses: a.Addrs}
			if err != nil {
				n.Error = err.Error()
			}
			select {
			case m.named <- n:
			case <-ctx.Done():
			}
		})
	}
	for name, stop := range m.names {
		if !wanted[name] {
			stop()
			delete(m.names, name)
		}
	}
}
