// Package metrics is the page that Prometheus reads: what a gateway's status holds, under names that a user of HAProxy would look for.
//
// It is served by an unprivileged process, never by the keeper, from a status that the keeper gives for each reading.
package metrics

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"salp/internal/admin"
)

const (
	// readWithin bounds how long a status is waited for.
	readWithin = 5 * time.Second
	// mostReaders bounds the connections at once.
	mostReaders = 32
)

// Source gives the gateway's status as it is now. It is called by several goroutines at once.
type Source func(context.Context) (*admin.Status, error)

// collector is the metrics of one status.
type collector struct{ status *admin.Status }

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for i := range families {
		to <- families[i].desc()
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	for i := range families {
		f := &families[i]
		desc := f.desc()
		f.values(c.status, func(value float64, labels ...string) {
			m, err := prometheus.NewConstMetric(desc, f.kind, value, labels...)
			if err != nil {
				m = prometheus.NewInvalidMetric(desc, err)
			}
			to <- m
		})
	}
}

func (f *family) desc() *prometheus.Desc { return prometheus.NewDesc(f.name, f.help, f.labels, nil) }

// Gather returns the metrics of a status.
func Gather(s *admin.Status) (prometheus.Gatherer, error) {
	r := prometheus.NewPedanticRegistry()
	return r, r.Register(collector{s})
}

// Handler serves the page at /metrics.
func Handler(source Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readWithin)
		defer cancel()
		status, err := source(ctx)
		if err != nil {
			http.Error(w, "the gateway does not tell its status: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		gatherer, err := Gather(status)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("Salp: see /metrics\n")) // the reader is gone; there is nobody to tell
	})
	return mux
}

// Serve serves the page on a listener until ctx ends, to readers in the prefixes from, or to all that reach the listener when there are none.
// The listener is closed.
func Serve(ctx context.Context, l net.Listener, from []netip.Prefix, source Source, log *slog.Logger) error {
	server := &http.Server{
		Handler:           Handler(source),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      readWithin + 10*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	err := server.Serve(&chosen{Listener: l, from: from, places: make(chan struct{}, mostReaders)})
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// chosen accepts from some addresses only, and so many connections at once.
type chosen struct {
	net.Listener
	from   []netip.Prefix
	places chan struct{}
}

// Accept implements net.Listener.
func (c *chosen) Accept() (net.Conn, error) {
	for {
		c.places <- struct{}{}
		conn, err := c.Listener.Accept()
		if err != nil {
			<-c.places
			return nil, err
		}
		if c.welcome(conn) {
			return &reader{Conn: conn, leave: sync.OnceFunc(func() { <-c.places })}, nil
		}
		conn.Close()
		<-c.places
	}
}

func (c *chosen) welcome(conn net.Conn) bool {
	if len(c.from) == 0 {
		return true
	}
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return false
	}
	who := tcp.AddrPort().Addr().Unmap()
	return slices.ContainsFunc(c.from, func(p netip.Prefix) bool { return p.Contains(who) })
}

// reader gives its place back when it ends.
type reader struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (r *reader) Close() error {
	r.leave()
	return r.Conn.Close()
}
