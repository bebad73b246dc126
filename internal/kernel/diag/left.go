package diag

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
)

const markAttribute = 15 // INET_DIAG_MARK, told to CAP_NET_ADMIN alone

// DestroyLeft destroys the TIME_WAIT sockets that have any of these bits in their mark, and returns how many. Sockets with
// addresses of other hosts outlive their gateway by a minute, and the kernel drops what it would forward when early demux
// finds one of them (ip_forward.c): a client that uses its port again could not reach its server.
func (c *Conn) DestroyLeft(marks uint32) (int, error) {
	if marks == 0 {
		return 0, nil
	}
	destroyed := 0
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		list, err := c.list(family, timeWait, "TCP sockets in TIME_WAIT")
		if err != nil {
			return destroyed, err
		}
		for _, found := range list {
			if markOf(found)&marks == 0 {
				continue
			}
			if err := c.destroy(family, found, "a TCP socket in TIME_WAIT"); err != nil {
				return destroyed, err
			}
			destroyed++
		}
	}
	return destroyed, nil
}

// markOf returns a socket's mark, 0 when it has none or the kernel does not tell.
func markOf(b []byte) uint32 {
	attributes, err := wire.Decode(b[messageLen:])
	if err != nil {
		return 0
	}
	mark, known := attributes.Get(markAttribute)
	if !known || len(mark) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(mark)
}
