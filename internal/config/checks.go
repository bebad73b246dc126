package config

import (
	"net/netip"
	"time"

	"salp/internal/probe"
)

// Check says how each server of a pool is asked whether it works, from the gateway's own address. Without HTTP, TLS, Send and Expect that it
// accepts a connection is enough.
type Check struct {
	Every   time.Duration
	Timeout time.Duration // of the whole check
	Rise    int           // this many good checks in a row make a server that is down up
	Fall    int           // and as many bad ones the other way round
	Jitter  int           // percent of Every
	Port    uint16        // 0: the server's own
	Send    string
	Expect  string // text or /regexp/, see probe.Pattern; "": nothing is waited for
	HTTP    *CheckHTTP
	TLS     *CheckTLS // a handshake before Send, Expect and HTTP, or by itself
}

// CheckHTTP is a check by an HTTP request.
type CheckHTTP struct {
	Method string
	Path   string
	Host   string // "": the server's address
	Status []probe.Status
	Body   string // text or /regexp/; "": any
}

// CheckTLS is a TLS handshake of a check.
type CheckTLS struct {
	Name   string // SNI; "": none
	Verify bool
	ALPN   []string
}

// Passive says when errors of the connections that are carried take a server down: so many within Window, for so long.
type Passive struct {
	Errors int
	Window time.Duration
	For    time.Duration
}

// Resolvers says how names are looked up.
type Resolvers struct {
	Servers []netip.AddrPort // empty: those of /etc/resolv.conf
	Timeout time.Duration    // of one try
	MinTTL  time.Duration
	MaxTTL  time.Duration
}

// String names the server as the file does: its address with port, or its name with port. Within a pool it is unique.
func (s Server) String() string {
	if s.Host == "" {
		return s.Address.String()
	}
	return joinPort(s.Host, s.Port)
}

// Names returns the host names of all servers, each once, in the order of the file.
func (c *Config) Names() []string {
	var names []string
	seen := map[string]bool{}
	for _, p := range c.Pools {
		for _, s := range p.Servers {
			if s.Host != "" && !seen[s.Host] {
				seen[s.Host] = true
				names = append(names, s.Host)
			}
		}
	}
	return names
}
