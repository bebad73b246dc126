package wire

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Listener is a netlink socket that hears notifications. It is for one reader.
type Listener struct{ conn *netlink.Conn }

// ErrLost says that notifications were lost because they came faster than they were read. Reading can go on.
var ErrLost = errors.New("netlink: notifications were lost")

// Listen opens a socket in the network namespace of the calling thread. It hears nothing before Join.
func Listen(family int) (*Listener, error) {
	conn, err := dial(family, &netlink.Config{MessageBufferSize: 64 << 10})
	return &Listener{conn}, err
}

// Join begins to hear groups: numbers as RTNLGRP_LINK, not bit masks. A group that the kernel does not have is left out.
func (l *Listener) Join(groups ...uint32) error { return each(groups, l.conn.JoinGroup) }

// Leave stops to hear groups.
func (l *Listener) Leave(groups ...uint32) error { return each(groups, l.conn.LeaveGroup) }

func each(groups []uint32, do func(uint32) error) error {
	var errs []error
	for _, g := range groups {
		if err := do(g); err != nil && !Is(err, unix.EINVAL, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("netlink group %d: %w", g, err))
		}
	}
	return errors.Join(errs...)
}

// Wake makes a Receive that waits return os.ErrDeadlineExceeded.
func (l *Listener) Wake() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) }

// Rest undoes Wake.
func (l *Listener) Rest() { _ = l.conn.SetReadDeadline(time.Time{}) }

// Close closes the socket; a Receive that waits returns os.ErrClosed.
func (l *Listener) Close() error { return l.conn.Close() }

// Receive waits for notifications and calls do for each.
func (l *Listener) Receive(do func(netlink.Message)) error {
	for m, err := range l.conn.ReceiveIter() {
		switch {
		case Is(err, unix.ENOBUFS):
			return ErrLost
		case Is(err, unix.EBADF): // so the library says that Close was called before
			return os.ErrClosed
		case err != nil:
			return err
		}
		do(m)
	}
	return nil
}
