package engine

import (
	"golang.org/x/sys/unix"
)

// Buffers are lent in four sizes, the smallest that holds what is left over.
var bufferSizes = [...]int{1 << 10, 4 << 10, 16 << 10, 64 << 10}

// idleBuffers is how many free buffers of one size a loop keeps; more are left to the garbage collector.
const idleBuffers = 32

type buffers struct{ free [len(bufferSizes)][][]byte }

// Buffer lends an empty buffer with room for at least n bytes, at most 64 KiB. Give it back with Return.
func (l *Loop) Buffer(n int) []byte {
	for i, size := range bufferSizes {
		if n > size {
			continue
		}
		free := l.buffers.free[i]
		if len(free) == 0 {
			return make([]byte, 0, size)
		}
		b := free[len(free)-1]
		l.buffers.free[i] = free[:len(free)-1]
		return b[:0]
	}
	panic("engine: a buffer of more than 64 KiB was asked for")
}

// Return takes back a buffer that Buffer lent. The slice must start where the lent one did.
func (l *Loop) Return(b []byte) {
	for i, size := range bufferSizes {
		if cap(b) == size && len(l.buffers.free[i]) < idleBuffers {
			l.buffers.free[i] = append(l.buffers.free[i], b)
			return
		}
	}
}

const (
	// PipeSize is how many bytes of whole pages a pipe holds; what it holds may be less where a page is not full.
	PipeSize = 256 << 10
	// maxPipes bounds the pipes of a loop, two descriptors each; beyond it connections copy.
	maxPipes = 128
	// idlePipes is how many empty pipes a loop keeps open.
	idlePipes = 8
	// pipeRest is how many nanoseconds a loop does without new pipes after the kernel has refused one.
	pipeRest = int64(1e9)
)

// Pipe carries spliced bytes from one socket to another. Read and Write are its descriptors, Held what the borrower has in it.
type Pipe struct {
	Read, Write int
	Held        int
}

type pipes struct {
	free []*Pipe
	open int
	rest int64 // until when none is made
}

// Pipe lends an empty pipe, or nil when there are enough or the kernel gives none. Give it back with ReturnPipe as soon as it is empty.
func (l *Loop) Pipe() *Pipe {
	p := &l.pipes
	if n := len(p.free); n > 0 {
		pipe := p.free[n-1]
		p.free = p.free[:n-1]
		return pipe
	}
	if p.open >= maxPipes || l.now < p.rest {
		return nil
	}
	pipe := makePipe()
	if pipe == nil {
		p.rest = l.now + pipeRest
		return nil
	}
	p.open++
	return pipe
}

// makePipe returns nil when there is no descriptor, or no memory of the size that makes splicing worth while: a user's pages in
// pipes are bounded (pipe(7), pipe-user-pages-soft, 64 MiB), and two generations of workers share them.
func makePipe() *Pipe {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC) != nil {
		return nil
	}
	if _, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, PipeSize); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil
	}
	return &Pipe{Read: fds[0], Write: fds[1]}
}

// ReturnPipe takes back a pipe. One that still holds bytes is closed, and they are lost.
func (l *Loop) ReturnPipe(pipe *Pipe) {
	p := &l.pipes
	if pipe.Held == 0 && len(p.free) < idlePipes {
		p.free = append(p.free, pipe)
		return
	}
	unix.Close(pipe.Read)
	unix.Close(pipe.Write)
	p.open--
}

func (p *pipes) close() {
	for _, pipe := range p.free {
		unix.Close(pipe.Read)
		unix.Close(pipe.Write)
	}
	p.free = nil
}
