package monitor

import (
	"context"
	"math/rand/v2"
	"time"

	"salp/internal/control"
	"salp/internal/health"
	"salp/internal/probe"
)

// job is a probe that is repeated until stop. Results of a stopped job are dropped.
type job struct {
	control.Job
	stop context.CancelFunc
}

func (m *monitor) start(j control.Job) *job {
	ctx, stop := context.WithCancel(m.context)
	go m.repeat(ctx, &j)
	return &job{j, stop}
}

// repeat probes at once, and then again and again. Time counts from the beginning of each probe, so that slow answers do not make checks rare.
func (m *monitor) repeat(ctx context.Context, j *control.Job) {
	for {
		select {
		case m.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		r := probe.Run(ctx, &j.Probe)
		<-m.slots
		if ctx.Err() != nil {
			return
		}
		select {
		case m.results <- control.Result{ID: j.ID, At: time.Now(), Error: r.Error, RTT: r.RTT}:
		case <-ctx.Done():
			return
		}
		every := j.Every
		if !r.OK && j.Soon > 0 {
			every = j.Soon
		}
		select {
		case <-time.After(time.Until(began.Add(health.Jittered(every, j.Jitter, rand.Float64())))):
		case <-ctx.Done():
			return
		}
	}
}
