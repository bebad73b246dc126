package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/metrics"
)

// page is the metrics that the monitor serves. It is safe for use by several goroutines.
type page struct {
	monitor *monitor

	mu   sync.Mutex
	stop context.CancelFunc // ends what is served now; nil: nothing is
	next uint64
	asks map[uint64]chan *control.Status
}

func newPage(m *monitor) *page { return &page{monitor: m, asks: map[uint64]chan *control.Status{}} }

// serve begins to serve on the socket, in place of the one before, or ends that when there is none.
func (p *page) serve(order *control.Page, fds []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
	if len(fds) == 0 {
		return
	}
	file := os.NewFile(uintptr(fds[0]), "metrics")
	defer file.Close()
	listener, err := net.FileListener(file)
	if err != nil {
		p.monitor.log.Error("metrics cannot be served", "error", err)
		return
	}
	ctx, cancel := context.WithCancel(p.monitor.context)
	p.stop = cancel
	go func() {
		if err := metrics.Serve(ctx, listener, order.From, p.status, p.monitor.log); err != nil {
			p.monitor.log.Error("metrics are served no more", "error", err)
		}
	}()
}

// status asks the keeper. It implements metrics.Source.
func (p *page) status(ctx context.Context) (*admin.Status, error) {
	answer := make(chan *control.Status, 1)
	p.mu.Lock()
	p.next++
	id := p.next
	p.asks[id] = answer
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.asks, id)
	}()
	if err := p.monitor.conn.Send(control.Message{AskStatus: &control.AskStatus{ID: id}}); err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case told := <-answer:
		if told.Error != "" {
			return nil, errors.New(told.Error)
		}
		s := &admin.Status{}
		if err := json.Unmarshal(told.Status, s); err != nil {
			return nil, fmt.Errorf("the keeper's status cannot be read: %w", err)
		}
		return s, nil
	}
}

// told gives the keeper's answer to who waits for it.
func (p *page) told(s *control.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if answer := p.asks[s.ID]; answer != nil {
		select {
		case answer <- s:
		default:
		}
	}
}
