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
	// closeWithin is how long Close waits for the disk.
	closeWithin = 2 * time.Second
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
	failed  error          // of the last write that failed
	torn    bool           // the last line in the file is not whole; the writer's
	wake    chan struct{}
	stop    chan struct{}
	done    chan struct{} // is closed when everything was written
	told    chan struct{} // is closed when everything was told
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
	l := &Log{format: f, log: log, file: file, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}), told: make(chan struct{})}
	go l.run()
	go l.tell()
	return l, nil
}

// Fields returns the names of the header fields of requests and of responses whose values an Entry is to have, in order, spelt as in the form.
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

// Close writes what waits and ends the log. It waits for the disk, but not for one that stands still: what waits is lost then.
func (l *Log) Close() {
	close(l.stop)
	select {
	case <-l.done:
	case <-time.After(closeWithin):
		l.log.Warn("the end of the access log is lost: the disk does not keep up")
	}
	<-l.told
}

func (l *Log) run() {
	defer close(l.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	var spare []byte
	for {
		stopping := false
		select {
		case <-tick.C:
		case <-l.wake:
		case <-l.stop:
			stopping = true
		}
		spare = l.flush(spare)
		if stopping {
			return
		}
	}
}

// tell tells of lost lines, also while the writer waits for the disk.
func (l *Log) tell() {
	defer close(l.told)
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last time.Time
	var lost uint64
	for {
		stopping := false
		select {
		case <-tick.C:
		case <-l.stop:
			stopping = true
			select {
			case <-l.done:
			case <-time.After(closeWithin):
			}
		}
		if n := l.dropped.Load(); n > lost && (time.Since(last) > tellEvery || stopping) {
			l.mu.Lock()
			err := l.failed
			l.failed = nil
			l.mu.Unlock()
			why := "the disk does not keep up"
			if err != nil {
				why = err.Error()
			}
			l.log.Warn("lines of the access log are lost", "lines", n-lost, "why", why)
			lost, last = n, time.Now()
		}
		if stopping {
			return
		}
	}
}

// flush writes what waits. spare is memory to collect in meanwhile; it returns that for the next time. What could not be written is counted.
func (l *Log) flush(spare []byte) []byte {
	l.mu.Lock()
	lines, file, former := l.waiting, l.file, l.former
	l.waiting, l.former = spare[:0], nil
	l.mu.Unlock()
	if len(former) > 0 {
		l.torn = false
	}
	if len(lines) > 0 {
		if err := l.write(file, lines); err != nil {
			l.mu.Lock()
			l.failed = err
			l.mu.Unlock()
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

// write writes lines. One that a full disk has cut off is ended before the next ones, so that no reader takes the two for one.
func (l *Log) write(file io.Writer, lines []byte) error {
	if l.torn {
		if _, err := file.Write([]byte{'\n'}); err != nil {
			l.dropped.Add(count(lines))
			return err
		}
		l.torn = false
	}
	n, err := file.Write(lines)
	if err != nil {
		l.dropped.Add(count(lines[n:]))
		l.torn = n > 0 && lines[n-1] != '\n'
	}
	return err
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
