package sniff

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLook(t *testing.T) {
	for text, want := range map[string]Kind{
		"": More, "G": More, "GET": More, "GET ": HTTP, "get / http/1.1": HTTP, "GET\t/": HTTP, "GET  / HTTP/1.1\r\n": HTTP, "\r\n\r\nGET / HTTP/1.1": HTTP, " GET /": HTTP,
		"GET\r\n": HTTP, "BREW /pot HTTP/1.1\r\n": HTTP, "BREW /pot": More, "BREW /pot\r\n": Other, "BREW /pot htt": More, "X-Y_Z~! * HTTP/9\n": HTTP,
		"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n": Other, "EHLO mail.example\r\n": Other, "220 mail ESMTP\r\n": Other, "220 mail": More, "\x00\x01": Other, "{\"a\": 1}": Other,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": HTTP2, "PRI * HT": More, "PRI / HTTP/1.1": HTTP, "POST /": HTTP, "P": More, "PRI * HTTP/2.0\r\nX": HTTP,
		"\x16\x03\x01": More, "\x16\x03\x01\x02\x00\x01": TLS, "\x16\x03\x01\x02\x00\x02": Other, "\x16\x02": Other, "\x16\x03\x01\x00\x00": Other, "\x16\x03\x09": Other,
		strings.Repeat("\n", 100): Other, strings.Repeat("A", 40): Other, "A " + strings.Repeat("x", MaxLine): Other, "GET/": Other, ":": Other, "\r\n": More,
		"\x80\x2e\x01\x03\x01": Other, "SSTP_DUPLEX_POST /sra HTTP/1.1\r\n": HTTP, "* OK IMAP4rev1 ready\r\n": Other, "BitTorrent protocol": More,
	} {
		k, need := Look([]byte(text))
		if k != want {
			t.Errorf("%.40q: %d, want %d", text, k, want)
		}
		if (k == More) != (need > len(text)) {
			t.Errorf("%.40q: %d needs %d bytes, has %d", text, k, need, len(text))
		}
	}
}

// hello returns the bytes that Go's TLS client sends first.
func hello(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		_ = tls.Client(client, c).Handshake() // fails when the server's end closes
		client.Close()
	}()
	_ = server.SetReadDeadline(time.Now().Add(5 * time.Second))
	head := make([]byte, 5)
	if _, err := server.Read(head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	for n := 0; n < len(body); {
		m, err := server.Read(body[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	return append(head, body...)
}

// refragment puts the handshake message of b into records of at most size bytes.
func refragment(b []byte, size int) []byte {
	var out []byte
	for message := b[5:]; len(message) > 0; {
		n := min(size, len(message))
		out = append(out, 0x16, 3, 1, byte(n>>8), byte(n))
		out = append(out, message[:n]...)
		message = message[n:]
	}
	return out
}

func TestReadHello(t *testing.T) {
	whole := hello(t, &tls.Config{ServerName: "WWW.Example", NextProtos: []string{"h2", "http/1.1"}})
	for _, size := range []int{1 << 14, 100, 3, 1} {
		b := refragment(whole, size)
		if k, _ := Look(b); k != TLS {
			t.Errorf("records of %d bytes: %d", size, k)
		}
		looks, need := 0, 1
		for n := 1; n < len(b); n++ { // byte by byte, looking again only when asked to
			if n < need {
				continue
			}
			looks++
			var h Hello
			var err error
			if h, need, err = ReadHello(b[:n]); err != nil || need <= n || need > len(b) {
				t.Fatalf("records of %d bytes, after %d of %d: %+v needs %d, %v", size, n, len(b), h, need, err)
			}
		}
		h, need, err := ReadHello(append(b, "and more"...))
		if err != nil || need != 0 || h.ServerName != "www.example" || !slices.Equal(h.ALPN, []string{"h2", "http/1.1"}) || h.ECH {
			t.Errorf("records of %d bytes: %+v, %d, %v", size, h, need, err)
		}
		if records := len(whole)/size + 1; looks > 3*records+3 {
			t.Errorf("records of %d bytes: looked %d times", size, looks)
		}
	}
	if h, _, err := ReadHello(hello(t, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})); err != nil || h.ServerName != "" || h.ALPN != nil {
		t.Errorf("without a name: %+v, %v", h, err)
	}
}

// build makes a ClientHello with the given extensions.
func build(extensions ...[]byte) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	all := bytes.Join(extensions, nil)
	body = append(body, byte(len(all)>>8), byte(len(all)))
	body = append(body, all...)
	message := append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	return append([]byte{0x16, 3, 1, byte(len(message) >> 8), byte(len(message))}, message...)
}

func extension(kind int, body ...byte) []byte {
	return append([]byte{byte(kind >> 8), byte(kind), byte(len(body) >> 8), byte(len(body))}, body...)
}

func TestReadHelloOddities(t *testing.T) {
	name := extension(0, append([]byte{0, 7, 0, 0, 4}, "a.de"...)...)
	for _, c := range []struct {
		what string
		b    []byte
		want string
		ech  bool
		bad  bool
	}{
		{"plain", build(name), "a.de", false, false},
		{"ECH beside the outer name", build(extension(extensionECH, 0, 1, 2, 3), name), "a.de", true, false},
		{"no extensions", build(), "", false, false},
		{"a name with a blank", build(extension(0, append([]byte{0, 7, 0, 0, 4}, "a de"...)...)), "", false, true},
		{"an empty name", build(extension(0, 0, 3, 0, 0, 0)), "", false, true},
		{"a list that is too long", build(extension(0, 0, 9, 0, 0, 4, 'a')), "", false, true},
		{"an empty protocol", build(extension(16, 0, 1, 0)), "", false, true},
		{"half an extension", build([]byte{0, 0, 0}), "", false, true},
		{"another record type inside", append(refragment(build(name), 20)[:25], 0x17, 3, 3, 0, 1, 0), "", false, true},
		{"a huge message", []byte{0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff}, "", false, true},
		{"an empty record", []byte{0x16, 3, 1, 0, 0, 0}, "", false, true},
	} {
		h, need, err := ReadHello(c.b)
		if (err != nil) != c.bad || need != 0 || h.ServerName != c.want && !c.bad || h.ECH != c.ech && !c.bad {
			t.Errorf("%s: %+v, %d, %v", c.what, h, need, err)
		}
	}
}

func FuzzLook(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n"), 3)
	f.Add([]byte("SSH-2.0-x y\r\n"), 5)
	f.Add([]byte(preface), 7)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		k, need := Look(b)
		if (k == More) != (need > len(b)) || k == More && len(b) > MaxLine+maxBlank {
			t.Fatalf("%d needs %d, has %d", k, need, len(b))
		}
		if cut < 0 || cut > len(b) {
			return
		}
		if earlier, _ := Look(b[:cut]); earlier != More && earlier != k {
			t.Errorf("%d after %d bytes and %d after all", earlier, cut, k)
		}
	})
}

func FuzzReadHello(f *testing.F) {
	whole := hello(f, &tls.Config{ServerName: "www.example", NextProtos: []string{"h2"}})
	f.Add(whole)
	f.Add(refragment(whole, 50))
	f.Add(build(extension(extensionECH, 1)))
	f.Add([]byte{0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, need, err := ReadHello(b)
		if need != 0 && (need <= len(b) || err != nil) {
			t.Fatalf("needs %d of %d, %v", need, len(b), err)
		}
		if need != 0 && len(b) > 8*MaxHello {
			t.Error("unbounded")
		}
		if strings.ContainsAny(h.ServerName, " \n\x00\"") || len(h.ALPN) > mostProtocols {
			t.Errorf("%+v", h)
		}
	})
}
