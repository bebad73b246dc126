package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"salp/internal/proxyproto"
	"salp/internal/resolve"
	"salp/internal/sock"
)

// maxAnswer bounds what is read of a server's answer, in bytes.
const maxAnswer = 64 << 10

// Run asks the question once. It ends when the answer is there, after Spec.Timeout, or with ctx, and leaves nothing open.
func Run(ctx context.Context, s *Spec) Result {
	if s.TLS != nil && s.TLS.Verify {
		authorities() // reading them takes long, and is not the server's fault
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	began := time.Now()
	rtt, err := s.ask(ctx)
	if err != nil {
		over := timedOut(ctx, err) || time.Since(began) >= s.Timeout
		return Result{Error: s.words(err, over), RTT: time.Since(began)}
	}
	if rtt == 0 {
		rtt = time.Since(began)
	}
	return Result{OK: true, RTT: rtt}
}

// ask returns a time only when that is not the whole of the probe's.
func (s *Spec) ask(ctx context.Context) (rtt time.Duration, err error) {
	switch {
	case !s.Target.Addr().IsValid():
		return 0, errors.New("no address to probe")
	case s.Ping != nil:
		return s.ping(ctx)
	case s.DNS != nil:
		return 0, resolve.Ask(ctx, s.dialDNS, s.Target, s.DNS.Name, s.Target.Addr().Is6())
	}
	return 0, s.stream(ctx)
}

// dialer makes sockets with the mark, the interface and the address of the probe. network is of the local address: "tcp", "udp" or "ip".
func (s *Spec) dialer(network string) *net.Dialer {
	d := &net.Dialer{KeepAlive: -1, Control: sock.Control(s.setup)}
	d.SetMultipathTCP(false)
	if !s.Source.IsValid() {
		return d
	}
	switch ip := s.Source.AsSlice(); network {
	case "udp":
		d.LocalAddr = &net.UDPAddr{IP: ip}
	case "ip":
		d.LocalAddr = &net.IPAddr{IP: ip}
	default:
		d.LocalAddr = &net.TCPAddr{IP: ip}
	}
	return d
}

func (s *Spec) setup(fd int) error {
	if s.Mark != 0 {
		if err := sock.Mark(fd, s.Mark); err != nil {
			return err
		}
	}
	if s.Device != "" {
		return sock.BindToDevice(fd, s.Device)
	}
	return nil
}

func (s *Spec) dialDNS(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	return s.dialer(network).DialContext(ctx, network, server.String())
}

// stream connects, and goes on as the spec says.
func (s *Spec) stream(ctx context.Context) error {
	conn, err := s.dialer("tcp").DialContext(ctx, "tcp", s.Target.String())
	if err != nil {
		return err
	}
	defer func() { conn.Close() }()
	// A deadline also ends what has no context; at the end of ctx it is put into the past.
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	plain := conn
	stop := context.AfterFunc(ctx, func() { _ = plain.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.introduce(conn); err != nil {
		return err
	}
	if s.TLS != nil {
		if conn, err = s.handshake(ctx, conn); err != nil {
			return err
		}
	}
	if s.HTTP != nil {
		return s.request(ctx, conn)
	}
	return s.talk(ctx, conn)
}

// introduce sends the PROXY header that the spec asks for.
func (s *Spec) introduce(conn net.Conn) error {
	var header []byte
	switch s.Header {
	case "":
		return nil
	case HeaderV1:
		local, remote := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		header = proxyproto.Append1(nil, unmapped(local), unmapped(remote))
	case HeaderV2:
		header = proxyproto.Append2(nil, netip.AddrPort{}, netip.AddrPort{})
	default:
		return fmt.Errorf("there is no version %q of the PROXY protocol", s.Header)
	}
	_, err := conn.Write(header)
	return err
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// talk sends and expects.
func (s *Spec) talk(ctx context.Context, conn net.Conn) error {
	want, err := ParsePattern(s.Expect)
	if err != nil {
		return fmt.Errorf("expect %w", err)
	}
	if s.Send != "" {
		if _, err := io.WriteString(conn, s.Send); err != nil {
			return err
		}
	}
	if want.Empty() {
		return nil
	}
	return await(ctx, conn, want, "the server sent")
}

// await reads until what was read holds the pattern; sent says in words whose bytes they are.
func await(ctx context.Context, from io.Reader, want Pattern, sent string) error {
	text := make([]byte, 0, 512)
	for {
		if len(text) == cap(text) {
			text = append(make([]byte, 0, min(4*cap(text), maxAnswer)), text...)
		}
		n, err := from.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		if n > 0 && want.Match(text) {
			return nil
		}
		switch {
		case errors.Is(err, io.EOF) && len(text) == 0:
			return fmt.Errorf("%s nothing and ended, expected %s", sent, want)
		case errors.Is(err, io.EOF), len(text) == maxAnswer:
			return fmt.Errorf("%s %s, expected %s", sent, quote(text), want)
		case err != nil && len(text) > 0 && timedOut(ctx, err):
			return heard(fmt.Sprintf("%s %s and no more, expected %s", sent, quote(text), want))
		case err != nil:
			return err
		}
	}
}

// heard is the error of a server that sent something before the time was over, but not what was expected.
type heard string

func (h heard) Error() string { return string(h) }

// quote shows the beginning of what a peer sent, so that nothing in it can disturb a terminal or a log.
func quote(text []byte) string {
	const most = 60
	if len(text) > most {
		return strconv.QuoteToASCII(string(text[:most])) + "…"
	}
	return strconv.QuoteToASCII(string(text))
}

func timedOut(ctx context.Context, err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil
}

// words tells an error to a person, without what the operator knows already: who was asked, and from where.
func (s *Spec) words(err error, over bool) string {
	var errno syscall.Errno
	var op *net.OpError
	var part heard
	switch {
	case errors.As(err, &part):
		return fmt.Sprintf("%s within %v", part, s.Timeout)
	case over:
		return fmt.Sprintf("no answer within %v", s.Timeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "connection reset"
	case errors.As(err, &op) && errors.As(err, &errno):
		var call *os.SyscallError
		if errors.As(err, &call) && strings.HasPrefix(call.Syscall, "setsockopt") {
			return call.Error()
		}
		return errno.Error()
	}
	return err.Error()
}
