package tlsproxy

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"salp/internal/config"
)

// acmeProtocol is the protocol by which an authority looks whether a name is ours (RFC 8737).
const acmeProtocol = "acme-tls/1"

// manageACME begins to get certificates and to renew them, in the background, until ctx ends. authority are the roots for the directory's own
// certificate; nil: the system's. The state directory must be there for the worker's user to write.
func (c *Certificates) manageACME(ctx context.Context, a *config.ACME, authority []byte) error {
	roots := (*x509.CertPool)(nil)
	if authority != nil {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(authority) {
			return errors.New("tlsproxy: acme.authority has no certificate")
		}
	}
	var magic *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil },
		Logger:           zap.NewNop(),
	})
	magic = certmagic.New(cache, certmagic.Config{Storage: &certmagic.FileStorage{Path: a.State}, Logger: zap.NewNop()})
	magic.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(magic, certmagic.ACMEIssuer{
		CA: a.Directory, TestCA: a.Directory, Email: a.Email, Agreed: true, TrustedRoots: roots, DisableHTTPChallenge: true, Logger: zap.NewNop(),
	})}
	c.other = magic.GetCertificate
	context.AfterFunc(ctx, cache.Stop)
	return magic.ManageAsync(ctx, slices.Clone(a.Names))
}
