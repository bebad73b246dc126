// Package conntrack removes connection tracking entries by a bit of their mark.
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
	mark      = 8
	id        = 12
	zone      = 18
	markMask  = 21

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

// marked returns the entries whose mark has the bit, as messages. There are none when the kernel has no connection tracking.
func (c *Conn) marked(bit uint32) ([]netlink.Message, error) {
	body := wire.Append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, wire.BE32(mark, bit), wire.BE32(markMask, bit))
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

// Flush removes the entries whose mark has the bit, one by one and each by its tuple, zone and id, so that no mistake of a
// kernel with the filter can empty the whole table. It returns how many it removed.
func (c *Conn) Flush(bit uint32) (int, error) {
	if bit == 0 {
		return 0, nil
	}
	list, err := c.marked(bit)
	if err != nil {
		return 0, err
	}
	removed := 0
	var errs []error
	for _, m := range list {
		if len(m.Data) < header {
			continue
		}
		as, err := wire.Decode(m.Data[header:])
		tuple, ok := as.Get(tupleOrig)
		if err != nil || !ok || as.BE32(mark)&bit == 0 {
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
