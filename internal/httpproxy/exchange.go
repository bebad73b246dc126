package httpproxy

import (
	"net/netip"
	"time"

	"salp/internal/engine"
	"salp/internal/errorpage"
	"salp/internal/http1"
)

// exchange is a request and its response, while they are under way.
type exchange struct {
	next *exchange
	head []byte // the request's head as it came, in room or in a lent buffer
	room []byte // the exchange's own, for heads of the usual size
	out  []byte // the part of the response's head that has come in, in a lent buffer
	req  stream
	resp stream

	scan     http1.Scan // of the response's head
	start    time.Time
	in, sent int64 // bytes from and to the client
	headOut  int32 // bytes of the response's head
	headIn   int32
	status   int16 // what the client got; 0: nothing yet
	answered int16 // what the server said

	cause  errorpage.Cause
	rule   string // the access rule that decided, where somebody will ask
	server netip.AddrPort
	pool   string
	media  string   // the response's media type
	fields []string // of the response, for the log
	route  int16    // index of the route and 1; 0: none

	minor      uint8 // of the request
	counted    bool  // the limits have seen it
	parsed     bool  // head holds a request that can be read
	persistent bool  // the client means to go on after this exchange
	headOnly   bool
	connect    bool
	upgrade    bool // the client asked for another protocol, and the server was told
	repeatable bool // it may be sent again
	fresh      bool // it is to be sent on a new connection: it was lost on an old one
	sending    bool // it was sent to a server, or a part of it
	headed     bool // the response's head is through
	close      bool // the client's connection ends with the response
	judge      bool // the access rules want to see the response
	reusable   bool // the server goes on after the response
	dirty      bool // the server has sent more than the response
	deaf       bool // the server takes no more of the request's body
	aborted    bool // the client left
	allowed    bool // the limit of the client's rate has seen it
	logged     bool
	tunnel     bool // it became one, which logs it
}

// stream is one way of an exchange.
type stream struct {
	flowState
	body http1.Body
	over bool // all of the message is through
}

// begun makes the exchange of a request, if there is none yet.
func (c *conn) begun(l *engine.Loop) *exchange {
	if c.ex == nil {
		c.ex = c.proxy.exchange()
		c.ex.start = time.Now()
	}
	return c.ex
}

const (
	// spareExchanges bounds the structs, and their rooms, that a loop keeps for new exchanges.
	spareExchanges = 128
	// usualHead is how large a head is kept in an exchange's own room.
	usualHead = 2 << 10
)

func (p *Proxy) exchange() *exchange {
	w := p.work
	ex := w.free
	if ex == nil {
		return &exchange{}
	}
	w.free, ex.next = ex.next, nil
	w.spare--
	return ex
}

// drop gives back what the exchange has borrowed.
func (ex *exchange) drop(l *engine.Loop) {
	if len(ex.head) > usualHead {
		l.Return(ex.head)
	}
	ex.head = nil
	if ex.out != nil {
		l.Return(ex.out)
		ex.out = nil
	}
	ex.req.drop(l)
	ex.resp.drop(l)
}

// done forgets the exchange.
func (c *conn) done(l *engine.Loop) {
	ex, w := c.ex, c.proxy.work
	ex.drop(l)
	c.ex, c.asked = nil, false
	if w.spare < spareExchanges {
		*ex = exchange{next: w.free, fields: ex.fields[:0], room: ex.room}
		w.free = ex
		w.spare++
	}
}
