// Package kernel brings the kernel to a plan, keeps it there and takes everything back: the only writer of nft tables, ip rules, routes and sysctls.
//
// It speaks netlink and /proc, and starts no program. Every socket is opened in Open, in the network namespace of the calling
// thread, and stays there. Former values are in the run directory's state file before the kernel is touched, so that Remove
// leaves the host as it was also after a crash, from another process and without the configuration.
package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/conntrack"
	"salp/internal/kernel/diag"
	"salp/internal/kernel/diff"
	"salp/internal/kernel/nft"
	"salp/internal/kernel/route"
	"salp/internal/kernel/sysctl"
	"salp/internal/kernel/watch"
	"salp/internal/plan"
)

// Change is one difference between the kernel and a plan.
type Change = diff.Change

// Options say where a Host keeps its state and tells what it leaves alone.
type Options struct {
	RunDir string       // holds state.json; made when it is first needed. It also tells this Salp's tables from another's
	Log    *slog.Logger // nil: silent
	Owner  *os.File     // the socket that owns the tables, left open by an earlier program of this process (see Host.Owner); nil: a new one
}

// Host is the kernel of one network namespace. It is safe for concurrent use. nft tables with an owner last as long as it does.
type Host struct {
	runDir string
	log    *slog.Logger

	nft       *nft.Conn
	route     *route.Conn
	sysctl    *sysctl.Conn
	diag      *diag.Conn
	conntrack *conntrack.Conn
	watch     *watch.Conn

	mu      sync.Mutex             // one Apply, Diff or Remove at a time
	wanted  atomic.Pointer[wanted] // the plan in force
	waiting map[string]bool        // why routes are not there that Apply wanted there; guarded by mu

	canDivert, canForward, canOffload atomic.Int32 // each a plan.Support
}

// wanted is a plan with what Alive and Watch look up in it.
type wanted struct {
	plan  plan.Plan
	alive [][2]string // table and set of each alive set
}

// Open opens the kernel of the calling thread's network namespace. It needs no privilege; what is done later does.
func Open(o Options) (*Host, error) {
	runDir, err := filepath.Abs(o.RunDir)
	if err != nil {
		return nil, fmt.Errorf("run directory %s: %w", o.RunDir, err)
	}
	h := &Host{runDir: runDir, log: o.Log}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	h.wanted.Store(&wanted{})
	var errs [6]error
	h.sysctl, errs[0] = sysctl.Open()
	if o.Owner != nil {
		h.nft, errs[1] = nft.Adopt(runDir, o.Owner)
	} else {
		h.nft, errs[1] = nft.Open(runDir)
	}
	h.route, errs[2] = route.Open()
	h.diag, errs[3] = diag.Open()
	h.conntrack, errs[4] = conntrack.Open()
	h.watch, errs[5] = watch.Open()
	if err := errors.Join(errs[:]...); err != nil {
		h.Close()
		return nil, fmt.Errorf("open the kernel's netlink interfaces: %w", err)
	}
	return h, nil
}

// Close lets go of the kernel. Tables with an owner are gone with it; Remove takes away the rest.
func (h *Host) Close() error {
	var errs []error
	if h.nft != nil {
		errs = append(errs, h.nft.Close())
	}
	if h.route != nil {
		errs = append(errs, h.route.Close())
	}
	if h.sysctl != nil {
		errs = append(errs, h.sysctl.Close())
	}
	if h.diag != nil {
		errs = append(errs, h.diag.Close())
	}
	if h.conntrack != nil {
		errs = append(errs, h.conntrack.Close())
	}
	if h.watch != nil {
		errs = append(errs, h.watch.Close())
	}
	return errors.Join(errs...)
}

// Owner is the number of the descriptor of the socket that owns the tables. A program that takes the place of this one by execve(2) must
// inherit it, or they are gone. It stays the Host's.
func (h *Host) Owner() (int, error) { return h.nft.Owner() }

func (h *Host) want(p plan.Plan) {
	w := &wanted{plan: p}
	for _, t := range p.Tables {
		for _, s := range t.Sets {
			if s.Runtime && s.Name == plan.AliveSet {
				w.alive = append(w.alive, [2]string{t.Name, s.Name})
			}
		}
	}
	h.wanted.Store(w)
}

// Alive says that a worker answers: the plan's alive sets hold TCP for that long from now, or nothing when it is
// not above 0. It is cheap, and can be called while an Apply runs.
func (h *Host) Alive(d time.Duration) error {
	wanted := h.wanted.Load()
	for _, set := range wanted.alive {
		if err := h.nft.SetElement(set[0], set[1], unix.IPPROTO_TCP, d); err != nil {
			return err
		}
	}
	if d <= 0 && len(wanted.alive) > 0 {
		go h.forgetUnanswered(plan.MarksIn(wanted.plan.Marks).Intercepted) // a large table takes a while
	}
	return nil
}

// forgetUnanswered removes the entries of connections that were taken in and that nobody has answered. Their clients send the SYN again,
// and it passes by; but the entry says that answers come by a zone of ours, and the server's would not be found.
func (h *Host) forgetUnanswered(bit uint32) {
	if n, err := h.conntrack.FlushUnanswered(bit, bit); err != nil {
		h.log.Debug("connections that nobody answered are not forgotten", "error", err)
	} else if n > 0 {
		h.log.Debug("forgot connections that nobody answered", "count", n)
	}
}

// DestroyTimeWait destroys the TCP socket with exactly these addresses if it is in TIME_WAIT. That there is none is success; a
// socket in another state is left alone and an error. It needs CAP_NET_ADMIN.
func (h *Host) DestroyTimeWait(local, remote netip.AddrPort) error {
	return h.diag.DestroyTimeWait(local, remote)
}
