package lab

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is one network namespace and stands for one machine. Its methods may be called concurrently.
type Host struct {
	Name string

	lab  *Lab
	ns   *os.File
	nl   *netlink.Handle
	fork *thread // starts processes: Pdeathsig strikes when the thread that forked ends, so it must live as long as they do

	mu     sync.Mutex
	idle   []*thread
	closed bool
}

// maxIdle bounds the threads a host keeps for the next Do.
const maxIdle = 32

func newHost(l *Lab, name string) (*Host, error) {
	fork, ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	h := &Host{Name: name, lab: l, ns: ns, fork: fork}
	if err := h.prepare(); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// calm is what makes a new namespace the same everywhere: IPv4 settings are otherwise copied from the host's own namespace, and
// IPv6 addresses are tentative for a second. (Documentation/networking/ip-sysctl.rst)
var calm = [][2]string{
	{"net/ipv4/ip_forward", "0"},
	{"net/ipv4/conf/all/rp_filter", "0"},
	{"net/ipv4/conf/default/rp_filter", "0"},
	{"net/ipv4/conf/all/src_valid_mark", "0"},
	{"net/ipv4/conf/default/src_valid_mark", "0"},
	{"net/ipv6/conf/all/accept_dad", "0"},
	{"net/ipv6/conf/default/accept_dad", "0"},
	{"net/ipv6/conf/default/dad_transmits", "0"},
	{"net/ipv6/conf/default/router_solicitations", "0"},
}

func (h *Host) prepare() error {
	return h.Do(func() (err error) {
		if h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("netlink socket: %w", err)
		}
		for _, s := range calm {
			err := writeSysctl(s[0], s[1])
			if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(s[0], "net/ipv6/") {
				continue // a kernel without IPv6
			}
			if err != nil {
				return err
			}
		}
		return h.Up("lo")
	})
}

// Do runs f in the host's namespace, on a thread of its own, and returns f's error. Sockets that f makes stay in the namespace
// and may be used anywhere afterwards. Goroutines that f starts are outside. f may call Do, of this and of other hosts.
func (h *Host) Do(f func() error) error {
	t, err := h.thread()
	if err != nil {
		return err
	}
	err, lost := t.do(f)
	if !lost {
		h.park(t)
	}
	return err
}

func (h *Host) thread() (*thread, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, fmt.Errorf("host %s: %w", h.Name, errClosed)
	}
	if n := len(h.idle); n > 0 {
		t := h.idle[n-1]
		h.idle = h.idle[:n-1]
		return t, nil
	}
	return startThread(func() error {
		return os.NewSyscallError("setns", unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET))
	})
}

func (h *Host) park(t *thread) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.idle) >= maxIdle {
		t.end()
		return
	}
	h.idle = append(h.idle, t)
}

func (h *Host) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	for _, t := range h.idle {
		t.end()
	}
	h.idle = nil
	h.fork.end()
	if h.nl != nil {
		h.nl.Close()
	}
	return h.ns.Close()
}

// fault adds the host and the operation to a kernel error.
func (h *Host) fault(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", h.Name, fmt.Sprintf(format, args...), err)
}
