package conntrack

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
)

// From include/uapi/linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h.
const (
	tupleReply = 2

	tupleIP, tupleProto = 1, 2
	sourceV4, sourceV6  = 1, 3
	protoNumber         = 1
	protoSourcePort     = 2

	destinationNAT = 32 // IPS_DST_NAT
)

// FlushForwarded removes the entries of connections that destination NAT has sent to one of the servers, and returns how many. What a TCP client
// sends next is taken for a new connection, goes to another server, and is reset by that one; UDP goes on there. Unanswered means only connections that
// the server has sent nothing on: the SYN that a TCP client sends again then begins a connection to another server.
func (c *Conn) FlushForwarded(proto byte, servers []netip.AddrPort, unanswered bool) (int, error) {
	list, err := c.s.Dump(wire.Message{Type: msgGet, Body: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, Operation: "list", Object: "conntrack entries"})
	if wire.Is(err, unix.EINVAL, unix.EOPNOTSUPP, unix.ENOENT) {
		return 0, nil // ctnetlink is not there
	}
	if err != nil {
		return 0, err
	}
	return c.remove(list, func(as wire.Attrs) bool {
		reply := as.Nested(tupleReply)
		number, from := answeredBy(reply)
		status := as.BE32(statusOf)
		return status&destinationNAT != 0 && (!unanswered || status&seenReply == 0) && number == proto && slices.Contains(servers, from)
	})
}

// answeredBy is the protocol of a reply tuple and who sends it.
func answeredBy(tuple wire.Attrs) (byte, netip.AddrPort) {
	ip, proto := tuple.Nested(tupleIP), tuple.Nested(tupleProto)
	b, ok := ip.Get(sourceV4)
	if !ok {
		b, _ = ip.Get(sourceV6)
	}
	addr, _ := netip.AddrFromSlice(b)
	port, _ := proto.Get(protoSourcePort)
	if len(port) != 2 {
		return 0, netip.AddrPort{}
	}
	return proto.U8(protoNumber), netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port))
}
