package tlsproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"salp/internal/config"
)

// Upstream speaks TLS to servers. Its methods may be called by all loops at once.
type Upstream struct {
	config *tls.Config
	name   string // asked for and verified whatever the request's host is; "": that
	within time.Duration
	log    *slog.Logger
}

// NewUpstream makes it from a configuration and the content of its files by their names. within bounds handshakes.
func NewUpstream(u *config.UpstreamTLS, files map[string][]byte, within time.Duration, log *slog.Logger) (*Upstream, error) {
	c := &tls.Config{MinVersion: version(u.MinVersion), InsecureSkipVerify: !u.Verify, NextProtos: []string{"http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(1024)}
	if u.Authorities != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(files[u.Authorities]) {
			return nil, fmt.Errorf("%s: no certificate in it", u.Authorities)
		}
	}
	if u.Certificate != "" {
		pair, err := tls.X509KeyPair(files[u.Certificate], files[u.Key])
		if err != nil {
			return nil, fmt.Errorf("certificate %s with key %s: %w", u.Certificate, u.Key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if within == 0 {
		within = handshakeWithin
	}
	return &Upstream{config: c, name: u.Name, within: within, log: log}, nil
}

var errNoName = errors.New("tlsproxy: no name to verify the server by")

// Wrap takes over a connected socket and returns one for a loop in its place, on which what is written goes to the server over TLS. The handshake goes on
// meanwhile; when it fails, the socket ends like a server's that closes without a word. host is that of the request, as access.Host returns it.
func (u *Upstream) Wrap(fd int, host string) (int, error) {
	conn, err := netConn(fd)
	if err != nil {
		return 0, err
	}
	here, there, err := pair()
	if err != nil {
		_ = conn.Close()
		return 0, err
	}
	c := u.config.Clone()
	if c.ServerName = u.name; c.ServerName == "" {
		c.ServerName = host
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), u.within)
		defer cancel()
		t := tls.Client(conn, c)
		err := t.HandshakeContext(ctx)
		if c.ServerName == "" && !c.InsecureSkipVerify {
			err = errNoName
		}
		if err != nil {
			u.log.Warn("TLS to a server failed", "server", conn.RemoteAddr(), "name", c.ServerName, "error", err)
			_ = conn.Close()
			_ = here.Close()
			return
		}
		join(t, here, nil)
	}()
	return there, nil
}
