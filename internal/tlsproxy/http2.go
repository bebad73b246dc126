package tlsproxy

import (
	"context"
	"crypto/tls"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httputil"

	"golang.org/x/net/http2"

	"salp/internal/listen"
)

// serveHTTP2 turns each stream into a request of HTTP/1.1 to the proxy, until the client's connection ends. The connections to the proxy belong to this
// client alone, for they carry its address.
func (p *Port) serveHTTP2(t *tls.Conn, f *listen.Flow) {
	transport := &http.Transport{
		DialContext:         func(context.Context, string, string) (net.Conn, error) { return p.inner(p.streams, f, true) },
		MaxIdleConnsPerHost: streams, DisableCompression: true, IdleConnTimeout: p.server.Config.HTTP.Timeouts.Keepalive,
		ReadBufferSize: piece, WriteBufferSize: piece, MaxResponseHeaderBytes: 1 << 20,
	}
	defer transport.CloseIdleConnections()
	forward := &httputil.ReverseProxy{
		Rewrite: toProxy, Transport: transport, FlushInterval: -1, ErrorLog: stdlog.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // the proxy has reset: so is the stream
	}
	p.server.http2.ServeConn(t, &http2.ServeConnOpts{BaseConfig: p.server.base, Handler: forward})
	_ = t.Close() // it mostly is
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
