// Package listen accepts connections on the engine's loops and says of each where it comes from and where it was going.
//
// A Listener is what one entry of the configuration shares between the loops: its limits. On each loop an Acceptor watches one
// listening socket and hands every connection it may take to a Server, as a descriptor and a Flow. The descriptor is then the
// Server's, who calls End when the connection has ended. Counters belong to one loop and are only touched there.
package listen

import (
	"net/netip"
	"sync/atomic"

	"salp/internal/config"
	"salp/internal/engine"
)

// Flow is a connection that was accepted.
type Flow struct {
	Client   netip.AddrPort
	Peer     netip.AddrPort // who made the connection: the client, or the proxy in front that told who that is
	Original netip.AddrPort // where the client wanted to go; the listener's own address when it dialled the proxy
	Lease    *Lease         // its place in the limit per client; nil when there is none
	TLS      *TLS           // how TLS was ended before; nil: there was none

	Interface string // that the client's packets come in by; "": nobody asked for it (Listener.Arrival)
	DSCP      uint8  // of the client's packets, when Interface is known
}

// TLS tells of a connection whose TLS has been ended: what is accepted is what was inside.
type TLS struct {
	ServerName string      // what the client asked for, as access.Host returns it; "": nothing
	ALPN       []string    // what the client offered to speak, in its order
	Broken     atomic.Bool // is set before such a connection is reset: a local socket cannot tell that from an end
}

// Break notes that the connection is about to be reset.
func (f *Flow) Break() {
	if f.TLS != nil {
		f.TLS.Broken.Store(true)
	}
}

// Server takes accepted connections.
type Server interface {
	// Serve owns fd from now on. The flow is the acceptor's: it changes after the call.
	Serve(l *engine.Loop, fd int, f *Flow)
}

// Method says how a listener's connections come to it, which tells how the original destination is found.
type Method uint8

const (
	Explicit Method = iota // clients dial the listener
	TProxy                 // the socket's own address is the original destination
	Redirect               // connection tracking knows it
)

// Kind is a reason why a connection failed, an index of Counters.Errors.
type Kind uint8

// The kinds have the meanings of package control's Error constants.
const (
	ConnectRefused Kind = iota
	ConnectTimeout
	ConnectOther
	NoPort
	ClientReset
	ServerReset
	ClientLost
	ServerLost
	Idle
	HalfClosed
	LimitListener
	LimitClient
	ClientRate // new connections of one client in a second, where a PROXY header tells the client; else the kernel bounds and counts them
	Loop
	NoDestination
	Descriptors
	Internal
	NoServer
	QueueFull
	QueueTimeout
	SameNetwork
	ProxyHeader
	BadRequest
	BadResponse
	Truncated
	HeadTimeout
	BodyTimeout
	ResponseTimeout
	RateLimit
	Denied
	Handshake       // of TLS with the client
	ServerHandshake // of TLS with the server
	NoName
	NotHTTP
	NoLink   // no Internet link is up that it may use, or the rules forbid it
	LinkDown // its link went down, and on_link_down resets what is on it
	Kinds    // how many there are
)

// Counters count one listener's connections on one loop.
type Counters struct {
	Accepted      uint64
	Active        uint64
	BytesIn       uint64 // client to server
	BytesOut      uint64 // server to client
	PortKept      uint64
	PortFallbacks uint64
	Retries       uint64    // connects to servers that failed and were made again, before the client noticed
	Requests      uint64    // of HTTP
	Statuses      [6]uint64 // responses to clients by the first digit of their status
	Reused        uint64    // requests that had no need of a new connection to the server
	Tunnels       uint64    // connections to an HTTP listener that became opaque: CONNECT, another protocol, or no HTTP
	Errors        [Kinds]uint64
}

// Add adds other to c.
func (c *Counters) Add(other *Counters) {
	c.Accepted += other.Accepted
	c.Active += other.Active
	c.BytesIn += other.BytesIn
	c.BytesOut += other.BytesOut
	c.PortKept += other.PortKept
	c.PortFallbacks += other.PortFallbacks
	c.Retries += other.Retries
	c.Requests += other.Requests
	c.Reused += other.Reused
	c.Tunnels += other.Tunnels
	for i := range c.Statuses {
		c.Statuses[i] += other.Statuses[i]
	}
	for i := range c.Errors {
		c.Errors[i] += other.Errors[i]
	}
}

// MethodOf is the method that the configuration asks for.
func MethodOf(c *config.Listener) Method {
	switch {
	case c.Intercept == nil:
		return Explicit
	case c.Intercept.Method == config.MethodRedirect:
		return Redirect
	}
	return TProxy
}
