package dial

import (
	"net/netip"
	"syscall"

	"salp/internal/config"
	"salp/internal/engine"
	"salp/internal/listen"
	"salp/internal/policy"
	"salp/internal/pool"
	"salp/internal/proxyproto"
	"salp/internal/sock"
)

type stage uint8

const (
	connecting stage = iota // the kernel is at it
	asking                  // the keeper is to make the port free
	answered                // and has said whether it did
	queued                  // every server has as many connections as it may
	granted                 // and one has a place now
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
	original netip.AddrPort // whom the client dialled
	decision policy.Decision
	dial     sock.Dial // the try under way
	place    Server
	until    int64 // when the time for all tries is over; 0: never
	due      int64 // when the time for this one is; 0: never
	fd       int32
	tries    int  // how many more may be made, this one included
	routed   bool // the other links are among them
	link     int  // index of the alternative that is next
	tag      uint8
	stage    stage
	kept     bool // the socket being connected has the client's port
	fell     bool // it has another, though the client's was wanted
	freed    bool // the answer: the port is free
	starting bool // within Start
	around   bool // the server would answer the client past us, so that this try has our own address
	doubted  bool // this try finds out whether it would
	header   config.ProxyHeader
	want     pool.Want
	tried    pool.Tried
	waiter   pool.Waiter
	grant    *pool.Endpoint // the place that was granted
}

// Handle takes an event of the slot that is not the client's: of the server's descriptor, a Timer, or an Again.
func (a *Attempt) Handle(l *engine.Loop, ev engine.Event) Progress {
	switch {
	case ev&engine.Again != 0:
		return a.resume(l)
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
	case a.reachedItself():
		return a.failed(l, syscall.ECONNREFUSED)
	}
	switch {
	case a.kept:
		a.dialer.Counters.PortKept++
	case a.fell:
		a.dialer.Counters.PortFallbacks++
	}
	if a.around {
		a.aroundKnown(l)
	}
	return Connected
}

// reachedItself says whether the socket is connected to itself: the server was of this host, nobody listens there any more, and the kernel chose
// its port for the socket, so that the SYN met it as a simultaneous open (RFC 9293, 3.5). Who connects in another's name cannot, and the ports that
// the kernel chooses are not the privileged ones, so most need not ask.
func (a *Attempt) reachedItself() bool {
	server, source := a.dial.Server, a.dial.Source.Addr()
	if server.Port() < 1024 || source.IsValid() && source != server.Addr() {
		return false
	}
	local, e := sock.Local(int(a.fd))
	return e == 0 && local == server
}

// resume goes on after an answer from another goroutine.
func (a *Attempt) resume(l *engine.Loop) Progress {
	switch a.stage {
	case answered:
		return a.again(l, a.freed)
	case granted:
		if a.until != 0 {
			a.until = l.Now() + int64(a.dialer.Connect) // the time in the queue is another's
		}
		return a.use(l, a.grant)
	}
	return Waiting
}

// Take ends an attempt that is connected or broken: socket and place are the caller's from now on. A PROXY header that the server is
// to have is sent before; more says that the client's first bytes follow at once. sent says that something was.
func (a *Attempt) Take(more bool) (fd int, s Server, sent bool) {
	fd, s = int(a.fd), a.place
	s.counters.Connections++
	if a.header == config.ProxyHeaderV1 || a.header == config.ProxyHeaderV2 {
		a.introduce(more)
		sent = true
	}
	a.dialer.give(a)
	return fd, s, sent
}

// introduce sends the header. A socket that has just been connected takes all of it; if not, no byte must follow.
func (a *Attempt) introduce(more bool) {
	var room [proxyproto.MaxWritten]byte
	b := room[:0]
	if a.header == config.ProxyHeaderV1 {
		b = proxyproto.Append1(b, a.client, a.original)
	} else {
		b = proxyproto.Append2(b, a.client, a.original)
	}
	if n, _ := sock.Send(int(a.fd), b, more); n < len(b) {
		sock.CloseWrite(int(a.fd))
	}
}

// Abort ends an attempt that waits or has failed, and gives back what it had.
func (a *Attempt) Abort() {
	a.drop()
	a.dialer.give(a)
}

// drop gives up the try under way.
func (a *Attempt) drop() {
	switch a.stage {
	case queued:
		a.decision.Pool.Leave(&a.waiter, false) // a place granted meanwhile is given back when the grant finds nobody
	case granted:
		if a.place.counters == nil {
			a.grant.Release()
		}
	}
	a.stage, a.grant = connecting, nil
	a.closeSocket()
	if a.place.counters != nil {
		a.place.End()
	}
}

func (a *Attempt) closeSocket() {
	if a.fd >= 0 {
		sock.Reset(int(a.fd))
		a.fd = -1
	}
}

// begin makes a try on a server that is chosen now.
func (a *Attempt) begin(l *engine.Loop) Progress {
	d := &a.decision
	if d.Pool == nil {
		a.place.counters = &a.dialer.elsewhere
		a.dial.Server = d.Server
		return a.reachFirst(l)
	}
	e, outcome := d.Pool.Pick(&a.want, &a.tried)
	switch outcome {
	case pool.Full:
		return a.wait(l)
	case pool.NoServer:
		return a.fail(listen.NoServer)
	}
	return a.use(l, e)
}

// wait waits in the pool's queue.
func (a *Attempt) wait(l *engine.Loop) Progress {
	p := a.decision.Pool
	life := a.life
	a.stage = queued
	a.waiter = pool.Waiter{Want: &a.want, Tried: &a.tried, Grant: func(e *pool.Endpoint) {
		l.Post(func() {
			if a.life != life || a.stage != queued {
				e.Release()
				return
			}
			a.stage, a.grant = granted, e
			if h := l.Handler(a.slot); h != nil {
				h.Handle(l, engine.Again)
			}
		})
	}}
	if !p.Wait(&a.waiter) {
		a.stage = connecting
		return a.fail(listen.QueueFull)
	}
	a.due = l.Now() + int64(p.QueueTimeout())
	l.SetTimer(a.slot, p.QueueTimeout())
	return Waiting
}

// use makes a try on a server on which a place was taken.
func (a *Attempt) use(l *engine.Loop, e *pool.Endpoint) Progress {
	a.stage, a.grant = connecting, nil
	a.tried.Add(e)
	a.place = Server{endpoint: e, counters: e.Counters(l.Number())}
	a.place.counters.Active++
	if a.starting && a.dialer.Reuse != nil && a.dialer.Reuse(l, e) {
		return Reused
	}
	a.dial.Server = e.Address()
	a.header = e.Header()
	a.around = a.decision.Source.IsValid() && a.dialer.Networks.around(a.client.Addr(), e.Address().Addr())
	if a.around {
		switch a.decision.Pool.SameNetwork() {
		case config.SameNetworkRefuse:
			a.place.counters.SameNetwork++
			return a.fail(listen.SameNetwork)
		case config.SameNetworkHeader:
			a.header = config.ProxyHeaderV2
		}
	}
	return a.reachFirst(l)
}

// reach connects to the chosen server, over the link with that mark.
func (a *Attempt) reach(l *engine.Loop, link uint32) Progress {
	d := &a.decision
	if a.dialer.Own.Has(a.dial.Server) {
		return a.fail(listen.Loop)
	}
	a.dial.Source, a.dial.KeepPort, a.dial.Mark, a.dial.DSCP = d.Source, d.KeepPort, d.Mark|link, d.DSCP
	if a.around {
		a.dial.Source, a.dial.KeepPort, a.dial.Mark = netip.AddrPort{}, false, d.PlainMark|link
	}
	a.fell = false
	a.place.link = link
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
	a.stage = connecting
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

// Address is that of the server that is tried or connected.
func (a *Attempt) Address() netip.AddrPort { return a.dial.Server }
