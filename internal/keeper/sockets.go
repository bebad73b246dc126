package keeper

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"salp/internal/config"
	"salp/internal/plan"
	"salp/internal/sock"
)

// place is where a listening socket is. Sockets are kept by place, so that a listener may change its name or all the rest while clients dial it.
type place struct {
	address     netip.AddrPort
	transparent bool
}

// group is the SO_REUSEPORT group of one address of one listener.
type group struct {
	place
	listener   string
	intercepts bool
	path       config.Path // where the configuration asks for it
	fds        []int
}

// groupsOf returns the places where the listeners of cfg want sockets, without any yet.
func groupsOf(cfg *config.Config, ports map[string]uint16, ipv6 bool) []*group {
	var groups []*group
	for _, l := range cfg.Listeners {
		if l.Via == config.ViaKernel {
			continue
		}
		path := config.Path{"listeners", l.Name}
		for i, a := range l.Listen {
			groups = append(groups, &group{place: place{address: a}, listener: l.Name, path: append(path[:2:2], "listen", i)})
		}
		if l.Intercept == nil {
			continue
		}
		// Diverted connections arrive on the loopback address, which nobody can dial from outside. NAT by REDIRECT delivers to the
		// ingress interface's own address instead, whatever it is.
		transparent := l.Intercept.Method != config.MethodRedirect
		ips := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
		if transparent {
			ips = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
		}
		for _, ip := range ips {
			if ip.Is4() || ipv6 {
				p := place{address: netip.AddrPortFrom(ip, ports[l.Name]), transparent: transparent}
				groups = append(groups, &group{place: p, listener: l.Name, intercepts: true, path: append(path[:2:2], "intercept")})
			}
		}
	}
	return groups
}

// sockets are the listening sockets that the keeper holds open while workers come and go.
type sockets map[place][]int

// fill gives each group its sockets: those that are open already, and new ones to have as many as there are event loops. A group never
// shrinks, because a closed socket takes with it the connections that wait in its queue. The new ones are returned; they are in s too.
func (s sockets) fill(cfg *config.Config, groups []*group) (opened map[place][]int, err error) {
	opened = map[place][]int{}
	loops := cfg.Workers
	if loops <= 0 {
		loops = runtime.NumCPU()
	}
	// New places first: they may fail. More sockets beside open ones do not, and the kernel gives them connections at once.
	order := slices.Clone(groups)
	slices.SortStableFunc(order, func(a, b *group) int { return cmp.Compare(len(s[a.place]), len(s[b.place])) })
	for _, g := range order {
		if n := loops - len(s[g.place]); n > 0 {
			l := cfg.Listener(g.listener)
			fds, err := sock.Listen(g.address, n, socketOptions(cfg, g, l))
			if err != nil {
				s.undo(opened)
				return nil, listenFault(cfg, g, err)
			}
			opened[g.place] = fds
			s[g.place] = append(s[g.place], fds...)
		}
		g.fds = s[g.place]
	}
	return opened, nil
}

// socketOptions returns the options of a group's sockets.
func socketOptions(cfg *config.Config, g *group, l *config.Listener) sock.ListenOptions {
	return sock.ListenOptions{Transparent: g.transparent, Keepalive: l.Keepalive, Mark: socketMark(cfg, g, l), Backlog: l.Limits.Backlog}
}

// socketMark returns the mark of transparent sockets, which their connections inherit: by it kernel.Remove knows what they leave in
// TIME_WAIT, and the zone chains know whose answers go by a zone of our own.
func socketMark(cfg *config.Config, g *group, l *config.Listener) uint32 {
	marks := plan.MarksIn(cfg.Kernel.Marks)
	switch {
	case !g.transparent:
		return 0
	case l.Source == config.SourceClient:
		return marks.Intercepted | marks.Zone
	}
	return marks.Intercepted
}

// mark gives open sockets the mark that a new configuration wants. It comes just after the plan that reads it.
func (s sockets) mark(cfg *config.Config, groups []*group) {
	for _, g := range groups {
		if !g.transparent {
			continue
		}
		for _, fd := range s[g.place] {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(int32(socketMark(cfg, g, cfg.Listener(g.listener))))) // as it could when it was opened
		}
	}
}

// undo closes the sockets that fill has opened.
func (s sockets) undo(opened map[place][]int) {
	for p, fds := range opened {
		s[p] = s[p][:len(s[p])-len(fds)]
		if len(s[p]) == 0 {
			delete(s, p)
		}
		closeAll(fds)
	}
}

// keep closes the sockets of all places but those of groups.
func (s sockets) keep(groups []*group) {
	wanted := map[place]bool{}
	for _, g := range groups {
		wanted[g.place] = true
	}
	for p, fds := range s {
		if !wanted[p] {
			closeAll(fds)
			delete(s, p)
		}
	}
}

// refuseWaiting resets the intercepted connections that wait for a worker. Clients that dial the proxy go on waiting: they have no way past it.
func (s sockets) refuseWaiting(groups []*group) {
	for _, g := range groups {
		if !g.intercepts {
			continue
		}
		for _, fd := range s[g.place] {
			for range maxRefused {
				conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
				if err != nil {
					break // none waits (EAGAIN), or it went away itself
				}
				// Without lingering close(2) sends a reset (socket(7), SO_LINGER); when that cannot be set it sends a FIN.
				_ = unix.SetsockoptLinger(conn, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
				unix.Close(conn)
			}
		}
	}
}

// maxRefused bounds how many connections of one socket are reset at a time, so that the loop goes on.
const maxRefused = 1024

// holds tells whether one of the sockets listens on that address.
func (s sockets) holds(a netip.AddrPort) bool {
	return s[place{address: a}] != nil || s[place{address: a, transparent: true}] != nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// listenFault says what to do about a socket that cannot be opened, and where the configuration asks for it.
func listenFault(cfg *config.Config, g *group, err error) error {
	hint, what := "", "listener "+g.listener
	if g.listener == "" {
		what = "the page of metrics"
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "another program has this port: stop it, or choose another port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = "the address is on no interface of this host"
	case errors.Is(err, os.ErrPermission) && g.transparent:
		hint = "a transparent socket takes CAP_NET_RAW: run as root"
	case errors.Is(err, os.ErrPermission):
		hint = "a low port takes CAP_NET_BIND_SERVICE: run as root, or choose a port from 1024 up"
	}
	return &socketError{config.Errors{cfg.Fault(g.path, fmt.Sprintf("%s cannot open its socket: %v", what, err), hint)}, g.address, err}
}

// socketError is a config.Errors that also says which address it is about.
type socketError struct {
	faults  config.Errors
	address netip.AddrPort
	cause   error
}

func (e *socketError) Error() string   { return e.faults.Error() }
func (e *socketError) Unwrap() []error { return []error{e.faults, e.cause} }
