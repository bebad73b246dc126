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

// startHTTP2 starts the server that clients of HTTP/2 are handed to when the handshake is done.
func (s *Server) startHTTP2() {
	h := &s.Config.HTTP
	s.http2 = &http.Server{
		Handler: http.HandlerFunc(serveStream), TLSConfig: s.tls, MaxHeaderBytes: int(h.Limits.Head), IdleTimeout: h.Timeouts.Keepalive,
		ErrorLog: stdlog.New(io.Discard, "", 0), Protocols: &http.Protocols{}, ConnContext: withClient,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: streams, MaxReadFrameSize: 16 << 10, SendPingTimeout: time.Minute},
	}
	s.http2.Protocols.SetHTTP2(true)
	go func() {
		if err := s.http2.Serve((*second)(s)); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.Logger.Error("HTTP/2 has ended", "listener", s.Config.Name, "error", err)
		}
	}()
}

// second is the net.Listener of clients whose handshake is done.
type second Server

// Accept implements net.Listener.
func (l *second) Accept() (net.Conn, error) {
	select {
	case c := <-l.second:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *second) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *second) Addr() net.Addr { return &net.TCPAddr{} }

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
	select {
	case p.server.second <- t:
	case <-p.server.closed:
		_ = t.Close() // the listener drains
	}
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
