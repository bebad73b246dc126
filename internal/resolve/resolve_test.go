package resolve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"salp/internal/lab"
)

// server starts a DNS server on loopback and a resolver that asks it.
func server(t *testing.T, change func(*Options)) (*lab.DNS, *Resolver) {
	t.Helper()
	d, err := lab.StartDNS("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	o := Options{Servers: []netip.AddrPort{d.Addr()}, Timeout: 300 * time.Millisecond, Hosts: filepath.Join(t.TempDir(), "hosts")}
	if change != nil {
		change(&o)
	}
	return d, New(o)
}

func addrs(t *testing.T, r *Resolver, name string) string {
	t.Helper()
	a, err := r.Lookup(t.Context(), name)
	if err != nil {
		return "error: " + err.Error()
	}
	if len(a.Addrs) == 0 || !a.Until.After(time.Now()) {
		t.Errorf("%s: %+v", name, a)
	}
	return strings.Trim(fmt.Sprint(a.Addrs), "[]")
}

func TestLookup(t *testing.T) {
	d, r := server(t, nil)
	d.Set("both.test", time.Minute, "10.0.0.2", "fd00::2", "10.0.0.1", "10.0.0.1")
	d.Set("none.test", time.Minute)
	d.Set("bad.test", time.Minute, "0.0.0.0", "224.0.0.1", "::")
	d.Alias("www.test", "web.test", time.Minute)
	d.Alias("web.test", "both.test", time.Minute)
	d.Alias("loop.test", "loop.test", time.Minute)
	d.Alias("dangling.test", "gone.test", time.Minute)
	for name, want := range map[string]string{
		"both.test": "10.0.0.1 10.0.0.2 fd00::2", "WWW.Test.": "10.0.0.1 10.0.0.2 fd00::2",
		"none.test": "error: no such name: none.test has no address", "gone.test": "error: no such name: gone.test",
		"bad.test": "error: no such name: bad.test has no address", "loop.test": "error: no such name: loop.test has no address",
		"dangling.test": "error: no such name: dangling.test",
		"192.0.2.1":     "192.0.2.1", "[2001:db8::1]": "2001:db8::1",
		"a..b": `error: look up a..b: "a..b" is no name for DNS`,
	} {
		if got := addrs(t, r, name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if _, err := r.Lookup(t.Context(), "gone.test"); !errors.Is(err, ErrNoSuchName) {
		t.Errorf("%v", err)
	}
}

func TestManyAddressesComeByTCP(t *testing.T) {
	d, r := server(t, nil)
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("10.0.1.%d", i+1))
	}
	d.Set("many.test", time.Minute, many...)
	if got := strings.Fields(addrs(t, r, "many.test")); len(got) != 100 {
		t.Errorf("%d addresses: %v", len(got), got)
	}
}

func TestCacheKeepsToTimesToLive(t *testing.T) {
	d, r := server(t, func(o *Options) { o.MinTTL, o.MaxTTL = time.Second, 2*time.Second })
	d.Set("long.test", time.Hour, "10.0.0.1")
	d.Set("short.test", 0, "10.0.0.1")
	for range 5 {
		addrs(t, r, "long.test")
		addrs(t, r, "short.test")
		addrs(t, r, "gone.test")
	}
	if n := d.Queries(); n != 6 { // A and AAAA of each
		t.Errorf("%d queries", n)
	}
	a, _ := r.Lookup(t.Context(), "long.test")
	if left := time.Until(a.Until); left > 2*time.Second || left < time.Second {
		t.Errorf("kept for %v", left)
	}
	d.Set("short.test", 0, "10.0.0.9")
	d.Set("gone.test", 0, "10.0.0.9")
	time.Sleep(1100 * time.Millisecond)
	if got := addrs(t, r, "short.test") + addrs(t, r, "gone.test") + addrs(t, r, "long.test"); got != "10.0.0.910.0.0.910.0.0.1" {
		t.Errorf("after a second: %s", got)
	}
}

func TestOneQueryForAllWhoAsk(t *testing.T) {
	d, r := server(t, nil)
	d.Set("a.test", time.Minute, "10.0.0.1")
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			if got := addrs(t, r, "a.test"); got != "10.0.0.1" {
				t.Error(got)
			}
		})
	}
	wait.Wait()
	if n := d.Queries(); n != 2 {
		t.Errorf("%d queries", n)
	}
}

func TestSilentAndFailingServers(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d, r := server(t, func(o *Options) {
		o.Servers = append([]netip.AddrPort{netip.MustParseAddrPort(silent.LocalAddr().String())}, o.Servers...)
	})
	d.Set("a.test", time.Minute, "10.0.0.1")
	d.Set("b.test", time.Minute, "10.0.0.2")
	if got := addrs(t, r, "a.test"); got != "10.0.0.1" {
		t.Error(got)
	}
	began := time.Now()
	if got := addrs(t, r, "b.test"); got != "10.0.0.2" || time.Since(began) > 200*time.Millisecond {
		t.Errorf("%s after %v: the silent server was asked first again", got, time.Since(began))
	}
	d.Fail(dnsmessage.RCodeServerFailure)
	if got, want := addrs(t, r, "c.test"), "error: look up c.test: no answer from the DNS server "+silent.LocalAddr().String(); got != want && !strings.Contains(got, "SERVFAIL") {
		t.Error(got)
	}
	d.Fail(dnsmessage.RCodeSuccess)
	d.Set("c.test", time.Minute, "10.0.0.3")
	time.Sleep(failureFor + 50*time.Millisecond)
	if got := addrs(t, r, "c.test"); got != "10.0.0.3" {
		t.Error(got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	d.Mute(true)
	if _, err := r.Lookup(ctx, "d.test"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestForgedAnswersAreIgnored(t *testing.T) {
	liar, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer liar.Close()
	go func() {
		for {
			query := make([]byte, 1500)
			n, from, err := liar.ReadFrom(query)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(query[:n]) != nil {
				continue
			}
			right, q := m.Header.ID, m.Questions[0]
			send := func(id uint16, question, owner, addr string) {
				m.Header = dnsmessage.Header{ID: id, Response: true}
				m.Questions = []dnsmessage.Question{{Name: dnsmessage.MustNewName(question), Type: q.Type, Class: q.Class}}
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(owner), Class: dnsmessage.ClassINET, TTL: 60},
					Body: &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()}}}
				if text, err := m.Pack(); err == nil {
					_, _ = liar.WriteTo(text, from)
				}
			}
			_, _ = liar.WriteTo([]byte("junk"), from)
			send(right+1, "a.test.", "a.test.", "10.6.6.6")
			send(right, "b.test.", "a.test.", "10.6.6.6")
			send(right, "a.test.", "evil.test.", "10.6.6.6") // the answer at last, with a record of another name
		}
	}()
	r := New(Options{Servers: []netip.AddrPort{netip.MustParseAddrPort(liar.LocalAddr().String())}, Timeout: 300 * time.Millisecond, Hosts: "/dev/null"})
	if got := addrs(t, r, "a.test"); got != "error: no such name: a.test has no address" {
		t.Errorf("%s", got)
	}
}

func TestCacheIsBounded(t *testing.T) {
	r := New(Options{})
	for i := range 3 * maxCache {
		r.mutex.Lock()
		r.keep(fmt.Sprint(i), &entry{until: time.Now().Add(time.Hour)})
		r.mutex.Unlock()
	}
	if len(r.cache) > maxCache {
		t.Errorf("%d names", len(r.cache))
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	conf, hosts := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := newFiles(conf, hosts)
	if got := f.servers(); len(got) != 1 || got[0].String() != "127.0.0.1:53" {
		t.Errorf("without a file: %v", got)
	}
	write(conf, "search x.test\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\n#nameserver 10.9.9.9\nnameserver bad\nnameserver 1.1.1.1\nnameserver 2.2.2.2\n")
	write(hosts, "127.0.0.1 localhost\n10.0.0.7\tMail.Test mx # 10.0.0.8 no\nfd00::7 mail.test\nbad mail.test\n0.0.0.0 blocked.test\n")
	f.looked = time.Time{}
	if got := fmt.Sprint(f.servers()); got != "[10.0.0.53:53 [fe80::1%eth0]:53 1.1.1.1:53]" {
		t.Errorf("%s", got)
	}
	if got := fmt.Sprint(f.host("mail.test"), f.host("mx"), f.host("no"), f.host("blocked.test")); got != "[10.0.0.7 fd00::7] [10.0.0.7] [] []" {
		t.Errorf("%s", got)
	}
	r := New(Options{Conf: conf, Hosts: hosts})
	if got := addrs(t, r, "Mail.Test."); got != "10.0.0.7 fd00::7" {
		t.Errorf("%s", got)
	}
	if err := os.Remove(hosts); err != nil {
		t.Fatal(err)
	}
	f.looked = time.Time{}
	if got := f.host("mx"); len(got) != 0 {
		t.Errorf("after its removal: %v", got)
	}
}

func TestFollow(t *testing.T) {
	d, r := server(t, nil)
	d.Set("a.test", time.Second, "10.0.0.1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan string, 100)
	go r.Follow(ctx, "a.test", func(a Answer, err error) { told <- fmt.Sprint(a.Addrs, err) })
	want := func(text string) {
		t.Helper()
		for end := time.After(5 * time.Second); ; {
			select {
			case got := <-told:
				if strings.Contains(got, text) {
					return
				}
			case <-end:
				t.Fatalf("%s was not told", text)
			}
		}
	}
	want("[10.0.0.1] <nil>")
	d.Set("a.test", time.Second, "10.0.0.2", "10.0.0.3")
	want("[10.0.0.2 10.0.0.3] <nil>")
	d.Fail(dnsmessage.RCodeRefused)
	want("REFUSED")
	d.Fail(dnsmessage.RCodeSuccess)
	want("[10.0.0.2 10.0.0.3] <nil>")
}

func FuzzAnswer(f *testing.F) {
	n := dnsmessage.MustNewName("a.test.")
	h := dnsmessage.ResourceHeader{Name: n, Class: dnsmessage.ClassINET, TTL: 60}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, Response: true}, Questions: []dnsmessage.Question{{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		Answers: []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: [4]byte{10, 0, 0, 1}}}, {Header: h, Body: &dnsmessage.CNAMEResource{CNAME: n}},
			{Header: h, Body: &dnsmessage.AAAAResource{}}},
		Authorities: []dnsmessage.Resource{{Header: h, Body: &dnsmessage.SOAResource{NS: n, MBox: n, MinTTL: 9}}}}
	text, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	m.Answers, m.Header.RCode = nil, dnsmessage.RCodeNameError
	if text, err = m.Pack(); err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		var p dnsmessage.Parser
		h, err := parseHeader(&p, text, 7, "a.test", dnsmessage.TypeA)
		if err != nil {
			return
		}
		a, err := parseAnswer(&p, h, "a.test", dnsmessage.TypeA)
		if err == nil && (a.ttl < 0 || len(a.addrs) > maxAddresses || a.none && len(a.addrs) > 0) {
			t.Errorf("%+v", a)
		}
		for _, addr := range a.addrs {
			if !usable(addr) || !addr.Is4() {
				t.Errorf("address %v", addr)
			}
		}
	})
}

func FuzzFiles(f *testing.F) {
	f.Add([]byte("127.0.0.1 localhost # x\n::1 localhost\nnameserver 10.0.0.1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		parseHosts(text)
		if len(parseConf(text)) > maxServers {
			t.Error("too many servers")
		}
	})
}
