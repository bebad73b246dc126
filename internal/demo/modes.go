package demo

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

var modes = Scene{
	Name:    "modes",
	Summary: "the four modes and redirect, IPv4 and IPv6; then worker and keeper are killed and clients still get through",
	run:     showModes,
}

// modesFile is the gateway's configuration. The page shows pieces of it.
const modesFile = `listeners:
  explicit:
    listen: ["10.0.1.1:8000", "[fd00:1::1]:8000"]
    source: proxy
    pool: web
  inbound:
    intercept: {interfaces: [g0], ports: [80]}
    source: proxy
  outbound:
    listen: ["10.0.1.1:8001", "[fd00:1::1]:8001"]
    source: client
    pool: web
  full:
    intercept: {interfaces: [g0], ports: [81]}
    source: client
    source_port: keep
  redirect:
    intercept: {interfaces: [g0], ports: [82], method: redirect}
    source: proxy
pools:
  web: {servers: ["10.0.2.2:80", "[fd00:2::2]:80"]}
`

// act is one mode to show.
type act struct {
	listener string // in modesFile
	title    string
	summary  string
	to       [2]string // what the client dials by IPv4 and by IPv6
	sees     string    // whom the server must see: gateway, client, or client+port
	kernel   []string  // words that mark the interesting lines of the plan
	note     string    // said of the kernel
}

var acts = []act{
	{
		listener: "explicit", title: "Explicit", summary: "The client dials the gateway. The server sees the gateway.",
		to: [2]string{"10.0.1.1:8000", "[fd00:1::1]:8000"}, sees: "gateway",
		note: "no rule, no route: this mode needs nothing in the kernel",
	},
	{
		listener: "inbound", title: "Inbound transparent", summary: "The client dials the server and is taken in on the way. The server sees the gateway.",
		to: [2]string{"10.0.2.2:80", "[fd00:2::2]:80"}, sees: "gateway",
		kernel: []string{"tproxy ip to"},
	},
	{
		listener: "outbound", title: "Outbound transparent", summary: "The client dials the gateway. The server sees the client.",
		to: [2]string{"10.0.1.1:8001", "[fd00:1::1]:8001"}, sees: "client",
		kernel: []string{"socket transparent 1 jump divert-socket"},
	},
	{
		listener: "full", title: "Fully transparent", summary: "The client dials the server, the server sees the client, and its port too. Neither can tell.",
		to: [2]string{"10.0.2.2:81", "[fd00:2::2]:81"}, sees: "client+port",
		note: "one connection on each side, with the same addresses and ports: what we send has a zone of its own, which keeps them apart",
	},
	{
		listener: "redirect", title: "Inbound transparent, by redirect", summary: "The NAT way, for where TPROXY cannot be used.",
		to: [2]string{"10.0.2.2:82", "[fd00:2::2]:82"}, sees: "gateway",
		kernel: []string{"redirect to"},
	},
}

func showModes(ctx context.Context, s *stage) error {
	s.introduce()
	for _, port := range []string{"80", "81", "82"} {
		if _, err := s.net.Server().Serve("[::]:"+port, lab.Tell); err != nil {
			return err
		}
	}
	before, err := readState(s.net.Gateway)
	if err != nil {
		return err
	}
	g, err := s.startGateway(ctx, modesFile)
	if err != nil {
		return err
	}
	plan, err := s.planInForce(ctx, g)
	if err != nil {
		return err
	}
	for i, a := range acts {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := s.play(i+1, a, plan); err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(a.title), err)
		}
	}
	return s.trouble(ctx, len(acts)+1, g, before)
}

func (s *stage) introduce() {
	p := s.page
	p.line("%s", p.bold("Salp in a private network"))
	p.line("Three namespaces on this machine; nothing outside them is touched. The gateway is the real one: salp run.")
	p.blank()
	p.line("      %s                  %s                   %s", p.bold("client"), p.bold("gateway"), p.bold("server"))
	p.line("      10.0.1.2  ──────  10.0.1.1   10.0.2.1  ──────  10.0.2.2")
	p.line("      fd00:1::2         fd00:1::1  fd00:2::1         fd00:2::2")
}

// planInForce returns the plan's lines once the gateway says that the kernel holds exactly that.
func (s *stage) planInForce(ctx context.Context, g *gateway) ([]string, error) {
	if _, err := g.await(ctx, func(st *admin.Status) bool { return st.Kernel.InSync }); err != nil {
		return nil, fmt.Errorf("the kernel does not hold the plan: %w", err)
	}
	return s.plan(ctx, g)
}

// play shows one mode.
func (s *stage) play(number int, a act, plan []string) error {
	p := s.page
	p.heading(number, a.title, a.summary)
	p.blank()
	p.block(snippet(modesFile, a.listener))
	p.blank()
	head := func(text string) cell { return cell{text, p.dim} }
	rows := [][]cell{{head(""), head("the client is"), head("it dials, and is answered by"), head("the server sees"), head("")}}
	var kernel []finding
	for i, to := range a.to {
		c, seen, err := s.visit(to)
		if err != nil {
			return err
		}
		defer c.Close()
		who, err := judge(a.sees, lab.Local(c), seen)
		if err != nil {
			return fmt.Errorf("to %s: %w", to, err)
		}
		rows = append(rows, []cell{
			{[]string{"IPv4", "IPv6"}[i], p.bold},
			plain(lab.Local(c).String()), plain(lab.Remote(c).String()), {seen.From.String(), p.bold}, {who, p.good},
		})
		if i == 0 {
			if kernel, err = s.kernelHolds(a, plan, lab.Local(c), seen); err != nil {
				return err
			}
		}
	}
	p.table(rows)
	p.blank()
	p.line("    %s", p.dim("the gateway's kernel, for the IPv4 one:"))
	p.findings(kernel)
	if a.note != "" {
		p.line("      %s", p.dim("("+a.note+")"))
	}
	return nil
}

// visit connects the client to an address and returns the open connection and what the server saw, having sent a few bytes both ways.
func (s *stage) visit(to string) (*net.TCPConn, lab.Peer, error) {
	c, err := s.net.Client().Dial(to)
	if err != nil {
		return nil, lab.Peer{}, err
	}
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, lab.Peer{}, err
	}
	seen, err := converse(c)
	if err != nil {
		c.Close()
		return nil, lab.Peer{}, fmt.Errorf("connection to %s: %w", to, err)
	}
	return c, seen, nil
}

// converse reads the line of lab.Tell, then sends a line and wants it back.
func converse(c net.Conn) (lab.Peer, error) {
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return lab.Peer{}, err
	}
	seen, err := lab.ParseTold(line)
	if err != nil {
		return lab.Peer{}, err
	}
	const hello = "hello\n"
	if _, err := c.Write([]byte(hello)); err != nil {
		return lab.Peer{}, err
	}
	if line, err = r.ReadString('\n'); err != nil || line != hello {
		return lab.Peer{}, fmt.Errorf("sent %q, got back %q (%v)", hello, line, err)
	}
	return seen, nil
}

// judge compares whom the server saw with whom it should, and says it in words.
func judge(want string, client netip.AddrPort, seen lab.Peer) (string, error) {
	got := "a stranger"
	switch {
	case seen.From == client:
		got = "client+port"
	case seen.From.Addr() == client.Addr():
		got = "client"
	case isGateway(seen.From.Addr()):
		got = "gateway"
	}
	if got == "client+port" && want == "client" {
		got = "client" // the kernel happened to choose the same port
	}
	if got != want {
		return "", fmt.Errorf("the server saw %s (%s), and should see the %s", seen.From, got, want)
	}
	words := map[string]string{"gateway": "the gateway", "client": "the client", "client+port": "the client and its port"}
	return words[got], nil
}

func isGateway(a netip.Addr) bool {
	return a == netip.MustParseAddr("10.0.2.1") || a == netip.MustParseAddr("fd00:2::1")
}

// kernelHolds collects what the gateway's kernel has for one open connection.
func (s *stage) kernelHolds(a act, plan []string, client netip.AddrPort, seen lab.Peer) ([]finding, error) {
	gw := s.net.Gateway
	held, err := sockets(gw, client, seen)
	if err != nil {
		return nil, err
	}
	for _, words := range a.kernel {
		held = append(held, planned(plan, words)...)
	}
	var more []finding
	switch a.listener {
	case "inbound":
		more, err = rules(gw, "g0")
	case "outbound":
		more, err = rules(gw, "g1")
	case "full", "redirect":
		more, err = flows(gw, client)
	}
	return append(held, more...), err
}

// snippet returns the lines of one listener in a configuration.
func snippet(file, listener string) []string {
	var lines []string
	inside := false
	for l := range strings.Lines(file) {
		l = strings.TrimRight(l, "\n")
		if strings.HasPrefix(l, "  ") && !strings.HasPrefix(l, "   ") || !strings.HasPrefix(l, " ") {
			inside = l == "  "+listener+":"
		}
		if inside {
			lines = append(lines, strings.TrimPrefix(l, "  "))
		}
	}
	return lines
}
