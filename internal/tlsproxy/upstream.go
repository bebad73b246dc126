package tlsproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"salp/internal/config"
	"salp/internal/dial"
)

// Upstream speaks TLS to servers. Its methods may be called by all loops at once.
type Upstream struct {
	config  *config.UpstreamTLS
	current atomic.Pointer[tls.Config]
	within  time.Duration
	log     *slog.Logger

	mu    sync.Mutex
	files map[string][]byte
	told  map[string]time.Time // when a server's failure was logged last
}

// NewUpstream makes it from a configuration and the content of its files by their names. within bounds handshakes.
func NewUpstream(u *config.UpstreamTLS, files map[string][]byte, within time.Duration, log *slog.Logger) (*Upstream, error) {
	if within == 0 {
		within = handshakeWithin
	}
	n := &Upstream{config: u, within: within, log: log, files: maps.Clone(files), told: map[string]time.Time{}}
	return n, n.load()
}

// Set takes a file that has changed, for connections from now on. What is wrong, or does not fit its other half yet, is an error; what was before stays in
// force then.
func (u *Upstream) Set(name string, content []byte) error {
	if name != u.config.Authorities && name != u.config.Certificate && name != u.config.Key {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files[name] = content
	err := u.load()
	if err != nil && name != u.config.Authorities {
		err = otherHalf(err)
	}
	return err
}

// load makes what connections use. Sessions are not taken over: one that is resumed is not verified by new roots.
func (u *Upstream) load() error {
	k := u.config
	c := &tls.Config{MinVersion: version(k.MinVersion), InsecureSkipVerify: !k.Verify, NextProtos: []string{"http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(1024)}
	if k.Authorities != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(u.files[k.Authorities]) {
			return fmt.Errorf("%s: no certificate in it", k.Authorities)
		}
	}
	if k.Certificate != "" {
		pair, err := tls.X509KeyPair(u.files[k.Certificate], u.files[k.Key])
		if err != nil {
			return fmt.Errorf("certificate %s with key %s: %w", k.Certificate, k.Key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	u.current.Store(c)
	return nil
}

var errNoName = errors.New("there is no name to verify the server by")

// serverConn is the connection under the TLS of a server. It knows of the end of TCP, which crypto/tls takes for that of TLS between two records.
type serverConn struct {
	net.Conn
	over bool // is touched by who reads alone
}

// Read implements net.Conn.
func (c *serverConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.over = c.over || err == io.EOF
	return n, err
}

// NetConn returns the connection itself.
func (c *serverConn) NetConn() net.Conn { return c.Conn }

// Wrap takes over a connected socket and returns one for a loop in its place, on which what is written goes to the server over TLS. The handshake goes on
// meanwhile; when it fails, the socket ends, and what is returned beside it tells why. host is that of the request, as access.Host returns it.
func (u *Upstream) Wrap(fd int, host string) (int, *dial.Secure, error) {
	conn, err := netConn(fd)
	if err != nil {
		return 0, nil, err
	}
	here, there, err := pair()
	if err != nil {
		_ = conn.Close()
		return 0, nil, err
	}
	c := u.current.Load().Clone()
	if c.ServerName = u.config.Name; c.ServerName == "" {
		c.ServerName = host
	}
	s := &dial.Secure{}
	go u.speak(conn, here, c, s)
	return there, s, nil
}

// speak does the handshake and carries both directions.
func (u *Upstream) speak(conn net.Conn, here *net.UnixConn, c *tls.Config, s *dial.Secure) {
	ctx, cancel := context.WithTimeout(context.Background(), u.within)
	defer cancel()
	below := &serverConn{Conn: conn}
	t := tls.Client(below, c)
	err := errNoName
	if c.ServerName != "" || c.InsecureSkipVerify {
		err = t.HandshakeContext(ctx)
	}
	if err != nil {
		u.tell(conn.RemoteAddr().String(), c.ServerName, err)
		s.Refuse()
		_ = conn.Close()
		_ = here.Close()
		return
	}
	join(t, here, border{broken: s.Broken, ended: func(err error) {
		var alert *net.OpError
		switch {
		case errors.As(err, &alert) && alert.Op == "remote error": // so crypto/tls calls an alert, as of a server of TLS 1.3 that does not like our certificate: it says so after the handshake
			u.tell(conn.RemoteAddr().String(), c.ServerName, err)
			s.Refuse()
		case err != nil || below.over:
			s.Cut()
		}
	}})
}

const (
	// tellServerEvery bounds how often the log tells of one server's TLS.
	tellServerEvery = 10 * time.Second
	// mostTold bounds the servers that this is remembered of.
	mostTold = 1024
)

// tell logs why there is no TLS with a server: of each name now and then, whatever clients ask for.
func (u *Upstream) tell(server, name string, err error) {
	now := time.Now()
	key := server + " " + name
	u.mu.Lock()
	last, known := u.told[key]
	tell := !known || now.Sub(last) >= tellServerEvery
	if tell {
		if len(u.told) >= mostTold {
			maps.DeleteFunc(u.told, func(_ string, at time.Time) bool { return now.Sub(at) >= tellServerEvery })
		}
		if tell = len(u.told) < mostTold; tell {
			u.told[key] = now
		}
	}
	u.mu.Unlock()
	if tell {
		u.log.Warn("TLS to a server failed", "server", server, "name", name, "error", err)
	}
}
