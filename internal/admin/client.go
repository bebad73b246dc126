package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// maxAnswer bounds what a Client reads, in bytes.
const maxAnswer = 64 << 20

// ErrNotRunning is wrapped by the errors of Dial when no gateway runs with that run directory.
var ErrNotRunning = errors.New("no gateway runs")

// Client asks a running gateway. It is safe for use by several goroutines.
type Client struct {
	runDir string
	http   http.Client
}

// Dial finds the gateway that runs with a run directory.
func Dial(runDir string) (*Client, error) {
	path := SocketPath(runDir)
	conn, err := net.DialTimeout("unix", path, 2*time.Second)
	if err != nil {
		return nil, dialError(runDir, err)
	}
	conn.Close()
	c := &Client{runDir: runDir}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		MaxIdleConns:    1,
		IdleConnTimeout: 10 * time.Second,
	}
	return c, nil
}

func dialError(runDir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w with run directory %s: start one with 'salp run --run-dir %s', or name another with --run-dir", ErrNotRunning, runDir, runDir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the gateway with run directory %s answers only the user it was started by: try as root", runDir)
	default:
		return fmt.Errorf("gateway with run directory %s: %w", runDir, err)
	}
}

// Close lets go of the connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks the gateway about itself.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	code, body, err := c.do(ctx, http.MethodGet, "/status", nil)
	if err != nil {
		return nil, err
	}
	if code != http.StatusOK {
		return nil, c.refused("status", code, body)
	}
	var status Status
	if err := json.Unmarshal(body, &status); err != nil {
		return nil, fmt.Errorf("gateway with run directory %s: its status cannot be read (is it of another version?): %w", c.runDir, err)
	}
	return &status, nil
}

// Reload has the gateway read its configuration again, and returns the new generation's number when it is in force. The error says why
// the old configuration stayed.
func (c *Client) Reload(ctx context.Context) (generation uint64, err error) {
	code, body, err := c.do(ctx, http.MethodPost, "/reload", nil)
	if err != nil {
		return 0, err
	}
	var a ReloadAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return 0, c.refused("reload", code, body)
	}
	if a.Error != "" {
		return 0, errors.New(a.Error)
	}
	return a.Generation, nil
}

const (
	// upgradeWithin bounds how long Upgrade waits for the new binary after it was found good.
	upgradeWithin = time.Minute
	// silentWithin bounds how long nobody answers meanwhile.
	silentWithin = 10 * time.Second
	upgradePoll  = 20 * time.Millisecond
)

// Upgrade has another binary take the place of the running program: "" for the file that it was started from. It returns when a worker of the
// new version takes the connections. An error says why not; the state of the Upgrade tells who serves then (its zero value: nothing was begun).
func (c *Client) Upgrade(ctx context.Context, binary string) (Upgrade, error) {
	code, body, err := c.do(ctx, http.MethodPost, "/upgrade", UpgradeOrder{Binary: binary})
	if err != nil {
		return Upgrade{}, err
	}
	var a UpgradeAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return Upgrade{}, c.refused("upgrade", code, body)
	}
	if a.Error != "" {
		return Upgrade{}, errors.New(a.Error)
	}
	ctx, cancel := context.WithTimeout(ctx, upgradeWithin)
	defer cancel()
	c.http.CloseIdleConnections() // that program is about to be no more
	for heard := time.Now(); ; {
		s, err := c.Status(ctx)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
			return Upgrade{State: UpgradeFailed}, fmt.Errorf("the gateway has ended: %w", err) // else its socket is open all the time
		case err != nil && time.Since(heard) > silentWithin:
			return Upgrade{State: UpgradeFailed}, fmt.Errorf("the new program does not answer: %w", err)
		case err != nil:
		case s.Upgrade == nil || s.Upgrade.Number < a.Number:
			return Upgrade{State: UpgradeFailed}, errors.New("the gateway has been started anew meanwhile: see its log")
		case s.Upgrade.Number > a.Number || s.Upgrade.State == UpgradeDone:
			return *s.Upgrade, nil
		case s.Upgrade.State != UpgradeRunning:
			return *s.Upgrade, errors.New(s.Upgrade.Error)
		default:
			heard = time.Now()
		}
		select {
		case <-ctx.Done():
			return Upgrade{State: UpgradeRunning}, fmt.Errorf("the upgrade goes on, its end is not awaited any more: %w", ctx.Err())
		case <-time.After(upgradePoll):
		}
	}
}

// SetServer has a server of a pool drained, in maintenance, or as its checks say.
func (c *Client) SetServer(ctx context.Context, w ServerWish) (ServerChange, error) {
	code, body, err := c.do(ctx, http.MethodPost, "/pool", w)
	if err != nil {
		return ServerChange{}, err
	}
	var a ServerChange
	if err := json.Unmarshal(body, &a); err != nil {
		return ServerChange{}, c.refused("pool", code, body)
	}
	if a.Error != "" {
		return ServerChange{}, errors.New(a.Error)
	}
	return a, nil
}

// SetLink has an Internet link drained, taken down, or as its checks say.
func (c *Client) SetLink(ctx context.Context, w LinkWish) (LinkAnswer, error) {
	code, body, err := c.do(ctx, http.MethodPost, "/link", w)
	if err != nil {
		return LinkAnswer{}, err
	}
	var a LinkAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return LinkAnswer{}, c.refused("link", code, body)
	}
	if a.Error != "" {
		return LinkAnswer{}, errors.New(a.Error)
	}
	return a, nil
}

// Stop has the gateway drain, remove what it has in the kernel, and end. It returns once that has begun.
func (c *Client) Stop(ctx context.Context) error {
	code, body, err := c.do(ctx, http.MethodPost, "/stop", nil)
	if err != nil {
		return err
	}
	if code != http.StatusNoContent {
		return c.refused("stop", code, body)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, order any) (code int, body []byte, err error) {
	var text []byte
	if order != nil {
		if text, err = json.Marshal(order); err != nil {
			return 0, nil, err
		}
	}
	response, err := c.send(ctx, method, path, text)
	if method == http.MethodGet && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
		response, err = c.send(ctx, method, path, text) // another program was taking the gateway's place just then
	}
	if err != nil {
		return 0, nil, fmt.Errorf("gateway with run directory %s: %w", c.runDir, errors.Unwrap(err))
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return 0, nil, fmt.Errorf("gateway with run directory %s: its answer was cut: %w", c.runDir, err)
	}
	return response.StatusCode, body, nil
}

func (c *Client) send(ctx context.Context, method, path string, text []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://salp"+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	return c.http.Do(request)
}

func (c *Client) refused(what string, code int, body []byte) error {
	return fmt.Errorf("gateway with run directory %s: %s: %s (HTTP %d)", c.runDir, what, strings.TrimSpace(string(body)), code)
}
