package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// haproxy is HAProxy in mode tcp, with or without splice.
type haproxy struct {
	program
	splice bool
}

// haproxyConfig takes the mode, the binding and two options. maxconn: more would need more descriptors than some machines allow a process.
const haproxyConfig = `global
	maxconn 4000
	nbthread %d
defaults
	mode %s
	timeout connect 10s
	timeout client 300s
	timeout server 300s
	timeout http-keep-alive 300s
listen bench
	bind %s
%s%s%s`

func (h *haproxy) config(n *network, m mode) string {
	bind, source, splice, servers := n.inside.String(), "", "", fmt.Sprintf("\tserver one %s\n", n.server)
	if m == transparent {
		bind = fmt.Sprintf("127.0.0.1:%d transparent", arrival)
	}
	if m == pools {
		servers = "\tbalance roundrobin\n" + n.serverLines()
	}
	if m != explicit {
		source = "\tsource 0.0.0.0 usesrc clientip\n"
	}
	if h.splice {
		splice = "\toption splice-request\n\toption splice-response\n"
	}
	mode := "tcp"
	if n.http {
		mode = "http"
	}
	return fmt.Sprintf(haproxyConfig, proxyLoops, mode, bind, source, splice, servers)
}

func (h *haproxy) start(ctx context.Context, n *network, m mode) error {
	if m == transparent {
		take := fmt.Sprintf("\t\tiifname %s tcp dport %d tproxy ip to 127.0.0.1:%d meta mark set 1 accept\n", n.incoming, n.server.Port(), arrival)
		if err := deliver(ctx, n, fmt.Sprintf(divert, take, "")); err != nil {
			return err
		}
	}
	if m == pools {
		if err := answersHere(ctx, n); err != nil {
			return err
		}
	}
	path, err := n.file("haproxy.cfg", h.config(n, m))
	if err != nil {
		return err
	}
	if err := h.run(n, exec.Command("haproxy", "-db", "-f", path)); err != nil {
		return err
	}
	return h.until(ctx, h.listens(n, 1))
}

func haproxyVersion(ctx context.Context) string { return firstLine(ctx, "haproxy", "-v") }

// firstLine returns the first line of what a program writes, or why it does not.
func firstLine(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s: %v", name, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}
