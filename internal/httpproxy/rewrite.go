package httpproxy

import (
	"bytes"
	"net/netip"
	"regexp"
	"strings"

	"salp/internal/config"
	"salp/internal/http1"
)

// rewrite changes a request on its way to a server.
type rewrite struct {
	host           string
	strip, prepend string
	match          *regexp.Regexp
	replace        []byte
}

// newRewrite compiles what the configuration has checked already.
func newRewrite(c *config.Rewrite) *rewrite {
	if c == nil {
		return nil
	}
	r := &rewrite{host: c.Host, strip: c.Strip, prepend: c.Prepend, replace: []byte(c.Replace)}
	if c.Match != "" {
		r.match = regexp.MustCompile(c.Match)
	}
	return r
}

// path returns the path that a request gets in place of the one it has; both without query.
func (r *rewrite) path(old []byte) []byte {
	path := old
	if r.strip != "" && bytes.HasPrefix(path, []byte(r.strip)) {
		if rest := path[len(r.strip):]; len(rest) == 0 || rest[0] == '/' || strings.HasSuffix(r.strip, "/") {
			path = rest
		}
	}
	if len(path) == 0 || path[0] != '/' {
		path = append([]byte("/"), path...)
	}
	if r.match != nil {
		path = r.match.ReplaceAll(path, r.replace)
	}
	if r.prepend != "" {
		path = append([]byte(strings.TrimSuffix(r.prepend, "/")), path...)
	}
	if len(path) == 0 || path[0] != '/' || !http1.ValidTarget(path) {
		return old
	}
	return path
}

// edit adds the changes that the configuration asks for.
func (p *Proxy) edit(e *http1.Edits, r *http1.Request, c *conn, t *target) {
	if t.rewrite != nil {
		t.rewrite.edit(e, r)
	}
	h := &p.Config.HTTP
	if h.ForwardedFor != config.FieldKeep && h.ForwardedFor != "" {
		field(e, &r.Head, http1.XForwardedFor, "X-Forwarded-For", h.ForwardedFor, func(b []byte) []byte { return c.flow.Client.Addr().AppendTo(b) })
	}
	if h.ForwardedProto != config.FieldKeep && h.ForwardedProto != "" {
		field(e, &r.Head, http1.XForwardedProto, "X-Forwarded-Proto", h.ForwardedProto, func(b []byte) []byte { return append(b, c.scheme()...) })
	}
	if h.Forwarded != config.FieldKeep && h.Forwarded != "" {
		field(e, &r.Head, http1.Forwarded, "Forwarded", h.Forwarded, func(b []byte) []byte { return appendForwarded(b, c.flow.Client.Addr(), c.scheme(), r.Host) })
	}
	if h.ViaHeader != "" {
		via(e, &r.Head, h.ViaHeader)
	}
}

// editResponse does so for a response.
func (p *Proxy) editResponse(e *http1.Edits, r *http1.Response) {
	if name := p.Config.HTTP.ViaHeader; name != "" {
		via(e, &r.Head, name)
	}
}

func (rw *rewrite) edit(e *http1.Edits, r *http1.Request) {
	if rw.host != "" {
		for i := range r.Fields {
			if r.Fields[i].Known == http1.Host {
				e.Replace(r.Fields[i].Value, []byte(rw.host))
			}
		}
	}
	if r.Form != http1.Origin && r.Form != http1.Absolute {
		return
	}
	span := r.Path
	if i := bytes.IndexByte(span.Of(r.Raw), '?'); i >= 0 {
		span.End = span.Start + int32(i)
	}
	old := span.Of(r.Raw)
	if len(old) == 0 { // http://host or http://host?query, where Forward puts a /
		if path := rw.path([]byte("/")); len(path) > 1 {
			e.Replace(span, path[1:])
		}
		return
	}
	if path := rw.path(old); !bytes.Equal(path, old) {
		e.Replace(span, path)
	}
}

// field does to a field what its mode says; value appends our value.
func field(e *http1.Edits, h *http1.Head, known http1.Name, name string, mode config.FieldMode, value func([]byte) []byte) {
	last := -1
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.Known != known || e.Touches(f.Line) {
			continue
		}
		if mode == config.FieldAppend {
			last = i
			continue
		}
		e.Remove(f.Line)
	}
	switch {
	case mode == config.FieldRemove:
	case last >= 0 && h.Fields[last].Value.Len() > 0:
		e.Insert(h.Fields[last].Value.End, value([]byte(", ")))
	default:
		e.Insert(int32(len(h.Raw)-2), append(value([]byte(name+": ")), '\r', '\n'))
	}
}

func via(e *http1.Edits, h *http1.Head, name string) {
	field(e, h, http1.Via, "Via", config.FieldAppend, func(b []byte) []byte {
		b = append(b, '1', '.', '0'+h.Minor, ' ')
		return append(b, name...)
	})
}

// appendForwarded appends an element of Forwarded (RFC 7239).
func appendForwarded(b []byte, client netip.Addr, scheme string, host []byte) []byte {
	b = append(b, "for="...)
	if client.Is6() {
		b = append(b, "\"["...)
		b = client.AppendTo(b)
		b = append(b, "]\""...)
	} else {
		b = client.AppendTo(b)
	}
	b = append(append(b, ";proto="...), scheme...)
	if len(host) > 0 {
		b = append(b, ";host=\""...)
		b = append(b, host...)
		b = append(b, '"')
	}
	return b
}

// hostFor is the Host of a request that has none.
func (c *conn) hostFor(r *http1.Request) []byte {
	if t := c.proxy.work.target.rewrite; t != nil && t.host != "" {
		return []byte(t.host)
	}
	if len(r.Host) > 0 || r.Has(http1.Host) {
		return r.Host
	}
	return c.flow.Original.AppendTo(nil)
}
