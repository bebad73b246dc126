package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// salpPeer is Salp: the keeper, its worker, and whatever they start.
type salpPeer struct {
	program
	binary  string
	kernel  bool // the kernel path
	offload bool // flows of links, or of the kernel path, pass no rules
}

const (
	salpTransparent = `workers: %d
listeners:
  bench:
    intercept:
      interfaces: [%s]
      ports: [%d]
    source: client
    protocol: %s
`
	salpExplicit = `workers: %d
listeners:
  bench:
    listen: ["%s"]
    source: proxy
    protocol: %s
    pool: servers
pools:
  servers:
    servers: ["%s"]
`
)

const salpKernel = `listeners:
  bench:
    listen: ["%s"]
    via: kernel
    source: %s
    offload: %t
    pool: servers
pools:
  servers:
    servers: ["%s"]
`

func (s *salpPeer) config(n *network, m mode) string {
	if m == pools {
		return s.poolsConfig(n)
	}
	if m == links {
		return fmt.Sprintf(salpLinks, n.incoming, s.offload)
	}
	if s.kernel {
		source := "proxy"
		if m == transparent {
			source = "client"
		}
		return fmt.Sprintf(salpKernel, n.inside, source, s.offload, n.server)
	}
	protocol := "tcp"
	if n.http {
		protocol = "http"
	}
	if m == transparent {
		return fmt.Sprintf(salpTransparent, proxyLoops, n.incoming, n.server.Port(), protocol)
	}
	return fmt.Sprintf(salpExplicit, proxyLoops, n.inside, protocol, n.server)
}

func (s *salpPeer) start(ctx context.Context, n *network, m mode) error {
	path, err := n.file("salp.yaml", s.config(n, m))
	if err != nil {
		return err
	}
	notify := filepath.Join(n.dir, "notify")
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(s.binary, "run", "-c", path, "--run-dir", filepath.Join(n.dir, "run"))
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	if err := s.run(n, cmd); err != nil {
		return err
	}
	return s.until(ctx, func() (bool, error) { return toldReady(ready) })
}

// prove wants connections that were forwarded when the kernel has carried them.
func (s *salpPeer) prove(e evidence) error {
	if e.mode == links {
		return e.routed(e.ways...)
	}
	if s.kernel {
		return e.translated()
	}
	return e.proxied()
}

// toldReady looks whether READY=1 has been sent. (sd_notify(3))
func toldReady(c *net.UnixConn) (bool, error) {
	buf := make([]byte, 4096)
	for {
		if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			return false, err
		}
		n, err := c.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(line) == "READY=1" {
				return true, nil
			}
		}
	}
}

func salpVersion(binary string) func(context.Context) string {
	return func(ctx context.Context) string { return firstLine(ctx, binary, "version") }
}
