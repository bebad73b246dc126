package test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"salp/internal/lab"
)

// TestPortUsedAgainAfterStop has clients use a port again right after Salp has ended: what the gateway's sockets leave in
// TIME_WAIT, with other hosts' addresses, must not stand in the way of what is forwarded now.
func TestPortUsedAgainAfterStop(t *testing.T) {
	for _, c := range []struct {
		name        string
		handler     lab.Handler
		clientFirst bool
	}{
		{"client ended first", lab.Tell, true},
		{"server ended first", func(c *net.TCPConn) { fmt.Fprintf(c, "%s %s\n", lab.Remote(c), lab.Local(c)) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.must(r.net.Gateway.Forward())
			r.must(r.net.Client().Sysctl("net/ipv4/tcp_max_tw_buckets", "0")) // the ends forget at once
			r.must(r.net.Server().Sysctl("net/ipv4/tcp_max_tw_buckets", "0"))
			r.serve(portTell, c.handler)
			s := r.start(modeNamed("full-keep").config(portTell))
			for _, f := range families {
				r.once(netip.AddrPortFrom(netip.MustParseAddr(f.client), 40000), at(f.server, portTell), c.clientFirst)
			}
			s.stop()
			for _, f := range families {
				start := time.Now()
				r.once(netip.AddrPortFrom(netip.MustParseAddr(f.client), 40000), at(f.server, portTell), c.clientFirst)
				if took := time.Since(start); took > 900*time.Millisecond {
					r.Errorf("%s: the port could be used again only after %v", f.name, took)
				}
			}
		})
	}
}
