package config

import (
	"net/netip"
	"time"
)

// The ways a server is chosen.
const (
	BalanceRoundRobin       Balance = "round-robin"       // by weight, in turn
	BalanceLeastConnections Balance = "least-connections" // the fewest for its weight
	BalanceSource           Balance = "source"            // by the client's address: consistent hashing
	BalanceRandom           Balance = "random"            // two at random by weight, of which the one with fewer connections
	BalanceFirst            Balance = "first"             // the first that has a place free
)

// Queue bounds the connections that wait for a server to have a place free.
type Queue struct {
	Length  int
	Timeout time.Duration
}

// Stick sends a client to the server that it had last.
type Stick struct {
	By   StickBy
	For  time.Duration // since its last connection was made
	Size int           // clients that are remembered at most
}

// StickBy says what a client is known by.
type StickBy string

const StickBySource StickBy = "source"

// ProxyHeader is the version of the PROXY protocol that is spoken to a server.
type ProxyHeader string

const (
	ProxyHeaderNone ProxyHeader = "none"
	ProxyHeaderV1   ProxyHeader = "v1"
	ProxyHeaderV2   ProxyHeader = "v2"
)

// SameNetwork says what becomes of a connection with the client's address whose server would answer the client directly, past Salp.
type SameNetwork string

const (
	SameNetworkProxy  SameNetwork = "proxy"          // it has Salp's own address
	SameNetworkHeader SameNetwork = "proxy-protocol" // it has Salp's own address, and the client's in a PROXY header
	SameNetworkRefuse SameNetwork = "refuse"
)

// ProxyProtocol says which connections of a listener begin with a PROXY header.
type ProxyProtocol struct {
	From     []netip.Prefix // who must send one, and is believed
	Required bool           // everybody else is refused
	Timeout  time.Duration  // within which the header must be there
}

// ProxyHeaderOf returns what is spoken to a server of the pool.
func (p *Pool) ProxyHeaderOf(s *Server) ProxyHeader {
	if s.ProxyProtocol != "" {
		return s.ProxyProtocol
	}
	return p.ProxyProtocol
}
