package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// twoDoors is a configuration with two listeners in front of one server: connections from one client port to both want the same
// four numbers towards the server.
func twoDoors(sourcePort string) string {
	return fmt.Sprintf(`listeners:
  a: {listen: ["10.0.1.1:8000"], source: client, source_port: %[1]s, pool: web}
  b: {listen: ["10.0.1.1:8001"], source: client, source_port: %[1]s, pool: web}
  a6: {listen: ["[fd00:1::1]:8000"], source: client, source_port: %[1]s, pool: web6}
  b6: {listen: ["[fd00:1::1]:8001"], source: client, source_port: %[1]s, pool: web6}
pools:
  web: {servers: ["10.0.2.2:80"]}
  web6: {servers: ["[fd00:2::2]:80"]}
`, sourcePort)
}

// TestKeptPortCollides has two connections want the same port at the server: keep falls back to another and counts it, require refuses.
func TestKeptPortCollides(t *testing.T) {
	for _, sourcePort := range []string{"keep", "require"} {
		t.Run(sourcePort, func(t *testing.T) {
			r := newRig(t, 1)
			r.serve(portTell, lab.Tell)
			s := r.start(twoDoors(sourcePort))
			for _, f := range families {
				from := netip.AddrPortFrom(netip.MustParseAddr(f.client), 40000)
				first := &conversation{r: r, conn: r.dialFrom(from, at(f.gwInside, 8000))}
				first.read = bufio.NewReader(first.conn)
				if seen := first.told(); seen.From != from {
					r.Errorf("%s: the first connection has %s at the server", f.name, seen.From)
				}
				if sourcePort == "require" {
					if err := r.refused(from, at(f.gwInside, 8001)); !errors.Is(err, syscall.ECONNRESET) {
						r.Errorf("%s: the port is taken, the second connection got %v; want a reset", f.name, err)
					}
					continue
				}
				second := &conversation{r: r, conn: r.dialFrom(from, at(f.gwInside, 8001))}
				second.read = bufio.NewReader(second.conn)
				seen := second.told()
				if seen.From.Addr() != from.Addr() || seen.From == from {
					r.Errorf("%s: the second connection has %s at the server, want another port of %s", f.name, seen.From, from.Addr())
				}
				first.exchange("one")
				second.exchange("two")
			}
			s.await("counting it", func(st *admin.Status) bool {
				if sourcePort == "require" {
					return sum(st, errorsOf("no_port")) == 2
				}
				return sum(st, func(l admin.Listener) uint64 { return l.Counters.PortFallbacks }) == 2 &&
					sum(st, func(l admin.Listener) uint64 { return l.Counters.PortKept }) == 2
			})
		})
	}
}

// TestPortUsedAgain has a client use its port again at once, with one of the gateway's halves in TIME_WAIT: the upstream half when the
// client ended first, the client half when the server did. The server speaks no timestamps, which would hide the problem.
func TestPortUsedAgain(t *testing.T) {
	for _, c := range []struct {
		name        string
		handler     lab.Handler
		clientFirst bool
	}{
		{"client ended first", lab.Tell, true},
		{"server ended first", func(c *net.TCPConn) { fmt.Fprintf(c, "%s %s\n", lab.Remote(c), lab.Local(c)) }, false},
	} {
		for _, name := range []string{"full-keep", "full-require"} {
			t.Run(c.name+" "+name, func(t *testing.T) {
				r := newRig(t, 1)
				r.must(r.net.Server().Sysctl("net/ipv4/tcp_timestamps", "0"))
				r.must(r.net.Client().Sysctl("net/ipv4/tcp_max_tw_buckets", "0")) // the client itself forgets at once
				r.must(r.net.Server().Sysctl("net/ipv4/tcp_max_tw_buckets", "0"))
				r.serve(portTell, c.handler)
				s := r.start(modeNamed(name).config(portTell))
				for _, f := range families {
					from := netip.AddrPortFrom(netip.MustParseAddr(f.client), 40000)
					for i := range 4 {
						start := time.Now()
						r.once(from, at(f.server, portTell), c.clientFirst)
						if took := time.Since(start); took > 900*time.Millisecond {
							r.Errorf("%s: connection %d from the same port took %v", f.name, i+1, took)
						}
					}
				}
				s.await("counting kept ports only", func(st *admin.Status) bool {
					return sum(st, func(l admin.Listener) uint64 { return l.Counters.PortKept }) == 8 &&
						sum(st, func(l admin.Listener) uint64 { return l.Counters.PortFallbacks }) == 0
				})
			})
		}
	}
}

// once makes a whole connection from a port and wants the server to have seen that port.
func (r *rig) once(from netip.AddrPort, to string, clientFirst bool) {
	r.Helper()
	conn := r.dialFrom(from, to)
	v := &conversation{r: r, conn: conn, read: bufio.NewReader(conn)}
	seen := v.told()
	if seen.From != from {
		r.Errorf("the server saw %s, the client is %s", seen.From, from)
	}
	if clientFirst {
		r.must(conn.CloseWrite())
	}
	if rest, err := io.ReadAll(v.read); err != nil || len(rest) > 0 {
		r.Errorf("at the end: %q, %v", rest, err)
	}
	r.must(conn.Close())
	time.Sleep(20 * time.Millisecond) // let the last ACK arrive
}

// TestLoopGuard dials the interception port itself, from the LAN, from the servers' side and from the gateway: nothing may be
// carried, and nothing may go round.
func TestLoopGuard(t *testing.T) {
	for _, name := range []string{"inbound", "full-keep", "inbound-redirect"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			m := modeNamed(name)
			text := strings.Replace(m.config(portTell), "ports: [80]", "ports: [1-65535]", 1)
			s := r.start(text)
			var port int
			s.await("listening", func(st *admin.Status) bool {
				port = int(st.Listeners[0].LocalPort)
				return port != 0
			})
			for _, d := range []struct {
				from *lab.Host
				to   []string
			}{
				{r.net.Client(), []string{"10.0.1.1", "10.0.2.1", "fd00:1::1", "fd00:2::1"}},
				{r.net.Server(), []string{"10.0.1.1", "10.0.2.1", "fd00:1::1", "fd00:2::1"}},
				{r.net.Gateway, []string{"127.0.0.1", "::1", "10.0.1.1", "fd00:1::1"}},
			} {
				for _, address := range d.to {
					start := time.Now()
					conn, err := d.from.DialWith(at(address, port), lab.DialOptions{Timeout: patience})
					if err == nil {
						r.must(conn.SetDeadline(time.Now().Add(patience)))
						var n int
						n, err = conn.Read(make([]byte, 1))
						conn.Close()
						if n > 0 {
							r.Errorf("%s to %s: an answer came", d.from.Name, address)
						}
					}
					if errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > 5*time.Second {
						r.Errorf("%s to %s: silence (%v)", d.from.Name, address, err)
					}
				}
			}
			time.Sleep(600 * time.Millisecond) // more than two beats
			st := s.await("at rest", func(st *admin.Status) bool {
				return sum(st, func(l admin.Listener) uint64 { return l.Counters.Active }) == 0
			})
			if n := sum(st, accepted); n > 12 {
				r.Errorf("12 connections were dialled and %d accepted: they went round", n)
			}
		})
	}
}

// TestPoolIsSelf names the gateway itself as server, in a way that only the host's addresses give away.
func TestPoolIsSelf(t *testing.T) {
	r := newRig(t, 1)
	s := r.launch("listeners: {web: {listen: [\"0.0.0.0:8000\"], pool: web}}\npools: {web: {servers: [\"10.0.1.1:8000\"]}}\n")
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		select {
		case <-s.Done():
			if log := s.log.String(); !strings.Contains(log, "loop") && !strings.Contains(log, "itself") {
				r.Errorf("it was refused without saying why:\n%s", log)
			}
			return
		default:
		}
		if st, err := s.status(); err == nil && st.Alive {
			break
		}
	}
	if conn, err := r.net.Client().Dial("10.0.1.1:8000"); err == nil { // else it was reset already
		defer conn.Close()
		r.must(conn.SetDeadline(time.Now().Add(patience)))
		if _, err := conn.Read(make([]byte, 1)); !isRefused(false, err) {
			r.Errorf("the client got %v, want a reset", err)
		}
	}
	time.Sleep(600 * time.Millisecond)
	if st, err := s.status(); err != nil || sum(st, accepted) > 4 {
		r.Errorf("one connection became %d (%v)", sum(st, accepted), err)
	}
}

// TestLimits has a listener and a client reach their limits: one more is reset, and after one has ended there is room again.
func TestLimits(t *testing.T) {
	for _, c := range []struct{ limits, kind string }{
		{"connections: 3", "limit_listener"},
		{"connections: 100, per_client: 3", "limit_client"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			r := newRig(t, 1)
			r.serve(portTell, lab.Tell)
			m := modeNamed("inbound")
			m.more = "    limits: {" + c.limits + "}\n"
			s := r.start("workers: 1\n" + m.config(portTell))
			to := at("10.0.2.2", portTell)
			var open []*conversation
			for range 3 {
				v, _ := r.tell(to)
				open = append(open, v)
			}
			if _, err := r.probe(to, patience); !isRefused(false, err) {
				r.Errorf("the fourth of three connections got %v; want a reset", err)
			}
			open[0].exchange("still there")
			s.await("counting it", func(st *admin.Status) bool { return sum(st, errorsOf(c.kind)) == 1 })
			open[1].conn.Close()
			r.awaitProbe("finds room again", to, patience, isThrough)
		})
	}
}

// TestTimeouts has connections end that say nothing.
func TestTimeouts(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		begin      func(r *rig) *net.TCPConn
	}{
		{"idle: 1s", "idle", func(r *rig) *net.TCPConn {
			v, _ := r.tell(at("10.0.2.2", portTell))
			return v.conn
		}},
		{"half_closed: 1s", "half_closed", func(r *rig) *net.TCPConn {
			conn := r.dial(at("10.0.2.2", portHold))
			r.must(conn.CloseWrite())
			return conn
		}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			r := newRig(t, 1)
			r.serve(portTell, lab.Tell)
			// It reads the client's end and then says nothing, so that only Salp can end it.
			r.serve(portHold, func(c *net.TCPConn) {
				_, _ = io.Copy(io.Discard, c)
				time.Sleep(patience)
			})
			m := modeNamed("inbound")
			m.more = "    timeouts: {" + c.name + "}\n"
			s := r.start(m.config(portTell, portHold))
			conn := c.begin(r)
			start := time.Now()
			_, err := io.ReadAll(conn)
			if took := time.Since(start); took < 500*time.Millisecond || took > 5*time.Second {
				r.Errorf("it ended after %v (%v), want about 1s", took, err)
			}
			s.await("counting it", func(st *admin.Status) bool { return sum(st, errorsOf(c.kind)) == 1 })
		})
	}
}

// refused connects and returns how that ended: a reset may come before the dial returns, or after.
func (r *rig) refused(from netip.AddrPort, to string) error {
	c, err := r.net.Client().DialWith(to, lab.DialOptions{From: from, Timeout: patience})
	if err != nil {
		return err
	}
	defer c.Close()
	r.must(c.SetDeadline(time.Now().Add(patience)))
	_, err = c.Read(make([]byte, 1))
	return err
}
