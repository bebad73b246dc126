package traffic

import (
	"fmt"
	"net/netip"
	"syscall"
	"unsafe"
)

// The system calls below go round the Go scheduler (RawSyscall): a loop has a thread to itself, and telling the scheduler of
// every call would cost as much as a short call does.

// ipBindAddressNoPort leaves the choice of the port to connect(2), so that ports are shared between destinations. (ip(7))
const ipBindAddressNoPort = 24

type poller struct {
	fd     int
	events [256]syscall.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	return &poller{fd: fd}, nil
}

// wait returns what is ready, at most after ms milliseconds.
func (p *poller) wait(ms int) ([]syscall.EpollEvent, error) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.fd),
		uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), uintptr(ms), 0, 0)
	if errno == syscall.EINTR {
		return nil, nil
	}
	if errno != 0 {
		return nil, fmt.Errorf("epoll_pwait: %w", errno)
	}
	return p.events[:n], nil
}

func (p *poller) control(op, fd int, events uint32) error {
	e := syscall.EpollEvent{Events: events, Fd: int32(fd)}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_CTL, uintptr(p.fd), uintptr(op), uintptr(fd),
		uintptr(unsafe.Pointer(&e)), 0, 0)
	if errno != 0 {
		return fmt.Errorf("epoll_ctl: %w", errno)
	}
	return nil
}

func (p *poller) add(fd int, events uint32) error {
	return p.control(syscall.EPOLL_CTL_ADD, fd, events)
}
func (p *poller) change(fd int, events uint32) error {
	return p.control(syscall.EPOLL_CTL_MOD, fd, events)
}

// edge is EPOLLET as the unsigned number that it is.
const edge = 1 << 31

func send(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		syscall.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// receive takes flags; with MSG_TRUNC the bytes are dropped in the kernel. (tcp(7))
func receive(fd int, b []byte, flags int) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		uintptr(flags), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func closeFD(fd int) { _, _, _ = syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0) }

// accept returns EAGAIN when nobody waits.
func accept(fd int) (int, netip.Addr, syscall.Errno) {
	var sa syscall.RawSockaddrInet4
	size := uint32(unsafe.Sizeof(sa))
	n, _, errno := syscall.RawSyscall6(syscall.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&sa)),
		uintptr(unsafe.Pointer(&size)), syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0, 0)
	return int(n), netip.AddrFrom4(sa.Addr), errno
}

func raw(a netip.AddrPort) syscall.RawSockaddrInet4 {
	sa := syscall.RawSockaddrInet4{Family: syscall.AF_INET, Addr: a.Addr().As4()}
	port := (*[2]byte)(unsafe.Pointer(&sa.Port))
	port[0], port[1] = byte(a.Port()>>8), byte(a.Port())
	return sa
}

// dial begins a connection from an address (none if it is not valid) and returns its descriptor.
func dial(from netip.Addr, to netip.AddrPort) (int, error) {
	fd, err := socket()
	if err != nil {
		return -1, err
	}
	if from.IsValid() {
		if err := bindAddress(fd, from); err != nil {
			closeFD(fd)
			return -1, err
		}
	}
	sa := raw(to)
	_, _, errno := syscall.RawSyscall(syscall.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	if errno != 0 && errno != syscall.EINPROGRESS {
		closeFD(fd)
		return -1, fmt.Errorf("connect to %s: %w", to, errno)
	}
	return fd, nil
}

// socket makes a TCP socket with Nagle off: small messages must not wait for acknowledgements.
func socket() (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_SOCKET, syscall.AF_INET,
		syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return -1, fmt.Errorf("socket: %w", errno)
	}
	fd := int(n)
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
		closeFD(fd)
		return -1, fmt.Errorf("TCP_NODELAY: %w", err)
	}
	return fd, nil
}

func bindAddress(fd int, from netip.Addr) error {
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, ipBindAddressNoPort, 1); err != nil {
		return fmt.Errorf("IP_BIND_ADDRESS_NO_PORT: %w", err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: from.As4()}); err != nil {
		return fmt.Errorf("bind to %s: %w", from, err)
	}
	return nil
}

// listenOn makes one of several listening sockets of an address, among which the kernel spreads the connections.
func listenOn(at netip.AddrPort) (int, error) {
	fd, err := socket()
	if err != nil {
		return -1, err
	}
	for _, option := range []int{syscall.SO_REUSEADDR, soReusePort} {
		if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, option, 1); err != nil {
			closeFD(fd)
			return -1, fmt.Errorf("socket option %d: %w", option, err)
		}
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
		closeFD(fd)
		return -1, fmt.Errorf("bind to %s: %w", at, err)
	}
	if err := syscall.Listen(fd, 65535); err != nil {
		closeFD(fd)
		return -1, fmt.Errorf("listen on %s: %w", at, err)
	}
	return fd, nil
}

const soReusePort = 15 // missing in package syscall for amd64 (asm-generic/socket.h)

// localAddress returns the local address of a socket.
func localAddress(fd int) (netip.Addr, syscall.Errno) {
	var sa syscall.RawSockaddrInet4
	size := uint32(unsafe.Sizeof(sa))
	_, _, errno := syscall.RawSyscall(syscall.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)))
	return netip.AddrFrom4(sa.Addr), errno
}
