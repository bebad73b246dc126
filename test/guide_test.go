package test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/lab"
)

// fileBlocks returns the YAML blocks of a page: whole configurations.
func fileBlocks(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for i, part := range strings.Split(string(text), "```yaml\n") {
		if block, _, ended := strings.Cut(part, "```"); i > 0 && ended {
			all = append(all, block)
		}
	}
	return all
}

// TestLoadBalancingGuide runs every configuration of docs/load-balancing.md in the network that it is written for: all servers are found up, clients reach
// both, and the servers see whom the page says.
func TestLoadBalancingGuide(t *testing.T) {
	blocks := fileBlocks(t, "../docs/load-balancing.md")
	if len(blocks) < 5 {
		t.Fatalf("%d blocks", len(blocks))
	}
	r := newRig(t, 3) // the third is the DNS server
	r.must(r.net.Gateway.Sysctl("net/ipv4/ip_forward", "1"))
	header := []byte("\r\n\r\n\x00\r\nQUIT\n\x21") // of the PROXY protocol, version 2, about a client; a check's has 0x20 at the end
	var mutex sync.Mutex
	headers := 0
	var servers []*lab.Server
	for _, host := range r.net.Servers[:2] {
		server, err := host.Serve("[::]:25", func(c *net.TCPConn) {
			fmt.Fprint(c, greeting)
			first := make([]byte, len(header))
			_ = c.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.ReadFull(c, first); err == nil && bytes.Equal(first, header) {
				mutex.Lock()
				headers++
				mutex.Unlock()
			}
			_, _ = io.Copy(io.Discard, c) // what is left unread makes a reset of the end
		})
		r.must(err)
		servers = append(servers, server)
	}
	dns, err := r.net.Servers[2].ServeDNS("10.0.2.4:53")
	r.must(err)
	dns.Set("mx.example.org", time.Minute, "10.0.2.2", "10.0.2.3")
	for i, block := range blocks {
		s := r.start(block)
		s.await("all checked", func(st *admin.Status) bool {
			for _, server := range st.Pools[0].Servers {
				if server.State != control.ServerUp || server.Checked == nil && strings.Contains(block, "check:") {
					return false
				}
			}
			return len(st.Pools[0].Servers) == 2
		})
		before := []int{len(servers[0].Peers()), len(servers[1].Peers())}
		if good := r.greets("10.0.1.1:25", 10); good != 10 {
			t.Errorf("block %d: %d of 10 connections got a banner:\n%s", i+1, good, block)
		}
		want := "10.0.1.2"
		if strings.Contains(block, "source: proxy") {
			want = "10.0.2.1"
		}
		seen := []int{0, 0}
		for n, server := range servers {
			for _, p := range server.Peers()[before[n]:] {
				if p.From.Addr() == netip.MustParseAddr(want) {
					seen[n]++
				}
			}
		}
		one := strings.Contains(block, "balance: source") // a client has one server
		if seen[0]+seen[1] < 10 || !one && (seen[0] == 0 || seen[1] == 0) {
			t.Errorf("block %d: the servers saw %s %d times", i+1, want, seen)
		}
		s.stop()
	}
	mutex.Lock()
	defer mutex.Unlock()
	if headers != 10 {
		t.Errorf("%d PROXY headers came, of 10", headers)
	}
}
