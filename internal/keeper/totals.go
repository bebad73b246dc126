package keeper

import (
	"salp/internal/config"
	"salp/internal/control"
)

// totals are the counters of workers that have ended, by listener.
type totals map[string]control.Listener

// errorKinds are those that a worker may count: its word is not taken for more, so that a worker that was taken over cannot fill memory.
var errorKinds = []string{
	control.ErrorConnectRefused, control.ErrorConnectTimeout, control.ErrorConnectOther, control.ErrorNoPort, control.ErrorClientReset,
	control.ErrorServerReset, control.ErrorIdle, control.ErrorHalfClosed, control.ErrorLimitListener, control.ErrorLimitClient,
	control.ErrorLoop, control.ErrorNoDestination, control.ErrorDescriptors, control.ErrorInternal,
	control.ErrorClientLost, control.ErrorServerLost, control.ErrorNoServer, control.ErrorQueueFull, control.ErrorQueueTimeout,
	control.ErrorSameNetwork, control.ErrorProxyHeader, control.ErrorClientRate,
	control.ErrorBadRequest, control.ErrorBadResponse, control.ErrorTruncated, control.ErrorHeadTimeout, control.ErrorBodyTimeout,
	control.ErrorResponseTimeout, control.ErrorRateLimit, control.ErrorDenied, control.ErrorHandshake, control.ErrorServerHandshake, control.ErrorNoName, control.ErrorNotHTTP,
	control.ErrorLinkDown, control.ErrorNoLink,
}

// add takes in the last counters of a worker that has ended.
func (t totals) add(w *worker) {
	for _, l := range w.cfg.Listeners {
		if s, counted := w.stats[l.Name]; counted {
			s.Active = 0
			t[l.Name] = sum(t[l.Name], s)
		}
	}
}

// forget drops listeners that cfg does not have any more.
func (t totals) forget(cfg *config.Config) {
	for name := range t {
		if cfg.Listener(name) == nil {
			delete(t, name)
		}
	}
}

// of returns the counters of a listener over all workers, ended and living.
func (t totals) of(name string, living []*worker) control.Listener {
	total := sum(control.Listener{}, t[name])
	for _, w := range living {
		total = sum(total, w.stats[name])
	}
	return total
}

// sum returns a + b; neither is changed.
func sum(a, b control.Listener) control.Listener {
	s := control.Listener{
		Accepted:      a.Accepted + b.Accepted,
		Active:        a.Active + b.Active,
		BytesIn:       a.BytesIn + b.BytesIn,
		BytesOut:      a.BytesOut + b.BytesOut,
		PortKept:      a.PortKept + b.PortKept,
		PortFallbacks: a.PortFallbacks + b.PortFallbacks,
		Retries:       a.Retries + b.Retries,
		Requests:      a.Requests + b.Requests,
		Reused:        a.Reused + b.Reused,
		Tunnels:       a.Tunnels + b.Tunnels,
	}
	for i := range s.Statuses {
		s.Statuses[i] = a.Statuses[i] + b.Statuses[i]
	}
	for _, kind := range errorKinds {
		if n := a.Errors[kind] + b.Errors[kind]; n > 0 {
			if s.Errors == nil {
				s.Errors = map[string]uint64{}
			}
			s.Errors[kind] = n
		}
	}
	return s
}

// drops are the connections that the kernel has dropped before a worker could take them, by listener. The sockets count them, which the worker
// reads: sockets that were opened anew begin with none.
type drops map[string]dropped

type dropped struct {
	Before uint64 `json:"before"` // by sockets that are closed
	Last   uint64 `json:"last"`   // what the worker told last
}

func (d dropped) total() uint64 { return d.Before + d.Last }

// take takes in what the current worker tells.
func (d drops) take(queues []control.AcceptQueue) {
	for _, q := range queues {
		one, known := d[q.Listener]
		if !known && len(d) >= maxDrops {
			continue
		}
		if q.Dropped < one.Last {
			one.Before += one.Last
		}
		one.Last = q.Dropped
		d[q.Listener] = one
	}
}

// maxDrops bounds the listeners that a worker may name between two reloads.
const maxDrops = 1024

// forget drops listeners that cfg does not have any more.
func (d drops) forget(cfg *config.Config) {
	for name := range d {
		if cfg.Listener(name) == nil {
			delete(d, name)
		}
	}
}
