package tlsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"

	"salp/internal/listen"
)

// clientConn is a client's connection under its TLS.
type clientConn struct {
	net.Conn
	offered []string     // by ALPN
	forward http.Handler // of HTTP/2: where the streams go
	ended   func()       // of HTTP/2: is called when it is closed
	once    sync.Once
}

// NetConn returns the connection itself.
func (c *clientConn) NetConn() net.Conn { return c.Conn }

// Close implements net.Conn.
func (c *clientConn) Close() error {
	err := c.Conn.Close()
	if c.ended != nil {
		c.once.Do(c.ended)
	}
	return err
}

// streaming is a server of HTTP/2 for clients whose handshake is done. It is the net.Listener that they come by.
type streaming struct {
	server *http.Server
	conns  chan net.Conn
	closed chan struct{} // no more are taken
	once   sync.Once     // to close closed
}

// newStreaming starts one.
func (s *Server) newStreaming() *streaming {
	h := &s.Config.HTTP
	n := &streaming{conns: make(chan net.Conn), closed: make(chan struct{})}
	n.server = &http.Server{
		Handler: http.HandlerFunc(serveStream), TLSConfig: s.tls, MaxHeaderBytes: int(h.Limits.Head), IdleTimeout: h.Timeouts.Keepalive,
		ErrorLog: stdlog.New(io.Discard, "", 0), Protocols: &http.Protocols{}, ConnContext: withClient,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: streams, MaxReadFrameSize: 16 << 10, SendPingTimeout: time.Minute},
	}
	n.server.Protocols.SetHTTP2(true)
	go func() {
		if err := n.server.Serve(n); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.Logger.Error("HTTP/2 has ended", "listener", s.Config.Name, "error", err)
		}
	}()
	return n
}

// shutdown takes no more clients, and tells those that there are to open no more streams. It returns when all have left.
func (n *streaming) shutdown() { _ = n.server.Shutdown(context.Background()) } // without an end to wait for it does not fail

// Accept implements net.Listener.
func (n *streaming) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (n *streaming) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

// Addr implements net.Listener.
func (n *streaming) Addr() net.Addr { return &net.TCPAddr{} }

// stream hands a client over to the server of HTTP/2: while the listener drains to the next one, which nobody is refused by.
func (s *Server) stream(c net.Conn) {
	for {
		n := s.streaming.Load()
		select {
		case n.conns <- c:
			return
		case <-n.closed:
		}
		if s.streaming.Load() == n { // cannot be: who holds greeting is waited for
			_ = c.Close()
			return
		}
	}
}

// firstRequest is how long a client has for its first request when its handshake was under way as the listener began to drain: told to leave before that, it would have
// connected in vain (RFC 9113, 6.8 asks for a round trip at least).
const firstRequest = time.Second

// Drain has clients of HTTP/2 told to open no more streams. Those of HTTP/1.1 are the proxy's. Clients whose handshake is under way are served, and told a while after
// all handshakes are done. It must be called when no more connections are accepted, and does not wait.
func (s *Server) Drain() {
	late := s.newStreaming()
	go s.streaming.Swap(late).shutdown()
	go func() {
		s.greeting.Lock() // for good
		time.Sleep(firstRequest)
		late.shutdown()
	}()
}

type clientKey struct{}

// withClient puts a client's connection into the contexts of its requests.
func withClient(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		return context.WithValue(ctx, clientKey{}, t.NetConn())
	}
	return ctx
}

func serveStream(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(clientKey{}).(*clientConn)
	if !ok {
		panic(http.ErrAbortHandler) // it came by no port
	}
	c.forward.ServeHTTP(asItCame{w}, r)
}

// asItCame keeps net/http from guessing the type of a response that has none.
type asItCame struct{ http.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w asItCame) WriteHeader(status int) {
	h := w.Header()
	if _, there := h["Content-Type"]; !there && status >= 200 {
		h["Content-Type"] = nil
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController find what is wrapped.
func (w asItCame) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// serveHTTP2 turns each stream into a request of HTTP/1.1 to the proxy, until the client's connection ends. The connections to the proxy belong to this
// client alone, for they carry its address.
func (p *Port) serveHTTP2(t *tls.Conn, c *clientConn, f *listen.Flow) {
	transport := &http.Transport{
		DialContext:         func(context.Context, string, string) (net.Conn, error) { return p.inner(p.streams, f, true) },
		MaxIdleConnsPerHost: streams, DisableCompression: true, IdleConnTimeout: p.server.Config.HTTP.Timeouts.Keepalive,
		ReadBufferSize: piece, WriteBufferSize: piece, MaxResponseHeaderBytes: 1 << 20,
	}
	c.forward = &httputil.ReverseProxy{
		Rewrite: toProxy, Transport: transport, FlushInterval: -1, ErrorLog: stdlog.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // the proxy has reset: so is the stream
	}
	c.ended = func() {
		transport.CloseIdleConnections()
		p.end(f, false)
	}
	p.server.stream(t)
}

// clientFields are those that ReverseProxy takes from requests. What becomes of them is the proxy's business.
var clientFields = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// toProxy makes the request to the proxy of a stream's. Every stream may use every connection to it, so they are all of one host.
func toProxy(r *httputil.ProxyRequest) {
	r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", "proxy", r.In.Host
	r.Out.URL.RawQuery = r.In.URL.RawQuery // ReverseProxy drops what it does not understand
	r.Out.Trailer = r.In.Trailer           // is filled in when the body has ended
	for _, name := range clientFields {
		if values := r.In.Header[name]; values != nil {
			r.Out.Header[name] = values
		}
	}
}
