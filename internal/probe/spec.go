// Package probe asks one server one question and says whether it answered as it should: one bounded operation for each kind of check.
//
// What a peer sends is read up to a bound and never interpreted beyond what the check is about. A probe runs in the unprivileged monitor;
// a mark and raw ICMP take CAP_NET_RAW.
package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// Spec is one question. Exactly one of Ping, DNS and the stream checks is asked: without any of them it is a TCP connect, which Send, Expect,
// HTTP and TLS continue. It travels as JSON from the keeper to the monitor.
type Spec struct {
	Target  netip.AddrPort `json:"target"`           // Ping needs no port
	Timeout time.Duration  `json:"timeout"`          // of the whole probe; above 0
	Source  netip.Addr     `json:"source,omitzero"`  // the probe comes from here; the zero value: the kernel chooses
	Mark    uint32         `json:"mark,omitempty"`   // SO_MARK; 0: none
	Device  string         `json:"device,omitempty"` // SO_BINDTODEVICE; "": none

	Ping   *Ping  `json:"ping,omitempty"`
	DNS    *DNS   `json:"dns,omitempty"`
	Header Header `json:"proxy_header,omitempty"` // a PROXY header before everything else, which says that the prober speaks for itself
	TLS    *TLS   `json:"tls,omitempty"`
	HTTP   *HTTP  `json:"http,omitempty"`   // over TLS when that is set
	Send   string `json:"send,omitempty"`   // bytes to send when connected
	Expect string `json:"expect,omitempty"` // see Pattern; what the server must send
}

// Header is a version of the PROXY protocol; "": none.
type Header string

// The versions. Version 2 has a command that says it all, LOCAL; with version 1 the probe's own addresses are told, as not everybody takes UNKNOWN.
const (
	HeaderV1 Header = "v1"
	HeaderV2 Header = "v2"
)

// Ping is an ICMP or ICMPv6 echo request.
type Ping struct {
	Size int `json:"size,omitempty"` // bytes of payload; 0: 16
}

// DNS is a query by UDP. Any answer but SERVFAIL and REFUSED is a good one: a name that is not there is told by a resolver that works.
type DNS struct {
	Name string `json:"name"` // asked for its A records, and AAAA when the target is an IPv6 address
}

// TLS is a handshake.
type TLS struct {
	Name   string   `json:"name,omitempty"`   // SNI, and what the certificate must be for when it is verified
	Verify bool     `json:"verify,omitempty"` // by the host's certificate authorities
	ALPN   []string `json:"alpn,omitempty"`   // the server must choose one of these; empty: none is offered
}

// HTTP is a request by HTTP/1.1.
type HTTP struct {
	Method string   `json:"method,omitempty"` // "": GET
	Path   string   `json:"path,omitempty"`   // "": /
	Host   string   `json:"host,omitempty"`   // "": the target's address
	Status []Status `json:"status,omitempty"` // the good ones; empty: 200 to 399
	Body   string   `json:"body,omitempty"`   // see Pattern; what the body must hold
}

// Status is an inclusive range of HTTP status codes.
type Status struct {
	First int `json:"first"`
	Last  int `json:"last"`
}

// Result is the outcome of one probe.
type Result struct {
	OK    bool
	Error string        // for a person; "" when OK
	RTT   time.Duration // of a ping or query; else how long the whole took
}

// Pattern is what an answer must hold: a text, or a regular expression between slashes (https://pkg.go.dev/regexp/syntax), matched
// against bytes.
type Pattern struct {
	text   string
	regexp *regexp.Regexp // nil for a text
}

// maxPattern bounds a pattern's text in bytes.
const maxPattern = 1024

// ParsePattern reads a pattern. The empty one matches everything.
func ParsePattern(s string) (Pattern, error) {
	if len(s) > maxPattern {
		return Pattern{}, fmt.Errorf("is longer than %d bytes", maxPattern)
	}
	if len(s) < 2 || !strings.HasPrefix(s, "/") || !strings.HasSuffix(s, "/") {
		return Pattern{text: s}, nil
	}
	if s == "//" {
		return Pattern{}, errors.New("is an empty regular expression")
	}
	r, err := regexp.Compile(s[1 : len(s)-1])
	if err != nil {
		return Pattern{}, errors.New(strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	return Pattern{text: s, regexp: r}, nil
}

// Match tells whether b holds the pattern.
func (p Pattern) Match(b []byte) bool {
	if p.regexp != nil {
		return p.regexp.Match(b)
	}
	return strings.Contains(string(b), p.text)
}

// Empty tells the pattern that matches everything.
func (p Pattern) Empty() bool { return p.text == "" }

// String returns the pattern as it is written.
func (p Pattern) String() string {
	if p.regexp != nil {
		return p.text
	}
	return fmt.Sprintf("%q", p.text)
}
