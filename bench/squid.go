package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// squid is Squid without a cache: an intercepting proxy, or a reverse proxy where clients dial it.
type squid struct{ program }

// squidConfig takes the port's line and the directory for files, which Squid, who gives up root and keeps CAP_NET_ADMIN, must be able to
// write to.
const squidConfig = `workers 1
%s
cache deny all
cache_mem 8 MB
access_log none
cache_log %[2]s/squid.log
cache_store_log none
pid_filename %[2]s/squid.pid
coredump_dir %[2]s
max_filedescriptors 16000
http_access allow all
via off
forwarded_for transparent
client_persistent_connections on
server_persistent_connections on
pconn_timeout 300 seconds
client_idle_pconn_timeout 300 seconds
pinger_enable off
shutdown_lifetime 0 seconds
host_verify_strict off
`

func (s *squid) config(n *network, m mode) string {
	port := fmt.Sprintf("http_port %s accel defaultsite=%s no-vhost\ncache_peer %s parent %d 0 no-query originserver no-digest", n.inside, n.server.Addr(), n.server.Addr(), n.server.Port())
	if m == transparent {
		port = fmt.Sprintf("http_port 127.0.0.1:%d\nhttp_port 127.0.0.1:%d tproxy", arrival+1, arrival)
	}
	return fmt.Sprintf(squidConfig, port, n.dir)
}

func (s *squid) start(ctx context.Context, n *network, m mode) error {
	sockets := 1
	if m == transparent {
		sockets = 2
		take := fmt.Sprintf("\t\tiifname %s tcp dport %d tproxy ip to 127.0.0.1:%d meta mark set 1 accept\n", n.incoming, n.server.Port(), arrival)
		if err := deliver(ctx, n, fmt.Sprintf(divert, take, "")); err != nil {
			return err
		}
	}
	if err := os.Chmod(n.dir, 0o777); err != nil {
		return err
	}
	path, err := n.file("squid.conf", s.config(n, m))
	if err != nil {
		return err
	}
	if err := s.run(n, exec.Command("squid", "-N", "-n", strings.ReplaceAll(filepath.Base(n.dir), "-", ""), "-f", path)); err != nil {
		return err
	}
	return s.until(ctx, s.listens(n, sockets))
}

func squidVersion(ctx context.Context) string { return firstLine(ctx, "squid", "-v") }
