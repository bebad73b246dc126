package listen

import (
	"net/netip"
	"os"
	"syscall"
	"time"

	"salp/internal/engine"
	"salp/internal/sock"
)

const (
	// mostAccepts bounds the connections taken in one turn, so that those that run already are not kept waiting.
	mostAccepts = 64
	// patience is how many turns in a row one connection is taken before there is seen to be a queue.
	patience = 4
	// pause is how long nothing is accepted after the kernel had no descriptor or memory for one more.
	pause = 100 * time.Millisecond
)

// Acceptor accepts on one listening socket on one loop.
type Acceptor struct {
	listener *Listener
	counters *Counters
	server   Server
	fd       int
	address  netip.AddrPort

	slot   engine.Slot
	paused bool
	turn   uint64 // the last turn with something to accept
	streak int    // turns in a row with something to accept
	quota  int
	flow   Flow

	arrival string // the interface that the last connection came in by
}

// Accept begins to accept on fd, which listens on address and is watched until Stop. It must be called on the loop.
func Accept(l *engine.Loop, fd int, address netip.AddrPort, n *Listener, c *Counters, s Server) (*Acceptor, error) {
	a := &Acceptor{listener: n, counters: c, server: s, fd: fd, address: address, quota: 1}
	a.slot = l.Add(a)
	if e := l.WatchListener(a.slot, 0, fd); e != 0 {
		l.Remove(a.slot)
		return nil, os.NewSyscallError("epoll_ctl", e)
	}
	return a, nil
}

// Stop ends accepting; the socket stays open. It must be called on the loop, once.
func (a *Acceptor) Stop(l *engine.Loop) {
	if !a.paused {
		l.Unwatch(a.fd)
	}
	l.Remove(a.slot)
}

// Handle implements engine.Handler.
func (a *Acceptor) Handle(l *engine.Loop, ev engine.Event) {
	if ev&engine.Timer != 0 {
		a.resume(l)
		return
	}
	a.setQuota(l.Turns())
	for range a.quota {
		fd, client, e := sock.Accept(a.fd)
		switch e {
		case 0:
			a.take(l, fd, client)
		case syscall.EAGAIN:
			a.streak = 0
			return
		case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM:
			a.counters.Errors[Descriptors]++
			a.pause(l)
			return
		default: // the client has gone already, or a firewall forbids it (accept(2)): on to the next
		}
	}
}

// setQuota decides how many to take: one where connections come one by one, as asking in vain costs a system call each time,
// and more with every turn once there is a queue.
func (a *Acceptor) setQuota(turn uint64) {
	if turn == a.turn+1 {
		a.streak++
	} else {
		a.streak = 0
	}
	a.turn = turn
	if a.streak < patience {
		a.quota = 1
	} else {
		a.quota = min(a.quota*2, mostAccepts)
	}
}

// pause stops watching: the socket would be reported at every turn, and the loop spin.
func (a *Acceptor) pause(l *engine.Loop) {
	l.Unwatch(a.fd)
	a.paused = true
	l.SetTimer(a.slot, pause)
}

func (a *Acceptor) resume(l *engine.Loop) {
	if e := l.WatchListener(a.slot, 0, a.fd); e != 0 {
		l.SetTimer(a.slot, pause) // ENOMEM or ENOSPC: epoll has no room yet
		return
	}
	a.paused = false
}

func (a *Acceptor) take(l *engine.Loop, fd int, client netip.AddrPort) {
	a.counters.Accepted++
	proxied := false // whose client is known only when its header is
	if p := a.listener.proxy; p != nil {
		proxied = believed(p, client.Addr())
		if !proxied && p.Required {
			a.refuse(fd, ProxyHeader)
			return
		}
	}
	var lease *Lease
	kind, ok := LimitListener, false
	if proxied {
		ok = a.listener.admitOne()
	} else {
		lease, kind, ok = a.listener.admit(client.Addr())
	}
	if !ok {
		a.refuse(fd, kind)
		return
	}
	original, kind, ok := a.original(fd)
	if !ok {
		a.listener.leave(lease)
		a.refuse(fd, kind)
		return
	}
	a.counters.Active++
	a.flow = Flow{Client: client, Peer: client, Original: original, Lease: lease}
	if a.listener.Arrival {
		a.noteArrival(fd)
	}
	if proxied {
		a.introduce(l, fd, &a.flow)
		return
	}
	a.server.Serve(l, fd, &a.flow)
}

// noteArrival asks the kernel how the connection came in. What it does not tell stays unknown.
func (a *Acceptor) noteArrival(fd int) {
	index, dscp, e := sock.Arrival(fd, a.address.Addr().Is6())
	if e != 0 {
		return
	}
	var name [sock.InterfaceNameSize]byte
	n, e := sock.InterfaceName(fd, index, &name)
	if e != 0 {
		return
	}
	if a.arrival != string(name[:n]) {
		a.arrival = string(name[:n])
	}
	a.flow.Interface, a.flow.DSCP = a.arrival, dscp
}

func (a *Acceptor) refuse(fd int, kind Kind) {
	a.counters.Errors[kind]++
	sock.Reset(fd)
}

// original finds out where the client wanted to go. One who dialled the interception port itself is refused: it has no
// destination but us.
func (a *Acceptor) original(fd int) (netip.AddrPort, Kind, bool) {
	switch a.listener.Method {
	case TProxy:
		local, e := sock.Local(fd)
		if e != 0 {
			return local, NoDestination, false
		}
		return local, Loop, local != a.address
	case Redirect:
		original, e := sock.OriginalDst(fd, a.address.Addr().Is6())
		if e != 0 {
			return original, NoDestination, false
		}
		if original.Port() == a.address.Port() {
			if local, e := sock.Local(fd); e != 0 || local == original {
				return original, Loop, false
			}
		}
		return original, 0, true
	}
	if a.address.Addr().IsUnspecified() {
		local, e := sock.Local(fd)
		return local, NoDestination, e == 0
	}
	return a.address, 0, true
}
