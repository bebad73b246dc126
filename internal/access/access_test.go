package access

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"salp/internal/config"
)

// head is a request's header for the tests.
type head []string // name, value, name, value

func (h head) Value(name string, n int) (string, bool) {
	for i := 0; i+1 < len(h); i += 2 {
		if strings.EqualFold(h[i], name) {
			if n == 0 {
				return h[i+1], true
			}
			n--
		}
	}
	return "", false
}

// compile makes the rules of a file whose access list "a" has the given rules.
func compile(t testing.TB, rules string) (*config.Config, *Rules) {
	t.Helper()
	text := "listeners: {web: {intercept: {interfaces: [eth0], ports: [80]}, protocol: http, access: a}}\n" +
		"lists: {names: {names: n}, nets: {addresses: n}}\naccess:\n  a:\n"
	for _, r := range strings.Split(strings.TrimSpace(rules), "\n") {
		text += "    - " + strings.TrimSpace(r) + "\n"
	}
	c, err := config.Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c, Compile(c)
}

func usual() Facts {
	return Facts{Client: netip.MustParseAddr("10.0.1.5"), Server: netip.MustParseAddr("203.0.113.9"), Port: 80, Method: "GET", Host: "www.a.example", Path: "/x/y.exe",
		Header: head{"User-Agent", "curl/8", "X", "1", "x", "2"}, Listener: "web", Time: time.Date(2026, 11, 25, 9, 30, 0, 0, time.UTC)} // a Wednesday
}

func TestConditions(t *testing.T) {
	for _, c := range []struct {
		conditions string
		met        bool
		change     func(*Facts)
	}{
		{"{}", true, nil},
		{"from: [10.0.1.0/24]", true, nil}, {"from: [10.0.2.0/24, 10.0.1.5]", true, nil}, {"from: [10.0.1.4]", false, nil}, {`from: ["::/0"]`, false, nil}, {"from: [0.0.0.0/0]", true, nil},
		{"from: [10.0.1.0/24]", true, func(f *Facts) { f.Client = netip.MustParseAddr("::ffff:10.0.1.9") }},
		{`from: ["fd00:1::/64"]`, true, func(f *Facts) { f.Client = netip.MustParseAddr("fd00:1::ffff:1") }},
		{`from: ["fd00:1::/64"]`, false, func(f *Facts) { f.Client = netip.MustParseAddr("fd00:1:0:1::") }},
		{"to: [203.0.113.9]", true, nil}, {"to: [203.0.113.8]", false, nil}, {"not_to: [203.0.113.9]", true, func(f *Facts) { f.Server = netip.Addr{} }},
		{"ports: [80]", true, nil}, {"ports: [1-79, 81-65535]", false, nil}, {"not_ports: [80]", false, nil}, {"not_ports: [443]", true, nil},
		{"method: [GET, HEAD]", true, nil}, {"method: [get]", false, nil}, {"not_method: [GET]", false, nil}, {"not_method: [GET]", true, func(f *Facts) { f.Method = "" }},
		{"host: [www.a.example]", true, nil}, {"host: [a.example]", false, nil}, {"host: [.a.example]", true, nil}, {"host: [.example]", true, nil}, {"host: [.w.a.example]", false, nil},
		{"host: [.www.a.example]", true, nil}, {"host: [.a.example]", false, func(f *Facts) { f.Host = "xa.example" }}, {"host: [.a.example]", false, func(f *Facts) { f.Host = "" }},
		{`host: ["[2001:db8::1]"]`, true, func(f *Facts) { f.Host = Host("[2001:DB8:0::1]:80") }}, {"host: [.2]", false, func(f *Facts) { f.Host = "10.0.0.2" }},
		{`path: ["/x/*"]`, true, nil}, {`path: ["*.exe"]`, true, nil}, {`path: ["/x"]`, false, nil}, {`path: ["~\\.(exe|msi)$"]`, true, nil}, {`path: ["~^/y"]`, false, nil},
		{`path: ["/x/*"]`, true, func(f *Facts) { f.Path = "/%78/z" }}, {`path: ["/x/*"]`, true, func(f *Facts) { f.Path = "/a/..//./x/%2e/z" }}, {`path: ["/x/z"]`, true, func(f *Facts) { f.Path = "/x%2fz" }},
		{`header: ["User-Agent: curl*"]`, true, nil}, {`header: ["user-agent: *"]`, true, nil}, {`header: ["X: 2"]`, true, nil}, {`header: ["X: 3"]`, false, nil}, {`header: ["Y: *"]`, false, nil},
		{`not_header: ["Y: *"]`, true, nil}, {`header: ["X: ~^[0-9]$"]`, true, nil}, {`header: ["X: *"]`, false, func(f *Facts) { f.Header = nil }},
		{`time: ["mon-fri 09:00-10:00 UTC"]`, true, nil}, {`time: ["mon-fri 09:00-09:30 UTC"]`, false, nil}, {`time: ["mon-fri 10:30-10:31 Europe/Rome"]`, true, nil},
		{`time: ["thu 22:00-12:00 UTC"]`, false, nil}, {`time: ["tue 22:00-12:00 UTC"]`, true, nil}, {`time: ["wed UTC"]`, true, nil}, {`time: ["wed-tue UTC"]`, true, nil}, {`time: ["sat-sun UTC"]`, false, nil},
		{"sni: [.example]", false, nil}, {"sni: [.example]", true, func(f *Facts) { f.SNI = "a.example" }},
		{"alpn: [h2]", false, nil}, {"alpn: [h2, smtp]", true, func(f *Facts) { f.ALPN = []string{"http/1.1", "h2"} }}, {"alpn: [h2]", false, func(f *Facts) { f.ALPN = []string{"H2"} }}, {"not_alpn: [h2]", true, nil},
		{"user: [alice]", false, nil}, {"user: [alice]", true, func(f *Facts) { f.User = "alice" }}, {`user: ["*"]`, true, func(f *Facts) { f.User = "bob" }}, {"not_user: [alice]", true, nil}, {`not_user: ["*"]`, true, nil},
		{"listener: [web]", true, nil}, {"not_listener: [web]", false, nil},
		{`content_type: ["video/*"]`, false, nil}, {`content_type: ["video/*"]`, true, func(f *Facts) { f.ContentType = MediaType("Video/MP4 ; x=1") }},
		{"host_verified: true", false, nil}, {"host_verified: false", true, nil}, {"host_verified: true", true, func(f *Facts) { f.HostVerified = true }},
		{"host: [list:names]", true, func(f *Facts) { f.Host = "deep.ads.example" }}, {"host: [list:names]", false, nil}, {"not_host: [list:names]", true, nil},
		{"from: [list:nets]", true, func(f *Facts) { f.Client = netip.MustParseAddr("192.0.2.200") }}, {"from: [list:nets]", false, nil},
		{"method: [GET], host: [.example], not_ports: [443]", true, nil}, {"method: [GET], host: [.example], not_ports: [80]", false, nil},
	} {
		conf, rules := compile(t, "allow: {"+strings.Trim(c.conditions, "{}")+"}")
		fill(t, conf, rules)
		f := usual()
		if c.change != nil {
			c.change(&f)
		}
		v := rules.List("a").Decide(&f)
		if v.Allow != c.met || v.Needs != 0 || (v.Rule == 0) != c.met {
			t.Errorf("%s of %+v: %+v, want %v", c.conditions, f, v, c.met)
		}
		if steps := rules.List("a").Explain(&f); len(steps) != 1 || steps[0].Met != c.met || steps[0].Why == "" {
			t.Errorf("%s: explained as %+v", c.conditions, steps)
		}
	}
}

func fill(t *testing.T, c *config.Config, rules *Rules) {
	t.Helper()
	if err := rules.SetList(c.List("names"), strings.NewReader(".ads.example\n")); err != nil {
		t.Fatal(err)
	}
	if err := rules.SetList(c.List("nets"), strings.NewReader("192.0.2.0/24\n")); err != nil {
		t.Fatal(err)
	}
}

func TestDecide(t *testing.T) {
	_, rules := compile(t, `
		deny: {user: [mallory]}
		deny: {content_type: ["video/*"]}
		{allow: {host_verified: true}, mark: 0x10}
		allow: {method: [GET], content_type: ["text/*"]}
		deny: {method: [GET]}
		allow: {ports: [443]}`)
	l := rules.List("a")
	for i, c := range []struct {
		missing Need
		set     func(*Facts)
		allow   bool
		rule    int
		needs   Need
	}{
		{User, nil, false, 0, User},
		{Verification | Response, nil, false, 2, Verification},
		{Response, func(f *Facts) { f.HostVerified = true }, true, 2, Response},
		{0, func(f *Facts) { f.HostVerified, f.ContentType = true, "video/mp4" }, false, 1, 0},
		{Response, nil, true, 3, Response},
		{0, func(f *Facts) { f.ContentType = "text/html" }, true, 3, 0},
		{0, func(f *Facts) { f.ContentType = "image/png" }, false, 4, 0},
		{Response, func(f *Facts) { f.Method, f.Port = "POST", 443 }, true, 5, Response},
		{Response, func(f *Facts) { f.Method = "POST" }, false, NoRule, 0}, // denied whatever the response
		{User, func(f *Facts) { f.User = "" }, false, 0, User},
	} {
		f := usual()
		f.Missing = c.missing
		if c.set != nil {
			c.set(&f)
		}
		v := l.Decide(&f)
		if v.Allow != c.allow || v.Rule != c.rule || v.Needs != c.needs {
			t.Errorf("case %d: %+v, want allow %v by %d, needs %d", i, v, c.allow, c.rule, c.needs)
		}
		if marked := v.Marking != nil && v.Marking.Mark == 0x10; marked != (v.Rule == 2 && v.Needs&Verification == 0) {
			t.Errorf("case %d: marking %v", i, v.Marking)
		}
	}
	if !l.Mentions(User) || !l.Mentions(Response) || l.Mentions(Address) {
		t.Error("Mentions does not tell what the rules ask about")
	}
	if v := l.Decide(&Facts{}); v.Place() != "a[4]" && v.Place() != "a" || (Verdict{}).Place() != "" {
		t.Errorf("place %q", v.Place())
	}
}

// The shared example means what Squid's customary rules mean.
func TestOfficeWeb(t *testing.T) {
	text, err := os.ReadFile("../../examples/office-web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("office-web.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	l := Compile(c).List("office")
	for _, k := range []struct {
		client, method, host string
		port                 uint16
		place                string
		allow                bool
	}{
		{"10.0.1.7", "GET", "news.example", 80, "office[3]", true},
		{"fd00:1::7", "GET", "news.example", 8080, "office[3]", true},
		{"10.0.1.7", "CONNECT", "bank.example", 443, "office[3]", true},
		{"10.0.1.7", "CONNECT", "mail.example", 25, "office[0]", false},
		{"10.0.1.7", "GET", "db.example", 3306, "office[1]", false},
		{"10.0.1.7", "GET", "track.ads.example", 80, "office[2]", false},
		{"10.0.9.7", "GET", "news.example", 80, "office", false},
	} {
		f := Facts{Client: netip.MustParseAddr(k.client), Method: k.method, Host: k.host, Port: k.port, Path: "/", Time: time.Now()}
		if v := l.Decide(&f); v.Allow != k.allow || v.Place() != k.place || v.Allow && v.Line() != 19 {
			t.Errorf("%+v: %v by %s in line %d", k, v.Allow, v.Place(), v.Line())
		}
	}
}

func TestRoutes(t *testing.T) {
	c, err := config.Parse("test", []byte(`
listeners:
  web:
    intercept: {interfaces: [eth0], ports: [80]}
    protocol: http
    routes:
      - {path: ["/img/*"], pool: p}
      - {to: [203.0.113.9], pool: p}
      - {host: [.example], destination: original}
pools: {p: {servers: ["10.0.2.2:80"]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	r := Compile(c).Routes("web")
	f := usual()
	if i, needs := r.Choose(&f); i != 1 || needs != 0 {
		t.Errorf("route %d, needs %d", i, needs)
	}
	f.Missing = Address
	if i, needs := r.Choose(&f); i != NoRule || needs != Address {
		t.Errorf("route %d, needs %d", i, needs)
	}
	f.Path = "/img/a"
	if i, needs := r.Choose(&f); i != 0 || needs != 0 {
		t.Errorf("route %d, needs %d", i, needs)
	}
	f = Facts{}
	if i, _ := r.Choose(&f); i != NoRule {
		t.Errorf("route %d of nothing", i)
	}
	if Compile(c).Routes("other") != nil || Compile(c).List("other") != nil {
		t.Error("something that is not there")
	}
}

func TestNoAllocations(t *testing.T) {
	conf, rules := compile(t, `
		deny: {method: [CONNECT], not_ports: [443]}
		deny: {host: [".ads.example", list:names], path: ["*.exe", "~^/admin"]}
		deny: {header: ["User-Agent: *bot*"]}
		deny: {time: ["sat-sun 00:00-24:00 UTC"], from: [list:nets]}
		allow: {from: [10.0.1.0/24]}`)
	fill(t, conf, rules)
	l, f := rules.List("a"), usual()
	if n := testing.AllocsPerRun(100, func() {
		if !l.Decide(&f).Allow {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	_, rules := compile(b, `
		deny: {method: [CONNECT], not_ports: [443]}
		deny: {not_ports: [80, 8080, 21, 443, 563]}
		deny: {host: [".ads.example"]}
		allow: {from: [10.0.1.0/24, "fd00:1::/64"]}`)
	l, f := rules.List("a"), usual()
	b.ReportAllocs()
	for b.Loop() {
		l.Decide(&f)
	}
}
