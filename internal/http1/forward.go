package http1

import "bytes"

// ToServer says how a request is passed on.
type ToServer struct {
	Upgrade bool   // let the client ask for another protocol; h2c apart, which would have the server read what nobody has looked at
	Consume bool   // the client speaks to us as a proxy: its Proxy-Authorization is ours
	Host    []byte // the Host of a request that has none
	Close   bool   // no further request follows on the connection to the server: say so
}

// ToClient says how a response is passed on.
type ToClient struct {
	Close     bool // no further response follows on this connection: say so
	KeepAlive bool // another one does, and the client speaks HTTP/1.0: say so
	Switching bool // 101: the server goes on in another protocol
	Dechunk   bool // the client cannot read the chunked coding, which is taken off
}

var (
	http11    = []byte("HTTP/1.1")
	slash     = []byte("/")
	star      = []byte("*")
	crlf      = []byte("\r\n")
	hostField = []byte("Host: ")

	closing   = connectionField{value: "close", line: []byte("Connection: close\r\n")}
	keeping   = connectionField{value: "keep-alive", line: []byte("Connection: keep-alive\r\n")}
	upgrading = connectionField{value: "upgrade", line: []byte("Connection: Upgrade\r\n")}
	silent    connectionField
)

type connectionField struct {
	value string // in lower case
	line  []byte
}

// Forward adds the changes that a proxy must make to a request (RFC 9110 7.6, RFC 9112 3.2): the origin form of the target, our own
// version, and no field that is about the client's connection alone.
func (r *Request) Forward(e *Edits, o ToServer) {
	if r.Form == Absolute {
		r.originForm(e)
	}
	if r.Minor == 0 {
		e.Replace(r.Version, http11)
	}
	if !r.Has(Host) && len(o.Host) > 0 {
		at := r.First.End + 2
		e.Insert(at, hostField)
		e.Insert(at, o.Host)
		e.Insert(at, crlf)
	}
	upgrade := o.Upgrade && r.Upgrades && r.wantsTunnel()
	want := &silent
	switch {
	case upgrade:
		want = &upgrading
	case o.Close:
		want = &closing
	}
	r.hop(e, want, upgrade, o.Consume)
}

// Tunnels says whether the request asks for another protocol that may be let through.
func (r *Request) Tunnels() bool { return r.Upgrades && r.wantsTunnel() }

// wantsTunnel is false where HTTP/2 is among the protocols that are asked for.
func (r *Request) wantsTunnel() bool {
	for i := range r.Fields {
		if r.Fields[i].Known != Upgrade {
			continue
		}
		for b := r.Fields[i].Value.Of(r.Raw); len(b) > 0; {
			var protocol []byte
			protocol, b = element(b)
			if name, _, _ := bytes.Cut(protocol, slash); equalFold(name, "h2c") || equalFold(name, "h2") || equalFold(name, "http") {
				return false
			}
		}
	}
	return true
}

// originForm makes http://host/path?query a /path?query.
func (r *Request) originForm(e *Edits) {
	start := r.Target.Start
	switch {
	case r.Path.Len() == 0 && string(r.Method.Of(r.Raw)) == "OPTIONS": // RFC 9112 3.2.4
		e.Replace(r.Target, star)
	case r.Path.Len() == 0 || r.Raw[r.Path.Start] == '?':
		e.Replace(Span{start, r.Path.Start}, slash)
	default:
		e.Remove(Span{start, r.Path.Start})
	}
}

// Forward adds the changes that a proxy must make to a response.
func (r *Response) Forward(e *Edits, o ToClient) {
	if r.Minor == 0 {
		e.Replace(r.Version, http11)
	}
	upgrade := o.Switching || r.Status == 426 && r.Upgrades && !o.Close
	want := &silent
	switch {
	case upgrade:
		want = &upgrading
	case o.Close:
		want = &closing
	case o.KeepAlive:
		want = &keeping
	}
	if o.Dechunk {
		for i := range r.Fields {
			if f := &r.Fields[i]; f.Known == TransferEncoding || f.Known == Trailer {
				e.Remove(f.Line)
			}
		}
	}
	r.hop(e, want, upgrade, false)
}

// hop takes out the fields of one connection. Connection itself becomes the one that is wanted, and stays as it is where it says that already.
func (h *Head) hop(e *Edits, want *connectionField, upgrade, consume bool) {
	said := want.line == nil
	if !h.Has(Connection) && !h.Has(KeepAlive) && !h.Has(ProxyConnection) && !h.Has(TE) && !h.Has(Upgrade) && !h.Has(ProxyAuthorization) {
		if !said {
			e.Insert(int32(len(h.Raw)-2), want.line)
		}
		return
	}
	for i := range h.Fields {
		f := &h.Fields[i]
		keep := true
		switch f.Known {
		case Connection:
			keep = !said && equalFold(f.Value.Of(h.Raw), want.value)
			said = said || keep
		case KeepAlive, ProxyConnection, TE:
			keep = false
		case Upgrade:
			keep = upgrade
		case ProxyAuthorization:
			keep = !consume && !(h.nominates && h.nominated(f.Name.Of(h.Raw)))
		default:
			keep = !h.nominates || f.Known == TransferEncoding || f.Known == ContentLength || f.Known == Host || !h.nominated(f.Name.Of(h.Raw))
		}
		if !keep && !(f.Known == Trailer && h.edited(e, f.Line)) {
			e.Remove(f.Line)
		}
	}
	if !said {
		e.Insert(int32(len(h.Raw)-2), want.line)
	}
}

// edited says whether the line is taken out already.
func (h *Head) edited(e *Edits, line Span) bool {
	for i := range e.list {
		if e.list[i].Span == line {
			return true
		}
	}
	return false
}
