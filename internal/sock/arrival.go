package sock

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// ipPktOptions (IP_PKTOPTIONS) and ipv6PktOptions (IPV6_2292PKTOPTIONS) of a stream socket return what the handshake's last packet had, in
	// control messages. (net/ipv4/ip_sockglue.c and net/ipv6/ipv6_sockglue.c, do_ip_getsockopt and do_ipv6_getsockopt)
	ipPktOptions   = 9
	ipv6PktOptions = 6
	// InterfaceNameSize is the longest name of an interface with the zero after it (IFNAMSIZ).
	InterfaceNameSize = 16
)

// Arrival returns the index of the interface that the client's packets of an accepted connection come in by, also where TPROXY diverted them, and
// their differentiated services code point.
func Arrival(fd int, ipv6 bool) (index int, dscp uint8, e syscall.Errno) {
	level, info, class, options := unix.IPPROTO_IP, unix.IP_PKTINFO, unix.IP_RECVTOS, ipPktOptions
	if ipv6 {
		level, info, class, options = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, unix.IPV6_RECVTCLASS, ipv6PktOptions
	}
	for _, option := range [2]int{info, class} {
		if e := setInt(fd, level, option, 1); e != 0 {
			return 0, 0, e
		}
	}
	var b [256]byte
	size := uint32(len(b))
	e = getsockopt(fd, level, options, unsafe.Pointer(&b), &size)
	for _, option := range [2]int{info, class} { // or the kernel would keep a copy of each packet with IPv6
		_ = setInt(fd, level, option, 0)
	}
	if e != 0 {
		return 0, 0, e
	}
	index, dscp = readArrival(b[:min(size, uint32(len(b)))], ipv6)
	if index == 0 {
		return 0, 0, syscall.ENODATA
	}
	return index, dscp, 0
}

// readArrival reads the control messages (cmsg(3)) that the kernel made.
func readArrival(b []byte, ipv6 bool) (index int, dscp uint8) {
	const header = unix.SizeofCmsghdr
	for len(b) >= header {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		if h.Len < header || h.Len > uint64(len(b)) {
			return index, dscp
		}
		data := b[header:h.Len]
		switch {
		case !ipv6 && h.Type == unix.IP_PKTINFO && len(data) >= 4:
			index = int(binary.NativeEndian.Uint32(data))
		case ipv6 && h.Type == unix.IPV6_PKTINFO && len(data) >= 20:
			index = int(binary.NativeEndian.Uint32(data[16:]))
		case (!ipv6 && h.Type == unix.IP_TOS || ipv6 && h.Type == unix.IPV6_TCLASS) && len(data) >= 4:
			dscp = uint8(binary.NativeEndian.Uint32(data)) >> 2
		case !ipv6 && h.Type == unix.IP_TOS && len(data) >= 1:
			dscp = data[0] >> 2
		}
		b = b[min(unix.CmsgSpace(len(data)), len(b)):]
	}
	return index, dscp
}

// InterfaceName writes the name of the interface with that index and returns its length. (netdevice(7), SIOCGIFNAME)
func InterfaceName(fd, index int, name *[InterfaceNameSize]byte) (int, syscall.Errno) {
	var request struct {
		name  [InterfaceNameSize]byte
		index int32
		_     [20]byte
	}
	request.index = int32(index)
	if _, _, e := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFNAME, uintptr(unsafe.Pointer(&request))); e != 0 {
		return 0, e
	}
	*name = request.name
	for n, c := range name {
		if c == 0 {
			return n, 0
		}
	}
	return len(name), 0
}
