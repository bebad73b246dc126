// Package sysctl reads, sets and gives back values below /proc/sys.
//
// Values under net/ belong to the network namespace of the thread that opens the file. A Conn stays with the namespace it was
// opened in, whichever thread its methods run on.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/diff"
	"salp/internal/plan"
)

// Conn reads and writes the values of one network namespace. It is safe for concurrent use.
type Conn struct {
	ns *os.File
	id string
}

// Open stays with the network namespace of the calling thread.
func Open() (*Conn, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	id, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("name the network namespace: %w", err)
	}
	return &Conn{ns: ns, id: id}, nil
}

// Close lets go of the namespace.
func (c *Conn) Close() error { return c.ns.Close() }

// Namespace names the network namespace, as "net:[4026531840]".
func (c *Conn) Namespace() string { return c.id }

// inside runs f on a thread of the namespace. In Salp itself every thread is in the right one, so that this costs a readlink.
// Elsewhere (in tests) the thread visits the namespace and goes home again.
func (c *Conn) inside(f func() error) (err error) {
	runtime.LockOSThread()
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err == nil && here == c.id {
		defer runtime.UnlockOSThread()
		return f()
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the thread's network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(c.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", c.id, err)
	}
	defer func() {
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("leave network namespace %s: %w", c.id, back))
			return // the thread stays locked, so that nobody else gets onto it
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// file is the path of a value. A name cannot lead out of /proc/sys.
func file(name string) (string, error) {
	if !fs.ValidPath(name) || strings.Contains(name, "\x00") {
		return "", fmt.Errorf("sysctl %q: not a name below /proc/sys with slashes", name)
	}
	return path.Join("/proc/sys", name), nil
}

// Read returns a value without the newline. The error is fs.ErrNotExist when there is none of that name.
func (c *Conn) Read(name string) (value string, err error) {
	at, err := file(name)
	if err != nil {
		return "", err
	}
	err = c.inside(func() error {
		b, err := os.ReadFile(at)
		value = strings.TrimSpace(string(b))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return value, nil
}

func (c *Conn) write(name, value string) error {
	at, err := file(name)
	if err != nil {
		return err
	}
	err = c.inside(func() error { return os.WriteFile(at, []byte(value+"\n"), 0) })
	switch {
	case errors.Is(err, unix.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("set sysctl %s to %s: %w; /proc/sys must be writable: run as root, in a container with it mounted read-write, or set it before Salp starts", name, value, err)
	case err != nil:
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	return nil
}

// names lists the values that a pattern with one * stands for.
func (c *Conn) names(pattern string) (out []string) {
	dir, rest, _ := strings.Cut(pattern, "/*/")
	_ = c.inside(func() error {
		entries, err := os.ReadDir(path.Join("/proc/sys", dir))
		for _, e := range entries {
			out = append(out, path.Join(dir, e.Name(), rest))
		}
		return err
	})
	return out
}

// Kept is what a value was before Salp set it, and what Salp set it to.
type Kept struct {
	Name   string `json:"name"`
	Former string `json:"former"`
	Set    string `json:"set"`
	Sides  []Kept `json:"sides,omitempty"` // values that the kernel changes along with it and would not give back
}

// Missing is a value that is not as wanted.
type Missing struct {
	plan.Sysctl
	Was string
}

// Missing returns what is not as wanted, in the order in which it must be set: what keeps an interface accepting router
// advertisements comes before the forwarding that would end it.
func (c *Conn) Missing(want []plan.Sysctl) ([]Missing, error) {
	var out []Missing
	for _, s := range want {
		was, err := c.Read(s.Name)
		if errors.Is(err, fs.ErrNotExist) && strings.Contains(s.Name, "/conf/") && !strings.Contains(s.Name, "/conf/all/") {
			continue // the interface went away since the plan was made
		}
		if err != nil {
			return nil, err
		}
		if was != s.Value {
			out = append(out, Missing{s, was})
		}
	}
	slices.SortStableFunc(out, func(a, b Missing) int { return rank(a.Name) - rank(b.Name) })
	return out, nil
}

func rank(name string) int {
	if strings.HasSuffix(name, "/forwarding") || name == ipForward {
		return 1
	}
	return 0
}

const (
	ipForward     = "net/ipv4/ip_forward"
	ip4AllForward = "net/ipv4/conf/all/forwarding"
	ip6AllForward = "net/ipv6/conf/all/forwarding"
)

// Keep notes the former value of what is about to be set, with the values that the kernel changes along with it. What is noted
// already stays as it is: after a crash the present value is not the former one.
func (c *Conn) Keep(kept []Kept, missing []Missing) []Kept {
	kept = slices.Clone(kept)
	for _, m := range missing {
		if at := slices.IndexFunc(kept, func(k Kept) bool { return k.Name == m.Name }); at >= 0 {
			kept[at].Set = m.Value
			continue
		}
		kept = append(kept, Kept{Name: m.Name, Former: m.Was, Set: m.Value, Sides: c.sides(m)})
	}
	return kept
}

// sides returns the values that setting m changes and that setting it back would not give back. Setting the global switch
// sets that of every interface, and the IPv4 one also net/ipv4/conf/all/accept_redirects to its opposite. (net/ipv4/devinet.c,
// inet_forward_change; net/ipv6/addrconf.c, addrconf_fixup_forwarding)
func (c *Conn) sides(m Missing) []Kept {
	var candidates []Kept
	switch m.Name {
	case ipForward, ip4AllForward:
		candidates = append(candidates, Kept{Name: "net/ipv4/conf/all/accept_redirects", Former: opposite(m.Was), Set: opposite(m.Value)})
		for _, name := range c.names("net/ipv4/conf/*/forwarding") {
			candidates = append(candidates, Kept{Name: name, Former: m.Was, Set: m.Value})
		}
	case ip6AllForward:
		for _, name := range c.names("net/ipv6/conf/*/forwarding") {
			candidates = append(candidates, Kept{Name: name, Former: m.Was, Set: m.Value})
		}
	}
	var out []Kept
	for _, k := range candidates {
		now, err := c.Read(k.Name)
		if err == nil && now != k.Former && k.Name != ip4AllForward && k.Name != ip6AllForward {
			out = append(out, Kept{Name: k.Name, Former: now, Set: k.Set})
		}
	}
	return out
}

func opposite(value string) string {
	if value == "0" {
		return "1"
	}
	return "0"
}

// Set sets what is missing. It returns what it set, also with an error.
func (c *Conn) Set(missing []Missing) ([]diff.Change, error) {
	var done []diff.Change
	for _, m := range missing {
		if err := c.write(m.Name, m.Value); err != nil {
			return done, err
		}
		done = append(done, diff.Change{Op: diff.Alter, Object: "sysctl " + m.Name, Was: m.Was, Want: m.Value})
	}
	return done, nil
}

// Restore gives values back, the last one set first, each only when it still is what Salp set: otherwise somebody else has
// decided since, which is told in left. It goes on after an error.
func (c *Conn) Restore(kept []Kept) (done []diff.Change, left []string, err error) {
	var errs []error
	for _, k := range slices.Backward(kept) {
		changes, words, err := c.restore(k)
		done = append(done, changes...)
		if words != "" {
			left = append(left, words)
		}
		errs = append(errs, err)
	}
	return done, left, errors.Join(errs...)
}

func (c *Conn) restore(k Kept) ([]diff.Change, string, error) {
	now, err := c.Read(k.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist): // went away with its interface
		return nil, "", nil
	case err != nil:
		return nil, "", err
	case now == k.Former:
		return nil, "", nil
	case now != k.Set:
		return nil, fmt.Sprintf("sysctl %s is %s: Salp found %s and set %s, somebody else changed it since", k.Name, now, k.Former, k.Set), nil
	}
	before := make([]string, len(k.Sides))
	for i, side := range k.Sides {
		before[i], _ = c.Read(side.Name)
	}
	if err := c.write(k.Name, k.Former); err != nil {
		return nil, "", err
	}
	done := []diff.Change{{Op: diff.Restore, Object: "sysctl " + k.Name, Was: now, Want: k.Former}}
	for i, side := range k.Sides {
		want := side.Former
		if before[i] != side.Set {
			want = before[i] // somebody else's
		}
		now, err := c.Read(side.Name)
		if err != nil || now == want || want == "" {
			continue
		}
		if err := c.write(side.Name, want); err != nil {
			return done, "", err
		}
		if before[i] != want {
			done = append(done, diff.Change{Op: diff.Restore, Object: "sysctl " + side.Name, Was: before[i], Want: want})
		}
	}
	return done, "", nil
}
