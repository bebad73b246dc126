package dial

import (
	"syscall"
	"time"

	"salp/internal/config"
	"salp/internal/engine"
	"salp/internal/listen"
	"salp/internal/pool"
)

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

// more says whether there is another link, server or address of our own to try.
func (a *Attempt) more() bool {
	return a.link < len(a.decision.Alternatives) || a.canDoubt() || a.decision.Pool != nil && a.decision.Pool.More(&a.want, &a.tried)
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
	if a.stage == queued {
		if a.decision.Pool.Leave(&a.waiter, true) {
			a.stage = connecting
			return a.fail(listen.QueueTimeout)
		}
		return Waiting // the place that was granted is on its way
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
	a.closeSocket()
	a.stage = connecting
	if kind == listen.ConnectTimeout && a.canDoubt() {
		a.retries()
		return a.doubt(l)
	}
	if kind != listen.ConnectRefused { // who refuses has been reached: the link is good
		if link, ok := a.nextLink(); ok {
			a.retries()
			return a.reach(l, link)
		}
	}
	if a.decision.Pool == nil || !a.decision.Pool.More(&a.want, &a.tried) {
		return a.fail(kind)
	}
	a.retries()
	a.place.End()
	a.link, a.doubted = 0, false
	p := a.begin(l)
	if p == Failed && a.Kind == listen.NoServer {
		a.Kind = kind // says more
	}
	return p
}

// retries counts a try that is made after one that failed.
func (a *Attempt) retries() {
	a.dialer.Counters.Retries++
	a.place.counters.Retries++
}

// canDoubt says whether a server that does not answer may be one that answers the client past us, and another address is allowed.
func (a *Attempt) canDoubt() bool {
	d := &a.decision
	return d.Pool != nil && d.Source.IsValid() && !a.around && !a.doubted && d.Pool.SameNetwork() != config.SameNetworkRefuse
}

// doubt tries the same server with our own address: if that is answered and the client's was not, the server's answers to the client do not
// come by here. What is found is remembered for the client's network, for a while.
func (a *Attempt) doubt(l *engine.Loop) Progress {
	a.around, a.doubted = true, true
	if a.decision.Pool.SameNetwork() == config.SameNetworkHeader {
		a.header = config.ProxyHeaderV2
	}
	return a.reach(l, a.decision.Link)
}

// aroundKnown counts a connection that has our own address in place of the client's.
func (a *Attempt) aroundKnown(l *engine.Loop) {
	a.place.counters.SameNetwork++
	if a.doubted {
		a.dialer.Networks.learn(a.client.Addr(), a.dial.Server.Addr())
	}
}

// count counts what went wrong with the server.
func (a *Attempt) count(kind listen.Kind) {
	switch c := a.place.counters; kind {
	case listen.ConnectRefused:
		c.Refused++
	case listen.ConnectTimeout:
		c.TimedOut++
	case listen.ConnectOther:
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

// wanted is what the decision wants of a pool's server.
func (a *Attempt) wanted() pool.Want {
	return pool.Want{Client: a.client.Addr(), SameFamily: a.decision.Source.IsValid()}
}
