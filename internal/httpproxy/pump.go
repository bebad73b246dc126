package httpproxy

import (
	"syscall"

	"salp/internal/engine"
	"salp/internal/http1"
	"salp/internal/sock"
)

const (
	// rounds bounds what one direction moves in one turn.
	rounds = 16
	// fullReads of the scratch buffer show that a body is bulk, and make it splice where it is known to go on for that long.
	fullReads   = 2
	leastSplice = 64 << 10
	// slowRead is how much is read at once for a receiver that has been slow, so that not much is left over.
	slowRead = 16 << 10
)

// flowState is what is under way in one direction.
type flowState struct {
	rest    []byte       // read and not taken by the receiver, in a lent buffer
	pipe    *engine.Pipe // borrowed while it holds bytes, and during a burst
	full    uint8        // full reads so far
	blocked bool         // the receiver took less than it was given; it reports when it takes more
	slow    bool         // it did so once
	dechunk bool         // the content is passed on without the chunked coding
	ended   bool         // the sender has closed, which ends a body without a length
}

func (f *flowState) drop(l *engine.Loop) {
	if f.rest != nil {
		l.Return(f.rest)
		f.rest = nil
	}
	if f.pipe != nil {
		l.ReturnPipe(f.pipe)
		f.pipe = nil
	}
}

// outcome is why carry stopped.
type outcome uint8

const (
	waits  outcome = iota // for one of the sockets
	turns                 // it is others' turn
	over                  // the message is through
	cut                   // the sender ended before its message did
	bad                   // its framing is wrong: moved.err
	lost                  // the sender's socket failed: moved.errno
	unsent                // the receiver's did
)

// moved is what carry tells besides its outcome.
type moved struct {
	bytes int64  // how many were read
	extra []byte // bytes behind the message, in the scratch buffer
	errno syscall.Errno
	err   *http1.Error
}

// carry moves what it can of a message's body.
func (p *Proxy) carry(l *engine.Loop, s *stream, in *inlet, from, to int32) outcome {
	m := &p.work.moved
	*m = moved{}
	for round := 0; ; round++ {
		if s.blocked {
			return waits
		}
		if s.rest != nil || s.pipe != nil && s.pipe.Held > 0 {
			if e := s.flush(l, to); e != 0 {
				m.errno = e
				return unsent
			}
			if s.blocked {
				return waits
			}
		}
		switch {
		case s.body.Done() || s.ended:
			s.drop(l)
			return over
		case in.eof && !in.readable:
			if !s.body.UntilClose() {
				return cut
			}
			s.ended = true
			continue
		case !in.readable:
			s.drop(l)
			return waits
		case round >= rounds:
			return turns
		}
		if o := p.move(l, s, in, from, to); o != over {
			return o
		}
	}
}

// move reads once and passes on what it got. over: that went well.
func (p *Proxy) move(l *engine.Loop, s *stream, in *inlet, from, to int32) outcome {
	m := &p.work.moved
	if s.full >= fullReads && !s.dechunk && s.body.Left() >= leastSplice {
		if s.pipe == nil {
			s.pipe = l.Pipe()
		}
		if s.pipe != nil {
			return p.splice(s, in, from)
		}
	}
	b := l.Scratch()
	if s.slow {
		b = b[:slowRead]
	}
	n, e := in.read(from, b)
	if e != 0 {
		m.errno = e
		return lost
	}
	if n == 0 {
		return over
	}
	m.bytes += int64(n)
	if n == len(b) && s.full < fullReads {
		s.full++
	}
	k, err := p.follow(s, b[:n])
	if err != nil {
		m.err = err
		return bad
	}
	m.extra = b[k:n]
	out := b[:k]
	if s.dechunk {
		out = p.work.plain
	}
	if e := s.send(l, to, out); e != 0 {
		m.errno = e
		return unsent
	}
	return over
}

// follow follows the body through bytes that were read, and says how many are its own. The content of a body that loses its coding is then in work.plain.
func (p *Proxy) follow(s *stream, b []byte) (int, *http1.Error) {
	if !s.dechunk {
		return s.body.Next(b, &p.limits, nil)
	}
	w := p.work
	w.plain = w.plain[:0]
	return s.body.Next(b, &p.limits, func(content []byte) { w.plain = append(w.plain, content...) })
}

// send passes bytes on, and keeps what the receiver does not take.
func (f *flowState) send(l *engine.Loop, to int32, b []byte) syscall.Errno {
	if len(b) == 0 {
		return 0
	}
	n, e := 0, syscall.Errno(0)
	if f.rest == nil && !f.blocked {
		if n, e = sock.Send(int(to), b, false); e == syscall.EAGAIN {
			n, e = 0, 0
		}
	}
	if e != 0 {
		return e
	}
	if n < len(b) {
		if f.rest == nil {
			f.rest = lend(l, len(b)-n)
		}
		f.rest = append(f.rest, b[n:]...)
		f.blocked, f.slow = true, true
	}
	return 0
}

// splice moves bytes of the body into the pipe; flush brings them out.
func (p *Proxy) splice(s *stream, in *inlet, from int32) outcome {
	n, e := sock.Splice(int(from), s.pipe.Write, int(min(s.body.Left(), engine.PipeSize)), false)
	switch {
	case e == syscall.EAGAIN:
		in.readable = false
	case e != 0:
		p.work.moved.errno = e
		return lost
	case n == 0 && in.broken():
		p.work.moved.errno = in.failed
		return lost
	case n == 0:
		in.readable, in.eof = false, true
	default:
		s.pipe.Held = n
		s.body.Skip(int64(n))
		p.work.moved.bytes += int64(n)
	}
	return over
}

// flush passes on what is left over.
func (f *flowState) flush(l *engine.Loop, to int32) syscall.Errno {
	if f.rest != nil {
		n, e := sock.Send(int(to), f.rest, false)
		if e == syscall.EAGAIN {
			n, e = 0, 0
		}
		if e != 0 {
			return e
		}
		if n < len(f.rest) {
			f.rest = f.rest[:copy(f.rest, f.rest[n:])]
			f.blocked = true
			return 0
		}
		l.Return(f.rest)
		f.rest = nil
	}
	for f.pipe != nil && f.pipe.Held > 0 {
		n, e := sock.Splice(f.pipe.Read, int(to), f.pipe.Held, false)
		switch {
		case e == syscall.EAGAIN:
			f.blocked = true
			return 0
		case e != 0:
			return e
		case n == 0:
			return syscall.EIO // the pipe is empty before its time: bytes are lost
		}
		f.pipe.Held -= n
	}
	return 0
}
