package wire

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Listener is a netlink socket that hears notifications. It is for one reader.
type Listener struct {
	f   *os.File
	buf []byte
}

// ErrLost says that notifications were lost because they came faster than they were read. Reading can go on.
var ErrLost = errors.New("netlink: notifications were lost")

// Listen opens a socket in the network namespace of the calling thread. It hears nothing before Join.
func Listen(family int) (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, family)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket of family %d: %w", family, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind netlink socket of family %d: %w", family, err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	return &Listener{f: os.NewFile(uintptr(fd), "netlink"), buf: make([]byte, 64<<10)}, nil
}

// Join begins to hear groups: numbers as RTNLGRP_LINK, not bit masks. A group that the kernel does not have is left out.
func (l *Listener) Join(groups ...int) error {
	return l.control(unix.NETLINK_ADD_MEMBERSHIP, groups)
}

// Leave stops to hear groups.
func (l *Listener) Leave(groups ...int) error {
	return l.control(unix.NETLINK_DROP_MEMBERSHIP, groups)
}

func (l *Listener) control(option int, groups []int) error {
	raw, err := l.f.SyscallConn()
	if err != nil {
		return err
	}
	var errs []error
	err = raw.Control(func(fd uintptr) {
		for _, g := range groups {
			err := unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, option, g)
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("netlink group %d: %w", g, err))
			}
		}
	})
	return errors.Join(append(errs, err)...)
}

// Wake makes a Receive that waits return os.ErrDeadlineExceeded.
func (l *Listener) Wake() { _ = l.f.SetReadDeadline(time.Unix(1, 0)) }

// Rest undoes Wake.
func (l *Listener) Rest() { _ = l.f.SetReadDeadline(time.Time{}) }

// Close closes the socket; a Receive that waits returns os.ErrClosed.
func (l *Listener) Close() error { return l.f.Close() }

// Receive waits for a datagram and calls do for each message in it. Bodies are valid only during the call.
func (l *Listener) Receive(do func(Message)) error {
	raw, err := l.f.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var sender unix.Sockaddr
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, sender, readErr = unix.Recvfrom(int(fd), l.buf, 0)
			if !errors.Is(readErr, unix.EINTR) {
				return !errors.Is(readErr, unix.EAGAIN)
			}
		}
	})
	if err != nil {
		return err
	}
	if errors.Is(readErr, unix.ENOBUFS) {
		return ErrLost
	}
	if readErr != nil {
		return readErr
	}
	if from, ok := sender.(*unix.SockaddrNetlink); ok && from.Pid != 0 {
		return nil // only the kernel is believed
	}
	return Split(l.buf[:n], do)
}
