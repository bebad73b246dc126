package httpproxy

import (
	"net/netip"
	"strings"
	"time"

	"salp/internal/dial"
	"salp/internal/engine"
	"salp/internal/policy"
	"salp/internal/pool"
	"salp/internal/sock"
)

// key says which requests may use a connection. Two with the same key look the same to the server.
type key struct {
	client netip.AddrPort // whose address the server sees; without the port where that may be any; the zero value: our own
	server netip.AddrPort
	pool   *pool.Pool
	mark   uint32
	dscp   uint8 // and 1; 0: none was set
	tls    string
	link   string // what an access rule or the listener wishes
	in     string // by which interface the client comes, and with which DSCP, when rules of links ask for it
	class  uint8
	way    uint32 // the link that the client's connections to the server are kept on; 0: any
}

// upstream is a connection to a server. It has a slot of its own, so that it can pass from one client's connection to another.
type upstream struct {
	proxy   *Proxy
	conn    *conn         // who has it; nil: it is idle
	attempt *dial.Attempt // until it is connected
	place   dial.Server
	key     key
	slot    engine.Slot
	fd      int32
	inlet
	uses  uint32
	own   bool // it tells the server who the client is, and ends with the client's connection
	owing bool // the server was not sent the last ACK of the handshake
	plain bool // Nagle's algorithm is off
	timed bool // the timer is set
	stale bool // its link takes no new flows: no further request is sent on it

	user         engine.Slot // of the client's connection that had it last
	idle         bool
	bucket       *bucket
	prev, next   *upstream // in the bucket; the last in is the first out
	older, newer *upstream // among all that are idle
	since        int64     // when it became idle
}

// key is the key of connections for the target, to the server that it names.
func (t *target) key() key {
	d := &t.decision
	k := key{server: d.Server, pool: d.Pool, mark: d.Mark | d.Link, dscp: d.DSCP, tls: t.tls, link: d.Origin.Wish, in: d.Origin.Interface, class: d.Origin.DSCP}
	if d.Source.IsValid() {
		if k.client = d.Source; !d.KeepPort {
			k.client = netip.AddrPortFrom(d.Source.Addr(), 0)
		}
	}
	return k
}

// reach gives the connection an upstream for the target: one that is idle, or one that is being connected. It is false when the connection is over.
func (c *conn) reach(l *engine.Loop, t *target, fresh bool) bool {
	p := c.proxy
	k := t.key()
	if t.decision.Pool == nil {
		k.way = c.way(&t.decision, k.server)
	}
	if t.decision.Pool == nil && !fresh {
		if up := p.idle.take(l, k, c); up != nil {
			c.adopt(up)
			return true
		}
	}
	k.tls = strings.Clone(k.tls) // it is a view of the request
	up := &upstream{proxy: p, conn: c, key: k, fd: -1, user: c.slot}
	up.slot = l.Add(up)
	c.up, c.last = up, up
	p.found, p.wanted, p.wanting, p.asking = nil, k, c, &t.decision
	if fresh {
		p.wanted = key{}
	}
	var progress dial.Progress
	up.attempt, progress = p.Dialer.Start(l, up.slot, 0, &c.flow, &t.decision)
	p.wanted, p.asking = key{}, nil
	switch progress {
	case dial.Failed:
		return c.unreachable(l)
	case dial.Reused:
		up.attempt.Abort()
		up.attempt = nil
		l.Remove(up.slot)
		c.adopt(p.found)
		p.found = nil
	}
	return true
}

// way is the link on which the client's connections to a server are kept together, so that a connection which another client had by another link is
// not used for it. A connection with the client's address is nobody else's anyway.
func (c *conn) way(d *policy.Decision, server netip.AddrPort) uint32 {
	if d.Links == nil || d.Source.IsValid() {
		return 0
	}
	o := d.Comes()
	return d.Links.Kept(&o, c.flow.Client.Addr(), d.Source, server)
}

// reuse is asked by the dialer when a pool has chosen a server: is there an idle connection to it that would do?
func (p *Proxy) reuse(l *engine.Loop, e *pool.Endpoint) bool {
	if p.wanted == (key{}) {
		return false
	}
	p.wanted.server = e.Address()
	p.wanted.way = p.wanting.way(p.asking, e.Address())
	p.wanting.up.key.way = p.wanted.way
	p.found = p.idle.take(l, p.wanted, p.wanting)
	return p.found != nil
}

func (c *conn) adopt(up *upstream) {
	c.up, up.conn = up, c
	c.last = up
	up.user = c.slot
}

// Handle implements engine.Handler.
func (u *upstream) Handle(l *engine.Loop, ev engine.Event) {
	switch {
	case u.attempt != nil:
		u.progress(l, ev)
	case u.conn == nil:
		u.rest(l, ev)
	case ev&engine.Again != 0:
		if u.owing && u.uses == 0 {
			sock.Ack(int(u.fd))
		}
		u.owing = false
	case ev&engine.Timer != 0:
		u.timed = false
	default:
		u.busy(l, ev)
	}
}

// rest handles an idle connection. Whatever comes from its server ends it: nobody has asked for it.
func (u *upstream) rest(l *engine.Loop, ev engine.Event) {
	switch {
	case ev&engine.Timer != 0:
		if left := u.proxy.idle.keep - time.Duration(l.Now()-u.since); left > 0 {
			l.SetTimer(u.slot, left)
			return
		}
	case ev&(engine.In|engine.PeerClosed|engine.Hangup|engine.Error|engine.Urgent) == 0:
		return
	}
	u.proxy.idle.remove(u)
	u.close(l)
}

// busy passes on to the connection what happened to the server's socket.
func (u *upstream) busy(l *engine.Loop, ev engine.Event) {
	c := u.conn
	if ev&engine.Error != 0 {
		if e := sock.Error(int(u.fd)); e != 0 {
			u.readable = true // what it had sent before is read first, and then the error
			c.serverBroken(l, e)
			return
		}
	}
	u.note(ev)
	if c.ex == nil || !c.ex.sending {
		c.uncalled(l)
		return
	}
	if ev&engine.Out != 0 && c.ex.req.blocked {
		c.ex.req.blocked = false
		if !c.pumpRequest(l) {
			return
		}
	}
	if c.state == exchanging && c.up == u {
		c.pumpResponse(l)
	}
}

// progress handles what happens until the server is connected.
func (u *upstream) progress(l *engine.Loop, ev engine.Event) {
	u.reached(l, u.attempt.Handle(l, ev), ev)
}

// reached goes on from where the attempt is now. ev is what brought it there.
func (u *upstream) reached(l *engine.Loop, p dial.Progress, ev engine.Event) {
	c := u.conn
	switch p {
	case dial.Failed:
		c.unreachable(l)
	case dial.Broken:
		u.connected(false)
		c.brokenAtOnce(l)
	case dial.Connected:
		u.connected(c.state == dialing || c.readable)
		if err := u.beginTLS(l); err != nil {
			c.brokenAtOnce(l)
			return
		}
		l.StopTimer(u.slot)
		u.note(ev &^ engine.Out)
		u.owing = true
		l.Again(u.slot) // what the client has sent may be among the events of this turn; if not, the ACK must go without it
		c.connected(l)
	}
}

// connected takes the socket over from the attempt.
func (u *upstream) connected(more bool) {
	fd, place, sent := u.attempt.Take(more)
	u.fd, u.place, u.attempt = int32(fd), place, nil
	if e := u.place.Endpoint(); e != nil {
		u.key.server = e.Address()
	}
	u.own = sent || u.key.client.Port() != 0
	u.plain = false
	if sent {
		u.owing = false
	}
}

// beginTLS puts TLS between the connection and its server, where that is asked for.
func (u *upstream) beginTLS(l *engine.Loop) error {
	if u.key.tls == "" {
		return nil
	}
	l.Unwatch(int(u.fd)) // or the copy that a goroutine has would keep it watched
	fd, secure, err := u.proxy.Shared.Upstream(int(u.fd), u.key.tls)
	u.fd, u.secure = int32(fd), secure
	if err != nil {
		return err
	}
	if e := l.Watch(u.slot, 0, fd); e != 0 {
		return e
	}
	return nil
}

// close ends a connection that is no conn's.
func (u *upstream) close(l *engine.Loop) {
	if u.attempt == nil {
		sock.Close(int(u.fd))
	}
	u.end(l)
}

// reset ends it with a RST.
func (u *upstream) reset(l *engine.Loop) {
	u.secure.Break()
	if u.attempt == nil {
		sock.Reset(int(u.fd))
	}
	u.end(l)
}

func (u *upstream) end(l *engine.Loop) {
	if u.attempt != nil {
		u.attempt.Abort()
		u.attempt = nil
	} else {
		u.place.End()
	}
	u.proxy.idle.forget(u)
	l.Remove(u.slot)
}

// letGo parts the connection from its server: for further requests of others when it is good for that, or else for ever.
func (c *conn) letGo(l *engine.Loop, good bool) {
	u := c.up
	if u == nil {
		return
	}
	if good && u.readable && u.quiet() { // what was read ended just where a read did
		u.readable = false
	}
	switch p := c.proxy; {
	case good && !u.stale && !u.readable && !u.closing && !u.eof && !p.draining && p.idle.keep > 0:
		if u.own {
			return // it stays with this client's connection
		}
		c.up, u.conn = nil, nil
		p.idle.put(l, u)
	default:
		c.up, u.conn = nil, nil
		u.close(l)
	}
}

// bucket holds the idle connections of one key.
type bucket struct {
	key   key
	last  *upstream
	users int // connections that have been here, idle or not
}

// maxIdle bounds the idle connections of a proxy, that is for a listener on a loop.
const maxIdle = 1024

// idle are the connections to servers that nobody has.
type idle struct {
	keep           time.Duration // how long they are kept; 0: not at all
	buckets        map[key]*bucket
	oldest, newest *upstream
	count          int
}

func (i *idle) init(keep time.Duration) {
	i.keep = keep
	i.buckets = make(map[key]*bucket)
}

func (i *idle) put(l *engine.Loop, u *upstream) {
	if i.count >= maxIdle {
		oldest := i.oldest
		i.remove(oldest)
		oldest.close(l)
	}
	b := u.bucket
	if b == nil {
		if b = i.buckets[u.key]; b == nil {
			b = &bucket{key: u.key}
			i.buckets[u.key] = b
		}
		u.bucket = b
		b.users++
	}
	u.prev, u.next = b.last, nil
	if b.last != nil {
		b.last.next = u
	}
	b.last = u
	u.older, u.newer = i.newest, nil
	if i.newest != nil {
		i.newest.newer = u
	} else {
		i.oldest = u
	}
	i.newest = u
	i.count++
	u.since, u.idle = l.Now(), true
	if !u.timed {
		l.SetTimer(u.slot, i.keep)
		u.timed = true
	}
}

// take takes a connection of that key for the client's connection: the one that it had last, or else the one that was used last. One that comes from
// another client is looked at: what its server may have sent meanwhile, unasked, is not for this one.
func (i *idle) take(l *engine.Loop, k key, c *conn) *upstream {
	if u := c.last; u != nil && u.idle && u.key == k && i.fit(u) {
		return u
	}
	b := i.buckets[k]
	for b != nil && b.last != nil {
		u := b.last
		if i.fit(u) && (u.user == c.slot || u.quiet()) {
			return u
		}
		if u.idle {
			i.remove(u)
		}
		u.close(l)
	}
	return nil
}

// fit takes it out if it may be used.
func (i *idle) fit(u *upstream) bool {
	if e := u.place.Endpoint(); e != nil && !e.Usable() {
		return false
	}
	i.remove(u)
	return true
}

// remove takes it out.
func (i *idle) remove(u *upstream) {
	b := u.bucket
	if u.next != nil {
		u.next.prev = u.prev
	} else {
		b.last = u.prev
	}
	if u.prev != nil {
		u.prev.next = u.next
	}
	if u.newer != nil {
		u.newer.older = u.older
	} else {
		i.newest = u.older
	}
	if u.older != nil {
		u.older.newer = u.newer
	} else {
		i.oldest = u.newer
	}
	u.prev, u.next, u.older, u.newer, u.idle = nil, nil, nil, nil, false
	i.count--
}

// forget takes a connection that has ended out of its bucket, which goes with the last.
func (i *idle) forget(u *upstream) {
	if b := u.bucket; b != nil {
		if b.users--; b.users == 0 {
			delete(i.buckets, b.key)
		}
		u.bucket = nil
	}
}

func (i *idle) closeAll(l *engine.Loop) {
	for i.oldest != nil {
		u := i.oldest
		i.remove(u)
		u.close(l)
	}
}

// quiet says that nothing has come in on the connection since it was used: it is worth asking before a request that could not be repeated.
func (u *upstream) quiet() bool {
	var b [1]byte
	n, e := sock.Peek(int(u.fd), b[:])
	return n == 0 && e == errAgain
}

// reachEarly connects to the address that the client dialled before the client has said anything. It is false when the connection is over.
func (c *conn) reachEarly(l *engine.Loop) bool {
	d, _, ok := c.proxy.Rule.Decide(&c.flow)
	if !ok {
		return true // the request will hear of it
	}
	t := &c.proxy.work.target
	*t = target{decision: d}
	return c.reach(l, t, false)
}
