package kernel

import (
	"context"
	"fmt"
	"slices"
	"time"

	"salp/internal/kernel/watch"
)

const (
	// pollEvery is how often the plan's sysctls are read: most tell nobody when they change.
	pollEvery = 500 * time.Millisecond
	// gather is how long events are collected before they are told, so that equal ones are told once.
	gather = 20 * time.Millisecond
	// restAfter is the least time between two tellings when events keep coming.
	restAfter = 100 * time.Millisecond
	// maxEvents is how many different events one telling holds; more are told as one.
	maxEvents = 32
)

// Event says that somebody else changed something in the kernel that concerns the plan in force.
type Event struct {
	What  string // "ip rule removed: …"
	By    string // "nft (process 4711)", or "" when the kernel does not say
	Facts bool   // an interface or address changed: the plan itself may have to. Else an object of the plan differs now, and By did it
}

// String tells what and by whom.
func (e Event) String() string {
	if e.By == "" {
		return e.What
	}
	return e.What + " by " + e.By
}

// Watch calls do, from one goroutine, for what others change of the plan in force, and of interfaces and addresses, until the
// context ends. Equal events that come together are told once, and at most some hundred a second are told at all: an event is
// a reason to compare (Diff, Apply), not a log of everything. What this Host itself changes is not told. One Watch at a time.
func (h *Host) Watch(ctx context.Context, do func(Event)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	notices := make(chan watch.Notice, 256)
	ended := make(chan error, 1)
	go func() {
		ended <- h.watch.Run(ctx.Done(), h.filter, func(n watch.Notice) {
			select {
			case notices <- n:
			case <-ctx.Done():
			}
		})
	}()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	drifted := map[string]string{} // sysctls whose present value was told
	for {
		var events events
		select {
		case <-ctx.Done():
			return <-ended
		case err := <-ended:
			return err
		case <-poll.C:
			h.pollSysctls(drifted, &events)
		case n := <-notices:
			h.collect(n, notices, drifted, &events)
		}
		if len(events.list) == 0 {
			continue
		}
		slices.SortStableFunc(events.list, driftFirst) // who changed our objects says more than what happened besides
		for _, e := range events.list {
			do(e)
		}
		select {
		case <-ctx.Done():
		case <-time.After(restAfter):
		}
	}
}

func driftFirst(a, b Event) int {
	switch {
	case a.Facts == b.Facts:
		return 0
	case b.Facts:
		return -1
	}
	return 1
}

// collect takes the first notice and those that come shortly after it.
func (h *Host) collect(first watch.Notice, more <-chan watch.Notice, drifted map[string]string, events *events) {
	deadline := time.After(gather)
	for n := first; ; {
		if n.Kind == watch.Sysctl {
			h.pollSysctls(drifted, events)
		} else {
			events.add(Event{What: n.What, By: n.By, Facts: n.Kind == watch.Facts})
		}
		select {
		case n = <-more:
		case <-deadline:
			return
		}
	}
}

// events are different events, in the order in which they came.
type events struct {
	list []Event
	more bool
}

func (es *events) add(e Event) {
	for _, have := range es.list {
		if have == e {
			return
		}
	}
	switch {
	case len(es.list) < maxEvents:
		es.list = append(es.list, e)
	case !es.more:
		es.more = true
		es.list = append(es.list, Event{What: "more changes than can be told"}, Event{What: "more changes than can be told", Facts: true})
	}
}

// pollSysctls tells values that are not as the plan wants, each once until it changes again.
func (h *Host) pollSysctls(drifted map[string]string, events *events) {
	missing, err := h.sysctl.Missing(h.wanted.Load().plan.Sysctls)
	if err != nil {
		return // the next repair meets the same error and tells it
	}
	now := map[string]bool{}
	for _, m := range missing {
		now[m.Name] = true
		if drifted[m.Name] != m.Was {
			drifted[m.Name] = m.Was
			events.add(Event{What: fmt.Sprintf("sysctl %s set from %s to %s", m.Name, m.Value, m.Was)})
		}
	}
	for name := range drifted {
		if !now[name] {
			delete(drifted, name)
		}
	}
}

func (h *Host) filter() watch.Filter {
	p := h.wanted.Load().plan
	return watch.Filter{Tables: tableNames(p.Tables), Rules: p.Rules, Routes: p.Routes, Own: []uint32{h.nft.Port(), h.route.Port()}}
}
