package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"salp/bench/procstat"
	"salp/internal/lab"
)

// peer is something that carries traffic through the gateway.
type peer interface {
	// start makes it carry the traffic of a network and returns when it does. It need not undo anything: the network goes.
	start(ctx context.Context, n *network, m mode) error
	// pids returns all its processes.
	pids() ([]int, error)
	// prove says why the evidence is not that of this peer having carried the traffic.
	prove(e evidence) error
	// stop ends it and says if it had ended by itself before.
	stop() error
}

// contender is a peer as it is chosen and reported.
type contender struct {
	name    string
	note    string // how it is used, where that is not plain
	modes   []mode
	carries func(row) bool // which rows it can run; nil: all
	missing func() error   // why it cannot run here; nil when it always can
	version func(ctx context.Context) string
	make    func() peer
}

// contenders returns all there are, in the order of the report. salp is the program to measure.
func contenders(salp string) []contender {
	return []contender{
		{name: "direct", note: "forwarded by the kernel, no proxy: the limit", modes: modes, make: func() peer { return &direct{} }},
		{name: "haproxy", note: "mode tcp; in the HTTP rows mode http", modes: pooled, missing: needs("haproxy", "nft", "ip"), version: haproxyVersion,
			make: func() peer { return &haproxy{} }},
		{name: "haproxy-splice", note: "mode tcp, splicing always", modes: pooled, carries: opaque, missing: needs("haproxy", "nft", "ip"), version: haproxyVersion,
			make: func() peer { return &haproxy{splice: true} }},
		{name: "nginx", note: "stream, in the HTTP rows proxy_pass with keepalive; it has no TPROXY listener: where the client's address is kept, connections come to it by REDIRECT",
			modes: proxied, missing: needs("nginx", "nft", "ip"), version: nginxVersion, make: func() peer { return &nginx{} }},
		{name: "squid", note: "no cache, no log", modes: proxied, carries: speaksHTTP, missing: needs("squid", "nft", "ip"), version: squidVersion,
			make: func() peer { return &squid{} }},
		{name: "trafficserver", note: "no cache, no log", modes: proxied, carries: speaksHTTP, missing: needs("traffic_server", "nft", "ip"),
			version: trafficServerVersion, make: func() peer { return &trafficServer{} }},
		{name: masquerader, note: "forwarded by the kernel with an nft masquerade", modes: []mode{links}, missing: needs("nft"), make: func() peer { return &masquerade{} }},
		{name: "salp", modes: modes, missing: needs(salp), version: salpVersion(salp), make: func() peer { return &salpPeer{binary: salp} }},
		{name: "salp-offload", note: "offload: true", modes: []mode{links}, missing: flowtables(salp), version: salpVersion(salp),
			make: func() peer { return &salpPeer{binary: salp, offload: true} }},
		{name: "salp-kernel", note: "via: kernel; where the client's address is kept, clients dial the gateway all the same", modes: pooled, carries: opaque,
			missing: needs(salp), version: salpVersion(salp), make: func() peer { return &salpPeer{binary: salp, kernel: true} }},
		{name: "salp-kernel-offload", note: "via: kernel, offload: true", modes: pooled, carries: opaque, missing: flowtables(salp), version: salpVersion(salp),
			make: func() peer { return &salpPeer{binary: salp, kernel: true, offload: true} }},
	}
}

func opaque(r row) bool     { return !r.job.HTTP }
func speaksHTTP(r row) bool { return r.job.HTTP }

// needs makes a check that programs are there.
func needs(programs ...string) func() error {
	return func() error {
		for _, p := range programs {
			if _, err := exec.LookPath(p); err != nil {
				return fmt.Errorf("%s is not here", p)
			}
		}
		return nil
	}
}

// direct is no proxy at all.
type direct struct{}

func (*direct) start(context.Context, *network, mode) error { return nil }
func (*direct) pids() ([]int, error)                        { return nil, nil }
func (*direct) prove(e evidence) error                      { return e.forwarded() }
func (*direct) stop() error                                 { return nil }

// program is the part of a peer that is a process on the gateway, with its children.
type program struct {
	proc *lab.Process
	log  *tail
}

func (p *program) run(n *network, cmd *exec.Cmd) (err error) {
	p.log = &tail{}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.SysProcAttr = session()
	p.proc, err = n.Gateway.Start(cmd)
	return err
}

func (p *program) pids() ([]int, error)   { return procstat.Tree(p.proc.Pid()) }
func (p *program) prove(e evidence) error { return e.proxied() }

// stop kills: what the peer would do at an orderly end is not measured, and the network goes anyway.
func (p *program) stop() error {
	if p.proc == nil {
		return nil
	}
	select {
	case <-p.proc.Done():
		return fmt.Errorf("%s ended too early (%v): %s", p.proc.Cmd.Path, p.proc.Wait(), p.log)
	default:
	}
	_ = p.proc.Cmd.Process.Kill() // it may end at this moment
	_ = p.proc.Wait()             // "killed"
	return nil
}

// startTime bounds how long a proxy may take to be ready.
const startTime = 10 * time.Second

// until asks again and again whether the program is ready.
func (p *program) until(ctx context.Context, ready func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		select {
		case <-p.proc.Done():
			return errors.New("it ended: " + p.log.String())
		case <-ctx.Done():
			return fmt.Errorf("it is not ready after %v: %s", startTime, p.log)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// listens is ready when a process of the program has so many listening sockets on the gateway.
func (p *program) listens(n *network, sockets int) func() (bool, error) {
	return func() (bool, error) {
		pids, err := p.pids()
		if err != nil {
			return false, err
		}
		open, err := procstat.DescriptorsOf(pids)
		if err != nil {
			return false, err
		}
		all, err := n.sockets()
		count := 0
		for _, s := range all {
			if s.Listening && open.Holds(s) {
				count++
			}
		}
		return count >= sockets, err
	}
}

// arrival is the local port that diverted connections come to, for proxies that do not choose it themselves.
const arrival = 9080

// divert is what the kernel's document on TPROXY asks for (Documentation/networking/tproxy.rst), in nft's words: packets of our
// transparent sockets are delivered locally. What else a proxy needs follows it.
const divert = `table inet bench {
	chain divert {
		type filter hook prerouting priority mangle
		meta l4proto tcp socket transparent 1 meta mark set 1 accept
%s	}
%s}
`

// deliver loads a ruleset and routes what is marked to the gateway itself.
func deliver(ctx context.Context, n *network, ruleset string) error {
	path, err := n.file("rules.nft", ruleset)
	if err != nil {
		return err
	}
	return n.gateway(ctx,
		[]string{"nft", "-f", path},
		[]string{"ip", "rule", "add", "fwmark", "1", "lookup", "100"},
		[]string{"ip", "route", "add", "local", "default", "dev", "lo", "table", "100"})
}
