package sock

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Mark sets the mark of all packets that a socket sends (socket(7), SO_MARK). It needs CAP_NET_RAW, or CAP_NET_ADMIN before Linux 5.17.
func Mark(fd int, mark uint32) error {
	return os.NewSyscallError("setsockopt SO_MARK", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(int32(mark))))
}

// BindToDevice has a socket send and receive by one interface alone (socket(7), SO_BINDTODEVICE). Since Linux 5.7 it needs no privilege.
func BindToDevice(fd int, device string) error {
	return os.NewSyscallError("setsockopt SO_BINDTODEVICE "+device, unix.BindToDevice(fd, device))
}

// EchoReplies has a raw ICMP socket receive echo replies alone, and not everything that any program on the host is sent (raw(7), ICMP_FILTER;
// RFC 3542 section 3.2).
func EchoReplies(fd int, ipv6 bool) error {
	if ipv6 {
		const echoReply = 129 // RFC 4443 section 4.2
		filter := &unix.ICMPv6Filter{}
		for i := range filter.Data {
			filter.Data[i] = ^uint32(0)
		}
		filter.Data[echoReply>>5] &^= 1 << (echoReply & 31)
		return os.NewSyscallError("setsockopt ICMP6_FILTER", unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, filter))
	}
	const icmpFilter, echoReply = 1, 0 // include/uapi/linux/icmp.h, RFC 792
	return os.NewSyscallError("setsockopt ICMP_FILTER", unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, ^(1<<echoReply)))
}

// Control makes of a function on a descriptor what net.Dialer and net.ListenConfig take.
func Control(f func(fd int) error) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
			return e
		}
		return err
	}
}
