package sock

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Dial says how to connect to a server.
type Dial struct {
	Server   netip.AddrPort
	Source   netip.AddrPort // whose address the server sees; the zero value: the host's own
	KeepPort bool           // the server sees the port of Source too, not one that the kernel chooses
	Mark     uint32         // SO_MARK; 0: none
	DSCP     uint8          // plus one; 0: the kernel's own
}

// Connect starts to connect and returns without waiting: the socket polls writable when it is connected, and in error when that
// failed (Error then says why). A Source needs CAP_NET_RAW or CAP_NET_ADMIN (ip(7), IP_TRANSPARENT).
//
// With KeepPort, EADDRNOTAVAIL or EADDRINUSE says that the four addresses and ports are taken, by a live connection or by one in TIME_WAIT.
//
// Options that a short connection has no use for are left out: the caller sets keepalive and TCP_NODELAY when it needs them.
// SO_OOBINLINE is set, so that a byte sent as urgent stays in the stream.
//
// The handshake's last ACK is held back until the first Send, which then carries it and saves a packet. A caller who has nothing
// to send yet must call Ack, or a server that speaks first is kept waiting for 200 ms.
func Connect(d *Dial) (int, syscall.Errno) {
	family := uintptr(unix.AF_INET6)
	if d.Server.Addr().Is4() {
		family = unix.AF_INET
	}
	n, _, e := syscall.RawSyscall(unix.SYS_SOCKET, family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if e != 0 {
		return -1, e
	}
	fd := int(n)
	if e = d.connect(fd); e != 0 && e != unix.EINPROGRESS {
		Close(fd)
		return -1, e
	}
	return fd, 0
}

func (d *Dial) connect(fd int) syscall.Errno {
	setInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	setInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1) // tcp_rcv_synsent_state_process, net/ipv4/tcp_input.c
	if d.Mark != 0 {
		if e := setInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(int32(d.Mark))); e != 0 {
			return e
		}
	}
	if d.DSCP != 0 {
		if e := d.setDSCP(fd); e != 0 {
			return e
		}
	}
	if d.Source.IsValid() {
		if e := d.bind(fd); e != 0 {
			return e
		}
	}
	var r rawAddr
	size := r.set(d.Server)
	_, _, e := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&r)), size)
	return e
}

// setDSCP sets the upper six bits of the traffic class (ip(7), ipv6(7)).
func (d *Dial) setDSCP(fd int) syscall.Errno {
	if d.Server.Addr().Is4() {
		return setInt(fd, unix.IPPROTO_IP, unix.IP_TOS, int(d.DSCP-1)<<2)
	}
	return setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(d.DSCP-1)<<2)
}

// bind takes the source address. Without a port the kernel must not choose one before it knows the server, or all servers share
// one port space (IP_BIND_ADDRESS_NO_PORT, which IPv6 sockets know too). A kept port needs SO_REUSEADDR, or TIME_WAIT is in its way.
func (d *Dial) bind(fd int) syscall.Errno {
	var e syscall.Errno
	if d.Source.Addr().Is4() {
		e = setInt(fd, unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1)
	} else {
		e = setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1)
	}
	if e != 0 {
		return e
	}
	source := d.Source
	if d.KeepPort {
		e = setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	} else {
		source = netip.AddrPortFrom(source.Addr(), 0)
		e = setInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}
	if e != 0 {
		return e
	}
	var r rawAddr
	size := r.set(source)
	_, _, e = syscall.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&r)), size)
	return e
}
