package lab

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// DNS is a DNS server whose names a test sets, by UDP and TCP. Its methods may be called concurrently.
type DNS struct {
	udp net.PacketConn
	tcp net.Listener

	mu      sync.Mutex
	names   map[string]name
	mute    bool
	code    dnsmessage.RCode
	queries int
}

// name is what a name has.
type name struct {
	ttl   uint32
	alias string
	addrs []netip.Addr
}

// ServeDNS starts a DNS server on an address of the host; it ends with the lab.
func (h *Host) ServeDNS(addr string) (*DNS, error) {
	var d *DNS
	if err := h.Do(func() (err error) {
		d, err = StartDNS(addr)
		return err
	}); err != nil {
		return nil, h.fault(err, "DNS server")
	}
	h.lab.atEnd(d.Close)
	return d, nil
}

// StartDNS starts a DNS server in the namespace of the caller, until Close. Port 0 is one that is free by UDP and TCP.
func StartDNS(addr string) (*DNS, error) {
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		tcp.Close()
		return nil, err
	}
	d := &DNS{udp: udp, tcp: tcp, names: map[string]name{}}
	go d.serveUDP()
	go d.serveTCP()
	return d, nil
}

// Addr returns the address the server listens on.
func (d *DNS) Addr() netip.AddrPort { return addrPort(d.tcp.Addr()) }

// Close ends the server.
func (d *DNS) Close() {
	d.udp.Close()
	d.tcp.Close()
}

// Set gives a name these addresses, of both families, in place of those it had; none: the name is there and has no address.
func (d *DNS) Set(host string, ttl time.Duration, addrs ...string) {
	n := name{ttl: uint32(ttl / time.Second)}
	for _, a := range addrs {
		n.addrs = append(n.addrs, netip.MustParseAddr(a))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[host+"."] = n
}

// Alias makes a name an alias (CNAME) of another.
func (d *DNS) Alias(host, of string, ttl time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[host+"."] = name{ttl: uint32(ttl / time.Second), alias: of + "."}
}

// Mute makes the server answer nothing, or answer again.
func (d *DNS) Mute(mute bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mute = mute
}

// Fail makes every answer one with that code; RCodeSuccess ends that.
func (d *DNS) Fail(code dnsmessage.RCode) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.code = code
}

// Queries returns how many queries came.
func (d *DNS) Queries() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queries
}

func (d *DNS) serveUDP() {
	for {
		query := make([]byte, 1500)
		n, from, err := d.udp.ReadFrom(query)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if text := d.answer(query[:n], 512); text != nil {
			_, _ = d.udp.WriteTo(text, from)
		}
	}
}

func (d *DNS) serveTCP() {
	for {
		c, err := d.tcp.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			var size [2]byte
			if _, err := io.ReadFull(c, size[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(c, query); err != nil {
				return
			}
			if text := d.answer(query, 65535); text != nil {
				_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...))
			}
		}()
	}
}

// answer makes the response to a query; nil: none. One of more bytes than most is cut (TC).
func (d *DNS) answer(query []byte, most int) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.queries++
	if d.mute {
		return nil
	}
	q := m.Questions[0]
	m.Header.Response, m.Header.RecursionAvailable, m.Header.RCode = true, true, d.code
	if d.code == dnsmessage.RCodeSuccess {
		d.fill(&m, q)
	}
	text, err := m.Pack()
	if err == nil && len(text) > most {
		m.Header.Truncated, m.Answers = true, nil
		text, err = m.Pack()
	}
	if err != nil {
		return nil
	}
	return text
}

// fill adds the records of a name, those that its aliases lead to among them.
func (d *DNS) fill(m *dnsmessage.Message, q dnsmessage.Question) {
	owner := q.Name
	for range 10 {
		n, there := d.names[strings.ToLower(owner.String())]
		h := dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: n.ttl}
		if n.alias != "" {
			target := dnsmessage.MustNewName(n.alias)
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.CNAMEResource{CNAME: target}})
			owner = target
			continue
		}
		for _, a := range n.addrs {
			switch {
			case a.Is4() && q.Type == dnsmessage.TypeA:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
			case a.Is6() && q.Type == dnsmessage.TypeAAAA:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
			}
		}
		if len(m.Answers) == 0 {
			soa := dnsmessage.MustNewName("test.")
			m.Authorities = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: soa, Class: dnsmessage.ClassINET, TTL: 1},
				Body: &dnsmessage.SOAResource{NS: soa, MBox: soa, MinTTL: 1}}}
		}
		if !there {
			m.Header.RCode = dnsmessage.RCodeNameError
		}
		return
	}
}
