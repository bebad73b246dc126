package config

import "time"

// Protocol is what a listener takes its connections for.
type Protocol string

const (
	ProtocolTCP  Protocol = "tcp"  // opaque bytes
	ProtocolHTTP Protocol = "http" // HTTP/1, and HTTP/2 when TLS is terminated
	ProtocolTLS  Protocol = "tls"  // passed through; only the ClientHello is read
)

// NotHTTP says what becomes of a connection to a listener with ProtocolHTTP (or ProtocolTLS) that does not begin as it should.
type NotHTTP string

const (
	NotHTTPTunnel NotHTTP = "tunnel" // carried as opaque TCP to the original destination or the pool
	NotHTTPClose  NotHTTP = "close"
)

// Destination says where a request without a route or pool goes.
type Destination string

const (
	DestinationAuto     Destination = ""         // DestinationOriginal with intercept, DestinationHost with listen
	DestinationOriginal Destination = "original" // the address that the client dialled
	DestinationHost     Destination = "host"     // the request's host name, resolved again
)

// FieldMode says what is done with a header field that tells servers about the client.
type FieldMode string

const (
	FieldKeep    FieldMode = "keep"    // as the client sent it
	FieldAppend  FieldMode = "append"  // the client's, and ours behind it
	FieldReplace FieldMode = "replace" // ours alone
	FieldRemove  FieldMode = "remove"
)

// HTTP is how a listener with ProtocolHTTP treats messages.
type HTTP struct {
	Destination    Destination
	ViaHeader      string    // pseudonym in Via (RFC 9110 7.6.3); "": no Via is added
	ForwardedFor   FieldMode // X-Forwarded-For
	ForwardedProto FieldMode // X-Forwarded-Proto: keep, replace, remove
	Forwarded      FieldMode // Forwarded (RFC 7239)
	Timeouts       HTTPTimeouts
	Limits         HTTPLimits
}

// HTTPTimeouts bound the phases of an exchange. Zero means no bound.
type HTTPTimeouts struct {
	Head            time.Duration // from the first byte of a request to the end of its head
	Body            time.Duration // without a byte of a body, in either direction
	Response        time.Duration // from the end of a request to the first byte of its response
	Keepalive       time.Duration // between a response and the next request of a client
	ServerKeepalive time.Duration // how long an idle connection to a server is kept; 0: not at all
}

// HTTPLimits bound messages. Zero of Requests and Rate means no bound.
type HTTPLimits struct {
	Line     int64 // bytes of a request or status line
	Head     int64 // bytes of a head, its first line included
	Fields   int   // header fields of a head
	Requests int   // of one client connection
	Rate     int   // requests a second of one client address
	Burst    int   // requests that may come at once; 0: as many as Rate
}

// Route sends what meets its conditions to a place of its own.
type Route struct {
	When        Conditions
	Pool        string
	Destination Destination // when Pool is ""
	Rewrite     *Rewrite
}

// Rewrite changes a request on its way to a server.
type Rewrite struct {
	Host    string // of the request to the server; "": as it came
	Strip   string // removed from the beginning of the path
	Prepend string // put before the path
	Match   string // a regular expression; "": none. What it matches of the path is replaced by Replace
	Replace string // as in regexp.Regexp.Expand: $1, ${name}
}

// ErrorPages says what a client is shown when Salp itself answers.
type ErrorPages struct {
	Pages         string        // a directory with pages of the operator's own; "": none
	ServerFailure ServerFailure // what becomes of the client when the server fails
}

// ServerFailure says how a server's failure is shown to the client.
type ServerFailure string

const (
	FailureAuto  ServerFailure = ""      // FailureReset when clients dial servers and servers see clients, else FailurePage
	FailurePage  ServerFailure = "page"  // 502 or 504 with an error page
	FailureReset ServerFailure = "reset" // the client's connection is reset, as the server's was
)

// Auth says whom a listener lets in. Every request must be authenticated.
type Auth struct{ Basic Basic }

// Basic is the Basic scheme (RFC 7617).
type Basic struct {
	File  string // htpasswd with bcrypt hashes
	Realm string
}

// TLS says how a listener ends TLS for its clients.
type TLS struct {
	Certificates []Certificate
	ACME         *ACME
	MinVersion   TLSVersion
	HTTP2        bool
}

// TLSVersion is a version of TLS, as in 1.2.
type TLSVersion string

const (
	TLS12 TLSVersion = "1.2"
	TLS13 TLSVersion = "1.3"
)

// Certificate names a chain of certificates in PEM, the server's own first, and its key.
type Certificate struct{ Certificate, Key string }

// ACME says for which names certificates are got (RFC 8555).
type ACME struct {
	Names     []string
	Email     string
	Directory string // URL of the authority's directory
	Authority string // PEM file with the roots that the directory's own certificate is checked by; "": the system's
	State     string // directory for keys and certificates
}

// UpstreamTLS says how servers are spoken to by TLS.
type UpstreamTLS struct {
	Verify      bool
	Authorities string // PEM file; "": the system's
	Name        string // the name asked for and verified; "": the request's host
	Certificate string // of the client, with Key; "": none
	Key         string
	MinVersion  TLSVersion
}

// AccessLog says where requests are logged, and how.
type AccessLog struct {
	File   string
	Format string // squid, common, combined, json, or a text with % codes (package logformat)
}

// DestinationOf is where a request of the listener that no route and no pool takes goes.
func (l *Listener) DestinationOf() Destination {
	switch {
	case l.HTTP.Destination != DestinationAuto:
		return l.HTTP.Destination
	case l.Intercept != nil:
		return DestinationOriginal
	}
	return DestinationHost
}

// IsProxy says that clients know that the listener is a proxy, and speak to it as one.
func (l *Listener) IsProxy() bool {
	return l.Protocol == ProtocolHTTP && l.Intercept == nil && l.Pool == "" && l.HTTP.Destination == DestinationAuto
}

// Connects says that a CONNECT is for the listener itself: it is a proxy, and routes do not say where everything goes.
func (l *Listener) Connects() bool { return l.IsProxy() && len(l.Routes) == 0 }

// ResetsOnServerFailure says that a server's failure is shown to clients as what it is, not as a page.
func (l *Listener) ResetsOnServerFailure() bool {
	if l.Errors.ServerFailure == FailureAuto {
		return l.Intercept != nil && l.Source == SourceClient
	}
	return l.Errors.ServerFailure == FailureReset
}
