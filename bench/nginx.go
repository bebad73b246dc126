package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
)

// nginx is nginx: its stream module, or proxy_pass for HTTP.
type nginx struct{ program }

// nginxModule is where Debian puts the stream module, which other builds have inside.
const nginxModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

// nginxConfig keeps the workers root: binding to a client's address needs CAP_NET_RAW.
const nginxConfig = `%sdaemon off;
user root;
worker_processes %d;
worker_rlimit_nofile 16000;
pid %s/nginx.pid;
error_log stderr;
events { worker_connections 8000; }
`

const nginxStream = `stream {
	server {
		listen %s reuseport backlog=65535;
		proxy_timeout 300s;
		proxy_pass %s;
%s	}
}
`

// nginxHTTP reuses connections to the server only where they carry no client's address: nginx keeps one pool for all.
const nginxHTTP = `http {
	access_log off;
	keepalive_requests 100000000;
	keepalive_timeout 300s;
	upstream servers {
		server %[2]s;
%[4]s	}
	server {
		listen %[1]s reuseport backlog=65535;
		location / {
			proxy_pass http://servers;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
			proxy_buffering on;
	%[3]s	}
	}
}
`

func (x *nginx) config(n *network, m mode) string {
	module, bind, listen := "", "", n.inside
	if _, err := os.Stat(nginxModule); !errors.Is(err, os.ErrNotExist) {
		module = "load_module " + nginxModule + ";\n"
	}
	if m == transparent {
		bind, listen = "\t\tproxy_bind $remote_addr transparent;\n", netip.AddrPortFrom(netip.IPv4Unspecified(), arrival)
	}
	main := fmt.Sprintf(nginxConfig, module, proxyLoops, n.dir)
	if !n.http {
		return main + fmt.Sprintf(nginxStream, listen, n.server, bind)
	}
	keep := "\t\tkeepalive 256;\n\t\tkeepalive_requests 100000000;\n"
	if m == transparent {
		keep = ""
	}
	return main + fmt.Sprintf(nginxHTTP, listen, n.server, bind, keep)
}

// redirect is the chain that leads connections to nginx.
const redirect = `	chain to_nginx {
		type nat hook prerouting priority dstnat
		iifname %s tcp dport %d redirect to :%d
	}
`

func (x *nginx) start(ctx context.Context, n *network, m mode) error {
	if m == transparent {
		take := fmt.Sprintf(redirect, n.incoming, n.server.Port(), arrival)
		if err := deliver(ctx, n, fmt.Sprintf(divert, "", take)); err != nil {
			return err
		}
	}
	path, err := n.file("nginx.conf", x.config(n, m))
	if err != nil {
		return err
	}
	if err := x.run(n, exec.Command("nginx", "-p", n.dir, "-c", path)); err != nil {
		return err
	}
	return x.until(ctx, func() (bool, error) {
		pids, err := x.pids()
		if err != nil || len(pids) <= proxyLoops {
			return false, err
		}
		return x.listens(n, proxyLoops)()
	})
}

func nginxVersion(ctx context.Context) string { return firstLine(ctx, "nginx", "-v") }
