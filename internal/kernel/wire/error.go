package wire

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Error is the kernel's refusal of one request. It unwraps to the errno.
type Error struct {
	Operation string // "add"
	Object    string // "nft rule inet salp divert: tcp dport 80 …"
	Errno     unix.Errno
	Words     string // the kernel's own explanation (extended ack), or ""
	Attribute string // a readable attribute that the kernel points at, as the name of an nft expression, or ""
	Hint      string // what to do, or ""
}

// Error returns operation, object, errno, the kernel's own words and the way out.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %v (%s)", e.Operation, e.Object, e.Errno, unix.ErrnoName(e.Errno))
	if e.Words != "" {
		fmt.Fprintf(&b, ": kernel says %q", e.Words)
	}
	if e.Attribute != "" {
		fmt.Fprintf(&b, ", about %q", e.Attribute)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "; %s", e.Hint)
	}
	return b.String()
}

// Unwrap returns the errno.
func (e *Error) Unwrap() error { return e.Errno }

// Is tells whether err is the kernel's refusal with one of these numbers.
func Is(err error, numbers ...unix.Errno) bool {
	for _, n := range numbers {
		if errors.Is(err, n) {
			return true
		}
	}
	return false
}

func hint(errno unix.Errno) string {
	switch errno {
	case unix.EPERM, unix.EACCES:
		return "this needs CAP_NET_ADMIN in the network namespace: run as root"
	case unix.ENOBUFS, unix.ENOMEM:
		return "the kernel is short of memory"
	}
	return ""
}
