package resolve

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Dial connects to a DNS server by "udp" or "tcp". A connected UDP socket takes answers from that server alone, and each has a port of its own,
// which the kernel chooses at random.
type Dial func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)

// dial is Dial without particulars.
func dial(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, server.String())
}

// maxUDP is the size of the largest answer that comes by UDP without EDNS (RFC 1035 section 4.2.1); one byte more would show a longer one.
const maxUDP = 512

// exchange asks one server one question, by UDP, and again by TCP when the answer does not fit there. It ends with ctx.
func exchange(ctx context.Context, with Dial, server netip.AddrPort, name string, kind dnsmessage.Type) (answer, error) {
	var random [2]byte
	_, _ = rand.Read(random[:]) // never fails
	id := binary.BigEndian.Uint16(random[:])
	query, err := question(id, name, kind)
	if err != nil {
		return answer{}, err
	}
	for _, network := range []string{"udp", "tcp"} {
		conn, err := with(ctx, network, server)
		if err != nil {
			return answer{}, told(server, err)
		}
		a, cut, err := ask(ctx, conn, network == "tcp", query, id, name, kind)
		conn.Close()
		if err != nil {
			return answer{}, told(server, err)
		}
		if !cut {
			return a, nil
		}
	}
	return answer{}, told(server, errors.New("its answer is cut short even by TCP"))
}

// ask sends the query on a connection and reads messages until one answers it. cut says that the answer did not fit.
func ask(ctx context.Context, conn net.Conn, stream bool, query []byte, id uint16, name string, kind dnsmessage.Type) (a answer, cut bool, err error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return a, false, err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if stream {
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	}
	if _, err := conn.Write(query); err != nil {
		return a, false, err
	}
	for {
		text, err := receive(conn, stream)
		if err != nil {
			return a, false, err
		}
		var p dnsmessage.Parser
		h, err := parseHeader(&p, text, id, name, kind)
		switch {
		case err != nil && stream:
			return a, false, err
		case err != nil:
			continue // stray or forged: the real answer may still come
		case h.Truncated:
			return a, true, nil
		}
		a, err = parseAnswer(&p, h, name, kind)
		return a, false, err
	}
}

func receive(conn net.Conn, stream bool) ([]byte, error) {
	if !stream {
		text := make([]byte, maxUDP+1)
		n, err := conn.Read(text)
		return text[:n], err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	text := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(conn, text)
	return text, err
}

// told says which server it was, in words for a person.
func told(server netip.AddrPort, err error) error {
	var refusal codeError
	switch {
	case errors.As(err, &refusal):
		return fmt.Errorf("%w at %s", refusal, server)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer from the DNS server %s", server)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no DNS server runs at %s", server)
	}
	return fmt.Errorf("DNS server %s: %w", server, err)
}

// Ask asks one server for the addresses that a name has of one family, once, and returns nil when the server answers the question, whatever
// it says: that there is no such name is an answer. It is the probe of a DNS server.
func Ask(ctx context.Context, with Dial, server netip.AddrPort, name string, ipv6 bool) error {
	kind := dnsmessage.TypeA
	if ipv6 {
		kind = dnsmessage.TypeAAAA
	}
	_, err := exchange(ctx, with, server, name, kind)
	return err
}
