package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"salp/internal/lab"
)

var web = Scene{
	Name:    "web",
	Summary: "an office's web traffic: a page, a host that is blocked, SSH on port 80, a proxy with CONNECT, and the access log of all that",
	run:     showWeb,
}

// webFile is examples/office-web.yaml, as a test makes sure.
const webFile = `# An office's web traffic, taken in without touching a client. What is not HTTP on port 80 passes untouched.
listeners:
  web:
    intercept: {interfaces: [g0], ports: [80]}
    source: client
    protocol: http
    not_http: tunnel
    access: office
  proxy:                      # for the programs that do ask for a proxy
    listen: ["10.0.1.1:3128"]
    source: proxy
    protocol: http
    access: office
access:                       # the first rule that matches decides; nothing matched: denied
  office:
    - deny: {method: [CONNECT], not_ports: [443, 563]}
    - deny: {not_ports: [80, 8080, 21, 443, 563]}
    - deny: {host: [".ads.example"]}
    - allow: {from: [10.0.1.0/24, "fd00:1::/64"]}
logs:
  access: {file: access.log, format: squid}
`

const (
	webServer   = "10.0.2.2:80"
	sshServer   = "10.0.2.9" // on the server too, so that one port has both
	tlsServer   = "10.0.2.2:443"
	webProxy    = "10.0.1.1:3128"
	webPatience = 5 * time.Second
)

// visits are what the office does, one after the other.
type webVisit struct {
	title, summary string
	do             func(s *stage) ([][2]string, error) // what there is to see: name and value
	logged         string                              // what the access log must have of it
}

var webVisits = []webVisit{
	{"A page", "The browser knows of no proxy, and the server sees the browser's own address.", visitPage, "TCP_MISS/200 "},
	{"A host that is blocked", "The rules deny .ads.example. The page is in the language that the browser asks for, and a program gets JSON.", visitBlocked, "TCP_DENIED/403 "},
	{"SSH on port 80", "What is not HTTP passes untouched, though the server speaks first.", visitSSH, "TCP_TUNNEL"},
	{"A proxy", "A program that asks for a proxy gets one: for a page, and for CONNECT to port 443 alone.", visitProxy, "CONNECT 10.0.2.2:443 "},
}

func showWeb(ctx context.Context, s *stage) error {
	p := s.page
	p.line("%s", p.bold("An office's web traffic"))
	p.line("A client, the gateway and a server in namespaces on this machine. The gateway is the real one: salp run, with examples/office-web.yaml.")
	p.blank()
	p.block(strings.Split(strings.TrimSpace(webFile), "\n"))
	if err := s.webServers(); err != nil {
		return err
	}
	g, err := s.startGateway(ctx, webFile)
	if err != nil {
		return err
	}
	for i, v := range webVisits {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.heading(i+1, v.title, v.summary)
		p.blank()
		seen, err := v.do(s)
		if err != nil {
			return fmt.Errorf("%s: %w; the gateway's log:\n%s", strings.ToLower(v.title), err, g.log)
		}
		var rows [][]cell
		for _, row := range seen {
			rows = append(rows, []cell{{row[0], p.dim}, plain(row[1])})
		}
		p.table(rows)
	}
	return s.showAccessLog(ctx)
}

// webServers starts what the office visits.
func (s *stage) webServers() error {
	h := s.net.Server()
	if err := h.Addr("e0", sshServer+"/24"); err != nil {
		return err
	}
	l, err := h.Listen(webServer, lab.ListenOptions{})
	if err != nil {
		return err
	}
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		host, _, _ := net.SplitHostPort(r.RemoteAddr) // it always has a port
		fmt.Fprintf(w, "%s of %s for %s", r.URL.Path, r.Host, host)
	})
	go func() { _ = http.Serve(l, page) }() // ends with the network
	if _, err := h.Serve(sshServer+":80", lab.Banner("SSH-2.0-demo\r\n")); err != nil {
		return err
	}
	_, err = h.Serve(tlsServer, lab.Tell)
	return err
}

// get fetches a URL of a host from the web server, or by the proxy, and returns status, body and the response.
func (s *stage) get(host, path string, byProxy bool, header http.Header) (*http.Response, string, error) {
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, _, to string) (net.Conn, error) {
		if !byProxy {
			to = webServer // the office's names are found there
		}
		return s.net.Client().Dial(to)
	}}
	if byProxy {
		t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: webProxy})
	}
	q, err := http.NewRequest(http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		return nil, "", err
	}
	for name, values := range header {
		q.Header[name] = values
	}
	a, err := (&http.Client{Transport: t, Timeout: webPatience}).Do(q)
	if err != nil {
		return nil, "", err
	}
	defer a.Body.Close()
	body, err := io.ReadAll(io.LimitReader(a.Body, 64<<10))
	return a, string(body), err
}

func visitPage(s *stage) ([][2]string, error) {
	a, body, err := s.get("news.example", "/today", false, nil)
	if err != nil {
		return nil, err
	}
	if a.StatusCode != 200 || body != "/today of news.example for 10.0.1.2" {
		return nil, fmt.Errorf("got %s: %q", a.Status, body)
	}
	return [][2]string{{"GET http://news.example/today", a.Status}, {"the server says", body}}, nil
}

func visitBlocked(s *stage) ([][2]string, error) {
	var rows [][2]string
	for _, c := range []struct{ language, accept, want string }{
		{"it", "text/html", "Non consentito"}, {"zh-CN", "text/html", "不允许访问"}, {"en", "application/json", `"cause":"denied"`},
	} {
		a, body, err := s.get("track.ads.example", "/pixel", false, http.Header{"Accept-Language": {c.language}, "Accept": {c.accept}})
		if err != nil {
			return nil, err
		}
		if a.StatusCode != 403 || !strings.Contains(body, c.want) {
			return nil, fmt.Errorf("got %s: %q, want %q in it", a.Status, body, c.want)
		}
		shown := body
		if _, after, found := strings.Cut(body, "<h1>"); found {
			title, rest, _ := strings.Cut(after, "</h1><p>")
			what, _, _ := strings.Cut(rest, "</p>")
			shown = title + ": " + what
		}
		shown = strings.TrimSpace(shown)
		if len(shown) > 120 && c.accept != "text/html" {
			shown = shown[:120] + "…"
		}
		rows = append(rows, [2]string{"Accept-Language: " + c.language + "  Accept: " + c.accept, a.Status + "  " + shown})
	}
	return rows, nil
}

func visitSSH(s *stage) ([][2]string, error) {
	c, err := s.net.Client().Dial(sshServer + ":80")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(webPatience)); err != nil {
		return nil, err
	}
	r := bufio.NewReader(c)
	banner, err := r.ReadString('\n')
	if err != nil || banner != "SSH-2.0-demo\r\n" {
		return nil, fmt.Errorf("the server's banner came as %q (%v)", banner, err)
	}
	const hello = "SSH-2.0-client\r\n"
	if _, err := io.WriteString(c, hello); err != nil {
		return nil, err
	}
	echo, err := r.ReadString('\n')
	if err != nil || echo != hello {
		return nil, fmt.Errorf("sent %q, got back %q (%v)", hello, echo, err)
	}
	return [][2]string{{"ssh -p 80 " + sshServer, strings.TrimSpace(banner)}, {"and back", strings.TrimSpace(echo)}}, nil
}

func visitProxy(s *stage) ([][2]string, error) {
	a, body, err := s.get("10.0.2.2", "/by-proxy", true, nil)
	if err != nil {
		return nil, err
	}
	if a.StatusCode != 200 || body != "/by-proxy of 10.0.2.2 for 10.0.2.1" {
		return nil, fmt.Errorf("got %s: %q", a.Status, body)
	}
	rows := [][2]string{{"GET http://10.0.2.2/by-proxy", a.Status + "  " + body}}
	for _, c := range []struct{ to, want string }{{tlsServer, "200"}, {"10.0.2.2:25", "403"}} {
		line, err := s.connect(c.to)
		if err != nil {
			return nil, err
		}
		if !strings.Contains(line, c.want) {
			return nil, fmt.Errorf("CONNECT %s was answered %q", c.to, line)
		}
		rows = append(rows, [2]string{"CONNECT " + c.to, line})
	}
	return rows, nil
}

// connect asks the proxy for a connection and returns its answer; when that is there, the server must be heard through it.
func (s *stage) connect(to string) (string, error) {
	c, err := s.net.Client().Dial(webProxy)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(webPatience)); err != nil {
		return "", err
	}
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to) // an error shows at the read
	r := bufio.NewReader(c)
	a, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return "", err
	}
	line := a.Proto + " " + a.Status
	if a.StatusCode != 200 {
		return line, nil
	}
	told, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	seen, err := lab.ParseTold(told)
	if err != nil {
		return "", err
	}
	return line + "  the server sees " + seen.From.Addr().String(), nil
}

// showAccessLog prints the access log, once it has a line of everything.
func (s *stage) showAccessLog(ctx context.Context) error {
	p := s.page
	p.heading(len(webVisits)+1, "The access log", "In Squid's form, for the programs that read it.")
	p.blank()
	path := filepath.Join(s.dir, "access.log")
	for end := time.Now().Add(webPatience); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(path)
		missing := ""
		for _, v := range webVisits {
			if !strings.Contains(string(text), v.logged) {
				missing = v.logged
			}
		}
		switch {
		case err == nil && missing == "":
			p.block(strings.Split(strings.TrimSpace(string(text)), "\n"))
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(end):
			return errors.Join(err, fmt.Errorf("the access log has no %q:\n%s", missing, text))
		}
	}
}
