package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// maxHeader bounds the header of an HTTP answer in bytes.
const maxHeader = 32 << 10

// handshake makes TLS of a connection. The result is to be closed in place of conn.
func (s *Spec) handshake(ctx context.Context, conn net.Conn) (net.Conn, error) {
	c := &tls.Config{
		ServerName:         s.TLS.Name,
		InsecureSkipVerify: !s.TLS.Verify, // by the operator's wish: a check asks whether the server works, not who it is
		NextProtos:         s.TLS.ALPN,
		MinVersion:         tls.VersionTLS10, // that an old server works is not this check's to judge
	}
	if s.TLS.Verify && s.TLS.Name == "" {
		c.ServerName = s.Target.Addr().String()
	}
	if s.TLS.Verify {
		var err error
		if c.RootCAs, err = authorities(); err != nil {
			return conn, fmt.Errorf("TLS: this host's certificate authorities cannot be read: %w", err)
		}
	}
	secure := tls.Client(conn, c)
	if err := secure.HandshakeContext(ctx); err != nil {
		if timedOut(ctx, err) || isNetwork(err) {
			return conn, err
		}
		if errors.Is(err, io.EOF) {
			return conn, errors.New("the server ended the connection during the TLS handshake")
		}
		return conn, fmt.Errorf("TLS: %s", strings.TrimPrefix(err.Error(), "tls: "))
	}
	if chosen := secure.ConnectionState().NegotiatedProtocol; len(s.TLS.ALPN) > 0 && !slices.Contains(s.TLS.ALPN, chosen) {
		return secure, fmt.Errorf("TLS: the server chose none of the protocols %s", strings.Join(s.TLS.ALPN, ", "))
	}
	return secure, nil
}

// authorities reads this host's certificate authorities, once.
var authorities = sync.OnceValues(x509.SystemCertPool)

func isNetwork(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op != "remote error" && op.Op != "local error" // those are TLS alerts
}

// request makes one HTTP request on the connection.
func (s *Spec) request(ctx context.Context, conn net.Conn) error {
	want, err := ParsePattern(s.HTTP.Body)
	if err != nil {
		return fmt.Errorf("body %w", err)
	}
	host := s.HTTP.Host
	if host == "" {
		host = s.Target.String()
	}
	path := s.HTTP.Path
	if path == "" {
		path = "/"
	}
	target, err := url.ParseRequestURI(path)
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	target.Scheme, target.Host = "http", host
	r := &http.Request{Method: s.HTTP.Method, URL: target, Host: host, Header: http.Header{"User-Agent": {"salp-check"}}, Close: true}
	used := false
	transport := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if used {
				return nil, errors.New("the server ended the connection without an answer")
			}
			used = true
			return conn, nil
		},
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
	}
	response, err := transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return httpFault(ctx, err)
	}
	defer response.Body.Close()
	if !s.HTTP.good(response.StatusCode) {
		return fmt.Errorf("HTTP status %d", response.StatusCode)
	}
	if want.Empty() {
		return nil
	}
	return await(ctx, response.Body, want, "the body is")
}

// httpFault keeps network errors as they are, for words, and says of others that the answer is to blame.
func httpFault(ctx context.Context, err error) error {
	if timedOut(ctx, err) || isNetwork(err) {
		return err
	}
	if strings.HasSuffix(err.Error(), "EOF") {
		return errors.New("the server ended the connection without an answer")
	}
	text := []byte(strings.TrimPrefix(err.Error(), "net/http: "))
	return fmt.Errorf("no HTTP answer: %s", quote(text))
}

func (h *HTTP) good(code int) bool {
	if len(h.Status) == 0 {
		return code >= 200 && code <= 399
	}
	return slices.ContainsFunc(h.Status, func(s Status) bool { return code >= s.First && code <= s.Last })
}
