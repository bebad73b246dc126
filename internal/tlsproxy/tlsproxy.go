// Package tlsproxy ends TLS for clients, and speaks it to servers, for a proxy of HTTP/1 that knows nothing of it.
//
// Handshakes and records take patience: they run on goroutines with crypto/tls. What is inside goes to the proxy on the event loops by a pair of Unix
// sockets: of HTTP/1.1 the very bytes, of HTTP/2 (net/http) a request of HTTP/1.1 for each stream. So access rules, routes, limits, error pages and
// the access log are those of every other listener, for every version of HTTP.
package tlsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"salp/internal/access"
	"salp/internal/config"
	"salp/internal/engine"
	"salp/internal/listen"
)

const (
	// handshakeWithin bounds a handshake where the configuration does not bound heads.
	handshakeWithin = 30 * time.Second
	// streams is how many requests a client may have under way on one connection of HTTP/2.
	streams = 250
	// piece is how much is moved at once: a whole TLS record.
	piece = 16 << 10
)

// Options are what a server works with.
type Options struct {
	Config       *config.Listener
	Listener     *listen.Listener
	Certificates *Certificates
	Authority    []byte // PEM of the roots of an ACME directory; nil: the system's
	Logger       *slog.Logger
}

// Server ends TLS for one listener, for all loops.
type Server struct {
	Options
	tls       *tls.Config
	streaming atomic.Pointer[streaming]
	greeting  sync.RWMutex     // is held for reading by handshakes until the client is handed over; for writing, and for good, once the listener has drained
	inner     *listen.Listener // of streams: their connection is within the limits already
	stop      context.CancelFunc
}

// New makes a server. With ACME it begins to get certificates.
func New(o Options) (*Server, error) {
	ctx, stop := context.WithCancel(context.Background())
	t := o.Config.TLS
	protocols := []string{"http/1.1"}
	if t.HTTP2 && !o.Config.Connects() { // of a proxy clients want tunnels, which net/http does not make of streams
		protocols = []string{"h2", "http/1.1"}
	}
	if t.ACME != nil {
		protocols = append(protocols, acmeProtocol)
		if err := o.Certificates.manageACME(ctx, t.ACME, o.Authority, o.Logger); err != nil {
			stop()
			return nil, err
		}
	}
	unlimited := *o.Config
	unlimited.Limits.Connections, unlimited.Limits.PerClient = 0, 0
	s := &Server{
		Options: o, stop: stop, inner: listen.NewListener(&unlimited),
		tls: &tls.Config{GetCertificate: o.Certificates.Get, GetConfigForClient: noteOffer, MinVersion: version(t.MinVersion), NextProtos: protocols},
	}
	s.streaming.Store(s.newStreaming())
	return s, nil
}

// mostOffered bounds the protocols that are kept of what a client offers.
const mostOffered = 16

// noteOffer takes down what a client offers to speak, which the state of a connection does not tell, and leaves the configuration as it is.
func noteOffer(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if c, ok := hello.Conn.(*clientConn); ok {
		c.offered = hello.SupportedProtos[:min(len(hello.SupportedProtos), mostOffered)]
	}
	return nil, nil
}

// Close ends the renewal of certificates.
func (s *Server) Close() { s.stop() }

// Port is a server's part on one loop. It implements listen.Server.
type Port struct {
	server   *Server
	loop     *engine.Loop
	counters *listen.Counters
	plain    listen.Server
	streams  listen.Server
}

// Port returns who takes accepted connections on a loop. counters are the listener's there. proxy makes the proxies on that loop, for a listener's
// limits: it is called for the listener itself, and for one without limits, whose connections are streams.
func (s *Server) Port(l *engine.Loop, counters *listen.Counters, proxy func(*listen.Listener) listen.Server) *Port {
	return &Port{server: s, loop: l, counters: counters, plain: proxy(s.Listener), streams: proxy(s.inner)}
}

// Serve implements listen.Server.
func (p *Port) Serve(_ *engine.Loop, fd int, f *listen.Flow) {
	conn, err := netConn(fd)
	if err != nil {
		p.counters.Errors[listen.Descriptors]++
		p.server.Listener.End(p.counters, f.Lease)
		return
	}
	flow := *f
	if !p.server.greeting.TryRLock() { // cannot be: nobody accepts any more
		cut(conn)
		p.server.Listener.End(p.counters, f.Lease)
		return
	}
	go p.handle(conn, &flow)
}

// handle does the handshake, and what it agreed on.
func (p *Port) handle(conn net.Conn, f *listen.Flow) {
	within := p.server.Config.HTTP.Timeouts.Head
	if within == 0 {
		within = handshakeWithin
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	greeted := sync.OnceFunc(p.server.greeting.RUnlock)
	defer greeted()
	client := &clientConn{Conn: conn}
	t := tls.Server(client, p.server.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		p.server.Logger.Debug("TLS handshake failed", "listener", p.server.Config.Name, "client", f.Client, "error", err)
		_ = conn.Close() // it is of no use in any case
		p.end(f, true)
		return
	}
	state := t.ConnectionState()
	f.TLS = &listen.TLS{ServerName: access.Host(state.ServerName), ALPN: client.offered}
	switch state.NegotiatedProtocol {
	case "h2":
		p.serveHTTP2(t, client, f)
	case acmeProtocol:
		_ = t.Close() // the handshake was the answer (RFC 8737)
		p.end(f, false)
	default:
		greeted()
		inner, err := p.inner(p.plain, f, false)
		if err != nil {
			_ = t.Close()
			p.end(f, true)
			return
		}
		join(t, inner, border{broken: f.TLS.Broken.Load}) // the proxy has the flow, and ends it
	}
}

// end counts the client's connection out.
func (p *Port) end(f *listen.Flow, failed bool) {
	p.loop.Post(func() {
		if failed {
			p.counters.Errors[listen.Handshake]++
		}
		p.server.Listener.End(p.counters, f.Lease)
	})
}

// inner gives a proxy a connection for a flow, and returns its other end. With count it is one more than the client's own.
func (p *Port) inner(to listen.Server, f *listen.Flow, count bool) (*net.UnixConn, error) {
	here, there, err := pair()
	if err != nil {
		return nil, err
	}
	flow := *f
	if count {
		flow.Lease = nil
	}
	p.loop.Post(func() {
		if count {
			p.counters.Active++
		}
		to.Serve(p.loop, there, &flow)
	})
	return here, nil
}

// pair makes a pair of connected sockets, one for goroutines and one for a loop.
func pair() (*net.UnixConn, int, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, os.NewSyscallError("socketpair", err)
	}
	conn, err := netConn(fds[0])
	if err != nil {
		_ = syscall.Close(fds[1])
		return nil, 0, err
	}
	return conn.(*net.UnixConn), fds[1], nil
}

// netConn makes a connection of package net of a descriptor, which it takes over in any case.
func netConn(fd int) (net.Conn, error) {
	file := os.NewFile(uintptr(fd), "connection")
	defer file.Close()
	return net.FileConn(file)
}

// halfCloser is a connection whose directions end one by one.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

var pieces = sync.Pool{New: func() any { return new([piece]byte) }}

// border is what the two ends of a joined connection cannot tell each other by the bytes. Its functions may be nil.
type border struct {
	broken func() bool // the loop has reset its end: the other is not to see a good one
	ended  func(error) // the end beyond TLS has ended, nil: by its close_notify, or failed. It is called before the loop can see it
}

// join carries both directions until both have ended, or one has failed, and closes the two. a is TLS, b the way to a loop.
func join(a *tls.Conn, b halfCloser, x border) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := move(a, b)
		if x.ended != nil {
			x.ended(err)
		}
		end(a, b, err)
	}()
	err := move(b, a)
	if x.broken != nil && x.broken() {
		err = errBroken
	}
	end(b, a, err)
	<-done
	_ = a.Close()
	_ = b.Close()
}

// move moves what comes from one side to the other until the first has ended.
func move(from, to halfCloser) error {
	b := pieces.Get().(*[piece]byte)
	defer pieces.Put(b)
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, b[:])
	return err
}

// end passes the end of one direction on as an end; a failure ends both sides at once.
func end(from, to halfCloser, err error) {
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		cut(from)
		cut(to)
	}
}

var errBroken = errors.New("tlsproxy: the other side was reset")

// cut ends a connection so that the other end cannot take it for a good end: TLS's own is left out, and TCP's is a reset.
func cut(c net.Conn) {
	for {
		below, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = below.NetConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // it fails when the connection has gone already
	}
	_ = c.Close()
}
