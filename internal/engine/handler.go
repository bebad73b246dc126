package engine

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Handler is what runs on a loop.
type Handler interface {
	// Handle is called on the loop with what happened to one descriptor, or with Timer or Again. It must not block.
	Handle(*Loop, Event)
}

// Event says what happened: some of the bits below, and for a descriptor its tag.
type Event uint32

// What can happen. In, Out, Urgent, Error, Hangup and PeerClosed are epoll's (epoll_ctl(2)).
const (
	In         Event = unix.EPOLLIN
	Urgent     Event = unix.EPOLLPRI // urgent bytes: a read stops short at the mark, so a short read does not mean that the socket is empty
	Out        Event = unix.EPOLLOUT
	Error      Event = unix.EPOLLERR
	Hangup     Event = unix.EPOLLHUP
	PeerClosed Event = unix.EPOLLRDHUP // the peer's FIN has come in behind all its data
	Timer      Event = 1 << 16         // the slot's timer is due
	Again      Event = 1 << 17         // the turn that was asked for

	tagShift = 24
	tagBits  = 8
	tagMask  = 1<<tagBits - 1
)

// Tag is the tag of the descriptor that the event is about. Timer and Again have none.
func (e Event) Tag() uint8 { return uint8(e >> tagShift) }

// Slot is a handler's place on its loop, never 0. It is not reused: after Remove it means nobody.
type Slot uint64

const generationMask = 1<<(32-tagBits) - 1

func (s Slot) index() uint32 { return uint32(s) }

func slotOf(e *unix.EpollEvent) Slot {
	return Slot(uint32(e.Fd)) | Slot(uint32(e.Pad)>>tagBits)<<32
}

// Add gives the handler a slot.
func (l *Loop) Add(h Handler) Slot { return l.slots.add(h) }

// Handler returns who has the slot, nil after its Remove.
func (l *Loop) Handler(s Slot) Handler { return l.slots.handler(s) }

// Remove ends the slot and its timer. Its descriptors must have been closed, or be watched no more.
func (l *Loop) Remove(s Slot) {
	l.wheel.stop(l, s)
	l.slots.remove(s)
}

// Each calls f for every handler on the loop. f may remove any of them.
func (l *Loop) Each(f func(Handler)) { l.slots.each(f) }

// Watch reports everything that happens to the descriptor as events of the slot with that tag, each change once
// (edge-triggered). What is true already is reported at once. Closing the descriptor ends it.
func (l *Loop) Watch(s Slot, tag uint8, fd int) syscall.Errno {
	return l.ctl(unix.EPOLL_CTL_ADD, fd, s, tag, allEvents|edge)
}

// WatchListener reports, on every turn, that the listening socket has connections to accept. Where several loops or processes
// watch the same socket, one of them is woken (EPOLLEXCLUSIVE).
func (l *Loop) WatchListener(s Slot, tag uint8, fd int) syscall.Errno {
	return l.ctl(unix.EPOLL_CTL_ADD, fd, s, tag, unix.EPOLLIN|exclusive)
}

// Unwatch ends the reports of a descriptor that stays open.
func (l *Loop) Unwatch(fd int) { l.ctl(unix.EPOLL_CTL_DEL, fd, 0, 0, 0) }

// Again gives the slot a turn of its own after the events of this turn, for one who stops in the middle to be fair to others.
func (l *Loop) Again(s Slot) { l.again = append(l.again, s) }

// slots is a table of handlers that grows by chunks and never moves. An entry also links its slot's timer (see wheel).
type slots struct {
	chunks []*[slotChunk]entry
	free   uint32 // first free entry, linked by next; 0: none
}

const slotChunk = 256

type entry struct {
	handler    Handler
	generation uint32
	next, prev uint32 // in the wheel, or in the free list
	tick       uint32 // when the timer is due; 0: not set
}

func (t *slots) at(index uint32) *entry { return &t.chunks[index/slotChunk][index%slotChunk] }

func (t *slots) add(h Handler) Slot {
	if t.free == 0 {
		t.grow()
		if h == nil {
			return 0
		}
	}
	index := t.free
	e := t.at(index)
	t.free = e.next
	e.handler, e.next = h, 0
	return Slot(index) | Slot(e.generation)<<32
}

// grow adds a chunk; entry 0 of the table is kept for the loop itself.
func (t *slots) grow() {
	base := uint32(len(t.chunks)) * slotChunk
	chunk := new([slotChunk]entry)
	t.chunks = append(t.chunks, chunk)
	for i := slotChunk - 1; i >= 0; i-- {
		if base+uint32(i) != 0 {
			chunk[i].next, t.free = t.free, base+uint32(i)
		}
	}
}

func (t *slots) handler(s Slot) Handler {
	if e := t.at(s.index()); Slot(e.generation) == s>>32 {
		return e.handler
	}
	return nil
}

func (t *slots) remove(s Slot) {
	e := t.at(s.index())
	if Slot(e.generation) != s>>32 || e.handler == nil {
		return
	}
	*e = entry{generation: (e.generation + 1) & generationMask, next: t.free}
	t.free = s.index()
}

func (t *slots) each(f func(Handler)) {
	for _, chunk := range t.chunks {
		for i := range chunk {
			if h := chunk[i].handler; h != nil {
				f(h)
			}
		}
	}
}
