// Package config turns the text of a Salp file into a Config, strictly: every mistake is found at once and told with its place.
package config

import (
	"net/netip"
	"time"
)

// Config is a checked configuration. It is immutable once Parse has returned it.
type Config struct {
	File      string      // the name it was read from, for messages
	Text      []byte      // the text it was read from, so that another process can parse the same
	Listeners []*Listener // in the order of the file
	Pools     []*Pool     // in the order of the file
	Links     []*Link     // in the order of the file
	Balance   LinkBalance
	Forward   []Forward
	Access    []*AccessList
	Lists     []*List
	Resolvers Resolvers
	Workers   int    // event loops in the worker; 0: one per processor
	User      string // whom the worker runs as; "": salp if there is such a user, else nobody
	Drain     time.Duration
	Logs      Logs
	Metrics   *Metrics // nil: none are served
	Kernel    Kernel

	places places // where each value stands in Text, for Fault
}

// Listener is one way in. Either Listen or Intercept is set, never both.
type Listener struct {
	Name          string
	Listen        []netip.AddrPort // clients dial the proxy
	Intercept     *Intercept       // clients dial the server
	Source        Source
	SourcePort    SourcePort
	Pool          string // "": the original destination
	OnFailure     OnFailure
	Timeouts      Timeouts
	Limits        Limits
	Keepalive     time.Duration  // TCP keepalive idle and interval on both halves; 0: off
	ProxyProtocol *ProxyProtocol // nil: connections begin with the client\'s own bytes

	Via       Via
	Transport Transport
	OnDown    OnDown
	Offload   bool // established flows pass no rules, where the kernel can

	Protocol    Protocol
	NotHTTP     NotHTTP
	Access      string // name of the access list; "": everything is allowed
	Marking     Marking
	Routes      []Route // the first that fits has it
	HTTP        HTTP
	Errors      ErrorPages
	Auth        *Auth
	TLS         *TLS
	UpstreamTLS *UpstreamTLS
}

// Intercept says which connections are taken in on their way to a server.
type Intercept struct {
	Interfaces []string // ingress interfaces
	Ports      []PortRange
	Method     Method
	Port       uint16 // the local port diverted connections arrive at; 0: Salp chooses
}

// PortRange is an inclusive range of TCP ports.
type PortRange struct{ First, Last uint16 }

// Source says whose address the server sees.
type Source string

const (
	SourceProxy  Source = "proxy"
	SourceClient Source = "client"
)

// SourcePort says whose port the server sees. With SourceProxy it is SourcePortAny.
type SourcePort string

const (
	SourcePortAny     SourcePort = "any"     // the kernel chooses
	SourcePortKeep    SourcePort = "keep"    // the client's, another (counted) when it is taken
	SourcePortRequire SourcePort = "require" // the client's, or the connection is refused
)

// Method is the kernel mechanism that diverts.
type Method string

const (
	MethodTProxy   Method = "tproxy"
	MethodRedirect Method = "redirect"
)

// OnFailure says what becomes of new connections while no worker answers. Without Intercept it means nothing and is OnFailureOpen.
type OnFailure string

const (
	OnFailureOpen   OnFailure = "open"   // they go to the server directly
	OnFailureClosed OnFailure = "closed" // they are refused with a reset
)

// Timeouts bound the phases of a connection. Zero means no bound.
type Timeouts struct {
	Connect    time.Duration // to the server
	Idle       time.Duration // no byte in either direction
	HalfClosed time.Duration // one side has ended and the other sends nothing
}

// Limits bound what a listener carries at once. Zero means no bound.
type Limits struct {
	Connections int // of the listener
	PerClient   int // of one client address
	Rate        int // new connections a second
	ClientRate  int // and of one client address
	Backlog     int // connections that wait to be accepted, on each loop; 0: as many as the kernel allows
}

// Pool is a set of servers of which one is chosen for each connection.
type Pool struct {
	Name          string
	Balance       Balance
	Overload      int // percent of its fair share that a server may have with BalanceSource; 0: no bound
	Retries       int
	Queue         Queue
	SlowStart     time.Duration
	Stick         *Stick // nil: no memory
	ProxyProtocol ProxyHeader
	SameNetwork   SameNetwork
	Servers       []Server
	Check         *Check   // nil: none
	Passive       *Passive // nil: none
}

// Balance is the way a server is chosen.
type Balance string

// Server is one member of a Pool: one address, or a name, which stands for all addresses that it has from time to time.
type Server struct {
	Address        netip.AddrPort // the zero value when there is a Host
	Host           string         // in lower case, without a final dot; "" when there is an Address
	Port           uint16         // of Host
	Weight         int            // 0: no connections but those of clients that stick to it
	Backup         bool
	MaxConnections int         // 0: no bound
	ProxyProtocol  ProxyHeader // "": as the pool says
}

// Logs says how Salp itself logs.
type Logs struct {
	Format LogFormat
	Level  string // debug, info, warn, error
	Access *AccessLog
}

// LogFormat is the form of a log line.
type LogFormat string

const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Kernel names the shared numbers that Salp takes, so that they can be moved out of another program's way.
type Kernel struct {
	Marks    uint32 // mask of exactly four bits of packet and ct mark; see plan.Marks
	Table    uint32 // routing table number
	Priority uint32 // priority of the ip rules
	Zone     uint16 // conntrack zone of upstream halves
	NFTable  string // name of the nft table

	LinkMarks uint32 // mask of two to eight bits of packet and ct mark, side by side: the number of a flow's link
	LinkTable uint32 // the routing table of link N, counted from 1, is LinkTable + N
}

// Path names a value in the file by its keys and indexes, as in Path{"listeners", "web", "listen", 0}.
type Path []any

// Pool returns the pool with that name, or nil.
func (c *Config) Pool(name string) *Pool {
	for _, p := range c.Pools {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Listener returns the listener with that name, or nil.
func (c *Config) Listener(name string) *Listener {
	for _, l := range c.Listeners {
		if l.Name == name {
			return l
		}
	}
	return nil
}
