package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
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

// refusal returns nil when an NLMSG_ERROR or NLMSG_DONE message is an acknowledgement.
func refusal(asked Message, m netlink.Message) error {
	if len(m.Data) < 4 {
		return nil
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
	if errno == 0 {
		return nil
	}
	e := &Error{Operation: asked.Operation, Object: asked.Object, Errno: errno, Hint: hint(errno)}
	if m.Header.Flags&netlink.AcknowledgeTLVs == 0 {
		return e
	}
	skip := 4
	if m.Header.Type == netlink.Error {
		skip += headerLen
		if m.Header.Flags&netlink.Capped == 0 && len(m.Data) >= skip { // the request is echoed whole before the attributes
			skip = 4 + max(headerLen, aligned(int(binary.NativeEndian.Uint32(m.Data[4:]))))
		}
	}
	if len(m.Data) < skip {
		return e
	}
	as, err := Decode(m.Data[skip:])
	if err != nil {
		return e
	}
	e.Words = as.String(unix.NLMSGERR_ATTR_MSG)
	if as.Has(unix.NLMSGERR_ATTR_OFFS) {
		e.Attribute = readable(asked, int(as.U32(unix.NLMSGERR_ATTR_OFFS)))
	}
	return e
}

// readable returns the string in the attribute of a request that the kernel points at, or the first one inside it (a refused nft
// expression's name), or "" when there is no text.
func readable(asked Message, offset int) string {
	offset -= headerLen
	if offset < 0 || offset > len(asked.Body) {
		return ""
	}
	ad, err := netlink.NewAttributeDecoder(asked.Body[offset:])
	if err != nil || !ad.Next() {
		return ""
	}
	data := ad.Bytes()
	if ad.TypeFlags()&netlink.Nested != 0 {
		inner, err := Decode(data)
		if err != nil || len(inner) == 0 {
			return ""
		}
		data = inner[0].Data
	}
	return printable(data)
}

func printable(data []byte) string {
	if len(data) < 2 || data[len(data)-1] != 0 {
		return ""
	}
	data = data[:len(data)-1]
	for _, c := range data {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	return string(data)
}
