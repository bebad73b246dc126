package tlsproxy

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"slices"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"salp/internal/config"
)

// acmeProtocol is the protocol by which an authority looks whether a name is ours (RFC 8737).
const acmeProtocol = "acme-tls/1"

// manageACME begins to get certificates and to renew them, in the background, until ctx ends. authority are the roots for the directory's own
// certificate; nil: the system's. The state directory must be there for the worker's user to write. log is told what comes of it.
func (c *Certificates) manageACME(ctx context.Context, a *config.ACME, authority []byte, log *slog.Logger) error {
	roots := (*x509.CertPool)(nil)
	if authority != nil {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(authority) {
			return errors.New("tlsproxy: acme.authority has no certificate")
		}
	}
	taken, err := takenAddress(ctx)
	if err != nil {
		return err
	}
	var magic *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil },
		Logger:           zap.NewNop(),
	})
	magic = certmagic.New(cache, certmagic.Config{Storage: &certmagic.FileStorage{Path: a.State}, Logger: zap.NewNop(), OnEvent: acmeEvents(a, log)})
	magic.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(magic, certmagic.ACMEIssuer{
		CA: a.Directory, TestCA: a.Directory, Email: a.Email, Agreed: true, TrustedRoots: roots, DisableHTTPChallenge: true, Logger: zap.NewNop(),
		ListenHost: taken.IP.String(), AltTLSALPNPort: taken.Port,
	})}
	c.other = magic.GetCertificate
	context.AfterFunc(ctx, cache.Stop)
	return magic.ManageAsync(ctx, slices.Clone(a.Names))
}

// takenAddress returns an address that connections are accepted at, and closed, until ctx ends. To answer a challenge certmagic listens itself, on port 443,
// which a worker may not, unless somebody is there already: then that one has the answer, as Get of our listener does.
func takenAddress(ctx context.Context) (*net.TCPAddr, error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr), nil
}

// acmeEvents logs what an operator must know of a certificate: that it is there, or why not. A failure is tried again by certmagic, after ever longer.
func acmeEvents(a *config.ACME, log *slog.Logger) func(context.Context, string, map[string]any) error {
	return func(_ context.Context, event string, data map[string]any) error {
		log := log.With("name", data["identifier"], "renewal", data["renewal"], "directory", a.Directory)
		switch event {
		case "cert_obtained":
			log.Info("got a certificate by ACME")
		case "cert_failed":
			log.Warn("no certificate by ACME, it is tried again", "error", data["error"])
		}
		return nil
	}
}
