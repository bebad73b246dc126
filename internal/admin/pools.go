package admin

import (
	"time"

	"salp/internal/control"
)

// Pool is one pool of the configuration in force, with its counters since the keeper started, which never go back.
type Pool struct {
	Name          string       `json:"name"`
	Balance       string       `json:"balance"`
	Via           string       `json:"via,omitempty"` // "kernel": carried without a process
	Servers       []PoolServer `json:"servers"`
	Queued        uint64       `json:"queued"`         // connections that wait for a server now
	QueueTimeouts uint64       `json:"queue_timeouts"` // that waited in vain
	QueueFull     uint64       `json:"queue_full"`     // that found the queue full
	NoServer      uint64       `json:"no_server"`      // that found no server fit for them
}

// PoolServer is one address of one server of a pool. A name that has no address now is there without one.
type PoolServer struct {
	Name           string              `json:"name"`              // as the configuration has it
	Address        string              `json:"address,omitempty"` // the same, or one of those that the name has
	State          control.ServerState `json:"state"`
	Since          time.Time           `json:"since"`            // of the state
	Reason         string              `json:"reason,omitempty"` // of a state that is not up: the last failed check, or who wanted it
	Weight         int                 `json:"weight"`           // its share
	Backup         bool                `json:"backup,omitempty"`
	MaxConnections int                 `json:"max_connections,omitempty"` // 0: no bound
	Checked        *Checked            `json:"checked,omitempty"`         // the last check, when there was one
	Downs          uint64              `json:"downs"`                     // how often it went down
	Fallback       string              `json:"fallback,omitempty"`        // it cannot answer through Salp: what is done instead
	ProxyProtocol  string              `json:"proxy_protocol,omitempty"`  // that is spoken to it: v1, v2; "": none

	Connections uint64            `json:"connections"` // that were made
	Active      uint64            `json:"active"`
	Retries     uint64            `json:"retries"`                // connects that failed here and went on to another server
	SameNetwork uint64            `json:"same_network,omitempty"` // connections of clients that it would have answered past Salp: see Fallback
	BytesIn     uint64            `json:"bytes_in"`
	BytesOut    uint64            `json:"bytes_out"`
	Offloaded   bool              `json:"offloaded,omitempty"` // its flows pass no rules (offload), so bytes are not counted: both are 0, whatever was sent
	Errors      map[string]uint64 `json:"errors,omitempty"`    // by kind
}

// ServerChange is the answer of POST /pool: what a server was set to.
type ServerChange struct {
	Pool    string              `json:"pool"`
	Server  string              `json:"server"` // as the configuration has it
	State   control.ServerState `json:"state"`  // what was asked for; "up" is what checks say
	Servers int                 `json:"servers"`
	Up      int                 `json:"up"`              // how many of the pool's servers are up now
	Error   string              `json:"error,omitempty"` // why nothing was changed
}

// ServerWish is the body of POST /pool.
type ServerWish struct {
	Server string              `json:"server"` // POOL/SERVER, or SERVER when one pool alone has it
	State  control.ServerState `json:"state"`  // drain, maint, or up: what checks say
}

// Checked is how a check ended.
type Checked struct {
	At    time.Time `json:"at"`
	Took  float64   `json:"took_seconds"`
	Error string    `json:"error,omitempty"` // "": it was good
}
