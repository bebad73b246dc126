package listen

import (
	"net/netip"
	"syscall"
	"time"

	"salp/internal/config"
	"salp/internal/engine"
	"salp/internal/proxyproto"
	"salp/internal/sock"
)

// believed says whether connections from that address begin with a PROXY header.
func believed(c *config.ProxyProtocol, peer netip.Addr) bool {
	for _, p := range c.From {
		if p.Contains(peer) {
			return true
		}
	}
	return false
}

// introduction is a connection whose PROXY header has not come in yet. The bytes behind the header stay in the socket.
type introduction struct {
	acceptor *Acceptor // only what does not change: it may have stopped
	flow     Flow
	fd       int
	slot     engine.Slot
}

// introduce waits for the header and then serves the connection.
func (a *Acceptor) introduce(l *engine.Loop, fd int, f *Flow) {
	i := &introduction{acceptor: a, flow: *f, fd: fd}
	i.slot = l.Add(i)
	if e := l.Watch(i.slot, 0, fd); e != 0 {
		i.refuse(l, Internal)
		return
	}
	l.SetTimer(i.slot, max(a.listener.proxy.Timeout, time.Millisecond))
}

// Handle implements engine.Handler.
func (i *introduction) Handle(l *engine.Loop, ev engine.Event) {
	if ev&engine.Timer != 0 {
		i.refuse(l, ProxyHeader)
		return
	}
	b := l.Scratch()[:proxyproto.MaxHeader]
	n, e := sock.Peek(i.fd, b)
	if e == syscall.EAGAIN {
		return
	}
	if e != 0 {
		i.refuse(l, ClientReset)
		return
	}
	header, length, err := proxyproto.Parse(b[:n])
	switch {
	case err == proxyproto.ErrShort && ev&(engine.PeerClosed|engine.Hangup) == 0:
		return // the next bytes are an event of their own
	case err != nil:
		i.refuse(l, ProxyHeader)
		return
	}
	if read, e := sock.Recv(i.fd, b[:length]); e != 0 || read != length {
		i.refuse(l, Internal)
		return
	}
	i.serve(l, header)
}

// serve hands the connection on, as one of the client that the header tells.
func (i *introduction) serve(l *engine.Loop, h proxyproto.Header) {
	a := i.acceptor
	if h.Source.IsValid() {
		if h.Source.Addr().IsUnspecified() || h.Source.Addr().IsMulticast() {
			i.refuse(l, ProxyHeader)
			return
		}
		if rate := a.listener.rate; rate != nil && !rate.Take(h.Source.Addr(), time.Now()) {
			i.refuse(l, ClientRate)
			return
		}
		i.flow.Client = h.Source
		if a.listener.Method == Explicit {
			i.flow.Original = h.Destination
		}
	}
	lease, kind, ok := a.listener.admitClient(i.flow.Client.Addr())
	if !ok {
		i.refuse(l, kind)
		return
	}
	i.flow.Lease = lease
	l.Unwatch(i.fd)
	l.Remove(i.slot)
	a.server.Serve(l, i.fd, &i.flow)
}

func (i *introduction) refuse(l *engine.Loop, kind Kind) {
	i.acceptor.counters.Errors[kind]++
	i.end(l)
}

func (i *introduction) end(l *engine.Loop) {
	sock.Reset(i.fd)
	l.Remove(i.slot)
	i.acceptor.listener.End(i.acceptor.counters, nil)
}

// Abort resets a handler that is a connection whose header has not come in, and does nothing to any other. It says whether it was one.
func Abort(l *engine.Loop, h engine.Handler) bool {
	i, ok := h.(*introduction)
	if ok {
		i.end(l)
	}
	return ok
}
