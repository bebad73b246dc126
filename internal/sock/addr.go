package sock

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawAddr holds a sockaddr_in or a sockaddr_in6 as the kernel lays it out (ip(7), ipv6(7)).
type rawAddr struct {
	family uint16 // host byte order
	port   [2]byte
	rest   [24]byte // IPv4: address, zeros. IPv6: flow label, address, scope.
}

const (
	sizeof4 = unix.SizeofSockaddrInet4
	sizeof6 = unix.SizeofSockaddrInet6
)

func (r *rawAddr) set(a netip.AddrPort) (size uintptr) {
	r.port = [2]byte{byte(a.Port() >> 8), byte(a.Port())}
	if a.Addr().Is4() {
		r.family = unix.AF_INET
		b := a.Addr().As4()
		copy(r.rest[:4], b[:])
		return sizeof4
	}
	r.family = unix.AF_INET6
	b := a.Addr().As16()
	copy(r.rest[4:20], b[:])
	return sizeof6
}

// get returns the zero AddrPort for any other family.
func (r *rawAddr) get() netip.AddrPort {
	port := uint16(r.port[0])<<8 | uint16(r.port[1])
	switch r.family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(r.rest[:4])), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(r.rest[4:20])).Unmap(), port)
	}
	return netip.AddrPort{}
}

// Local returns the socket's own address. Of a connection that nft tproxy diverted it is the original destination.
func Local(fd int) (netip.AddrPort, syscall.Errno) {
	var r rawAddr
	size := uint32(unsafe.Sizeof(r))
	if _, _, e := syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&r)), uintptr(unsafe.Pointer(&size))); e != 0 {
		return netip.AddrPort{}, e
	}
	return r.get(), 0
}

// originalDst is SO_ORIGINAL_DST and, with the same value, IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv4.h, netfilter_ipv6/ip6_tables.h).
const originalDst = 80

// OriginalDst asks connection tracking where a connection went before NAT redirected it. ENOENT: the entry is gone, or there
// never was NAT. A connection that dialled the listener itself may get the listener's own address. Never use it with tproxy.
func OriginalDst(fd int, ipv6 bool) (netip.AddrPort, syscall.Errno) {
	var r rawAddr
	size, level := uint32(sizeof4), unix.IPPROTO_IP
	if ipv6 {
		size, level = sizeof6, unix.IPPROTO_IPV6
	}
	if e := getsockopt(fd, level, originalDst, unsafe.Pointer(&r), &size); e != 0 {
		return netip.AddrPort{}, e
	}
	return r.get(), 0
}

// Accept takes one connection off a listener (accept4(2)); its socket is non-blocking and has the listener's options.
// EAGAIN: there is none.
func Accept(fd int) (int, netip.AddrPort, syscall.Errno) {
	var r rawAddr
	size := uint32(unsafe.Sizeof(r))
	n, _, e := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&r)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if e != 0 {
		return -1, netip.AddrPort{}, e
	}
	return int(n), r.get(), 0
}
