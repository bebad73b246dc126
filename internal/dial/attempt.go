package dial

import (
	"net/netip"
	"syscall"
	"time"

	"salp/internal/engine"
	"salp/internal/listen"
	"salp/internal/policy"
	"salp/internal/pool"
	"salp/internal/sock"
)

type stage uint8

const (
	connecting stage = iota // the kernel is at it
	asking                  // the keeper is to make the port free
	answered                // and has said whether it did
)

// Attempt is one flow on its way to a server. It ends with Take, or with Abort, and must not be touched after either.
type Attempt struct {
	Kind  listen.Kind   // why it failed
	Errno syscall.Errno // of the last try

	dialer   *Dialer
	next     *Attempt // in the dialer's free list
	life     uint32   // which use of this struct it is: what was asked for another must not touch it
	slot     engine.Slot
	client   netip.AddrPort
	decision policy.Decision
	dial     sock.Dial // the try under way
	place    Server
	until    int64 // when the time for all tries is over; 0: never
	due      int64 // when the time for this one is; 0: never
	fd       int32
	tries    int // how many more may be made, this one included
	link     int // index of the alternative that is next
	tag      uint8
	stage    stage
	kept     bool // the socket being connected has the client's port
	fell     bool // it has another, though the client's was wanted
	freed    bool // the answer: the port is free
	tried    pool.Tried
}

// Handle takes an event of the slot that is not the client's: of the server's descriptor, a Timer, or an Again.
func (a *Attempt) Handle(l *engine.Loop, ev engine.Event) Progress {
	switch {
	case ev&engine.Again != 0:
		if a.stage != answered {
			return Waiting
		}
		return a.again(l, a.freed)
	case ev&engine.Timer != 0:
		return a.timer(l)
	case a.stage != connecting:
		return Waiting
	case ev&(engine.Error|engine.Hangup) != 0:
		e := sock.Error(int(a.fd))
		if e != syscall.ECONNRESET && e != syscall.EPIPE {
			return a.failed(l, e)
		}
		a.Errno = e
		return Broken
	case ev&engine.Out == 0:
		return Waiting
	}
	switch {
	case a.kept:
		a.dialer.Counters.PortKept++
	case a.fell:
		a.dialer.Counters.PortFallbacks++
	}
	return Connected
}

// Take ends an attempt that is connected or broken: socket and place are the caller's from now on.
func (a *Attempt) Take() (fd int, s Server) {
	fd, s = int(a.fd), a.place
	s.counters.Connections++
	a.dialer.give(a)
	return fd, s
}

// Abort ends an attempt that waits or has failed, and gives back what it had.
func (a *Attempt) Abort() {
	a.drop()
	a.dialer.give(a)
}

// drop gives up the try under way.
func (a *Attempt) drop() {
	if a.fd >= 0 {
		sock.Reset(int(a.fd))
		a.fd = -1
	}
	if a.place.counters != nil {
		a.place.End()
	}
}

// begin makes a try on a server that is chosen now.
func (a *Attempt) begin(l *engine.Loop) Progress {
	if kind, ok := a.choose(l); !ok {
		return a.fail(kind)
	}
	return a.reach(l, a.decision.Link)
}

// choose takes a place on a server.
func (a *Attempt) choose(l *engine.Loop) (listen.Kind, bool) {
	d := &a.decision
	if d.Pool == nil {
		a.place.counters = &a.dialer.elsewhere
		a.dial.Server = d.Server
	} else {
		e := d.Pool.Pick(a.want(), &a.tried)
		if e == nil {
			return listen.NoDestination, false
		}
		a.tried.Add(e)
		a.place = Server{e, e.Counters(l.Number())}
		a.place.counters.Active++
		a.dial.Server = e.Address()
	}
	return listen.Loop, !a.dialer.Own.Has(a.dial.Server)
}

// reach connects to the chosen server, over the link with that mark.
func (a *Attempt) reach(l *engine.Loop, link uint32) Progress {
	d := &a.decision
	a.dial.Source, a.dial.KeepPort, a.dial.Mark = d.Source, d.KeepPort, d.Mark|link
	a.fell = false
	a.setTimer(l)
	return a.connect(l, true)
}

// connect starts to connect. A port that is taken is asked for once: then the attempt waits, and tries again.
func (a *Attempt) connect(l *engine.Loop, ask bool) Progress {
	fd, e := sock.Connect(&a.dial)
	if e == 0 {
		a.fd, a.kept, a.stage = int32(fd), a.dial.KeepPort, connecting
		if e = l.Watch(a.slot, a.tag, fd); e != 0 {
			return a.fail(listen.Internal)
		}
		return Waiting
	}
	if !taken(e) || !a.dial.KeepPort {
		return a.failed(l, e)
	}
	if ask && a.dialer.Destroy != nil {
		a.ask(l)
		return Waiting
	}
	return a.again(l, false)
}

// ask has what stands in the way of a kept port destroyed, and the handler called with Again afterwards. That may be in another
// life of the struct.
func (a *Attempt) ask(l *engine.Loop) {
	life := a.life
	a.stage = asking
	a.dialer.Destroy(a.dial.Source, a.dial.Server, func(err error) {
		l.Post(func() {
			if a.life != life || a.stage != asking {
				return
			}
			a.stage, a.freed = answered, err == nil
			if h := l.Handler(a.slot); h != nil {
				h.Handle(l, engine.Again)
			}
		})
	})
}

// again tries once more with the client's port when that has been made free, and else with another if that will do.
func (a *Attempt) again(l *engine.Loop, free bool) Progress {
	switch {
	case free:
		return a.connect(l, false)
	case a.decision.RequirePort:
		return a.fail(listen.NoPort)
	}
	a.dial.KeepPort = false
	a.fell = true
	return a.connect(l, false)
}

func taken(e syscall.Errno) bool { return e == syscall.EADDRNOTAVAIL || e == syscall.EADDRINUSE }

// leastTry is what a try may take before another one is worth its cost: a SYN that is lost is sent again after a second.
const leastTry = 1500 * time.Millisecond

// setTimer sets the slot's timer for the end of this try. Tries that may follow get their share of the time.
func (a *Attempt) setTimer(l *engine.Loop) {
	a.due = a.until
	if a.until == 0 {
		return
	}
	left := time.Duration(a.until - l.Now())
	if a.tries > 1 && a.more() {
		left = min(left, max(left/time.Duration(a.tries), leastTry))
		a.due = l.Now() + int64(left)
	}
	l.SetTimer(a.slot, left)
}

// more says whether there is another link or server to try.
func (a *Attempt) more() bool {
	if a.link < len(a.decision.Alternatives) {
		return true
	}
	return a.decision.Pool != nil && a.decision.Pool.More(a.want(), &a.tried)
}

func (a *Attempt) want() *pool.Want {
	return &pool.Want{Client: a.client.Addr(), SameFamily: a.decision.Source.IsValid()}
}

// timer looks whether the time is really over.
func (a *Attempt) timer(l *engine.Loop) Progress {
	if a.due == 0 {
		return Waiting
	}
	if left := a.due - l.Now(); left > 0 {
		l.SetTimer(a.slot, time.Duration(left))
		return Waiting
	}
	return a.failed(l, syscall.ETIMEDOUT)
}

// failed makes the next try when one that failed with e leaves room for it, and else ends the attempt.
func (a *Attempt) failed(l *engine.Loop, e syscall.Errno) Progress {
	kind := kindOf(e)
	a.Errno = e
	a.count(kind)
	late := a.until != 0 && l.Now() >= a.until
	if a.tries--; a.tries <= 0 || late || kind == listen.Descriptors {
		return a.fail(kind)
	}
	if a.fd >= 0 {
		sock.Reset(int(a.fd))
		a.fd = -1
	}
	if kind != listen.ConnectRefused && a.link < len(a.decision.Alternatives) { // who refuses has been reached: the link is good
		link := a.decision.Alternatives[a.link]
		a.link++
		a.retry()
		return a.reach(l, link)
	}
	if a.decision.Pool == nil {
		return a.fail(kind)
	}
	former := a.place
	a.place = Server{}
	_, other := a.choose(l)
	if former.counters != nil && other {
		former.counters.Retries++
	}
	former.End()
	if !other {
		return a.fail(kind)
	}
	a.dialer.Counters.Retries++
	a.link = 0
	return a.reach(l, a.decision.Link)
}

// retry counts a further try on the same server.
func (a *Attempt) retry() {
	a.dialer.Counters.Retries++
	a.place.counters.Retries++
}

// count counts what went wrong with the server.
func (a *Attempt) count(kind listen.Kind) {
	switch c := a.place.counters; kind {
	case listen.ConnectRefused:
		c.Refused++
	case listen.ConnectTimeout:
		c.TimedOut++
	default:
		c.Unreachable++
	}
}

func (a *Attempt) fail(kind listen.Kind) Progress {
	a.Kind = kind
	a.drop()
	return Failed
}

// kindOf says what a connect that failed counts as.
func kindOf(e syscall.Errno) listen.Kind {
	switch e {
	case syscall.ECONNREFUSED:
		return listen.ConnectRefused
	case syscall.ETIMEDOUT:
		return listen.ConnectTimeout
	case syscall.EADDRNOTAVAIL, syscall.EADDRINUSE:
		return listen.NoPort
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM:
		return listen.Descriptors
	}
	return listen.ConnectOther
}
