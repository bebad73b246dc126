// Package traffic makes and answers the load of the bench: a client and a server on epoll loops of their own that cost little
// enough not to hide what a proxy between them costs.
//
// Both are processes that are told what to do by lines on standard input and answer with lines of JSON on standard output.
package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"
)

// Job says what the client does.
type Job struct {
	Target      netip.AddrPort // where it connects to, IPv4
	Sources     []netip.Addr   // its addresses, used in turn
	Connections int            // open at once
	Loops       int            // threads
	Request     int            // bytes, HeaderSize at least
	Response    int64          // bytes; Endless for a stream
	Reconnect   bool           // a connection per request; the server closes first
	Hold        bool           // one request per connection, which then stays idle
	HTTP        bool           // requests and responses are HTTP/1.1
}

// Endless as Job.Response makes the server send until the connection ends.
const Endless = math.MaxInt64

// HeaderSize is what every request begins with.
const HeaderSize = 16

// Bounds of what a Job may ask for.
const (
	maxConnections = 1 << 16
	maxRequest     = 1 << 14 // what an empty send buffer takes for certain
	maxFailures    = 1000    // of one loop; then the client gives up
)

// Check says what is wrong with a job.
func (j Job) Check() error {
	switch {
	case !j.Target.IsValid() || !j.Target.Addr().Is4():
		return fmt.Errorf("target %s: an IPv4 address and port are needed", j.Target)
	case j.Connections < 1 || j.Connections > maxConnections:
		return fmt.Errorf("%d connections: 1 to %d are possible", j.Connections, maxConnections)
	case j.Request < HeaderSize || j.Request > maxRequest:
		return fmt.Errorf("request of %d bytes: %d to %d are possible", j.Request, HeaderSize, maxRequest)
	case j.HTTP && j.Response == Endless:
		return errors.New("an HTTP response has a length")
	case j.Response < 1:
		return errors.New("the response needs a byte at least")
	case j.Loops < 1 || j.Loops > j.Connections:
		return fmt.Errorf("%d loops for %d connections", j.Loops, j.Connections)
	}
	for _, s := range j.Sources {
		if !s.Is4() {
			return fmt.Errorf("source %s: an IPv4 address is needed", s)
		}
	}
	return nil
}

// Count is what the client has done since its start.
type Count struct {
	Elapsed     time.Duration
	Exchanges   int64 // complete responses
	Bytes       int64 // received
	Connections int64 // opened
	Failures    int64 // connections that ended otherwise than asked for
	FirstError  string
}

// Seen is what the server has accepted since it was last asked.
type Seen struct {
	Addresses map[string]int64 // client address → connections
	Locals    map[string]int64 `json:",omitempty"` // the server's own address → connections, when it listens at all of them
	Requests  int64            // by HTTP, since the server's start
}

// header is the beginning of a request: how long it is, how long an answer it wants, and whether to close after that.
type header struct {
	request  uint32
	response int64
	last     bool
}

const magic = 'S'

var errHeader = errors.New("a request that does not begin as one")

func (h header) encode() [HeaderSize]byte {
	var b [HeaderSize]byte
	b[0] = magic
	if h.last {
		b[1] = 1
	}
	binary.BigEndian.PutUint32(b[4:], h.request)
	binary.BigEndian.PutUint64(b[8:], uint64(h.response))
	return b
}

func decode(b *[HeaderSize]byte) (header, error) {
	h := header{
		request:  binary.BigEndian.Uint32(b[4:]),
		response: int64(binary.BigEndian.Uint64(b[8:])),
		last:     b[1] == 1,
	}
	if b[0] != magic || h.request < HeaderSize || h.request > maxRequest || h.response < 1 {
		return header{}, errHeader
	}
	return h, nil
}
