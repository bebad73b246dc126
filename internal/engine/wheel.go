package engine

import (
	"math/bits"
	"time"
)

// A tick of the wheel is 2^26 ns, 67 ms: timers of a proxy bound seconds. A turn of the wheel is 69 s; a timer that is due later
// is met, and left where it is, once in each turn.
const (
	tickShift = 26
	spokes    = 1024
)

// wheel is a hashed timing wheel: each spoke heads a list, linked through the slot table, of the timers that are due at its tick
// modulo spokes. Setting and stopping cost a few stores, so that nothing need be sorted.
type wheel struct {
	heads [spokes]uint32
	used  [spokes / 64]uint64 // bitmap of spokes that are not empty
	count int
	last  uint32 // the tick that was served last
}

// SetTimer has the slot's handler called with Timer in d, within 70 ms; it replaces the slot's former timer. Handlers that put a
// deadline off with every message should let the timer come and look then whether it is really over.
func (l *Loop) SetTimer(s Slot, d time.Duration) {
	e := l.slots.at(s.index())
	if Slot(e.generation) != s>>32 || e.handler == nil {
		return
	}
	l.wheel.stop(l, s)
	due := l.now + int64(max(d, 0))
	l.wheel.insert(l, s.index(), uint32(min(due>>tickShift+1, 1<<32-1)))
}

// StopTimer forgets the slot's timer.
func (l *Loop) StopTimer(s Slot) { l.wheel.stop(l, s) }

func (w *wheel) insert(l *Loop, index, tick uint32) {
	tick = max(tick, w.last+1)
	e := l.slots.at(index)
	spoke := tick % spokes
	e.tick, e.prev, e.next = tick, 0, w.heads[spoke]
	if e.next != 0 {
		l.slots.at(e.next).prev = index
	}
	w.heads[spoke] = index
	w.used[spoke/64] |= 1 << (spoke % 64)
	w.count++
}

func (w *wheel) stop(l *Loop, s Slot) {
	e := l.slots.at(s.index())
	if e.tick == 0 || Slot(e.generation) != s>>32 {
		return
	}
	w.unlink(l, e)
}

func (w *wheel) unlink(l *Loop, e *entry) {
	spoke := e.tick % spokes
	if e.prev != 0 {
		l.slots.at(e.prev).next = e.next
	} else {
		w.heads[spoke] = e.next
		if e.next == 0 {
			w.used[spoke/64] &^= 1 << (spoke % 64)
		}
	}
	if e.next != 0 {
		l.slots.at(e.next).prev = e.prev
	}
	e.tick, e.next, e.prev = 0, 0, 0
	w.count--
}

// turn calls the handlers of all timers that are due.
func (w *wheel) turn(l *Loop) {
	now := uint32(l.now >> tickShift)
	if w.count == 0 {
		w.last = now
		return
	}
	for ; w.last < now; w.last++ {
		if now-w.last > spokes {
			w.last = now - spokes // a full turn behind: meeting each spoke once is enough
		}
		w.serve(l, (w.last+1)%spokes, now)
	}
}

// serve takes the due timers off one spoke. A handler may set or stop any timer meanwhile, so they are collected first.
func (w *wheel) serve(l *Loop, spoke, now uint32) {
	l.due = l.due[:0]
	for i := w.heads[spoke]; i != 0; {
		e := l.slots.at(i)
		next := e.next
		if e.tick <= now {
			l.due = append(l.due, Slot(i)|Slot(e.generation)<<32)
			w.unlink(l, e)
		}
		i = next
	}
	for _, s := range l.due {
		if h := l.slots.handler(s); h != nil {
			h.Handle(l, Timer)
		}
	}
}

// next is when the next spoke that is not empty comes round, on the loop's clock; 0 when there is no timer.
func (w *wheel) next() int64 {
	if w.count == 0 {
		return 0
	}
	first := (w.last + 1) % spokes
	word, mask := first/64, ^uint64(0)<<(first%64)
	for i := range uint32(len(w.used) + 1) {
		k := (word + i) % uint32(len(w.used))
		if b := w.used[k] & mask; b != 0 {
			spoke := k*64 + uint32(bits.TrailingZeros64(b))
			return int64(w.last+1+(spoke-first+spokes)%spokes) << tickShift
		}
		mask = ^uint64(0)
	}
	return 0
}
