package demo

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"time"

	"salp/internal/lab"
)

// smtpBound bounds a whole session.
const smtpBound = 4 * time.Second

// mailServer speaks as much SMTP (RFC 5321) as taking in a message takes, and keeps a log as a mail server does.
type mailServer struct {
	name string
	host *lab.Host

	mu   sync.Mutex
	runs *lab.Server // nil while it is down
	log  []delivery
}

// delivery is a line of a mail server's log.
type delivery struct {
	client netip.Addr // as the server sees it
	helo   string     // what the client says it is
	from   string
}

// start has the server listen on port 25.
func (m *mailServer) start() error {
	runs, err := m.host.Serve("[::]:25", m.serve)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.runs = runs
	return nil
}

// kill ends the server at once: its connections are reset.
func (m *mailServer) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.runs != nil {
		m.runs.Close()
		m.runs = nil
	}
}

// deliveries returns the log from its line number from on.
func (m *mailServer) deliveries(from int) []delivery {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]delivery(nil), m.log[min(from, len(m.log)):]...)
}

func (m *mailServer) serve(c *net.TCPConn) {
	if c.SetDeadline(time.Now().Add(smtpBound)) != nil {
		return
	}
	conn := textproto.NewConn(limited{c, io.LimitReader(c, 64<<10)})
	d := delivery{client: lab.Remote(c).Addr()}
	if conn.PrintfLine("220 %s ESMTP", m.name) != nil {
		return
	}
	for {
		line, err := conn.ReadLine()
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(line, " ")
		reply := "250 OK"
		switch strings.ToUpper(verb) {
		case "EHLO", "HELO":
			d.helo, reply = rest, "250 "+m.name
		case "MAIL":
			d.from = strings.Trim(strings.TrimPrefix(strings.ToUpper(rest), "FROM:"), "<>")
		case "RCPT", "NOOP", "RSET":
		case "DATA":
			if conn.PrintfLine("354 go on") != nil {
				return
			}
			if _, err := conn.ReadDotBytes(); err != nil {
				return
			}
			m.mu.Lock()
			m.log = append(m.log, d)
			m.mu.Unlock()
			reply = "250 taken by " + m.name
		case "QUIT":
			_ = conn.PrintfLine("221 bye") // the client may be gone
			return
		default:
			reply = "500 what?"
		}
		if conn.PrintfLine("%s", reply) != nil {
			return
		}
	}
}

// limited reads no more from a connection than it may.
type limited struct {
	net.Conn
	from io.Reader
}

// Read implements io.Reader.
func (l limited) Read(b []byte) (int, error) { return l.from.Read(b) }

// sendMail holds a whole session from a host's address, and returns the name of the server that took the message.
func sendMail(from *lab.Host, address netip.Addr, to string) (server string, err error) {
	c, err := from.DialWith(to, lab.DialOptions{From: netip.AddrPortFrom(address, 0), Timeout: smtpBound})
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(smtpBound)); err != nil {
		return "", err
	}
	conn := textproto.NewConn(c)
	if _, _, err := conn.ReadResponse(220); err != nil {
		return "", fmt.Errorf("greeting: %w", err)
	}
	for _, step := range []struct {
		line string
		code int
	}{
		{"EHLO " + heloOf(address), 250},
		{"MAIL FROM:<sender@" + heloOf(address) + ">", 250},
		{"RCPT TO:<you@example.org>", 250},
		{"DATA", 354},
		{"Subject: hello\r\n\r\nfrom " + address.String() + "\r\n.", 250},
		{"QUIT", 221},
	} {
		if err := conn.PrintfLine("%s", step.line); err != nil {
			return server, fmt.Errorf("%.4s: %w", step.line, err)
		}
		_, text, err := conn.ReadResponse(step.code)
		if err != nil {
			return server, fmt.Errorf("%.4s: %w", step.line, err)
		}
		if name, taken := strings.CutPrefix(text, "taken by "); taken {
			server = name
		}
	}
	return server, nil
}

// heloOf is the name that the sender with an address gives itself.
func heloOf(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("sender%d.example", b[3])
}
