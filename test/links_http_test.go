package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// A request of which no answer has come when its link goes down is sent again by another link, where that is safe; one that is not safe gets
// an answer that says so; idle connections by the dead link serve nobody.
func TestLinksOfHTTP(t *testing.T) {
	for f := range paths {
		t.Run(paths[f].name, func(t *testing.T) { linksOfHTTP(t, f) })
	}
}

func linksOfHTTP(t *testing.T, family int) {
	f := paths[family]
	o := newOffice(t, 4)
	at, second, far := net.JoinHostPort(f.gateway, "8000"), net.JoinHostPort(f.gateway, "8001"), net.JoinHostPort(f.server+"13", "82")
	asked := make(chan string, 20)
	_, err := o.net.Internet.Serve("[::]:82", func(c *net.TCPConn) {
		link := linkOf(lab.Remote(c).Addr())
		for in := bufio.NewReader(c); ; {
			request, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, request.Body)
			asked <- request.Method + " " + request.URL.Path + " by " + link
			if link == "virtua" && request.URL.Path == "/slow" {
				continue // and never answers
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(link), link)
		}
	})
	o.must(err)
	s := o.start(fmt.Sprintf("listeners:\n  web: {listen: [%q], protocol: http, pool: far, link: virtua}\n  ruled: {listen: [%q], protocol: http, pool: far, link: virtua, access: rules}\n"+
		"access: {rules: [{allow: {path: [/embratel]}, link: embratel}, {allow: {path: [/marked]}, mark: 0x1}, {allow: {}}]}\npools: {far: {servers: [%q]}}\n",
		at, second, far) + plainLinks("  spread: flow\n", ""))
	s.awaitLinks(bothUp)
	exchange := func(method, path string) chan string {
		result := make(chan string, 1)
		go func() {
			c, err := o.net.Client.DialWith(at, lab.DialOptions{Timeout: 3 * time.Second})
			if err != nil {
				result <- err.Error()
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: far.example\r\nContent-Length: 0\r\n\r\n", method, path)
			response, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				result <- err.Error()
				return
			}
			body, _ := io.ReadAll(response.Body)
			if response.StatusCode != 200 {
				body = nil
			}
			result <- fmt.Sprint(response.StatusCode, " ", string(body))
		}()
		return result
	}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	ruled := o.dialRuled(second)
	for path, link := range map[string]string{"/embratel": "embratel", "/marked": "virtua", "/": "virtua"} { // the listener's link stays where a rule names none
		want("a rule's link", ruled(path), link)
		want("the server", <-asked, "GET "+path+" by "+link)
	}
	want("both up", <-exchange("GET", "/"), "200 virtua")
	want("the server", <-asked, "GET / by virtua")
	get, post := exchange("GET", "/slow"), exchange("POST", "/slow")
	slow := map[string]bool{<-asked: true, <-asked: true}
	if !slow["GET /slow by virtua"] || !slow["POST /slow by virtua"] {
		t.Fatal(slow)
	}
	began := time.Now()
	o.must(o.net.Providers[0].Down("c0"))
	want("a safe request", <-get, "200 embratel")
	want("one that is not", <-post, "502 ")
	if took := time.Since(began); took > time.Second*slowdown {
		t.Errorf("after %v", took)
	}
	want("the server", <-asked, "GET /slow by embratel")
	s.awaitLinks("virtua down, embratel up")
	began = time.Now()
	want("the next one", <-exchange("GET", "/"), "200 embratel")
	if took := time.Since(began); took > time.Second*slowdown {
		t.Errorf("the next one took %v: an idle connection of the dead link was asked", took)
	}
	s.await("counting", func(st *admin.Status) bool {
		c := st.Listeners[0].Counters
		return c.Errors["link_down"] == 1 && c.Retries == 1
	})
}

// dialRuled returns what asks on one connection for paths, and returns the bodies.
func (o *office) dialRuled(to string) func(path string) string {
	o.Helper()
	c, err := o.net.Client.DialWith(to, lab.DialOptions{Timeout: 3 * time.Second})
	o.must(err)
	o.Cleanup(func() { c.Close() })
	o.must(c.SetDeadline(time.Now().Add(patience)))
	in := bufio.NewReader(c)
	return func(path string) string {
		o.Helper()
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: far.example\r\n\r\n", path)
		response, err := http.ReadResponse(in, nil)
		o.must(err)
		body, err := io.ReadAll(response.Body)
		o.must(err)
		return string(body)
	}
}

// Rules follow host names through their addresses, and lists in files as they are at a reload.
func TestLinkNamesAndLists(t *testing.T) {
	o := newOffice(t, 2)
	dns, err := o.net.Web.ServeDNS("10.1.0.10:53")
	o.must(err)
	dns.Set("bank.example", time.Second, "203.0.113.20", "203.0.113.21")
	list := filepath.Join(o.dir, "list.txt")
	o.must(os.WriteFile(list, []byte("# a few\n203.0.113.24\n203.0.113.26/31\n"), 0o644))
	file := "resolvers: {servers: [\"10.1.0.10:53\"], min_ttl: 1s}\nlists: {few: {addresses: " + list + "}}\n" +
		strings.Replace(uncheckedLinks, "virtua: {interface: wan1, gateway: 192.0.2.1}", "virtua: {interface: wan1, gateway: 192.0.2.1, weight: 1000}", 1) +
		"  rules: [{to: [bank.example, list:few], link: embratel}]\n"
	s := o.start(file)
	s.awaitLinks(bothUp)
	to := func(last string) string { return o.by(o.net.Client, "", "203.0.113."+last+":80") }
	o.await("the name's addresses", func() bool { return to("20") == "embratel" && to("21") == "embratel" })
	for _, last := range []string{"24", "26", "27"} {
		if link := to(last); link != "embratel" {
			t.Errorf("an address of the list by %s", link)
		}
	}
	if counts := o.spread(20, func(int) string { return "203.0.113.25:80" }); counts["virtua"] < 15 {
		t.Errorf("beside the list: %v", counts)
	}
	dns.Set("bank.example", time.Second, "203.0.113.22")
	o.await("the name's new address", func() bool {
		return to("22") == "embratel" && o.spread(6, func(int) string { return "203.0.113.20:80" })["virtua"] > 3
	})
	o.must(os.WriteFile(list, []byte("203.0.113.25\n"), 0o644))
	o.must(s.Signal(syscall.SIGHUP))
	s.await("reloaded", func(st *admin.Status) bool { return st.Generation == 2 && serves(st) })
	o.await("the list's new address", func() bool {
		return to("25") == "embratel" && o.spread(6, func(int) string { return "203.0.113.24:80" })["virtua"] > 3
	})
	if link := to("22"); link != "embratel" {
		t.Errorf("the name's address after a reload by %s", link)
	} // The next start knows the name from the last one, also when nobody answers for it.
	dns.Mute(true)
	s.stop()
	s = o.start("resolvers: {servers: [\"10.1.0.10:53\"], min_ttl: 1s}\n" + strings.TrimPrefix(strings.Replace(file, ", list:few", "", 1), file[:strings.Index(file, "links:")]))
	s.awaitLinks(bothUp)
	if counts := o.spread(10, func(int) string { return "203.0.113.22:80" }); counts["embratel"] != 10 {
		t.Errorf("the name's address after a restart without a name server: %v", counts)
	}
}
