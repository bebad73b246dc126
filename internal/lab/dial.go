package lab

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DialOptions are the particulars of a connection.
type DialOptions struct {
	From    netip.AddrPort // local address and port; unset: the kernel chooses
	Timeout time.Duration  // 0: five seconds
	Buffer  int            // bytes of SO_RCVBUF and SO_SNDBUF; 0: the kernel's
	Mark    uint32         // SO_MARK
	MPTCP   bool           // ask for Multipath TCP; TCPConn.MultipathTCP tells whether the other end took it
}

// Dial connects from the host to an address ("10.0.2.2:80"), by TCP, with the kernel's choice of local port.
func (h *Host) Dial(to string) (*net.TCPConn, error) { return h.DialWith(to, DialOptions{}) }

// DialWith connects from the host to an address. A chosen local port may be one that is in TIME_WAIT (SO_REUSEADDR).
func (h *Host) DialWith(to string, o DialOptions) (*net.TCPConn, error) {
	addr, err := netip.ParseAddrPort(to) // names are not looked up: that would happen outside
	if err != nil {
		return nil, h.fault(err, "dial")
	}
	d := net.Dialer{Timeout: o.Timeout, Control: o.control, KeepAlive: -1}
	d.SetMultipathTCP(o.MPTCP)
	if d.Timeout == 0 {
		d.Timeout = 5 * time.Second
	}
	if o.From.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(o.From)
	}
	var conn net.Conn
	err = h.Do(func() (err error) {
		conn, err = d.Dial("tcp", addr.String())
		return err
	})
	if err != nil {
		return nil, h.fault(err, "dial")
	}
	return conn.(*net.TCPConn), nil
}

func (o DialOptions) control(_, _ string, c syscall.RawConn) error {
	return control(c, func(fd int) error {
		if o.From.IsValid() {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
				return err
			}
		}
		if o.Mark != 0 {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(o.Mark)); err != nil {
				return err
			}
		}
		return setBuffers(fd, o.Buffer)
	})
}

func setBuffers(fd, bytes int) error {
	if bytes == 0 {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
}

func control(c syscall.RawConn, f func(fd int) error) error {
	var inner error
	if err := c.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// ListenOptions are the particulars of a listening socket.
type ListenOptions struct {
	Transparent bool // IP_TRANSPARENT, IPV6_TRANSPARENT: it may be a tproxy target
	ReusePort   bool
	Mark        uint32 // SO_MARK, which accepted connections inherit
	Buffer      int    // bytes of SO_RCVBUF and SO_SNDBUF, which accepted connections inherit; 0: the kernel's
}

// Listen makes a listening TCP socket on the host, without MPTCP. "[::]:80" takes both families.
func (h *Host) Listen(addr string, o ListenOptions) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: o.control, KeepAlive: -1}
	lc.SetMultipathTCP(false)
	var ln net.Listener
	err := h.Do(func() (err error) {
		ln, err = lc.Listen(context.Background(), "tcp", addr)
		return err
	})
	if err != nil {
		return nil, h.fault(err, "listen")
	}
	return ln.(*net.TCPListener), nil
}

func (o ListenOptions) control(network, _ string, c syscall.RawConn) error {
	return control(c, func(fd int) error {
		if o.ReusePort {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
				return err
			}
		}
		if o.Transparent {
			level, option := unix.SOL_IP, unix.IP_TRANSPARENT
			if network == "tcp6" {
				level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
			}
			if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
				return err
			}
		}
		if o.Mark != 0 {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(int32(o.Mark))); err != nil {
				return err
			}
		}
		return setBuffers(fd, o.Buffer)
	})
}

// Reset closes a connection by a reset instead of a FIN (SO_LINGER 0).
func Reset(c *net.TCPConn) error {
	if err := c.SetLinger(0); err != nil {
		return err
	}
	return c.Close()
}

// Local and Remote return a connection's addresses, IPv4 ones never in IPv6 spelling.
func Local(c net.Conn) netip.AddrPort { return addrPort(c.LocalAddr()) }

// Remote returns the address of a connection's other end.
func Remote(c net.Conn) netip.AddrPort { return addrPort(c.RemoteAddr()) }

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
