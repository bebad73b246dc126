package control

import (
	"fmt"
	"net/netip"
	"time"
)

// Pools tells a worker what each server of its pools is fit for. It is whole: a server that is not in it has no address now (a name that has
// not been resolved). The keeper sends it before Start and again on every change; pools that the worker does not know are ignored.
type Pools struct {
	Number  uint64   `json:"number"`  // of the message; the worker answers with it when it acts accordingly
	Servers []Server `json:"servers"` // in the order of the file, the addresses of a name sorted
}

// Server is one address of one server of one pool.
type Server struct {
	Pool    string         `json:"pool"`
	Server  string         `json:"server"`  // as the configuration names it: config.Server.String
	Address netip.AddrPort `json:"address"` // the same, or one of those the name has
	State   ServerState    `json:"state"`
	Since   time.Time      `json:"since"` // of State
	// Recovered: it is up after it was down, drained or in maintenance, or its address is new; slow start counts from Since.
	Recovered bool `json:"recovered,omitempty"`
}

// ServerState is what a server is fit for.
type ServerState string

const (
	ServerUp    ServerState = "up"
	ServerDown  ServerState = "down"  // takes no new connections: its checks or its connections fail
	ServerDrain ServerState = "drain" // takes no new connections by an operator's wish; those of clients that stick to it are its own still
	ServerMaint ServerState = "maint" // takes no new connections at all, and is not checked
)

// ServerStats are a worker's counters of one address of one server since it started. All but Active only grow.
type ServerStats struct {
	Pool        string         `json:"pool"`
	Server      string         `json:"server"` // as in Server
	Address     netip.AddrPort `json:"address"`
	Connections uint64         `json:"connections"` // that were made
	Active      uint64         `json:"active"`
	Retries     uint64         `json:"retries"`   // connects that failed here and went on to another server
	BytesIn     uint64         `json:"bytes_in"`  // to the server
	BytesOut    uint64         `json:"bytes_out"` // from the server
	// SameNetwork are connections with Salp's own address because the server would have answered the client directly, and those refused for it.
	SameNetwork uint64 `json:"same_network,omitempty"`
	// Errors are by kind: ErrorConnectRefused, ErrorConnectTimeout, ErrorConnectOther, ErrorServerReset, ErrorServerLost. Passive checks
	// count them.
	Errors map[string]uint64 `json:"errors,omitempty"`
}

// Failures returns how many errors speak against the server.
func (s *ServerStats) Failures() uint64 {
	return s.Errors[ErrorConnectRefused] + s.Errors[ErrorConnectTimeout] + s.Errors[ErrorConnectOther] + s.Errors[ErrorServerReset] + s.Errors[ErrorServerLost]
}

// PoolStats are a worker's counters of one pool as a whole since it started. All but Queued only grow.
type PoolStats struct {
	Pool          string `json:"pool"`
	Queued        uint64 `json:"queued"`         // connections that wait for a server now
	QueueTimeouts uint64 `json:"queue_timeouts"` // that waited in vain
	QueueFull     uint64 `json:"queue_full"`     // that found the queue full
	NoServer      uint64 `json:"no_server"`      // that found no server fit for them
}

func (p *Pools) check() error {
	for _, s := range p.Servers {
		switch s.State {
		case ServerUp, ServerDown, ServerDrain, ServerMaint:
		default:
			return fmt.Errorf("control: server %s of pool %s is %q", s.Server, s.Pool, s.State)
		}
		if s.Pool == "" || s.Server == "" || !s.Address.IsValid() {
			return fmt.Errorf("control: server %q of pool %q at %v", s.Server, s.Pool, s.Address)
		}
	}
	return nil
}

// Heeded answers Pools: every connection whose server is chosen from now on goes by what the message with that number said.
type Heeded struct {
	Number uint64 `json:"number"`
}
