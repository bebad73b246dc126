package engine

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batch       = 256      // events taken from the kernel at once
	shortWait   = 20       // milliseconds of raw waiting before the scheduler is told
	longestWait = 60_000   // milliseconds; only a bound, nothing depends on it
	scratchSize = 64 << 10 // bytes
	noSlot      = 0        // slot 0 is the loop itself
	wakeTag     = 0        // tag of the eventfd in slot 0
	allEvents   = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI
	edge        = uint32(1) << 31 // EPOLLET as an unsigned constant
	exclusive   = uint32(1) << 28 // EPOLLEXCLUSIVE
)

// Loop is one event loop. Its methods, Post and Number apart, may be called only on the loop itself: from Handle, or from a posted function.
type Loop struct {
	number  int
	epoll   int
	wake    int // eventfd
	now     int64
	turns   uint64
	start   time.Time
	slots   slots
	wheel   wheel
	due     []Slot // the timers being served
	again   []Slot // who asked for another turn
	taking  []Slot // the same, being served
	stopped bool
	scratch []byte
	buffers buffers
	pipes   pipes
	events  [batch]unix.EpollEvent

	mutex  sync.Mutex
	closed bool
	posted []func()
}

func newLoop(number int) (*Loop, error) {
	l := &Loop{number: number, epoll: -1, wake: -1, start: time.Now(), scratch: make([]byte, scratchSize)}
	l.slots.add(nil) // slot 0
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		l.close()
		return nil, os.NewSyscallError("eventfd", err)
	}
	if e := l.ctl(unix.EPOLL_CTL_ADD, l.wake, 0, wakeTag, unix.EPOLLIN|edge); e != 0 {
		l.close()
		return nil, os.NewSyscallError("epoll_ctl", e)
	}
	return l, nil
}

// Number is the loop's place in Engine.Loops.
func (l *Loop) Number() int { return l.number }

// Now is the loop's clock at the start of this turn: nanoseconds on a monotonic clock of its own, never 0.
func (l *Loop) Now() int64 { return l.now }

// Turns counts the turns of the loop: how often it came back from waiting.
func (l *Loop) Turns() uint64 { return l.turns }

// Scratch is 64 KiB to read into. Its contents are anybody's as soon as the handler returns.
func (l *Loop) Scratch() []byte { return l.scratch }

// Post has f run on the loop, soon, in the order of the calls. It may be called from any goroutine. After the loop's end it does nothing.
func (l *Loop) Post(f func()) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.closed {
		return
	}
	l.posted = append(l.posted, f)
	if len(l.posted) == 1 {
		one := [8]byte{1, 0, 0, 0, 0, 0, 0, 1} // a number in either byte order
		syscall.RawSyscall(unix.SYS_WRITE, uintptr(l.wake), uintptr(unsafe.Pointer(&one)), 8)
	}
}

func (l *Loop) stop() { l.stopped = true }

func (l *Loop) close() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	l.posted = nil
	for _, fd := range [2]int{l.epoll, l.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	l.pipes.close()
}

// run turns the loop on a thread of its own until it is stopped.
func (l *Loop) run() (err error) {
	runtime.LockOSThread()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("engine: loop %d: panic: %v\n%s", l.number, p, debug.Stack())
		}
	}()
	for !l.stopped {
		n, e := l.wait()
		if e != 0 && e != unix.EINTR {
			return fmt.Errorf("engine: loop %d: epoll_pwait: %w", l.number, e)
		}
		l.now = int64(time.Since(l.start)) + 1
		l.turns++
		for i := range n {
			l.dispatch(&l.events[i])
		}
		l.serveAgain()
		l.wheel.turn(l)
	}
	return nil
}

// wait asks the kernel for events. A raw call keeps this thread's P, which makes it cheap to come back; a thread that stays
// away longer than that gives its P up, as the Go scheduler wants it. A signal (the scheduler sends one to stop the world) ends both.
// The raw wait must not be short: as the earliest timer of the processor it would have the clock programmed anew for every sleep.
func (l *Loop) wait() (int, syscall.Errno) {
	timeout := l.patience()
	n, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events)), batch, uintptr(min(timeout, shortWait)), 0, 0)
	if e != 0 {
		return 0, e
	}
	if n > 0 || timeout <= shortWait {
		return int(n), 0
	}
	n, _, e = syscall.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events)), batch, uintptr(timeout-shortWait), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// patience is how many milliseconds the loop may wait.
func (l *Loop) patience() int {
	if len(l.again) > 0 || l.stopped {
		return 0
	}
	due := l.wheel.next()
	if due == 0 {
		return longestWait
	}
	return int(min(max((due-l.now)/int64(time.Millisecond)+1, 0), longestWait))
}

func (l *Loop) dispatch(e *unix.EpollEvent) {
	s := slotOf(e)
	if s.index() == noSlot {
		l.servePosted()
		return
	}
	if h := l.slots.handler(s); h != nil {
		h.Handle(l, Event(e.Events)|Event(uint32(e.Pad)&tagMask)<<tagShift)
	}
}

func (l *Loop) servePosted() {
	var count [8]byte
	syscall.RawSyscall(unix.SYS_READ, uintptr(l.wake), uintptr(unsafe.Pointer(&count)), 8)
	l.mutex.Lock()
	posted := l.posted
	l.posted = nil
	l.mutex.Unlock()
	for _, f := range posted {
		f()
	}
}

// serveAgain calls those who asked for a turn before this call; those who ask during it get the next.
func (l *Loop) serveAgain() {
	if len(l.again) == 0 {
		return
	}
	l.taking, l.again = l.again, l.taking[:0]
	for _, s := range l.taking {
		if h := l.slots.handler(s); h != nil {
			h.Handle(l, Again)
		}
	}
}

func (l *Loop) ctl(op, fd int, s Slot, tag uint8, events uint32) syscall.Errno {
	event := unix.EpollEvent{Events: events, Fd: int32(uint32(s)), Pad: int32(uint32(s>>32)<<tagBits | uint32(tag))}
	_, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(l.epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&event)), 0, 0)
	return e
}
