package relay_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"salp/internal/config"
	"salp/internal/lab"
	"salp/internal/listen"
)

// sysctl sets a value in the test's own namespace until the test ends.
func sysctl(t *testing.T, name, value string) {
	t.Helper()
	former, err := exec.Command("sysctl", "-n", name).Output()
	if err != nil {
		t.Skipf("skipped: sysctl %s: %v", name, err)
	}
	t.Cleanup(func() { exec.Command("sysctl", "-w", name+"="+strings.TrimSpace(string(former))).Run() })
	if out, err := exec.Command("sysctl", "-w", name+"="+value).CombinedOutput(); err != nil {
		t.Skipf("skipped: sysctl %s: %v: %s", name, err, out)
	}
}

// dialFrom connects from a chosen address and port, which others may be using at the same time.
func dialFrom(t *testing.T, from, to string) *net.TCPConn {
	t.Helper()
	c, err := tryFrom(from, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	deadline(t, c, 10*time.Second)
	return c.(*net.TCPConn)
}

// refusedFrom expects a reset, which may come before the dial returns.
func refusedFrom(t *testing.T, from, to string) {
	t.Helper()
	c, err := tryFrom(from, to)
	if err == nil {
		defer c.Close()
		deadline(t, c, 10*time.Second)
		_, err = io.Copy(io.Discard, c)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("dialled or read until %v, want a reset", err)
	}
}

func tryFrom(from, to string) (net.Conn, error) {
	d := net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from)),
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			c.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
			})
			return err
		},
	}
	return d.DialContext(context.Background(), "tcp", to)
}

// told reads what lab.Tell says: whom it sees.
func told(t *testing.T, c net.Conn) netip.AddrPort {
	t.Helper()
	line := make([]byte, 100)
	n, err := c.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	p, err := lab.ParseTold(string(line[:n]))
	if err != nil {
		t.Fatal(err)
	}
	return p.From
}

func keeping(how config.SourcePort) config.Listener {
	return config.Listener{Source: config.SourceClient, SourcePort: how}
}

func TestSource(t *testing.T) {
	lab.NeedInside(t)
	for _, test := range []struct {
		name         string
		listener     config.Listener
		from, listen string
		server       string
		addr, port   bool // kept
	}{
		{"proxy", config.Listener{Source: config.SourceProxy}, "127.0.0.5:40001", "127.0.0.1:0", "127.0.0.9:0", false, false},
		{"client", keeping(config.SourcePortAny), "127.0.0.5:40002", "127.0.0.1:0", "127.0.0.9:0", true, false},
		{"keep", keeping(config.SourcePortKeep), "127.0.0.5:40003", "127.0.0.1:0", "127.0.0.9:0", true, true},
		{"require", keeping(config.SourcePortRequire), "127.0.0.5:40004", "127.0.0.1:0", "127.0.0.9:0", true, true},
		{"client6", keeping(config.SourcePortAny), "[::1]:40005", "[::1]:0", "[::1]:0", true, false},
		{"keep6", keeping(config.SourcePortKeep), "[::1]:40006", "[::1]:0", "[::1]:0", true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := start(t, gatewayOptions{listener: test.listener, listen: test.listen, servers: []string{serve(t, test.server, lab.Tell)}})
			from, saw := netip.MustParseAddrPort(test.from), told(t, dialFrom(t, test.from, g.addr))
			if (saw.Addr() == from.Addr()) != test.addr || (saw.Port() == from.Port()) != test.port {
				t.Errorf("the server saw %s of client %s", saw, from)
			}
			if kept := g.sum().PortKept; (kept == 1) != test.port {
				t.Errorf("ports kept: %d", kept)
			}
		})
	}
}

// The client's port is taken by a connection of somebody else's to the same server, which the keeper can or cannot remove.
func TestKeptPortTaken(t *testing.T) {
	lab.NeedInside(t)
	for _, test := range []struct {
		name       string
		how        config.SourcePort
		removable  bool
		nobody     bool // there is no keeper to ask
		kept, fell uint64
		refused    bool
	}{
		{name: "keep, removable", how: config.SourcePortKeep, removable: true, kept: 1},
		{name: "keep, not removable", how: config.SourcePortKeep, fell: 1},
		{name: "keep, nobody to ask", how: config.SourcePortKeep, nobody: true, fell: 1},
		{name: "require, removable", how: config.SourcePortRequire, removable: true, kept: 1},
		{name: "require, not removable", how: config.SourcePortRequire, refused: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			const from = "127.0.0.5:41000"
			server := serve(t, "127.0.0.9:0", lab.Tell)
			inTheWay := dialFrom(t, from, server)
			var asked atomic.Int32
			o := gatewayOptions{listener: keeping(test.how), servers: []string{server}}
			o.destroy = func(local, remote netip.AddrPort, done func(error)) {
				asked.Add(1)
				if local.String() != from || remote.String() != server {
					t.Errorf("asked to destroy %s to %s", local, remote)
				}
				go func() {
					if !test.removable {
						done(errors.New("it is alive"))
						return
					}
					lab.Reset(inTheWay)
					done(nil)
				}()
			}
			if test.nobody {
				o.destroy = nil
			}
			g := start(t, o)
			if test.refused {
				refusedFrom(t, from, g.addr)
			} else {
				c := dialFrom(t, from, g.addr)
				told(t, c)
				defer lab.Reset(c)
			}
			sum := g.sum()
			if sum.PortKept != test.kept || sum.PortFallbacks != test.fell || (sum.Errors[listen.NoPort] == 1) != test.refused {
				t.Errorf("counters %+v", sum)
			}
			if (asked.Load() == 1) == test.nobody {
				t.Errorf("asked %d times to destroy", asked.Load())
			}
			lab.Reset(inTheWay)
		})
	}
}

// A real TIME_WAIT socket, with no timestamps that would let the kernel reuse it.
func TestTimeWaitInTheWay(t *testing.T) {
	lab.NeedInside(t)
	sysctl(t, "net.ipv4.tcp_timestamps", "0")
	const from = "127.0.0.5:42000"
	server := serve(t, "127.0.0.9:0", lab.Tell)
	old := dialFrom(t, from, server)
	told(t, old)
	old.CloseWrite()
	expectEnd(t, old)
	old.Close()
	var asked atomic.Int32
	g := start(t, gatewayOptions{listener: keeping(config.SourcePortRequire), servers: []string{server},
		destroy: func(local, remote netip.AddrPort, done func(error)) {
			asked.Add(1)
			done(netlink.SocketDestroy(net.TCPAddrFromAddrPort(local), net.TCPAddrFromAddrPort(remote)))
		}})
	if saw := told(t, dialFrom(t, from, g.addr)); saw.String() != from {
		t.Errorf("the server saw %s", saw)
	}
	if asked.Load() != 1 {
		t.Errorf("asked %d times to destroy", asked.Load())
	}
}

// A client who is gone while the keeper is being asked: the answer must not touch the next user of the struct.
func TestAnswerForTheDead(t *testing.T) {
	lab.NeedInside(t)
	const from = "127.0.0.5:43000"
	server := serve(t, "127.0.0.9:0", lab.Tell)
	inTheWay := dialFrom(t, from, server)
	answers := make(chan func(error), 1)
	g := start(t, gatewayOptions{listener: keeping(config.SourcePortKeep), servers: []string{server},
		destroy: func(_, _ netip.AddrPort, done func(error)) { answers <- done }})
	c := dialFrom(t, from, g.addr)
	answer := <-answers
	lab.Reset(c)
	g.idle()
	next := dialFrom(t, "127.0.0.5:43001", g.addr)
	told(t, next)
	lab.Reset(inTheWay)
	answer(nil)
	write(t, next, "still here")
	expect(t, next, "still here")
	if sum := g.sum(); sum.Active != 1 || sum.Accepted != 2 {
		t.Errorf("counters %+v", sum)
	}
}

// nat in the namespace, as the plan makes it, for the original destination of a redirected connection.
func TestRedirect(t *testing.T) {
	lab.NeedInside(t)
	server := serve(t, "127.0.0.77:0", lab.Tell)
	g := start(t, gatewayOptions{listen: "0.0.0.0:61999", listener: config.Listener{Source: config.SourceProxy, Intercept: &config.Intercept{Method: config.MethodRedirect}}})
	rules := `table ip salp-test { chain o { type nat hook output priority -100; ip daddr 127.0.0.77 meta mark & 0x20000000 == 0 meta l4proto tcp redirect to :61999; }; }`
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("skipped: nft: %v: %s", err, out)
	}
	defer exec.Command("nft", "delete", "table", "ip", "salp-test").Run()
	c, err := net.Dial("tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	deadline(t, c, 10*time.Second)
	saw := told(t, c)
	if saw == lab.Local(c) {
		t.Errorf("the server saw the client %s, so the connection did not go through the relay", saw)
	}
	if sum := g.sum(); sum.Accepted != 1 || sum.Active != 1 {
		t.Errorf("counters %+v", sum)
	}
	g.addr = "127.0.0.1:61999"
	g.refused()
	if sum := g.sum(); sum.Errors[listen.Loop]+sum.Errors[listen.NoDestination] != 1 {
		t.Errorf("counters %+v", sum)
	}
}
