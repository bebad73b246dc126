package sock

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAddressRoundTrip(t *testing.T) {
	for _, text := range []string{"10.0.0.1:80", "255.255.255.255:65535", "0.0.0.0:0", "[::1]:443", "[fd00:1::2]:1", "[2001:db8:ffff:1:2:3:4:5]:65535"} {
		a := netip.MustParseAddrPort(text)
		var r rawAddr
		size := r.set(a)
		if want := map[bool]uintptr{true: 16, false: 28}[a.Addr().Is4()]; size != want {
			t.Errorf("%s: %d bytes", text, size)
		}
		if got := r.get(); got != a {
			t.Errorf("%s became %s", text, got)
		}
	}
	mapped := rawAddr{family: unix.AF_INET6}
	mapped.set(netip.MustParseAddrPort("[::ffff:10.0.0.1]:80"))
	if got := mapped.get(); got.String() != "10.0.0.1:80" {
		t.Errorf("a mapped address became %s", got)
	}
	if got := (&rawAddr{family: unix.AF_UNIX}).get(); got.IsValid() {
		t.Errorf("another family became %s", got)
	}
}

// What a connection inherits from its listener, and what Connect sets, on both families.
func TestListenConnectAccept(t *testing.T) {
	for _, on := range []string{"127.0.0.1:0", "[::1]:0"} {
		group, err := Listen(netip.MustParseAddrPort(on), 1, ListenOptions{Keepalive: 1500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		defer Close(group[0])
		addr, e := Local(group[0])
		if e != 0 {
			t.Fatal(e)
		}
		if _, _, e := Accept(group[0]); e != syscall.EAGAIN {
			t.Errorf("accept with nobody there: %v", e)
		}
		client, e := Connect(&Dial{Server: addr})
		if e != 0 {
			t.Fatal(e)
		}
		Ack(client)
		var fd int
		var peer netip.AddrPort
		for range 100 {
			if fd, peer, e = Accept(group[0]); e != syscall.EAGAIN {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if e != 0 {
			t.Fatal(e)
		}
		if local, _ := Local(client); local != peer {
			t.Errorf("accepted %s, which is %s", peer, local)
		}
		for _, o := range []struct {
			name                string
			level, option, want int
		}{
			{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 2},
			{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 2},
			{"SO_OOBINLINE", unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
			{"SO_PROTOCOL", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
		} {
			if got, err := unix.GetsockoptInt(fd, o.level, o.option); err != nil || got != o.want {
				t.Errorf("%s: %s is %d, %v, want %d", on, o.name, got, err, o.want)
			}
		}
		Reset(fd)
		b := make([]byte, 1)
		for range 100 {
			if _, e = Recv(client, b); e != syscall.EAGAIN {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if e != syscall.ECONNRESET {
			t.Errorf("after Reset the peer reads %v", e)
		}
		Close(client)
	}
}

func TestListenTellsWhatFailed(t *testing.T) {
	_, err := Listen(netip.MustParseAddrPort("192.0.2.1:80"), 1, ListenOptions{})
	if err == nil || err.Error() != "listen on 192.0.2.1:80: bind: cannot assign requested address" {
		t.Errorf("%v", err)
	}
}

// The kernel tells by which interface and with which code point a connection came in; asking twice does no harm.
func TestArrival(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skip(err)
	}
	for _, ipv6 := range []bool{false, true} {
		address, level, option := "127.0.0.1:0", unix.IPPROTO_IP, unix.IP_TOS
		if ipv6 {
			address, level, option = "[::1]:0", unix.IPPROTO_IPV6, unix.IPV6_TCLASS
		}
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Skip(err)
		}
		defer ln.Close()
		d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
			_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 46<<2) })
			return err
		}}
		client, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			for range 2 {
				index, dscp, e := Arrival(int(fd), ipv6)
				if e != 0 || index != lo.Index || dscp != 46 {
					t.Errorf("IPv6 %v: interface %d, DSCP %d, %v", ipv6, index, dscp, e)
				}
			}
			var name [InterfaceNameSize]byte
			if n, e := InterfaceName(int(fd), lo.Index, &name); e != 0 || string(name[:n]) != "lo" {
				t.Errorf("%q, %v", name[:n], e)
			}
			if _, e := InterfaceName(int(fd), 1<<30, &name); e == 0 {
				t.Error("an interface that is not there has a name")
			}
		})
	}
	for _, b := range [][]byte{nil, {1}, make([]byte, 15), make([]byte, 16), append(make([]byte, 16), 1)} { // no length is believed
		if index, dscp := readArrival(b, false); index != 0 || dscp != 0 {
			t.Errorf("%v: %d, %d", b, index, dscp)
		}
	}
}
