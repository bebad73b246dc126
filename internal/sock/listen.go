package sock

import (
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ListenOptions are the options of a group of listening sockets.
type ListenOptions struct {
	Transparent bool          // take connections for any address, diverted by nft tproxy; needs CAP_NET_RAW or CAP_NET_ADMIN
	Mark        uint32        // SO_MARK, which accepted sockets inherit; 0: none; needs the same
	Keepalive   time.Duration // idle time and interval of accepted connections; 0: off
	Backlog     int           // 0: 65535, which the kernel cuts to net.core.somaxconn
}

// Listen opens a SO_REUSEPORT group of n listening TCP sockets on one address, one for each event loop: the kernel spreads new
// connections over them. They are non-blocking and close on exec. An IPv6 socket takes IPv6 only. MPTCP is never offered.
func Listen(addr netip.AddrPort, n int, o ListenOptions) ([]int, error) {
	fds := make([]int, 0, n)
	for range n {
		fd, err := listen(addr, o)
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			return nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func listen(addr netip.AddrPort, o ListenOptions) (fd int, err error) {
	family, level, transparent := unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT
	if addr.Addr().Is4() {
		family, level, transparent = unix.AF_INET, unix.IPPROTO_IP, unix.IP_TRANSPARENT
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	options := []struct {
		want                 bool
		level, option, value int
		name                 string
	}{
		{true, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1, "SO_REUSEADDR"},
		{true, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, "SO_REUSEPORT"},
		{family == unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1, "IPV6_V6ONLY"},
		{o.Transparent, level, transparent, 1, "IP_TRANSPARENT"},
		{o.Mark != 0, unix.SOL_SOCKET, unix.SO_MARK, int(o.Mark), "SO_MARK"},
	}
	for _, s := range options {
		if !s.want {
			continue
		}
		if err := unix.SetsockoptInt(fd, s.level, s.option, s.value); err != nil {
			return -1, os.NewSyscallError("setsockopt "+s.name, err)
		}
	}
	if err := Tune(fd, o.Keepalive); err != nil {
		return -1, err
	}
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
	if family == unix.AF_INET {
		sa = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return -1, os.NewSyscallError("bind", err)
	}
	if err := SetBacklog(fd, o.Backlog); err != nil {
		return -1, err
	}
	return fd, nil
}

// SetBacklog begins to listen, or changes how many connections may wait on a socket that does; 0: 65535. The kernel cuts it to net.core.somaxconn.
func SetBacklog(fd, n int) error {
	if n <= 0 {
		n = 65535
	}
	return os.NewSyscallError("listen", unix.Listen(fd, n))
}

// AcceptQueue returns how many connections wait on a listening socket, how many may, and how often one or its SYN was dropped since the socket was
// opened (tcp_get_info, net/ipv4/tcp.c; socket(7), SO_MEMINFO).
func AcceptQueue(fd int) (waiting, bound, dropped uint32, err error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, 0, 0, os.NewSyscallError("getsockopt TCP_INFO", err)
	}
	const drops = 8 // SK_MEMINFO_DROPS, linux/sock_diag.h
	var memory [drops + 1]uint32
	size := uint32(unsafe.Sizeof(memory))
	if e := getsockopt(fd, unix.SOL_SOCKET, unix.SO_MEMINFO, unsafe.Pointer(&memory), &size); e != 0 {
		return 0, 0, 0, os.NewSyscallError("getsockopt SO_MEMINFO", e)
	}
	return info.Unacked, info.Sacked, memory[drops], nil
}

// Tune sets on a listening socket the options that its connections inherit: no Nagle delay, urgent bytes in the stream, and
// keepalive. It needs no privilege, so that a worker can bring the sockets it was handed up to its own configuration.
func Tune(fd int, keepalive time.Duration) error {
	if e := SetNoDelay(fd); e != 0 {
		return os.NewSyscallError("setsockopt TCP_NODELAY", e)
	}
	if e := setInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); e != 0 {
		return os.NewSyscallError("setsockopt SO_OOBINLINE", e)
	}
	if e := SetKeepalive(fd, Seconds(keepalive)); e != 0 {
		return os.NewSyscallError("setsockopt SO_KEEPALIVE", e)
	}
	return nil
}

// Seconds rounds a duration up to whole seconds, the unit of the kernel's keepalive options.
func Seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }
