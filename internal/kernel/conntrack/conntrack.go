// Package conntrack removes connection tracking entries by bits of their mark.
package conntrack

import (
	"errors"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
)

// From include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	msgGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	msgDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2
	msgStats  = unix.NFNL_SUBSYS_CTNETLINK<<8 | 5

	tupleOrig = 1
	statusOf  = 3
	markOf    = 8
	id        = 12
	zone      = 18
	markMask  = 21

	seenReply = 2 // IPS_SEEN_REPLY

	header = 4 // struct nfgenmsg
)

// Conn is a lasting ctnetlink connection in one network namespace. It is safe for concurrent use.
type Conn struct{ s *wire.Socket }

// Open opens the connection in the network namespace of the calling thread.
func Open() (*Conn, error) {
	s, err := wire.Open(unix.NETLINK_NETFILTER)
	return &Conn{s}, err
}

// Close closes the connection.
func (c *Conn) Close() error { return c.s.Close() }

// marked returns the entries whose mark has the value in the bits of mask, as messages. There are none when the kernel has no
// connection tracking.
func (c *Conn) marked(value, mask uint32) ([]netlink.Message, error) {
	body := wire.Append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, wire.BE32(markOf, value), wire.BE32(markMask, mask))
	list, err := c.s.Dump(wire.Message{Type: msgGet, Body: body, Operation: "list", Object: "conntrack entries"})
	if wire.Is(err, unix.EINVAL, unix.EOPNOTSUPP, unix.ENOENT) {
		return nil, nil // ctnetlink is not there, so nothing is tracked that we could see
	}
	return list, err
}

// Reachable asks whether conntrack entries can be read, by asking how many there are. nil means yes.
func (c *Conn) Reachable() error {
	_, err := c.s.Do(wire.Message{Type: msgStats, Body: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, Operation: "count", Object: "conntrack entries"})
	return err
}

// Flush removes the entries whose mark has any of the bits. It returns how many it removed.
func (c *Conn) Flush(bits uint32) (int, error) {
	removed := 0
	var errs []error
	for ; bits != 0; bits &= bits - 1 {
		n, err := c.FlushMarked(bits&-bits, bits&-bits, always)
		removed += n
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// FlushMarked removes the entries whose mark has the value in the bits of mask, one by one and each by its tuple, zone and id, so
// that no mistake of a kernel with the filter can empty the whole table. A value of 0 removes nothing. It returns how many it removed.
// When the list has been read, still says whether they are to be removed after all: what begins later is not in it.
//
// The next packet of such a connection begins a new entry. One that was NATed gets another address or port then, so TCP is reset by its
// peer, and UDP goes on.
func (c *Conn) FlushMarked(value, mask uint32, still func() bool) (int, error) {
	return c.flush(value, mask, still, func(wire.Attrs) bool { return true })
}

func always() bool { return true }

// FlushUnanswered is FlushMarked for those entries alone of which no answer was seen.
func (c *Conn) FlushUnanswered(value, mask uint32) (int, error) {
	return c.flush(value, mask, always, func(as wire.Attrs) bool { return as.BE32(statusOf)&seenReply == 0 })
}

func (c *Conn) flush(value, mask uint32, still func() bool, which func(wire.Attrs) bool) (int, error) {
	if value == 0 || value&^mask != 0 {
		return 0, nil
	}
	list, err := c.marked(value, mask)
	if err != nil || !still() {
		return 0, err
	}
	return c.remove(list, func(as wire.Attrs) bool { return as.BE32(markOf)&mask == value && which(as) })
}

// remove removes those entries of a list that which says.
func (c *Conn) remove(list []netlink.Message, which func(wire.Attrs) bool) (int, error) {
	removed := 0
	var errs []error
	for _, m := range list {
		if len(m.Data) < header {
			continue
		}
		as, err := wire.Decode(m.Data[header:])
		tuple, ok := as.Get(tupleOrig)
		if err != nil || !ok || !which(as) {
			continue
		}
		attrs := []wire.Attr{wire.Bytes(tupleOrig|unix.NLA_F_NESTED, tuple)}
		for _, t := range []uint16{zone, id} {
			if b, ok := as.Get(t); ok {
				attrs = append(attrs, wire.Bytes(t, b))
			}
		}
		_, err = c.s.Do(wire.Message{Type: msgDelete, Body: wire.Append([]byte{m.Data[0], unix.NFNETLINK_V0, 0, 0}, attrs...), Operation: "remove", Object: "conntrack entry"})
		switch {
		case err == nil:
			removed++
		case !wire.Is(err, unix.ENOENT):
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}
