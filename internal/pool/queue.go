package pool

import (
	"sync"
	"sync/atomic"
)

// Waiter waits for a place. It is the caller's, who must not change what it holds while it waits.
type Waiter struct {
	Want  *Want
	Tried *Tried
	// Grant is called from any goroutine, at most once, with a place that was taken for the waiter: Release is its business from then on. It must not
	// block, nor call the pool.
	Grant func(*Endpoint)

	next, prev *Waiter
	waits      bool
}

// queue are the waiters, first come first.
type queue struct {
	length atomic.Int64
	mutex  sync.Mutex
	head   Waiter // of a ring
}

// mostPassed bounds how many waiters are passed over when a place is free that they cannot have.
const mostPassed = 16

// Wait puts a waiter at the end of the queue. It is false when the queue is full.
func (p *Pool) Wait(w *Waiter) bool {
	q := &p.queue
	q.mutex.Lock()
	if q.length.Load() >= int64(p.cfg.Queue.Length) {
		q.mutex.Unlock()
		p.queueFull.Add(1)
		return false
	}
	if q.head.next == nil {
		q.head.next, q.head.prev = &q.head, &q.head
	}
	w.next, w.prev, w.waits = &q.head, q.head.prev, true
	w.prev.next, w.next.prev = w, w
	q.length.Add(1)
	q.mutex.Unlock()
	q.serve(p) // a place that was given back before we were counted
	return true
}

// Leave takes a waiter out of the queue. It is false when the waiter was granted a place before; Grant is called all the same. late says that it has waited
// as long as it may.
func (p *Pool) Leave(w *Waiter, late bool) bool {
	q := &p.queue
	q.mutex.Lock()
	defer q.mutex.Unlock()
	if !w.waits {
		return false
	}
	q.remove(w)
	if late {
		p.queueTimeouts.Add(1)
	}
	return true
}

func (q *queue) remove(w *Waiter) {
	w.prev.next, w.next.prev = w.next, w.prev
	w.next, w.prev, w.waits = nil, nil, false
	q.length.Add(-1)
}

// serve gives the places that are free to those who have waited longest.
func (q *queue) serve(p *Pool) {
	if q.length.Load() == 0 {
		return
	}
	q.mutex.Lock()
	defer q.mutex.Unlock()
	passed := 0
	for w := q.head.next; w != nil && w != &q.head && passed < mostPassed; {
		next := w.next
		if e, _ := p.pick(w.Want, w.Tried); e != nil {
			q.remove(w)
			w.Grant(e)
		} else {
			passed++
		}
		w = next
	}
}
