package test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/lab"
)

const offloadedPath = `listeners:
  mail: {listen: ["10.0.1.1:26", "[fd00:1::1]:26"], via: kernel, source: client, on_down: reset, offload: true, pool: mail}
  dns: {listen: ["0.0.0.0:53"], via: kernel, transport: udp, offload: true, pool: dns}
  ruled: {listen: ["10.0.1.1:25"], via: kernel, pool: ruled}
pools:
  mail:
    servers: ["10.0.2.2:26", "10.0.2.3:26", "[fd00:2::2]:26", "[fd00:2::3]:26"]
    check: {every: 1s, timeout: 500ms, rise: 1, fall: 2}
  dns:
    servers: ["10.0.2.2:53", "10.0.2.3:53"]
    check: {every: 1s, timeout: 500ms, rise: 1, fall: 2, port: 26}
  ruled: {servers: ["10.0.2.2:25", "10.0.2.3:25"]}
`

// offloaded are flows to servers, each by the address of its server, and a UDP flow.
type offloaded struct {
	*kernelRig
	flows map[string]*conversation
	udp   net.Conn
}

// TestKernelPathOffload has flows carried past the rules, on kernels that can: they keep their servers, rules see hardly a packet, and a server that
// is drained or goes down means to them what it always does.
func TestKernelPathOffload(t *testing.T) {
	r := newKernelRig(t, 2)
	r.needFlowtables()
	for i, h := range r.net.Servers {
		tell, err := h.Serve("[::]:26", lab.Tell)
		r.must(err)
		t.Cleanup(tell.Close)
		closeIt, err := h.AnswerUDP(fmt.Sprintf("10.0.2.%d:53", i+2), fmt.Sprint(i+1))
		r.must(err)
		t.Cleanup(func() { _ = closeIt() })
	}
	before := r.look()
	r.nft(passes)
	s := r.start(offloadedPath)
	o := &offloaded{kernelRig: r, flows: map[string]*conversation{}}
	o.open()
	o.unseen()
	o.shown(s)

	if out, code := r.command("pool", "mail/10.0.2.3:26", "drain", "--run-dir", s.dir); code != 0 {
		t.Fatalf("drain: %s", out)
	}
	o.flows["10.0.2.3"].exchange("still there")
	for range 4 {
		if to := o.converse("10.0.1.1:26", netip.Addr{}).told().To.Addr(); to.String() != "10.0.2.2" {
			t.Errorf("a new connection went to %v, which is drained", to)
		}
	}
	if out, code := r.command("pool", "mail/10.0.2.3:26", "ready", "--run-dir", s.dir); code != 0 {
		t.Fatalf("ready: %s", out)
	}
	o.goesDown(s)

	if drift, code := r.command("plan", "-c", s.file, "--run-dir", s.dir); code != 0 {
		t.Errorf("the kernel is not as planned: %s", drift)
	}
	r.gw("nft", "delete", "table", "inet", "passes")
	s.stop()
	r.wantAsBefore(before)
}

// converse connects to a lab.Tell server, for as long as the whole test takes.
func (o *offloaded) converse(to string, from netip.Addr) *conversation {
	o.Helper()
	v := o.rig.converse(netip.AddrPortFrom(from, 0), to)
	o.must(v.conn.SetDeadline(time.Now().Add(10 * patience)))
	return v
}

// open makes a flow to each server of either family, and one of UDP that lives long enough to be taken up.
func (o *offloaded) open() {
	o.Helper()
	for to, from := range map[string]func(int) netip.Addr{"10.0.1.1:26": manyV4, "[fd00:1::1]:26": manyV6} {
		for i := range 2 {
			v := o.converse(to, from(i))
			p := v.told()
			if p.From.Addr() != from(i) {
				o.Errorf("the server saw %v, not %v", p.From, from(i))
			}
			o.flows[p.To.Addr().String()] = v
		}
	}
	if len(o.flows) != 4 {
		o.Fatalf("flows to %d servers: %v", len(o.flows), o.flows)
	}
	o.must(o.net.Client().Do(func() (err error) { o.udp, err = net.Dial("udp", "10.0.1.1:53"); return err }))
	o.Cleanup(func() { o.udp.Close() })
	first, err := o.question()
	o.must(err)
	for start := time.Now(); time.Since(start) < 2500*time.Millisecond; time.Sleep(100 * time.Millisecond) {
		if again, err := o.question(); err != nil || again != first {
			o.Fatalf("server %s answers after %s, %v", again, first, err)
		}
	}
}

// question asks by UDP, and returns who answered.
func (o *offloaded) question() (string, error) {
	b := make([]byte, 16)
	err := o.udp.SetDeadline(time.Now().Add(time.Second * slowdown))
	if err == nil {
		_, err = o.udp.Write([]byte{'?'})
	}
	if err != nil {
		return "", err
	}
	n, err := o.udp.Read(b)
	return string(b[:n]), err
}

// unseen sends on all flows, and fails when rules see more than a few of the packets.
func (o *offloaded) unseen() {
	o.Helper()
	const each = 50
	for _, v := range o.flows {
		v.exchange("taken up by the server's answer")
	}
	before, sent := o.passed(), 0
	for _, v := range o.flows {
		for i := range each {
			v.exchange(fmt.Sprint(i))
			sent += 2
		}
		v.exchange(strings.Repeat("bulk", 32<<10))
	}
	for range each {
		_, err := o.question()
		o.must(err)
		sent += 2
	}
	seen := o.passed() - before
	o.Logf("more than %d packets were sent, rules saw %d", sent, seen)
	if seen > sent/20 {
		o.Errorf("rules saw %d of %d packets", seen, sent)
	}
}

// shown wants connections told and bytes not, but those of a listener without offload.
func (o *offloaded) shown(s *salp) {
	o.Helper()
	_, counts := o.ask("tcp", "10.0.1.1:25", 20, nil)
	st, err := s.status()
	o.must(err)
	for _, p := range st.Pools {
		for _, server := range p.Servers {
			if server.Offloaded != (p.Name != "ruled") || server.Offloaded && server.BytesIn+server.BytesOut > 0 || !server.Offloaded && server.BytesOut == 0 {
				o.Errorf("pool %s: %+v", p.Name, server)
			}
		}
	}
	if st.Pools[0].Servers[0].Connections == 0 || st.Listeners[0].Counters.Accepted != 4 || !st.Listeners[0].Offloaded || len(counts) != 2 {
		o.Errorf("%+v, %v", st, counts)
	}
	if text, _ := o.command("pool", "--run-dir", s.dir); !strings.Contains(text, "offload carries them past the rules") {
		o.Errorf("salp pool: %s", text)
	}
}

// goesDown takes a server's machine away: its flows are reset, or with UDP go to the other one, whose flows go on.
func (o *offloaded) goesDown(s *salp) {
	o.Helper()
	_, err := o.net.Servers[0].Run(context.Background(), "ip", "link", "set", "e0", "down")
	o.must(err)
	s.await("without the server", func(st *admin.Status) bool {
		return st.Pools[0].Servers[0].State == control.ServerDown && st.Pools[0].Servers[2].State == control.ServerDown && st.Pools[1].Servers[0].State == control.ServerDown
	})
	for _, kept := range []string{"10.0.2.3", "fd00:2::3"} {
		o.flows[kept].exchange("still there")
	}
	for _, lost := range []string{"10.0.2.2", "fd00:2::2"} {
		if err := o.flows[lost].try("gone"); !errors.Is(err, syscall.ECONNRESET) {
			o.Errorf("a connection to the server that is down ends with %v", err)
		}
	}
	for end := time.Now().Add(patience); ; {
		if now, err := o.question(); err == nil && now == "2" {
			return
		}
		if time.Now().After(end) {
			o.Fatal("the client is still with the server that is down")
		}
	}
}
