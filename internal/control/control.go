// Package control is what the keeper, a worker and the monitor say to each other, and the socket they say it over.
//
// It is a SOCK_SEQPACKET pair of Unix sockets: one JSON message a packet, with descriptors beside it (unix(7), SCM_RIGHTS).
// The keeper sends any number of Sockets, then Start; the worker answers Ready and from then on a Beat every BeatEvery.
// Drain makes the worker stop accepting, say Draining, carry what it has until it ends or the bound is over, say Bye and exit 0.
// When the socket closes the other side is dead: a worker then stops accepting at once and drains with its own bound.
//
// With the monitor, which probes and resolves, the keeper talks over another such socket: the monitor answers Ready and a Beat every BeatEvery;
// the keeper sends Watch whenever that changes, and closes the socket to end the monitor.
package control

import (
	"net/netip"
	"time"
)

// BeatEvery is how often a worker whose loops all turn sends a Beat.
const BeatEvery = 250 * time.Millisecond

// Message is one packet: exactly one field is set.
type Message struct {
	// From the keeper.
	Sockets   *Sockets   `json:"sockets,omitempty"`
	Start     *Start     `json:"start,omitempty"`
	Drain     *Drain     `json:"drain,omitempty"`
	Destroyed *Destroyed `json:"destroyed,omitempty"`
	Pools     *Pools     `json:"pools,omitempty"`
	Links     *Links     `json:"links,omitempty"`
	Table     *Table     `json:"table,omitempty"`
	Elsewhere *Elsewhere `json:"elsewhere,omitempty"`
	Content   *Content   `json:"content,omitempty"`
	Watch     *Watch     `json:"watch,omitempty"`  // to the monitor
	Call      *Call      `json:"call,omitempty"`   // to the monitor
	Page      *Page      `json:"page,omitempty"`   // to the monitor
	Status    *Status    `json:"status,omitempty"` // to the monitor
	// From the worker; Ready and Beat from the monitor too.
	Ready    *Ready    `json:"ready,omitempty"`
	Beat     *Beat     `json:"beat,omitempty"`
	Destroy  *Destroy  `json:"destroy,omitempty"`
	Heeded   *Heeded   `json:"heeded,omitempty"`
	Draining *Draining `json:"draining,omitempty"`
	Bye      *Bye      `json:"bye,omitempty"`
	// From the monitor.
	Results   *Results   `json:"results,omitempty"`
	Names     *Names     `json:"names,omitempty"`
	Called    *Called    `json:"called,omitempty"`
	AskStatus *AskStatus `json:"ask_status,omitempty"`
}

// Sockets hands over listening sockets of one address of one listener: the packet carries one descriptor for each member of
// the SO_REUSEPORT group. They are non-blocking and already listen; the keeper keeps its own copies open.
type Sockets struct {
	Listener string         `json:"listener"`
	Address  netip.AddrPort `json:"address"`
}

// Start tells the worker to begin. The packet carries one descriptor: a file (memfd) with the configuration's text.
type Start struct {
	File       string `json:"file"`       // the configuration's name, for messages
	Generation uint64 `json:"generation"` // of the configuration, from 1
}

// Drain tells the worker to stop accepting and to end when its connections have, or after Bound.
type Drain struct {
	Bound time.Duration `json:"bound"`
}

// Destroy asks the keeper, who has CAP_NET_ADMIN, to destroy a TIME_WAIT socket that is in the way of a connect (sock_diag(7), SOCK_DESTROY).
type Destroy struct {
	ID     uint64         `json:"id"`
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
}

// Destroyed answers Destroy. Error is "" when the socket is gone.
type Destroyed struct {
	ID    uint64 `json:"id"`
	Error string `json:"error,omitempty"`
}

// Ready says that every loop accepts.
type Ready struct{}

// Draining says that the worker accepts no more: all new connections are another's.
type Draining struct{}

// Bye is the last message of a worker that ends as told.
type Bye struct {
	Stats   Stats         `json:"stats"`
	Servers []ServerStats `json:"servers,omitempty"`
	Pools   []PoolStats   `json:"pools,omitempty"`
	Cut     int           `json:"cut"` // connections that were still open at the bound and were reset
}

// Beat says that all loops turned since the last one. A worker with a stuck loop must not send it.
type Beat struct {
	Stats   Stats         `json:"stats"`
	Servers []ServerStats `json:"servers,omitempty"` // of pools
	Pools   []PoolStats   `json:"pools,omitempty"`
	Queues  []AcceptQueue `json:"queues,omitempty"`   // of the listeners
	LogLost uint64        `json:"log_lost,omitempty"` // lines of the access log that could not be written
	Clients []ClientCount `json:"clients,omitempty"`  // of a worker that drains: see Elsewhere
}

// AcceptQueue is what the kernel holds of a listener's connections that the worker has not accepted yet.
type AcceptQueue struct {
	Listener string `json:"listener"`
	Waiting  uint64 `json:"waiting"` // now, in the queues of all loops
	Bound    uint64 `json:"bound"`   // how many may wait in all of them
	Dropped  uint64 `json:"dropped"` // SYNs and connections that the kernel dropped since its sockets were opened, because a queue was full or for want of memory
}

// Stats are a worker's counters since it started, by listener name.
type Stats map[string]Listener

// Listener holds one listener's counters. All but Active only grow.
type Listener struct {
	Accepted      uint64            `json:"accepted"`
	Active        uint64            `json:"active"`
	BytesIn       uint64            `json:"bytes_in"`           // client to server
	BytesOut      uint64            `json:"bytes_out"`          // server to client
	PortKept      uint64            `json:"port_kept"`          // upstream connections that have the client's port
	PortFallbacks uint64            `json:"port_fallbacks"`     // upstream connections that had to take another
	Retries       uint64            `json:"retries"`            // connects that failed and were made again, before the client noticed
	Requests      uint64            `json:"requests,omitempty"` // of HTTP
	Statuses      [6]uint64         `json:"statuses,omitzero"`  // responses to clients by the first digit of their status; [0]: requests that got none
	Reused        uint64            `json:"reused,omitempty"`   // requests that had no need of a new connection to the server
	Tunnels       uint64            `json:"tunnels,omitempty"`  // connections to an HTTP listener that became opaque
	Errors        map[string]uint64 `json:"errors,omitempty"`   // by kind, see the Error constants
}

// Kinds of errors, the keys of Listener.Errors.
const (
	ErrorConnectRefused  = "connect_refused"
	ErrorConnectTimeout  = "connect_timeout"
	ErrorConnectOther    = "connect_other"
	ErrorNoPort          = "no_port"      // source_port: require, and the client's port was taken; or no port at all
	ErrorClientReset     = "client_reset" // the client reset; passed on
	ErrorServerReset     = "server_reset" // the server reset; passed on
	ErrorClientLost      = "client_lost"  // the kernel gave the client up: no answer to keepalive or data
	ErrorServerLost      = "server_lost"  // the same of the server
	ErrorIdle            = "idle"         // timed out with no byte in either direction
	ErrorHalfClosed      = "half_closed"  // timed out after one side ended
	ErrorLimitListener   = "limit_listener"
	ErrorLimitClient     = "limit_client"
	ErrorRate            = "over_rate"        // SYNs over the listener's rate, which the kernel dropped
	ErrorClientRate      = "over_client_rate" // the same of one client's rate; where a PROXY header tells the client they are connections, reset
	ErrorLoop            = "loop"             // would have connected to Salp itself
	ErrorNoDestination   = "no_destination"   // REDIRECT's conntrack entry was gone, or nobody intercepted this connection
	ErrorDescriptors     = "descriptors"      // out of file descriptors
	ErrorInternal        = "internal"
	ErrorNoServer        = "no_server"        // no server of the pool was fit: all are down, or of the other address family
	ErrorQueueFull       = "queue_full"       // every server had its max_connections, and the queue of the pool was full
	ErrorQueueTimeout    = "queue_timeout"    // waited in the queue of the pool in vain
	ErrorSameNetwork     = "same_network"     // the client is in the server's own network, and same_network is refuse
	ErrorBadRequest      = "bad_request"      // the request was malformed or beyond the limits, and answered so
	ErrorBadResponse     = "bad_response"     // the same of the response
	ErrorTruncated       = "truncated"        // the server ended in the middle of a response; passed on as a reset
	ErrorHeadTimeout     = "head_timeout"     // the client took too long for the head of a request
	ErrorBodyTimeout     = "body_timeout"     // a body stood still
	ErrorResponseTimeout = "response_timeout" // the server took too long to begin its response
	ErrorRateLimit       = "rate_limit"       // the client sent more requests a second than it may
	ErrorDenied          = "denied"           // by an access rule, or for want of a password
	ErrorHandshake       = "handshake"        // of TLS with the client
	ErrorServerHandshake = "server_handshake" // of TLS with the server: most often its certificate is not good for the name
	ErrorNoName          = "no_name"          // the host could not be looked up
	ErrorNotHTTP         = "not_http"         // not_http is close, or there was nowhere to tunnel to
	ErrorProxyHeader     = "proxy_header"     // no PROXY header, or none in time, or a bad one; or from who may not send one
	ErrorNoLink          = "no_link"          // no Internet link is up that it may use, or the rules of balance forbid it
	ErrorLinkDown        = "link_down"        // its link went down, and on_link_down resets what is on it
)
