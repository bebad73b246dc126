package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// bothWays sends n bytes of the pattern and checks the client's at the same time. It ends its half when all is sent.
func bothWays(n int64, result chan<- error) lab.Handler {
	return func(c *net.TCPConn) {
		sent := make(chan error, 1)
		go func() {
			_, err := io.Copy(c, lab.Pattern(n))
			if err == nil {
				err = c.CloseWrite()
			}
			sent <- err
		}()
		got, err := lab.CheckPattern(c)
		if err == nil && got != n {
			err = fmt.Errorf("the server got %d bytes, want %d", got, n)
		}
		if s := <-sent; err == nil {
			err = s
		}
		result <- err
	}
}

// TestBulk carries 200 MiB both ways at the same time and checks every byte.
func TestBulk(t *testing.T) {
	size := int64(200 << 20)
	if testing.Short() {
		size = 10 << 20
	}
	for _, c := range []struct {
		mode string
		f    family
	}{{"explicit", families[0]}, {"inbound", families[1]}, {"inbound-redirect", families[0]}, {"full-keep", families[0]}, {"full-keep", families[1]}} {
		t.Run(c.mode+" "+c.f.name, func(t *testing.T) {
			r := newRig(t, 1)
			served := make(chan error, 1)
			r.serve(portTell, bothWays(size, served))
			m := modeNamed(c.mode)
			s := r.start(m.config(portTell))
			v := &conversation{r: r, conn: r.dial(m.to(c.f, portTell))}
			v.read = bufio.NewReaderSize(v.conn, 256<<10)
			if err := v.bulk(size); err != nil {
				r.Errorf("client: %v", err)
			}
			select {
			case err := <-served:
				r.must(err)
			case <-time.After(patience):
				r.Error("the server does not see the end")
			}
			s.await("counting every byte", func(st *admin.Status) bool {
				in := sum(st, func(l admin.Listener) uint64 { return l.Counters.BytesIn })
				out := sum(st, func(l admin.Listener) uint64 { return l.Counters.BytesOut })
				return in == uint64(size) && out == uint64(size)
			})
		})
	}
}

// narrow puts two routers between the gateway and a far server, with a link of a small MTU between them: uploads work only if the
// router's "fragmentation needed" reaches the socket that sends.
func (r *rig) narrow(mtu int) (far *lab.Host) {
	r.Helper()
	var hosts [2]*lab.Host
	var err error
	for i, name := range []string{"router", "far"} {
		hosts[i], err = r.net.Host(name)
		r.must(err)
	}
	near, router, far := r.net.Server(), hosts[0], hosts[1]
	r.must(r.net.Join(near, "e1", router, "e0"))
	r.must(r.net.Join(router, "e1", far, "e0"))
	r.must(near.Addr("e1", "10.0.8.1/24", "fd00:8::1/64"))
	r.must(router.Addr("e0", "10.0.8.2/24", "fd00:8::2/64"))
	r.must(router.Addr("e1", "10.0.9.1/24", "fd00:9::1/64"))
	r.must(far.Addr("e0", "10.0.9.2/24", "fd00:9::2/64"))
	r.must(near.MTU("e1", mtu))
	r.must(router.MTU("e0", mtu))
	r.must(near.Route("10.0.9.0/24", "10.0.8.2"))
	r.must(near.Route("fd00:9::/64", "fd00:8::2"))
	r.must(router.Default("10.0.8.1", "fd00:8::1"))
	r.must(far.Default("10.0.9.1", "fd00:9::1"))
	r.must(near.Forward())
	r.must(router.Forward())
	r.must(r.net.Gateway.Route("10.0.9.0/24", "10.0.2.2"))
	r.must(r.net.Gateway.Route("fd00:9::/64", "fd00:2::2"))
	return far
}

// TestSmallMTU uploads and downloads through a link of a smaller MTU behind the gateway. A transfer alone proves little: after some
// seconds of silence the kernel's TCP tries smaller segments by itself. So the gateway must also have learned the path's MTU.
func TestSmallMTU(t *testing.T) {
	const size = 4 << 20
	for _, name := range []string{"inbound", "full-any", "full-keep"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			far := r.narrow(1300)
			served := make(chan error, 1)
			_, err := far.Serve("[::]:80", bothWays(size, served))
			r.must(err)
			m := modeNamed(name)
			r.start(m.config(portTell))
			for _, to := range []string{"10.0.9.2:80", "[fd00:9::2]:80"} {
				v := &conversation{r: r, conn: r.dial(to)}
				r.must(v.conn.SetDeadline(time.Now().Add(patience)))
				v.read = bufio.NewReaderSize(v.conn, 256<<10)
				if err := v.bulk(size); err != nil {
					r.Errorf("%s: %v", to, err)
					return
				}
				r.must(<-served)
				host := netip.MustParseAddrPort(to).Addr().String()
				if route := r.gw("ip", "route", "get", host); !strings.Contains(route, "mtu 1300") {
					r.Errorf("the router's word about the MTU did not reach the gateway's socket: %s", route)
				}
			}
		})
	}
}

// TestSlowReader has clients that ask for much and read nothing: the worker's memory must not grow with what they asked for, the
// server must be held back, and what they read in the end must be right.
func TestSlowReader(t *testing.T) {
	const clients, size, mayGrow = 40, 64 << 20, 48 << 10 // the last in KiB
	r := newRig(t, 1)
	r.serve(portTell, lab.Source(size))
	m := modeNamed("inbound")
	s := r.start(m.config(portTell))
	pid := s.worker()
	before := residentKiB(r, pid)
	conns := make([]*net.TCPConn, clients)
	for i := range conns {
		c, err := r.net.Client().DialWith(m.to(families[i%2], portTell), lab.DialOptions{Buffer: 64 << 10})
		r.must(err)
		defer c.Close()
		conns[i] = c
	}
	out := func(st *admin.Status) uint64 {
		return sum(st, func(l admin.Listener) uint64 { return l.Counters.BytesOut })
	}
	last := uint64(0)
	s.await("held back", func(st *admin.Status) bool {
		now := out(st)
		still := now == last && now > 0
		last = now
		time.Sleep(600 * time.Millisecond) // more than two beats
		return still
	})
	if last > clients*size/4 {
		r.Errorf("the worker took %d MiB for clients that read nothing", last>>20)
	}
	if grown := residentKiB(r, pid) - before; grown > mayGrow {
		r.Errorf("the worker grew by %d KiB for %d clients that read nothing", grown, clients)
	} else {
		r.Logf("the worker grew by %d KiB for %d clients that read nothing, and took %d KiB for each", grown, clients, last>>10/clients)
	}
	r.must(conns[0].SetDeadline(time.Now().Add(patience)))
	if n, err := lab.CheckPattern(conns[0]); err != nil || n != size {
		r.Errorf("when it does read, a client gets %d bytes, %v", n, err)
	}
}

func residentKiB(r *rig, pid int) int {
	r.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	r.must(err)
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			r.must(err)
			return kib
		}
	}
	r.Fatalf("no VmRSS of process %d", pid)
	return 0
}

// TestShortConnections makes 10,000 connections of one line each; none may be lost, and afterwards none may be left.
func TestShortConnections(t *testing.T) {
	count := int64(10_000)
	if testing.Short() {
		count = 1000
	}
	for _, name := range []string{"explicit", "full-keep", "inbound-redirect"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			server := r.serve(portTell, lab.Tell)
			m := modeNamed(name)
			s := r.start(m.config(portTell))
			var left atomic.Int64
			left.Store(count)
			var failed atomic.Int64
			var first sync.Once
			var all sync.WaitGroup
			for range 32 {
				all.Go(func() {
					for left.Add(-1) >= 0 {
						if err := r.short(m, families[left.Load()&1]); err != nil {
							failed.Add(1)
							first.Do(func() { r.Errorf("the first that failed: %v", err) })
						}
					}
				})
			}
			all.Wait()
			if n := failed.Load(); n > 0 {
				r.Errorf("%d of %d connections were lost", n, count)
			}
			if n := server.Accepted(); n != int(count) {
				r.Errorf("the server saw %d connections, want %d", n, count)
			}
			s.await("counting all and holding none", func(st *admin.Status) bool {
				return sum(st, accepted) == uint64(count) && sum(st, func(l admin.Listener) uint64 { return l.Counters.Active }) == 0
			})
		})
	}
}

// short makes one connection, checks what the server tells, and ends it.
func (r *rig) short(m mode, f family) error {
	c, err := r.net.Client().DialWith(m.to(f, portTell), lab.DialOptions{Timeout: patience})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	all, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	seen, err := lab.ParseTold(string(all))
	if err == nil && m.sourcePort == "keep" && seen.From != lab.Local(c) {
		return fmt.Errorf("the server saw %s, the client is %s", seen.From, lab.Local(c))
	}
	return err
}
