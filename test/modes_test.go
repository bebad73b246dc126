package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// mode is one way a listener can work.
type mode struct {
	name       string
	listen     bool // clients dial the gateway
	method     string
	source     string
	sourcePort string
	more       string // further lines of the listener
}

var modes = []mode{
	{name: "explicit", listen: true, source: "proxy"},
	{name: "inbound", method: "tproxy", source: "proxy"},
	{name: "inbound-redirect", method: "redirect", source: "proxy"},
	{name: "outbound-any", listen: true, source: "client", sourcePort: "any"},
	{name: "outbound-keep", listen: true, source: "client", sourcePort: "keep"},
	{name: "outbound-require", listen: true, source: "client", sourcePort: "require"},
	{name: "full-any", method: "tproxy", source: "client", sourcePort: "any"},
	{name: "full-keep", method: "tproxy", source: "client", sourcePort: "keep"},
	{name: "full-require", method: "tproxy", source: "client", sourcePort: "require"},
	{name: "full-redirect-any", method: "redirect", source: "client", sourcePort: "any"},
	{name: "full-redirect-keep", method: "redirect", source: "client", sourcePort: "keep"},
}

func modeNamed(name string) mode {
	for _, m := range modes {
		if m.name == name {
			return m
		}
	}
	panic("no mode " + name)
}

// family is one of the two, with the standard network's addresses.
type family struct {
	name                                     string
	client, gwInside, gwOutside, server, two string
}

var families = []family{
	{"IPv4", "10.0.1.2", "10.0.1.1", "10.0.2.1", "10.0.2.2", "10.0.2.3"},
	{"IPv6", "fd00:1::2", "fd00:1::1", "fd00:2::1", "fd00:2::2", "fd00:2::3"},
}

func at(address string, port int) string { return net.JoinHostPort(address, fmt.Sprint(port)) }

// config returns a configuration of the mode for servers on these ports.
func (m mode) config(ports ...int) string {
	var b strings.Builder
	b.WriteString("drain: 2s\nlisteners:\n")
	rest := "    source: " + m.source + "\n"
	if m.sourcePort != "" {
		rest += "    source_port: " + m.sourcePort + "\n"
	}
	rest += m.more
	if !m.listen {
		fmt.Fprintf(&b, "  all:\n    intercept: {interfaces: [g0], ports: %s, method: %s}\n%s", portList(ports), m.method, rest)
		return b.String()
	}
	pools := "pools:\n"
	for _, port := range ports {
		for i, f := range families {
			name := fmt.Sprintf("p%d-%d", port, i)
			fmt.Fprintf(&b, "  %s:\n    listen: [%q]\n    pool: %s\n%s", name, at(f.gwInside, port), name, rest)
			pools += fmt.Sprintf("  %s: {servers: [%q]}\n", name, at(f.server, port))
		}
	}
	return b.String() + pools
}

func portList(ports []int) string { return strings.ReplaceAll(fmt.Sprint(ports), " ", ", ") }

// to returns what a client dials to reach the server's port.
func (m mode) to(f family, port int) string {
	if m.listen {
		return at(f.gwInside, port)
	}
	return at(f.server, port)
}

// wantSeen checks what the server saw of a client's connection.
func (m mode) wantSeen(r *rig, f family, client netip.AddrPort, seen lab.Peer, port int) {
	r.Helper()
	if seen.To.String() != at(f.server, port) {
		r.Errorf("the server was dialled at %s, want %s", seen.To, at(f.server, port))
	}
	want := f.gwOutside
	if m.source == "client" {
		want = f.client
	}
	if seen.From.Addr().String() != want {
		r.Errorf("the server saw %s, want address %s", seen.From, want)
	}
	if (m.sourcePort == "keep" || m.sourcePort == "require") && seen.From != client {
		r.Errorf("the server saw %s, want the client's own %s", seen.From, client)
	}
}

// The servers that the mode tests talk to, by port.
const (
	portTell = 80 + iota
	portEnd
	portReset
	portBanner
	portClosed // nobody listens
	portHold
	portSilent // listens, but its SYN-ACKs never leave
)

var modePorts = []int{portTell, portEnd, portReset, portBanner, portClosed, portHold, portSilent}

func (r *rig) serve(port int, h lab.Handler) *lab.Server {
	r.Helper()
	s, err := r.net.Server().Serve(at("::", port), h)
	r.must(err)
	return s
}

// TestModes checks, for every mode, family and method: whom each side sees, that bytes pass both ways, half-close, resets both ways,
// servers that speak first, and connect errors.
func TestModes(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			r := newRig(t, 1)
			m.more = "    timeouts: {connect: 1s}\n"
			held := make(chan error, 16)
			r.serve(portTell, lab.Tell)
			r.serve(portEnd, lab.AnswerAtEnd(100_000))
			r.serve(portReset, lab.ResetAfter(5))
			r.serve(portBanner, lab.Banner("220 speak when spoken to\r\n"))
			r.serve(portHold, func(c *net.TCPConn) {
				_, err := io.Copy(io.Discard, c)
				held <- err
			})
			r.silence(portSilent)
			s := r.start(m.config(modePorts...))
			for _, f := range families {
				t.Run(f.name, func(t *testing.T) {
					c := modeCase{&rig{T: t, net: r.net, dir: r.dir, salp: s}, m, f, s}
					t.Run("addresses", func(t *testing.T) { c.in(t).addresses() })
					t.Run("half-close", func(t *testing.T) { c.in(t).halfClose() })
					t.Run("server resets", func(t *testing.T) { c.in(t).serverResets() })
					t.Run("client resets", func(t *testing.T) { c.in(t).clientResets(held) })
					t.Run("banner", func(t *testing.T) { c.in(t).banner() })
					t.Run("refused", func(t *testing.T) { c.in(t).refused(portClosed, "connect_refused") })
					t.Run("silent", func(t *testing.T) { c.in(t).refused(portSilent, "connect_timeout") })
				})
			}
		})
	}
}

// silence makes the server swallow what comes to a port.
func (r *rig) silence(port int) {
	r.Helper()
	_, err := r.net.Server().Run(r.Context(), "nft", fmt.Sprintf("table inet silent { chain in { type filter hook input priority 0; tcp dport %d drop; }; }", port))
	r.must(err)
}

type modeCase struct {
	*rig
	mode mode
	f    family
	s    *salp
}

func (c modeCase) in(t *testing.T) modeCase {
	r := *c.rig
	r.T = t
	c.rig = &r
	return c
}

func (c modeCase) to(port int) string { return c.mode.to(c.f, port) }

func (c modeCase) addresses() {
	before := sum(c.s.await("there", func(*admin.Status) bool { return true }), accepted)
	const connections = 3
	for i := range connections {
		v, seen := c.tell(c.to(portTell))
		c.mode.wantSeen(c.rig, c.f, lab.Local(v.conn), seen, portTell)
		v.exchange(fmt.Sprint("again ", i))
		c.must(v.conn.CloseWrite())
		if rest, err := io.ReadAll(v.read); err != nil || len(rest) != 0 {
			c.Errorf("after the end came %q, %v", rest, err)
		}
	}
	c.s.await("counting them", func(st *admin.Status) bool { return sum(st, accepted) >= before+connections })
}

func (c modeCase) halfClose() {
	conn := c.dial(c.to(portEnd))
	_, err := io.WriteString(conn, "1234567")
	c.must(err)
	time.Sleep(20 * time.Millisecond) // so that FIN and data do not travel together
	c.must(conn.CloseWrite())
	var got int
	_, err = fmt.Fscanf(conn, "%d\n", &got)
	c.must(err)
	if got != 7 {
		c.Errorf("the server got %d bytes before the end, want 7", got)
	}
	if n, err := lab.CheckPattern(conn); err != nil || n != 100_000 {
		c.Errorf("the answer after the half-close: %d bytes, %v", n, err)
	}
}

func (c modeCase) serverResets() {
	conn := c.dial(c.to(portReset))
	_, err := io.WriteString(conn, "12345")
	c.must(err)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		c.Errorf("the server reset, the client read: %v; want a reset", err)
	}
}

func (c modeCase) clientResets(held <-chan error) {
	conn := c.dial(c.to(portHold))
	_, err := io.WriteString(conn, "12345")
	c.must(err)
	time.Sleep(50 * time.Millisecond) // the connection to the server has to exist to be reset
	c.must(lab.Reset(conn))
	select {
	case err := <-held:
		if !errors.Is(err, syscall.ECONNRESET) {
			c.Errorf("the client reset, the server read: %v; want a reset", err)
		}
	case <-time.After(patience):
		c.Error("the client reset, and the server does not know")
	}
}

func (c modeCase) banner() {
	conn := c.dial(c.to(portBanner))
	buf := make([]byte, 26)
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "220 speak when spoken to\r\n" {
		c.Errorf("banner %q, %v", buf, err)
	}
}

// refused wants a reset, not silence and not a clean end, where the server cannot be reached.
func (c modeCase) refused(port int, kind string) {
	before := sum(c.s.await("there", func(*admin.Status) bool { return true }), errorsOf(kind))
	conn, err := c.net.Client().DialWith(c.to(port), lab.DialOptions{Timeout: patience})
	if err == nil {
		defer conn.Close()
		c.must(conn.SetDeadline(time.Now().Add(patience)))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNREFUSED) {
		c.Errorf("the server cannot be reached, the client got: %v; want a reset", err)
	}
	c.s.await("counting "+kind, func(st *admin.Status) bool { return sum(st, errorsOf(kind)) > before })
}

func errorsOf(kind string) func(admin.Listener) uint64 {
	return func(l admin.Listener) uint64 { return l.Counters.Errors[kind] }
}

// TestUnreachable has the client dial a server that is not there: it must be told.
func TestUnreachable(t *testing.T) {
	r := newRig(t, 1)
	s := r.start(modeNamed("inbound").config(portTell))
	conn, err := r.net.Client().DialWith("10.0.2.99:80", lab.DialOptions{Timeout: patience})
	if err == nil {
		defer conn.Close()
		r.must(conn.SetDeadline(time.Now().Add(patience)))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		r.Errorf("nobody has that address, the client got: %v; want a reset", err)
	}
	s.await("counting connect_other", func(st *admin.Status) bool { return sum(st, errorsOf("connect_other")) == 1 })
}

// TestNoMultipath has a client ask for Multipath TCP, which a proxy that carries one path must not accept.
func TestNoMultipath(t *testing.T) {
	for _, name := range []string{"explicit", "inbound", "inbound-redirect", "full-keep"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			r.serve(portTell, lab.Tell)
			m := modeNamed(name)
			r.start(m.config(portTell))
			for _, f := range families {
				conn, err := r.net.Client().DialWith(m.to(f, portTell), lab.DialOptions{Timeout: patience, MPTCP: true})
				r.must(err)
				defer conn.Close()
				r.must(conn.SetDeadline(time.Now().Add(patience)))
				v := &conversation{r: r, conn: conn, read: bufio.NewReader(conn)}
				v.told()
				v.exchange("one path")
				if multipath, err := conn.MultipathTCP(); multipath || err != nil {
					r.Errorf("%s: multipath %v, %v", f.name, multipath, err)
				}
			}
		})
	}
}
