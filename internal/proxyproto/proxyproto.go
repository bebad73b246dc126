// Package proxyproto reads and writes the header by which one proxy tells the next who the client is: the PROXY protocol, versions 1 and 2.
// (HAProxy's doc/proxy-protocol.txt, 2020/03/05)
package proxyproto

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strconv"
)

const (
	// MaxHeader bounds a header in bytes. Version 1 has at most 107; version 2 may have more in extensions (TLVs) than anybody sends.
	MaxHeader = 2048
	// MaxWritten is the longest header that Append makes.
	MaxWritten = maxV1

	maxV1      = 107
	signature1 = "PROXY "
	signature2 = "\r\n\r\n\x00\r\nQUIT\n"
	fixed2     = 16 // bytes of version 2 before the addresses
)

// Header is what was told.
type Header struct {
	Source      netip.AddrPort // the client; the zero value when the proxy speaks for itself (LOCAL, UNKNOWN), and the connection's own addresses count
	Destination netip.AddrPort // whom the client dialled; the zero value with Source
}

var (
	// ErrShort says that the header has not come in as a whole.
	ErrShort = errors.New("proxyproto: the header goes on")
	// ErrBad says that these bytes begin no header.
	ErrBad = errors.New("proxyproto: no PROXY header")
)

// Parse reads a header at the beginning of b, and says how many bytes it has. The error is ErrShort or ErrBad.
func Parse(b []byte) (Header, int, error) {
	switch {
	case begins(b, signature1):
		return parse1(b)
	case begins(b, signature2):
		return parse2(b)
	}
	return Header{}, 0, ErrBad
}

// begins says that b and the signature are the same as far as both go.
func begins(b []byte, signature string) bool {
	n := min(len(b), len(signature))
	return string(b[:n]) == signature[:n]
}

func parse1(b []byte) (h Header, n int, err error) {
	end := -1
	for i := range min(len(b), maxV1) {
		if b[i] == '\n' {
			end = i
			break
		}
	}
	switch {
	case end < 0 && len(b) < maxV1:
		return h, 0, ErrShort
	case end < len(signature1) || b[end-1] != '\r':
		return h, 0, ErrBad
	}
	line := b[len(signature1) : end-1]
	if string(line) == "UNKNOWN" || len(line) > 8 && string(line[:8]) == "UNKNOWN " {
		return h, end + 1, nil
	}
	var field [5][]byte
	for i := range field {
		field[i] = line
		if i == len(field)-1 {
			break
		}
		space := index(line, ' ')
		if space < 0 {
			return h, 0, ErrBad
		}
		field[i], line = line[:space], line[space+1:]
	}
	is4 := string(field[0]) == "TCP4"
	if !is4 && string(field[0]) != "TCP6" {
		return h, 0, ErrBad
	}
	ok1, ok2 := false, false
	h.Source, ok1 = endpoint(field[1], field[3], is4)
	h.Destination, ok2 = endpoint(field[2], field[4], is4)
	if !ok1 || !ok2 {
		return Header{}, 0, ErrBad
	}
	return h, end + 1, nil
}

func index(b []byte, c byte) int {
	for i := range b {
		if b[i] == c {
			return i
		}
	}
	return -1
}

func endpoint(address, port []byte, is4 bool) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(string(address))
	if err != nil || a.Is4() != is4 || a.Zone() != "" {
		return netip.AddrPort{}, false
	}
	p, err := strconv.ParseUint(string(port), 10, 16)
	if err != nil || len(port) > 1 && port[0] == '0' {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), true
}

func parse2(b []byte) (h Header, n int, err error) {
	if len(b) < fixed2 {
		return h, 0, ErrShort
	}
	command, family := b[12], b[13]
	n = fixed2 + int(binary.BigEndian.Uint16(b[14:]))
	switch {
	case command != 0x20 && command != 0x21, n > MaxHeader:
		return h, 0, ErrBad
	case len(b) < n:
		return h, 0, ErrShort
	}
	rest := b[fixed2:n]
	switch {
	case command == 0x20: // LOCAL: whatever it says
		return h, n, nil
	case family == 0x11 && len(rest) >= 12: // TCP over IPv4
		h.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(rest)), binary.BigEndian.Uint16(rest[8:]))
		h.Destination = netip.AddrPortFrom(netip.AddrFrom4([4]byte(rest[4:])), binary.BigEndian.Uint16(rest[10:]))
	case family == 0x21 && len(rest) >= 36: // TCP over IPv6
		h.Source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(rest)).Unmap(), binary.BigEndian.Uint16(rest[32:]))
		h.Destination = netip.AddrPortFrom(netip.AddrFrom16([16]byte(rest[16:])).Unmap(), binary.BigEndian.Uint16(rest[34:]))
	case family == 0x11 || family == 0x21:
		return h, 0, ErrBad
	}
	return h, n, nil // another family, Unix sockets say: nothing that a TCP server could use
}

// Append1 appends a header of version 1.
func Append1(b []byte, source, destination netip.AddrPort) []byte {
	if !source.IsValid() || !destination.IsValid() {
		return append(b, "PROXY UNKNOWN\r\n"...)
	}
	from, to := source.Addr(), destination.Addr()
	if from.Is4() && to.Is4() {
		b = append(b, "PROXY TCP4 "...)
	} else {
		from, to = six(from), six(to)
		b = append(b, "PROXY TCP6 "...)
	}
	b = append(from.AppendTo(b), ' ')
	b = append(to.AppendTo(b), ' ')
	b = append(strconv.AppendUint(b, uint64(source.Port()), 10), ' ')
	return append(strconv.AppendUint(b, uint64(destination.Port()), 10), "\r\n"...)
}

// six is an address as IPv6, for a pair of which one is.
func six(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }

// Append2 appends a header of version 2, without extensions.
func Append2(b []byte, source, destination netip.AddrPort) []byte {
	b = append(b, signature2...)
	switch {
	case !source.IsValid() || !destination.IsValid():
		return append(b, 0x20, 0, 0, 0)
	case source.Addr().Is4() && destination.Addr().Is4():
		from, to := source.Addr().As4(), destination.Addr().As4()
		b = append(b, 0x21, 0x11, 0, 12)
		b = append(append(b, from[:]...), to[:]...)
	default:
		from, to := source.Addr().As16(), destination.Addr().As16()
		b = append(b, 0x21, 0x21, 0, 36)
		b = append(append(b, from[:]...), to[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, source.Port())
	return binary.BigEndian.AppendUint16(b, destination.Port())
}
