package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"salp/internal/lab"
)

// marking is what packets of a connection have: the socket's mark without Salp's own bits, as the gateway's firewall sees it, and the code point, as the
// server sees it.
type marking struct{ mark, dscp string }

// watchMarks has firewalls note both by the source port of Salp's connections.
func (r *rig) watchMarks() {
	r.Helper()
	r.nft(`table inet theirs {
	set marks { typeof tcp sport . meta mark; flags dynamic; size 4096; }
	chain out { type filter hook output priority 0; oifname "g1" tcp flags & rst == 0 update @marks { tcp sport . meta mark }; }
}`)
	sets, rules := "", ""
	for _, code := range codePoints { // not one set of pairs: nft reads ip6 dscp wrongly there
		sets += fmt.Sprintf("set code%d { type inet_service; flags dynamic; size 4096; }\n", code)
		rules += fmt.Sprintf("ip dscp %d update @code%d { tcp sport };\nip6 dscp %[1]d update @code%[1]d { tcp sport };\n", code, code)
	}
	file := filepath.Join(r.dir, "dscp.nft")
	r.must(os.WriteFile(file, []byte("table inet theirs {\n"+sets+"chain in { type filter hook input priority 0; tcp flags & rst == 0 jump note; }\nchain note {\n"+rules+"}\n}\n"), 0o644))
	_, err := r.net.Server().Run(context.Background(), "nft", "-f", file)
	r.must(err)
}

// codePoints are those that the test looks for.
var codePoints = []int{0, 1, 2, 3, 8, 10, 18, 46, 56}

// marking returns what was noted of a connection by its source port. More than one mark or code point of a connection are all told.
func (r *rig) marking(port uint16) marking {
	r.Helper()
	var m marking
	element := regexp.MustCompile(fmt.Sprintf(`\b%d \. (\w+)`, port))
	for _, found := range element.FindAllStringSubmatch(r.gw("nft", "-n", "list", "set", "inet", "theirs", "marks"), -1) {
		n, err := strconv.ParseUint(found[1], 0, 32)
		r.must(err)
		m.mark += fmt.Sprintf("0x%x ", n&0xffff)
	}
	out, err := r.net.Server().Run(context.Background(), "nft", "-n", "list", "table", "inet", "theirs")
	r.must(err)
	has := regexp.MustCompile(fmt.Sprintf(`\b%d\b`, port))
	for _, code := range codePoints {
		_, set, _ := strings.Cut(out, fmt.Sprintf("set code%d {", code))
		if set, _, _ = strings.Cut(set, "set code"); has.MatchString(set) {
			m.dscp += fmt.Sprint(code, " ")
		}
	}
	return marking{strings.TrimSpace(m.mark), strings.TrimSpace(m.dscp)}
}

// TestMarks: the connection to the server has the mark and the code point of the access rule that decided, or else of the listener, whatever is
// carried; requests with different ones never share a connection.
func TestMarks(t *testing.T) {
	r := newRig(t, 1)
	r.watchMarks()
	r.serve(80, tellHTTP)
	r.serve(81, lab.Tell)
	r.serve(25, lab.Tell)
	secure := map[string]*lab.Server{}
	for _, f := range families {
		var err error
		secure[f.name], err = r.net.Server().Serve(at(f.server, 443), lab.Tell)
		r.must(err)
	}
	r.start(`
listeners:
  web: {intercept: {interfaces: [g0], ports: [80, 81]}, source: client, protocol: http, access: web, mark: 0x1, dscp: 3}
  secure: {intercept: {interfaces: [g0], ports: [443]}, source: client, protocol: tls, access: names, not_http: tunnel}
  mail: {intercept: {interfaces: [g0], ports: [25]}, source: proxy, mark: 0x2, dscp: af11}
  proxy: {listen: ["10.0.1.1:3128"], protocol: http, access: web}
access:
  web:
    - {allow: {path: [/a]}, mark: 0x10, dscp: af21}
    - {allow: {path: [/b]}, mark: 0x20}
    - {allow: {path: [/c]}, dscp: cs1}
    - {allow: {method: [CONNECT]}, mark: 0x40, dscp: ef}
    - {allow: {not_method: [GET]}, mark: 0x80, dscp: cs7}
    - allow: {}
  names:
    - {allow: {sni: [.example]}, mark: 0x100, dscp: 1}
    - {allow: {not_sni: [.example]}, mark: 0x200, dscp: 2}
`)
	want := func(what string, port uint16, mark, dscp string) {
		t.Helper()
		if got := r.marking(port); got != (marking{mark, dscp}) {
			t.Errorf("%s: mark %s, code point %s, want %s and %s", what, got.mark, got.dscp, mark, dscp)
		}
	}
	for _, f := range families {
		conn := r.dial(at(f.server, 80))
		read := bufio.NewReader(conn)
		ports := map[string]uint16{}
		for _, path := range []string{"/a", "/b", "/a", "/c", "/d", "/b"} {
			port := r.portOf(conn, read, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path))
			if before := ports[path]; before != 0 && before != port {
				t.Errorf("%s %s: the second connection for it, of ports %d and %d", f.name, path, before, port)
			}
			ports[path] = port
		}
		want(f.name+" a rule's both", ports["/a"], "0x10", "18")
		want(f.name+" a rule's mark in the listener's place", ports["/b"], "0x20", "0")
		want(f.name+" a rule's code point in the place of the listener's mark", ports["/c"], "0x0", "8")
		want(f.name+" the listener's", ports["/d"], "0x1", "3")

		_, seen := r.tell(at(f.server, 81)) // the server speaks first
		want(f.name+" not HTTP", seen.From.Port(), "0x80", "56")
		_, seen = r.tell(at(f.server, 25))
		want(f.name+" opaque", seen.From.Port(), "0x2", "10")
		conn = r.dial(at(f.server, 443))
		_, err := io.WriteString(conn, "no TLS\n")
		r.must(err)
		line, err := bufio.NewReader(conn).ReadString('\n')
		r.must(err)
		seen, err = lab.ParseTold(line)
		r.must(err)
		want(f.name+" no TLS", seen.From.Port(), "0x200", "2")
		conn = r.dial(at(f.server, 443))
		if err := tls.Client(conn, &tls.Config{ServerName: "www.example"}).Handshake(); err == nil { // the server answers with a line, which is no TLS
			t.Error("a handshake with a line of text")
		}
		peer, _ := secure[f.name].Last()
		want(f.name+" by the name", peer.From.Port(), "0x100", "1")
	}
	conn := r.dial("10.0.1.1:3128")
	read := bufio.NewReader(conn)
	want("through the proxy", r.portOf(conn, read, "GET http://10.0.2.2/a HTTP/1.1\r\nHost: 10.0.2.2\r\n\r\n"), "0x10", "18")
	want("through the proxy, no mark", r.portOf(conn, read, "GET http://10.0.2.2/d HTTP/1.1\r\nHost: 10.0.2.2\r\n\r\n"), "0x0", "0")
	_, err := io.WriteString(conn, "CONNECT 10.0.2.2:25 HTTP/1.1\r\nHost: 10.0.2.2:25\r\n\r\n")
	r.must(err)
	if response, err := http.ReadResponse(read, &http.Request{Method: "CONNECT"}); err != nil || response.StatusCode != 200 {
		t.Fatalf("CONNECT: %v %v", response, err)
	}
	line, err := read.ReadString('\n')
	r.must(err)
	seen, err := lab.ParseTold(line)
	r.must(err)
	want("a tunnel", seen.From.Port(), "0x40", "46")
}

// portOf sends a request to tellHTTP and returns the source port of the connection that it came by.
func (r *rig) portOf(conn io.Writer, read *bufio.Reader, request string) uint16 {
	r.Helper()
	_, err := io.WriteString(conn, request)
	r.must(err)
	response, err := http.ReadResponse(read, nil)
	r.must(err)
	body, err := io.ReadAll(response.Body)
	r.must(err)
	line, _, _ := strings.Cut(string(body), "\n")
	seen, err := lab.ParseTold(line)
	r.must(err)
	return seen.From.Port()
}
