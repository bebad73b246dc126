// Package dial connects one accepted flow to a server, on the flow's event loop.
//
// It takes a decision of package policy and does all that lies between it and an established socket: the choice of a server from
// the pool, whose address and port the socket has (and the removal of a TIME_WAIT socket that is in the port's way), the mark, the
// bounds of time, and further tries on another server or another link when one is refused, times out or cannot be reached.
// The client notices none of these tries, for nothing is passed on before one of them is connected, and none is made after that.
//
// An Attempt lives on the slot of the handler that asked for it, who passes on to it what happens to the server's descriptor, the
// slot's timer and the slot's turns, until the attempt has ended. Nothing here blocks, starts a goroutine, or allocates on the
// plain path. A Dialer and its attempts belong to one loop.
package dial

import (
	"net/netip"
	"time"

	"salp/internal/engine"
	"salp/internal/listen"
	"salp/internal/policy"
	"salp/internal/pool"
)

// Destroy asks for a TIME_WAIT socket of our own to be destroyed. It must not block; done may be called from any goroutine,
// exactly once, with nil when the socket is gone.
type Destroy func(local, remote netip.AddrPort, done func(error))

// Reuse is asked, during Start, whether the caller has an idle connection to the server that the pool has chosen.
type Reuse func(l *engine.Loop, e *pool.Endpoint) bool

// Options are what the attempts of a dialer share.
type Options struct {
	Counters *listen.Counters // of the listener on this loop
	Own      *listen.Own      // where a connection would come back to us
	Destroy  Destroy          // nil: nobody can
	Networks *Networks        // whose servers answer whose clients directly; nil: none
	Reuse    Reuse            // nil: every connection is a new one
	Connect  time.Duration    // bounds all tries of one attempt together; 0: each takes as long as the kernel tries
}

// Dialer makes the attempts of one listener on one loop.
type Dialer struct {
	Options
	elsewhere pool.Counters // of servers that are in no pool
	free      *Attempt      // to use again, linked by next
	spare     int
}

// New makes a dialer.
func New(o Options) *Dialer { return &Dialer{Options: o} }

// Progress says where an attempt is.
type Progress uint8

const (
	Waiting   Progress = iota
	Connected          // Take gives the socket
	Broken             // it was connected, and reset at once: Take gives the socket, for what it may hold, and Attempt.Errno the reason
	Failed             // Attempt.Kind says why
	Reused             // Options.Reuse has one already; only Start says so. The attempt is to be aborted
)

// Start begins to connect for a flow: the events of the server's descriptor come to the slot under the tag. While the attempt
// waits the slot's timer is the attempt's. Both pointers are only read during the call.
func (d *Dialer) Start(l *engine.Loop, s engine.Slot, tag uint8, f *listen.Flow, decision *policy.Decision) (*Attempt, Progress) {
	a := d.take()
	a.slot, a.tag, a.fd = s, tag, -1
	a.client, a.original, a.decision = f.Client, f.Original, *decision
	a.tries = 1 + len(decision.Alternatives)
	if decision.Pool != nil {
		a.want = a.wanted()
		a.tries += decision.Pool.Retries()
		if a.canDoubt() {
			a.tries++
		}
	}
	if d.Connect > 0 {
		a.until = l.Now() + int64(d.Connect)
	}
	a.starting = true
	p := a.begin(l)
	a.starting = false
	return a, p
}

// spareAttempts bounds the structs kept for new connections; a burst leaves no more than these behind.
const spareAttempts = 256

func (d *Dialer) take() *Attempt {
	a := d.free
	if a == nil {
		return &Attempt{dialer: d}
	}
	d.free, a.next = a.next, nil
	d.spare--
	return a
}

func (d *Dialer) give(a *Attempt) {
	*a = Attempt{dialer: d, life: a.life + 1}
	if d.spare < spareAttempts {
		a.next, d.free = d.free, a
		d.spare++
	}
}

// Server is the place that a connection has on a server, from the moment the server was chosen until End.
type Server struct {
	endpoint *pool.Endpoint // nil: in no pool
	counters *pool.Counters
	link     uint32
}

// Endpoint is the member of the pool that the connection goes to, nil when its server is in no pool.
func (s *Server) Endpoint() *pool.Endpoint { return s.endpoint }

// Counters are the server's on this loop. There always are some, also for a server in no pool.
func (s *Server) Counters() *pool.Counters { return s.counters }

// Link is the mark bits of the link that the connection uses, 0 when it uses none.
func (s *Server) Link() uint32 { return s.link }

// End gives the place back. It must be called on the loop, once.
func (s *Server) End() {
	if s.endpoint != nil {
		s.counters.Active--
		s.endpoint.Release()
	}
	*s = Server{}
}
