package worker

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"salp/internal/control"
)

const (
	// mostDestroys bounds the requests under way; beyond it connections fall back at once.
	mostDestroys = 256
	// destroyPatience is how long a connection waits for the keeper's answer.
	destroyPatience = time.Second
)

var (
	errBusy = errors.New("too many requests to destroy sockets are under way")
	errSlow = errors.New("the keeper has not answered in time")
)

// destroyer asks the keeper to destroy sockets, without ever blocking a loop. Every request is answered exactly once.
type destroyer struct {
	send  func(control.Message, ...int) error
	queue chan control.Destroy

	mutex   sync.Mutex
	last    uint64
	waiting map[uint64]waiting
}

type waiting struct {
	done func(error)
	late *time.Timer
}

func newDestroyer(send func(control.Message, ...int) error) *destroyer {
	return &destroyer{send: send, queue: make(chan control.Destroy, mostDestroys), waiting: make(map[uint64]waiting)}
}

// destroy implements dial.Destroy.
func (d *destroyer) destroy(local, remote netip.AddrPort, done func(error)) {
	d.mutex.Lock()
	if len(d.waiting) >= mostDestroys {
		d.mutex.Unlock()
		done(errBusy)
		return
	}
	d.last++
	id := d.last
	d.waiting[id] = waiting{done, time.AfterFunc(destroyPatience, func() { d.answer(id, errSlow) })}
	d.mutex.Unlock()
	select {
	case d.queue <- control.Destroy{ID: id, Local: local, Remote: remote}:
	default:
		d.answer(id, errBusy)
	}
}

// run sends the requests until stop.
func (d *destroyer) run(stop <-chan struct{}) {
	for {
		select {
		case request := <-d.queue:
			if err := d.send(control.Message{Destroy: &request}); err != nil {
				d.answer(request.ID, err)
			}
		case <-stop:
			return
		}
	}
}

func (d *destroyer) destroyed(m *control.Destroyed) {
	var err error
	if m.Error != "" {
		err = errors.New(m.Error)
	}
	d.answer(m.ID, err)
}

func (d *destroyer) answer(id uint64, err error) {
	d.mutex.Lock()
	w, ok := d.waiting[id]
	delete(d.waiting, id)
	d.mutex.Unlock()
	if ok {
		w.late.Stop()
		w.done(err)
	}
}
