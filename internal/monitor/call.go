package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"salp/internal/control"
	"salp/internal/resolve"
)

// maxReply bounds what is read of a webhook's answer in bytes; nobody looks at it.
const maxReply = 64 << 10

// call calls a webhook once and tells the keeper how that went. resolver may be nil: then those of the host are asked.
func (m *monitor) call(c *control.Call, resolver *resolve.Resolver) {
	if resolver == nil {
		resolver = resolve.New(resolve.Options{})
	}
	answer := control.Called{ID: c.ID}
	if err := post(m.context, c, resolver); err != nil {
		answer.Error = err.Error()
	}
	if err := m.conn.Send(control.Message{Called: &answer}); err != nil {
		m.log.Debug("the keeper does not take a message", "error", err)
	}
}

func post(ctx context.Context, c *control.Call, resolver *resolve.Resolver) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(c.Body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "salp")
	transport := &http.Transport{DialContext: dialBy(resolver), DisableKeepAlives: true, MaxResponseHeaderBytes: maxReply}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		var fault *url.Error
		if errors.As(err, &fault) {
			err = fault.Err // the keeper knows the URL
		}
		if ctx.Err() != nil {
			return fmt.Errorf("no answer within %v", c.Timeout)
		}
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, maxReply)) // a server that is cut short may log an error
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("HTTP status %d", response.StatusCode)
	}
	return nil
}

// dialBy connects to names as the resolver has them, to one address after the other.
func dialBy(r *resolve.Resolver) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		a, err := r.Lookup(ctx, host)
		if err != nil {
			return nil, err
		}
		for _, ip := range a.Addrs {
			var d net.Dialer
			var conn net.Conn
			if conn, err = d.DialContext(ctx, network, net.JoinHostPort(ip.String(), port)); err == nil {
				return conn, nil
			}
		}
		return nil, err
	}
}
