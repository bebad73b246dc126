// Package sock makes the socket calls of the byte path: straight system calls on plain descriptors, with no allocation.
//
// Two kinds of functions live here. Those that run for every connection or message return a bare errno (0: done) and use raw
// system calls, which do not tell the Go scheduler: every descriptor they touch is non-blocking, so they come back at once.
// Those that run at start (Listen, Tune) return an error that says operation, object and errno.
//
// Addresses are netip.AddrPort, IPv4 never in its IPv4-in-IPv6 form, IPv6 without zone.
package sock

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Recv reads what has arrived (recv(2)). 0 bytes with errno 0 is the peer's FIN.
func Recv(fd int, b []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// Peek reads what has arrived and leaves it in the socket (recv(2), MSG_PEEK).
func Peek(fd int, b []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_PEEK, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// Send writes what the socket takes (send(2)). With more the kernel may hold the bytes back until the next call, which must
// follow at once: a Send, a CloseWrite or a Close then shares their segment.
func Send(fd int, b []byte, more bool) (int, syscall.Errno) {
	flags := uintptr(unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL)
	if more {
		flags |= unix.MSG_MORE
	}
	n, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// Splice moves up to max bytes between a socket and a pipe without copying them (splice(2)). 0 with errno 0 is end of input.
// With more the receiving socket may wait for what follows before it sends a segment that is not full.
func Splice(from, to, max int, more bool) (int, syscall.Errno) {
	flags := uintptr(unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK)
	if more {
		flags |= unix.SPLICE_F_MORE
	}
	n, _, e := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(max), flags)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// CloseWrite sends a FIN after what was written (shutdown(2), SHUT_WR).
func CloseWrite(fd int) syscall.Errno {
	_, _, e := syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return e
}

// Close closes the descriptor; the kernel goes on sending what was written, and then a FIN. Unread input makes it a RST instead.
func Close(fd int) {
	syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
}

// Reset closes the descriptor with a RST and drops what was not sent (socket(7), SO_LINGER with 0 seconds).
func Reset(fd int) {
	linger := unix.Linger{Onoff: 1}
	setsockopt(fd, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&linger), unsafe.Sizeof(linger))
	Close(fd)
}

// Error takes the pending error off the socket (SO_ERROR), 0 when there is none.
func Error(fd int) syscall.Errno {
	var v int32
	size := uint32(unsafe.Sizeof(v))
	if e := getsockopt(fd, unix.SOL_SOCKET, unix.SO_ERROR, unsafe.Pointer(&v), &size); e != 0 {
		return e
	}
	return syscall.Errno(v)
}

// SetNoDelay switches Nagle's algorithm off (tcp(7), TCP_NODELAY), and sends what it had held back.
func SetNoDelay(fd int) syscall.Errno { return setInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) }

// Ack sends an ACK that is being held back (tcp(7), TCP_QUICKACK); see Connect.
func Ack(fd int) { setInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) }

// SetKeepalive makes the kernel probe a silent peer after idle seconds, at the same interval, nine times (tcp(7)). 0 switches it off.
func SetKeepalive(fd int, seconds int) syscall.Errno {
	if seconds <= 0 {
		return setInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0)
	}
	seconds = min(seconds, 32767) // MAX_TCP_KEEPIDLE, include/net/tcp.h
	if e := setInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds); e != 0 {
		return e
	}
	if e := setInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds); e != 0 {
		return e
	}
	return setInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
}

func setInt(fd, level, name, value int) syscall.Errno {
	v := int32(value)
	return setsockopt(fd, level, name, unsafe.Pointer(&v), unsafe.Sizeof(v))
}

func setsockopt(fd, level, name int, p unsafe.Pointer, size uintptr) syscall.Errno {
	_, _, e := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(p), size, 0)
	return e
}

func getsockopt(fd, level, name int, p unsafe.Pointer, size *uint32) syscall.Errno {
	_, _, e := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(p), uintptr(unsafe.Pointer(size)), 0)
	return e
}

// SetDSCP sets the differentiated services code point of what the socket sends (RFC 2474; ip(7), IP_TOS; ipv6(7), IPV6_TCLASS).
func SetDSCP(fd int, dscp uint8, ipv6 bool) syscall.Errno {
	if ipv6 {
		return setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(dscp)<<2)
	}
	return setInt(fd, unix.IPPROTO_IP, unix.IP_TOS, int(dscp)<<2)
}
