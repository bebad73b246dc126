// Package accesslog writes a line for each request, and for each connection that is not HTTP, when it has ended.
//
// Lines are made by who carries the traffic, put into bounded memory, and written by a goroutine of the log: a slow disk never holds traffic up.
// What does not fit is left out and counted. Everything in a line that comes from the network is escaped.
package accesslog

import (
	"net/netip"
	"time"
)

// Action says what was done with a request, in Squid's words (%Ss).
type Action string

// The actions. Aborted in an Entry adds _ABORTED.
const (
	Miss   Action = "TCP_MISS"   // forwarded
	Denied Action = "TCP_DENIED" // by a rule, or for want of a password
	Tunnel Action = "TCP_TUNNEL" // CONNECT, or bytes that are not HTTP
	None   Action = "NONE"       // answered by Salp itself: an error
)

// Entry is what there is to say of a request. Its strings may be views of a buffer: they are not kept.
type Entry struct {
	Start, End time.Time
	Client     netip.AddrPort
	Dialled    netip.AddrPort // by the client
	Server     netip.AddrPort // the zero value: none
	Listener   string
	Pool       string // "": the server is of no pool
	User       string
	Method     string // "": not HTTP
	URL        string // host:port of a CONNECT and of what is not HTTP
	Version    string // as in 1.1
	MediaType  string
	SNI        string
	Rule       string // the access rule that decided
	Cause      string // why Salp answered itself, or the connection failed

	Action       Action
	Aborted      bool // the client left before the end
	Status       int  // that the client got; 0: none
	ServerStatus int
	BytesIn      int64 // from the client, heads included
	BytesOut     int64 // to the client
	HeadIn       int64
	HeadOut      int64

	Request  []string // values of the fields that Log.Fields names, in that order; "": the field is not there
	Response []string
}

// hierarchy is Squid's word for where a request went (%Sh).
func (e *Entry) hierarchy() string {
	switch {
	case !e.Server.IsValid():
		return "HIER_NONE"
	case e.Pool != "":
		return "ROUNDROBIN_PARENT"
	}
	return "HIER_DIRECT"
}

func (e *Entry) action() string {
	a := string(e.Action)
	if a == "" {
		a = string(None)
	}
	if e.Aborted {
		a += "_ABORTED"
	}
	return a
}
