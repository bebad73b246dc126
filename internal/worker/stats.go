package worker

import (
	"salp/internal/control"
	"salp/internal/listen"
)

// kinds are the names under which the keeper hears of errors.
var kinds = [listen.Kinds]string{
	listen.ConnectRefused:  control.ErrorConnectRefused,
	listen.ConnectTimeout:  control.ErrorConnectTimeout,
	listen.ConnectOther:    control.ErrorConnectOther,
	listen.NoPort:          control.ErrorNoPort,
	listen.ClientReset:     control.ErrorClientReset,
	listen.ServerReset:     control.ErrorServerReset,
	listen.ClientLost:      control.ErrorClientLost,
	listen.ServerLost:      control.ErrorServerLost,
	listen.Idle:            control.ErrorIdle,
	listen.HalfClosed:      control.ErrorHalfClosed,
	listen.LimitListener:   control.ErrorLimitListener,
	listen.LimitClient:     control.ErrorLimitClient,
	listen.ClientRate:      control.ErrorClientRate,
	listen.Loop:            control.ErrorLoop,
	listen.NoDestination:   control.ErrorNoDestination,
	listen.Descriptors:     control.ErrorDescriptors,
	listen.Internal:        control.ErrorInternal,
	listen.NoServer:        control.ErrorNoServer,
	listen.QueueFull:       control.ErrorQueueFull,
	listen.QueueTimeout:    control.ErrorQueueTimeout,
	listen.SameNetwork:     control.ErrorSameNetwork,
	listen.BadRequest:      control.ErrorBadRequest,
	listen.BadResponse:     control.ErrorBadResponse,
	listen.Truncated:       control.ErrorTruncated,
	listen.HeadTimeout:     control.ErrorHeadTimeout,
	listen.BodyTimeout:     control.ErrorBodyTimeout,
	listen.ResponseTimeout: control.ErrorResponseTimeout,
	listen.RateLimit:       control.ErrorRateLimit,
	listen.Denied:          control.ErrorDenied,
	listen.Handshake:       control.ErrorHandshake,
	listen.ServerHandshake: control.ErrorServerHandshake,
	listen.NoName:          control.ErrorNoName,
	listen.NotHTTP:         control.ErrorNotHTTP,
	listen.ProxyHeader:     control.ErrorProxyHeader,
	listen.NoLink:          control.ErrorNoLink,
	listen.LinkDown:        control.ErrorLinkDown,
}

// stats are the counters of all loops in the keeper's words.
func (w *wiring) stats(done <-chan struct{}) (control.Stats, error) {
	sums, err := w.collect(done)
	if err != nil {
		return nil, err
	}
	stats := make(control.Stats, len(sums))
	for i := range sums {
		stats[w.listeners[i].Name] = told(&sums[i])
	}
	return stats, nil
}

func told(c *listen.Counters) control.Listener {
	n := control.Listener{
		Accepted: c.Accepted, Active: c.Active,
		BytesIn: c.BytesIn, BytesOut: c.BytesOut,
		PortKept: c.PortKept, PortFallbacks: c.PortFallbacks, Retries: c.Retries,
		Requests: c.Requests, Statuses: c.Statuses, Reused: c.Reused, Tunnels: c.Tunnels,
	}
	for kind, count := range c.Errors {
		if count == 0 {
			continue
		}
		if n.Errors == nil {
			n.Errors = make(map[string]uint64)
		}
		n.Errors[kinds[kind]] = count
	}
	return n
}
