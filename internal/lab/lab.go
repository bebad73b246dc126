// Package lab builds small private networks out of network namespaces, with clients, servers and routers in them, for tests,
// the bench and the demo.
//
// The namespaces have no names: descriptors and threads of this process hold them, so they vanish with it however it ends, and
// two labs never share anything. Nothing is ever written to the namespace the process was started in. It takes root, or
// CAP_NET_ADMIN and CAP_SYS_ADMIN. (network_namespaces(7))
package lab

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Lab is a set of hosts. Its methods may be called concurrently.
type Lab struct {
	mu     sync.Mutex
	hosts  []*Host
	onEnd  []func()
	closed bool

	closing  sync.Once
	closeErr error
}

// New makes an empty lab. It fails when this process may not make network namespaces; the error then says which capability is
// missing and tests true for os.ErrPermission.
func New() (*Lab, error) {
	t, f, err := newNamespace()
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("making a network namespace needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN): %w", err)
		}
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	t.end()
	return &Lab{}, errors.Join(f.Close())
}

// Host adds a host: a network namespace in which only lo is up, forwarding is off and reverse-path filters are off.
// The name is for messages only.
func (l *Lab) Host(name string) (*Host, error) {
	h, err := newHost(l, name)
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.Join(errClosed, h.close())
	}
	l.hosts = append(l.hosts, h)
	return h, nil
}

var errClosed = errors.New("the lab is closed")

// atEnd runs f when the lab closes, before its namespaces go; at once when it is closed already.
func (l *Lab) atEnd(f func()) {
	l.mu.Lock()
	if !l.closed {
		l.onEnd = append(l.onEnd, f)
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	f()
}

// Close ends the servers, kills every process that lives in one of the lab's namespaces, children of children too, and lets the
// namespaces go. Calling it again waits for the first call and returns the same.
func (l *Lab) Close() error {
	l.closing.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

func (l *Lab) close() error {
	l.mu.Lock()
	l.closed = true
	hosts, onEnd := l.hosts, l.onEnd
	l.mu.Unlock()

	for i := len(onEnd) - 1; i >= 0; i-- {
		onEnd[i]()
	}
	err := killInside(hosts)
	for _, h := range hosts {
		err = errors.Join(err, h.close())
	}
	return err
}

// newNamespace makes a network namespace and returns a thread in it and a descriptor of it.
func newNamespace() (*thread, *os.File, error) {
	var f *os.File
	t, err := startThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		f, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return t, f, err
}
