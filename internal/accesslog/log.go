package accesslog

import (
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// room is how many bytes of lines wait for the disk at most.
	room = 4 << 20
	// every is how long a line waits at most while the disk keeps up.
	every = 200 * time.Millisecond
	// tellEvery bounds how often lost lines are told.
	tellEvery = 10 * time.Second
)

// Log is an access log. Its methods may be called by all goroutines at once.
type Log struct {
	format  *format
	log     *slog.Logger
	number  atomic.Uint64
	dropped atomic.Uint64

	mu      sync.Mutex
	waiting []byte
	file    io.WriteCloser // the one that is written to from the next time on
	former  []io.Closer    // to be closed once the writer has let go of them
	wake    chan struct{}
	stop    chan struct{}
	done    chan struct{}
}

// New begins a log in the form of the configuration. It owns file. log is told of trouble.
func New(form string, file io.WriteCloser, log *slog.Logger) (*Log, error) {
	f, err := newFormat(form)
	if err != nil {
		return nil, err
	}
	if form == "json" {
		f.items = nil
	}
	l := &Log{format: f, log: log, file: file, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go l.run()
	return l, nil
}

// Fields returns the names of the header fields of requests and of responses whose values an Entry is to have, in order.
func (l *Log) Fields() (request, response []string) { return l.format.request, l.format.response }

// Dropped returns how many lines were lost, because the disk did not keep up or refused them.
func (l *Log) Dropped() uint64 { return l.dropped.Load() }

// Writer makes lines. It belongs to one goroutine or loop, and allocates nothing once it has seen long lines.
type Writer struct {
	log     *Log
	scratch []byte
}

// Writer returns a new Writer.
func (l *Log) Writer() *Writer { return &Writer{log: l} }

// Write logs an entry. It never waits for the disk.
func (w *Writer) Write(e *Entry) {
	if w == nil {
		return
	}
	w.scratch = w.log.format.append(w.scratch[:0], e, w.log.number.Add(1))
	w.log.add(w.scratch)
}

func (l *Log) add(line []byte) {
	l.mu.Lock()
	fits := len(l.waiting)+len(line) <= room
	if fits {
		l.waiting = append(l.waiting, line...)
	}
	urgent := len(l.waiting) > room/4
	l.mu.Unlock()
	if !fits {
		l.dropped.Add(1)
	}
	if urgent {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Reopen goes on in another file, which the log owns from now on, after a rotation. Lines that wait go there too.
func (l *Log) Reopen(file io.WriteCloser) {
	l.mu.Lock()
	l.former = append(l.former, l.file)
	l.file = file
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Close writes what waits and ends the log. It waits for the disk.
func (l *Log) Close() {
	close(l.stop)
	<-l.done
}

func (l *Log) run() {
	defer close(l.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	var spare []byte
	var told time.Time
	var lost uint64
	for {
		stopping := false
		select {
		case <-tick.C:
		case <-l.wake:
		case <-l.stop:
			stopping = true
		}
		spare = l.flush(spare)
		if n := l.dropped.Load(); n > lost && (time.Since(told) > tellEvery || stopping) {
			l.log.Warn("lines of the access log are lost: the disk does not keep up", "lines", n-lost)
			lost, told = n, time.Now()
		}
		if stopping {
			return
		}
	}
}

// flush writes what waits. spare is memory to collect in meanwhile; it returns that for the next time.
func (l *Log) flush(spare []byte) []byte {
	l.mu.Lock()
	lines, file, former := l.waiting, l.file, l.former
	l.waiting, l.former = spare[:0], nil
	l.mu.Unlock()
	if len(lines) > 0 {
		if n, err := file.Write(lines); err != nil {
			lost := count(lines[n:])
			l.dropped.Add(lost)
			l.log.Warn("the access log cannot be written", "error", err, "lines", lost)
		}
	}
	for _, f := range former {
		_ = f.Close() // nothing of it is still to be written
	}
	if cap(lines) > room/4 {
		return nil // after a burst its memory goes back
	}
	return lines
}

// count counts the ends of lines.
func count(lines []byte) (n uint64) {
	for _, c := range lines {
		if c == '\n' {
			n++
		}
	}
	return n
}
