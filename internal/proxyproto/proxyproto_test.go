package proxyproto

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

var addr = netip.MustParseAddrPort

func TestParse(t *testing.T) {
	four := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x01\x0a\x00\x00\x02\x10\x00\x00\x19"
	for _, test := range []struct {
		name, in string
		want     Header
		n        int
		err      error
	}{
		{name: "v1", in: "PROXY TCP4 192.0.2.1 10.0.0.2 56324 443\r\nGET /", want: Header{addr("192.0.2.1:56324"), addr("10.0.0.2:443")}, n: 41},
		{name: "v1, IPv6", in: "PROXY TCP6 fd00::1 fd00::2 1 65535\r\n", want: Header{addr("[fd00::1]:1"), addr("[fd00::2]:65535")}, n: 36},
		{name: "v1, IPv4 as IPv6", in: "PROXY TCP6 ::ffff:10.0.0.1 ::ffff:10.0.0.2 1 2\r\n", want: Header{addr("10.0.0.1:1"), addr("10.0.0.2:2")}, n: 48},
		{name: "v1, unknown", in: "PROXY UNKNOWN\r\n", n: 15},
		{name: "v1, unknown with addresses", in: "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\nx", n: 35},
		{name: "v1, the longest unknown", in: "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", n: 107},
		{name: "v1, no end yet", in: "PROXY TCP4 192.0.2.1 10.0.0.2 56324 443\r", err: ErrShort},
		{name: "one byte", in: "P", err: ErrShort},
		{name: "nothing", in: "", err: ErrShort},
		{name: "v1, without end", in: "PROXY TCP4 " + strings.Repeat("1", 107), err: ErrBad},
		{name: "v1, line feed alone", in: "PROXY TCP4 192.0.2.1 10.0.0.2 56324 443\n", err: ErrBad},
		{name: "v1, families mixed", in: "PROXY TCP4 fd00::1 10.0.0.2 56324 443\r\n", err: ErrBad},
		{name: "v1, port", in: "PROXY TCP4 192.0.2.1 10.0.0.2 65536 443\r\n", err: ErrBad},
		{name: "v1, leading zero", in: "PROXY TCP4 192.0.2.1 10.0.0.2 0443 443\r\n", err: ErrBad},
		{name: "v1, sign", in: "PROXY TCP4 192.0.2.1 10.0.0.2 +44 443\r\n", err: ErrBad},
		{name: "v1, two spaces", in: "PROXY TCP4  192.0.2.1 10.0.0.2 44 443\r\n", err: ErrBad},
		{name: "v1, another word", in: "PROXY UNKNOWNS\r\n", err: ErrBad},
		{name: "v1, UDP", in: "PROXY UDP4 192.0.2.1 10.0.0.2 44 443\r\n", err: ErrBad},
		{name: "HTTP", in: "GET / HTTP/1.1\r\n", err: ErrBad},
		{name: "SMTP", in: "EHLO x\r\n", err: ErrBad},
		{name: "v2", in: four + "EHLO", want: Header{addr("10.0.0.1:4096"), addr("10.0.0.2:25")}, n: 28},
		{name: "v2, part", in: four[:20], err: ErrShort},
		{name: "v2, signature alone", in: four[:12], err: ErrShort},
		{name: "v2, LOCAL", in: "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", n: 16},
		{name: "v2, LOCAL with what nobody reads", in: "\r\n\r\n\x00\r\nQUIT\n\x20\x11\x00\x01x", n: 17},
		{name: "v2, extensions", in: "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0f\x0a\x00\x00\x01\x0a\x00\x00\x02\x10\x00\x00\x19\x04\x00\x00", want: Header{addr("10.0.0.1:4096"), addr("10.0.0.2:25")}, n: 31},
		{name: "v2, Unix socket", in: "\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\x00", n: 16},
		{name: "v2, addresses cut", in: "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0b\x0a\x00\x00\x01\x0a\x00\x00\x02\x10\x00\x00", err: ErrBad},
		{name: "v2, version 3", in: "\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x00", err: ErrBad},
		{name: "v2, too long", in: "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", err: ErrBad},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, n, err := Parse([]byte(test.in))
			if h != test.want || n != test.n || err != test.err {
				t.Errorf("%+v, %d bytes, %v; want %+v, %d, %v", h, n, err, test.want, test.n, test.err)
			}
		})
	}
}

// What is written is read again as it was, and no header that is cut anywhere is taken for whole.
func TestThereAndBack(t *testing.T) {
	for _, pair := range [][2]netip.AddrPort{
		{addr("192.0.2.1:1"), addr("10.0.0.2:65535")}, {addr("[2001:db8::1]:40000"), addr("[fd00::2]:25")}, {addr("192.0.2.1:1"), addr("[fd00::2]:25")},
		{addr("[1111:2222:3333:4444:5555:6666:7777:8888]:65535"), addr("[1111:2222:3333:4444:5555:6666:7777:8888]:65535")}, {},
	} {
		for name, write := range map[string]func([]byte, netip.AddrPort, netip.AddrPort) []byte{"v1": Append1, "v2": Append2} {
			b := write(nil, pair[0], pair[1])
			if len(b) > MaxWritten {
				t.Errorf("%s of %v has %d bytes", name, pair, len(b))
			}
			h, n, err := Parse(b)
			if err != nil || n != len(b) || h.Source != pair[0] || h.Destination != pair[1] {
				t.Errorf("%s of %v: %+v, %d of %d bytes, %v", name, pair, h, n, len(b), err)
			}
			for i := range b {
				if _, _, err := Parse(b[:i]); err != ErrShort {
					t.Errorf("%s of %v cut after %d bytes: %v", name, pair, i, err)
				}
			}
		}
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	var room [MaxWritten]byte
	from, to := addr("[2001:db8::1]:40000"), addr("[fd00::2]:25")
	if n := testing.AllocsPerRun(100, func() { Append1(room[:0], from, to); Append2(room[:0], from, to) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 10.0.0.2 56324 443\r\nGET /"))
	f.Add([]byte("PROXY TCP6 fd00::1 ::ffff:10.0.0.2 1 65535\r\n"))
	f.Add([]byte("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\nx"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x01\x0a\x00\x00\x02\x10\x00\x00\x19"))
	f.Add(append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x24"), make([]byte, 36)...))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := Parse(b)
		switch {
		case err != nil && (n != 0 || h != Header{}):
			t.Fatalf("%+v and %d bytes beside %v", h, n, err)
		case err == ErrShort && len(b) >= MaxHeader:
			t.Fatalf("%d bytes are not enough", len(b))
		case err == nil && (n < 15 || n > len(b) || n > MaxHeader):
			t.Fatalf("a header of %d bytes of %d", n, len(b))
		}
		if err != nil {
			return
		}
		if h2, n2, err2 := Parse(b[:n]); h2 != h || n2 != n || err2 != nil {
			t.Fatalf("what follows the header changes it: %+v, %d, %v", h2, n2, err2)
		}
		for _, write := range []func([]byte, netip.AddrPort, netip.AddrPort) []byte{Append1, Append2} {
			again, _, err := Parse(write(nil, h.Source, h.Destination))
			if err != nil || again.Source != h.Source || again.Destination != h.Destination {
				t.Fatalf("%+v becomes %+v, %v", h, again, err)
			}
		}
		if i := bytes.IndexByte(b[:n], '\n'); b[0] == 'P' && i != n-1 {
			t.Fatalf("version 1 ends with its line, not after %d of %d bytes", n, i)
		}
	})
}
