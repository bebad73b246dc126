package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"salp/internal/sock"
)

const (
	// defaultPing and maxPing are sizes of an echo request's payload in bytes. The least holds what tells our replies from forged ones.
	defaultPing = 16
	leastPing   = 8
	maxPing     = 1400
)

// ping sends one echo request (RFC 792, RFC 4443 section 4.1) and waits for its reply. It takes CAP_NET_RAW.
func (s *Spec) ping(ctx context.Context) (time.Duration, error) {
	ipv6 := s.Target.Addr().Is6()
	network := "ip4:icmp"
	if ipv6 {
		network = "ip6:ipv6-icmp"
	}
	d := s.dialer("ip")
	d.Control = sock.Control(func(fd int) error {
		if err := sock.EchoReplies(fd, ipv6); err != nil {
			return err
		}
		return s.setup(fd)
	})
	// A connected socket takes packets from the target alone.
	conn, err := d.DialContext(ctx, network, s.Target.Addr().String())
	if errors.Is(err, fs.ErrPermission) {
		return 0, errors.New("ping takes CAP_NET_RAW, which this process lacks")
	}
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return 0, err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return echo(conn, ipv6, s.Ping.Size)
}

func echo(conn net.Conn, ipv6 bool, size int) (time.Duration, error) {
	if size == 0 {
		size = defaultPing
	}
	data := make([]byte, min(max(size, leastPing), maxPing))
	_, _ = rand.Read(data) // never fails
	id := binary.BigEndian.Uint16(data)
	request, err := echoRequest(ipv6, id, data)
	if err != nil {
		return 0, fmt.Errorf("echo request: %w", err)
	}
	began := time.Now()
	if _, err := conn.Write(request); err != nil {
		return 0, err
	}
	packet := make([]byte, maxPing+200)
	for {
		n, err := conn.Read(packet)
		if err != nil {
			return 0, err
		}
		message := packet[:n]
		if !ipv6 {
			message = withoutHeader(message)
		}
		if isReply(message, ipv6, id, data) {
			return max(time.Since(began), 1), nil
		}
	}
}

// echoRequest makes the message; the kernel fills in the checksum of ICMPv6 (RFC 3542 section 3.1).
func echoRequest(v6 bool, id uint16, data []byte) ([]byte, error) {
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(id), Seq: 1, Data: data}}
	if v6 {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	return m.Marshal(nil)
}

// withoutHeader takes the IPv4 header away, which a raw socket gives too (raw(7)).
func withoutHeader(packet []byte) []byte {
	if len(packet) == 0 {
		return nil
	}
	return packet[min(int(packet[0]&0x0f)*4, len(packet)):]
}

// isReply tells our reply from those to other programs: it brings back the random bytes of the request.
func isReply(packet []byte, v6 bool, id uint16, data []byte) bool {
	protocol, want := 1, icmp.Type(ipv4.ICMPTypeEchoReply)
	if v6 {
		protocol, want = 58, ipv6.ICMPTypeEchoReply
	}
	m, err := icmp.ParseMessage(protocol, packet)
	if err != nil || m.Type != want {
		return false
	}
	reply, ok := m.Body.(*icmp.Echo)
	return ok && reply.ID == int(id) && bytes.Equal(reply.Data, data)
}
