package tlsproxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"salp/internal/config"
)

// errNoCertificate is the error for a handshake before there is any certificate, as while ACME gets the first.
var errNoCertificate = errors.New("tlsproxy: there is no certificate yet")

// Certificates are the certificates of one listener. Files are put in force as pairs, when both fit: a chain and a key that are replaced one after the
// other go on as they were until the second has come. Its methods may be called by all goroutines at once.
type Certificates struct {
	pairs   []config.Certificate
	current atomic.Pointer[[]tls.Certificate]
	other   func(*tls.ClientHelloInfo) (*tls.Certificate, error) // ACME; nil: there is none

	mu    sync.Mutex
	files map[string][]byte
	good  []*tls.Certificate // by pair; nil: none yet
}

// NewCertificates makes the certificates of a configuration, from the content of its files by their names. What is missing or does not fit is
// an error.
func NewCertificates(t *config.TLS, files map[string][]byte) (*Certificates, error) {
	c := &Certificates{pairs: t.Certificates, files: map[string][]byte{}, good: make([]*tls.Certificate, len(t.Certificates))}
	for name, content := range files {
		c.files[name] = content
	}
	for i := range c.pairs {
		if err := c.load(i); err != nil {
			return nil, err
		}
	}
	c.publish()
	return c, nil
}

// Set takes a file that has changed. An error says that it does not fit its other half yet, or is none; what was before stays in force.
func (c *Certificates) Set(name string, content []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[name] = content
	var failed error
	for i, pair := range c.pairs {
		if pair.Certificate != name && pair.Key != name {
			continue
		}
		if err := c.load(i); err != nil {
			failed = otherHalf(err)
		}
	}
	c.publish()
	return failed
}

// otherHalf says of a file of a pair that it may be wrong for a moment alone.
func otherHalf(err error) error { return fmt.Errorf("%w (its other half may be about to change)", err) }

// Invalid says of each certificate in force that no client takes at that time why not.
func (c *Certificates) Invalid(now time.Time) (all []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, g := range c.good {
		switch {
		case g == nil || g.Leaf == nil:
		case now.After(g.Leaf.NotAfter):
			all = append(all, fmt.Sprintf("certificate %s has expired on %s", c.pairs[i].Certificate, g.Leaf.NotAfter.Format(time.RFC3339)))
		case now.Before(g.Leaf.NotBefore):
			all = append(all, fmt.Sprintf("certificate %s is not valid before %s", c.pairs[i].Certificate, g.Leaf.NotBefore.Format(time.RFC3339)))
		}
	}
	return all
}

func (c *Certificates) load(i int) error {
	pair := c.pairs[i]
	loaded, err := tls.X509KeyPair(c.files[pair.Certificate], c.files[pair.Key])
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", pair.Certificate, pair.Key, err)
	}
	c.good[i] = &loaded
	return nil
}

func (c *Certificates) publish() {
	var all []tls.Certificate
	for _, g := range c.good {
		if g != nil {
			all = append(all, *g)
		}
	}
	c.current.Store(&all)
}

// Get chooses for a handshake: the first certificate that is valid for the name and that the client can verify, then ACME's, then the first.
func (c *Certificates) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	all := *c.current.Load()
	for i := range all {
		if hello.SupportsCertificate(&all[i]) == nil {
			return &all[i], nil
		}
	}
	if c.other != nil {
		if found, err := c.other(hello); err == nil {
			return found, nil
		} else if len(all) == 0 {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, errNoCertificate
	}
	return &all[0], nil
}

func version(v config.TLSVersion) uint16 {
	if v == config.TLS13 {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}
