package worker_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"salp/internal/lab"
	"salp/internal/sock"
)

// occupy leaves a TIME_WAIT socket in the gateway, from the client's address and port to the server.
func occupy(t *testing.T, n *lab.Net, from netip.AddrPort) {
	t.Helper()
	if err := n.Gateway.Do(func() error {
		fd, errno := sock.Connect(&sock.Dial{Server: netip.MustParseAddrPort("10.0.2.2:80"), Source: from, KeepPort: true})
		if errno != 0 {
			return errno
		}
		sock.Ack(fd)
		time.Sleep(100 * time.Millisecond)
		b := make([]byte, 100)
		for range 100 {
			if k, _ := sock.Recv(fd, b); k > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		sock.CloseWrite(fd)
		time.Sleep(200 * time.Millisecond) // the server answers with its FIN
		if k, errno := sock.Recv(fd, b); k != 0 || errno != 0 {
			t.Errorf("%d bytes and %v, want the server's end", k, errno)
		}
		sock.Close(fd)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func destroyTimeWait(local, remote netip.AddrPort) error {
	return netlink.SocketDestroy(net.TCPAddrFromAddrPort(local), net.TCPAddrFromAddrPort(remote))
}
