package access

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestReadNames(t *testing.T) {
	s, err := ReadNames(strings.NewReader("\ufeff# a comment\n\nWWW.A.example.  # more\n.b.example\n*.c.example\n0.0.0.0 d.example e.example\n::1\tf.example\r\nbücher.example\n.bücher2.example\n192.0.2.1\n2001:db8:0::1\n"))
	if err != nil || s.Len() != 10 {
		t.Fatalf("%d entries, %v", s.Len(), err)
	}
	for host, want := range map[string]bool{
		"www.a.example": true, "a.example": false, "x.www.a.example": false, "b.example": true, "x.y.b.example": true, "xb.example": false, "c.example": true, "x.c.example": true,
		"d.example": true, "e.example": true, "f.example": true, "xn--bcher-kva.example": true, "a.xn--bcher2-3ya.example": true, "192.0.2.1": true, "2.1": false, "2001:db8::1": true, "example": false, "": false, ".": false, "..": false,
	} {
		if s.Has(host) != want {
			t.Errorf("%q: %v, want %v", host, !want, want)
		}
	}
	var none *NameSet
	if none.Has("a") || none.Len() != 0 || (&NameSet{}).Has("a") {
		t.Error("an empty set has something")
	}
	for text, want := range map[string]string{"ok\na b\n": "line 2", "http://a/": "line 1", "*a": "not a host name", ".": "not a host name", "a\n" + strings.Repeat("x", longestLine+1): "line 2", "a:b": "not a host name", "||ads^": "not a host name"} {
		if _, err := ReadNames(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}

// The set of addresses says what the prefixes themselves say.
func TestAddressSet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var prefixes []netip.Prefix
	for range 300 {
		a := netip.AddrFrom4([4]byte{10, byte(random.IntN(4)), byte(random.IntN(256)), byte(random.IntN(256))})
		prefixes = append(prefixes, netip.PrefixFrom(a, 14+random.IntN(19)).Masked())
		b := netip.AddrFrom16([16]byte{0xfd, 15: byte(random.IntN(256)), 7: byte(random.IntN(4)), 8: byte(random.IntN(4))})
		prefixes = append(prefixes, netip.PrefixFrom(b, 60+random.IntN(69)).Masked())
	}
	prefixes = prefixes[250:]
	s := NewAddressSet(prefixes)
	in, out := 0, 0
	for range 20000 {
		a := netip.AddrFrom4([4]byte{10, byte(random.IntN(8)), byte(random.IntN(256)), byte(random.IntN(256))})
		if random.IntN(2) == 0 {
			a = netip.AddrFrom16([16]byte{0xfd, 15: byte(random.IntN(256)), 7: byte(random.IntN(8)), 8: byte(random.IntN(4))})
		}
		want := false
		for _, p := range prefixes {
			want = want || p.Contains(a)
		}
		if s.Has(a) != want {
			t.Fatalf("%v: %v, want %v", a, !want, want)
		}
		if want {
			in++
		} else {
			out++
		}
	}
	if in < 100 || out < 100 {
		t.Errorf("%d in, %d out", in, out)
	}
	all := NewAddressSet([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"), netip.MustParsePrefix("::1/128")})
	if !all.Has(netip.MustParseAddr("255.255.255.255")) || !all.Has(netip.MustParseAddr("ffff::")) || all.Len() != 2 || all.Has(netip.Addr{}) {
		t.Error("everything is not in the set of everything")
	}
}

func TestReadAddresses(t *testing.T) {
	s, err := ReadAddresses(strings.NewReader("# c\n10.0.0.0/8 # x\n\n2001:db8::1\n::ffff:192.0.2.1\n"))
	if err != nil || s.Len() != 3 || !s.Has(netip.MustParseAddr("192.0.2.1")) || !s.Has(netip.MustParseAddr("10.1.2.3")) {
		t.Errorf("%v, %v", s, err)
	}
	for _, text := range []string{"x", "10.0.0.0/33", "10.0.0.1-10.0.0.2", "fe80::1%eth0", "1.2.3.4 5.6.7.8"} {
		if _, err := ReadAddresses(strings.NewReader("\n" + text)); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A bad new file keeps the old list.
func TestSetListKeepsTheOld(t *testing.T) {
	conf, rules := compile(t, "deny: {host: [list:names]}")
	fill(t, conf, rules)
	if err := rules.SetList(conf.List("names"), strings.NewReader("a b c\n")); err == nil {
		t.Error("a bad list is taken")
	}
	f := usual()
	f.Host = "ads.example"
	if v := rules.List("a").Decide(&f); v.Rule != 0 {
		t.Error("the list before is gone")
	}
	if err := rules.SetList(conf.List("names"), strings.NewReader("other.example\n")); err != nil {
		t.Error(err)
	}
	if v := rules.List("a").Decide(&f); v.Rule != NoRule {
		t.Error("the new list is not in force")
	}
}

func TestHost(t *testing.T) {
	for s, want := range map[string]string{"A.Example.:80": "a.example", "a.example": "a.example", "[::1]:80": "::1", "[2001:DB8::0:1]": "2001:db8::1", "10.0.0.1:80": "10.0.0.1", "": "", "[::ffff:10.0.0.1]": "10.0.0.1", "[": "[", ":": ""} {
		if got := Host(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func TestPath(t *testing.T) {
	for s, want := range map[string]string{
		"/a/b": "/a/b", "/a?x=//": "/a", "/%61%2fb": "/a/b", "/a/./b/../c": "/a/c", "/..": "/", "/a/..": "/", "//a//": "/a/", "/%zz%4": "/%zz%4", "/%3c": "/%3C", "*": "*", "/a/.": "/a/", "/a\\b": "/a/b", "/%2e%2E/x": "/x", "": "",
	} {
		if got := Path(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/a/%2e%2e/b", "//", "/%", "/\\..\\x", "/a/../../b/."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p := Path(s); strings.HasPrefix(s, "/") && (strings.Contains(p, "/../") || strings.Contains(p, "//") || !strings.HasPrefix(p, "/")) {
			t.Errorf("%q: %q", s, p)
		}
	})
}

func FuzzReadNames(f *testing.F) {
	f.Add("a.example\n.b\n0.0.0.0 c # d\n")
	f.Add("*.ü\n::1 x")
	f.Fuzz(func(t *testing.T, s string) {
		set, err := ReadNames(strings.NewReader(s))
		if (set == nil) == (err == nil) {
			t.Errorf("%v, %v", set, err)
		}
		_ = set.Has(s)
	})
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{{"", "", true}, {"", "a", false}, {"*", "", true}, {"a*b*c", "aXbYbZc", true}, {"a*b*c", "aXbYbZ", false}, {"**a", "ba", true}, {"*a", "ab", false}, {"a", "a", true}, {"a*", "a", true}} {
		if glob(c.pattern, c.s) != c.want {
			t.Errorf("%q of %q is not %v", c.pattern, c.s, c.want)
		}
	}
}

// million is a list as block lists are: most names have three labels.
func million() string {
	var b strings.Builder
	for i := range 1_000_000 {
		fmt.Fprintf(&b, "host%d.tracker%d.example\n", i, i%5000)
	}
	return b.String()
}

func BenchmarkMillionNames(b *testing.B) {
	text := million()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s, err := ReadNames(strings.NewReader(text))
	if err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(text)
	var hosts []string
	for i := range 4096 {
		hosts = append(hosts, fmt.Sprintf("host%d.tracker%d.example", i*244, i*244%5000))
	}
	b.ReportAllocs()
	i, hits := 0, 0
	for b.Loop() {
		if s.Has(hosts[i&4095]) {
			hits++
		}
		i++
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
	b.ReportMetric(float64(hits)/float64(b.N), "hits/op")
}

func BenchmarkReadMillionNames(b *testing.B) {
	text := million()
	for b.Loop() {
		if _, err := ReadNames(strings.NewReader(text)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMillionAddresses(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	var prefixes []netip.Prefix
	for range 1_000_000 {
		prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32())}), 32))
	}
	s := NewAddressSet(prefixes)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s.Has(prefixes[i*7919%len(prefixes)].Addr())
		i++
	}
	b.ReportMetric(float64(s.Len()*8)/(1<<20), "MiB")
}

func TestPrefixes(t *testing.T) {
	in := []string{"10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "192.0.2.6/32", "0.0.0.0/32", "2001:db8::/32", "2001:db8:1::/48", "fd00::1/128", "fd00:0:0:1::/64"}
	want := []string{"0.0.0.0/32", "10.0.0.0/8", "192.0.2.6/32", "192.0.2.7/32", "2001:db8::/32", "fd00::1/128", "fd00:0:0:1::/64"}
	var prefixes []netip.Prefix
	for _, s := range in {
		prefixes = append(prefixes, netip.MustParsePrefix(s))
	}
	var got []string
	for _, p := range NewAddressSet(prefixes).Prefixes() {
		got = append(got, p.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, s := range []string{"0.0.0.0/0", "::/0"} {
		if got := NewAddressSet([]netip.Prefix{netip.MustParsePrefix(s)}).Prefixes(); len(got) != 1 || got[0].String() != s {
			t.Errorf("%s comes back as %v", s, got)
		}
	}
}
