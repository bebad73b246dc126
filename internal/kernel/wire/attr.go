package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Attr is a netlink attribute. Its payload is Data, or Nested when that is not nil. (netlink(7), include/uapi/linux/netlink.h)
type Attr struct {
	Type   uint16
	Data   []byte
	Nested []Attr
}

// Bytes is an attribute with a raw payload.
func Bytes(t uint16, b []byte) Attr { return Attr{Type: t, Data: b} }

// String is an attribute with a string that ends in a zero byte.
func String(t uint16, s string) Attr { return Attr{Type: t, Data: append([]byte(s), 0)} }

// U8 is an attribute of one byte.
func U8(t uint16, v uint8) Attr { return Attr{Type: t, Data: []byte{v}} }

// U32 is an attribute in the byte order of the host.
func U32(t uint16, v uint32) Attr {
	return Attr{Type: t, Data: binary.NativeEndian.AppendUint32(nil, v)}
}

// BE16 is an attribute in network byte order.
func BE16(t uint16, v uint16) Attr {
	return Attr{Type: t, Data: binary.BigEndian.AppendUint16(nil, v)}
}

// BE32 is an attribute in network byte order.
func BE32(t uint16, v uint32) Attr {
	return Attr{Type: t, Data: binary.BigEndian.AppendUint32(nil, v)}
}

// BE64 is an attribute in network byte order.
func BE64(t uint16, v uint64) Attr {
	return Attr{Type: t, Data: binary.BigEndian.AppendUint64(nil, v)}
}

// Nest is an attribute that holds attributes.
func Nest(t uint16, attrs ...Attr) Attr {
	if attrs == nil {
		attrs = []Attr{}
	}
	return Attr{Type: t, Nested: attrs}
}

// Append adds the encoded attributes to b.
func Append(b []byte, attrs ...Attr) []byte {
	for _, a := range attrs {
		start := len(b)
		b = append(b, 0, 0, 0, 0)
		kind := a.Type
		if a.Nested != nil {
			kind |= unix.NLA_F_NESTED
			b = Append(b, a.Nested...)
		} else {
			b = append(b, a.Data...)
		}
		binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
		binary.NativeEndian.PutUint16(b[start+2:], kind)
		for len(b)%unix.NLA_ALIGNTO != 0 {
			b = append(b, 0)
		}
	}
	return b
}

// Attrs are the attributes of a message that was read; those inside an attribute are decoded when asked for.
type Attrs []Attr

// Decode splits a message's attributes. Flag bits are taken off the types.
func Decode(b []byte) (Attrs, error) {
	var as Attrs
	for len(b) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return nil, fmt.Errorf("netlink: attribute of %d bytes in %d bytes", length, len(b))
		}
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		as = append(as, Attr{Type: kind, Data: b[unix.SizeofNlAttr:length]})
		b = b[min((length+3)&^3, len(b)):]
	}
	return as, nil
}

// Get returns the payload of the attribute of that type, and whether there is one.
func (as Attrs) Get(t uint16) ([]byte, bool) {
	for _, a := range as {
		if a.Type == t {
			return a.Data, true
		}
	}
	return nil, false
}

// Has says whether there is an attribute of that type.
func (as Attrs) Has(t uint16) bool {
	_, ok := as.Get(t)
	return ok
}

// String returns a string without its final zero byte, or "".
func (as Attrs) String(t uint16) string {
	b, _ := as.Get(t)
	return string(bytes.TrimRight(b, "\x00"))
}

// U8 returns a byte, or 0.
func (as Attrs) U8(t uint16) uint8 {
	if b, _ := as.Get(t); len(b) >= 1 {
		return b[0]
	}
	return 0
}

// U32 returns a number in host byte order, or 0.
func (as Attrs) U32(t uint16) uint32 {
	if b, _ := as.Get(t); len(b) >= 4 {
		return binary.NativeEndian.Uint32(b)
	}
	return 0
}

// BE32 returns a number in network byte order, or 0.
func (as Attrs) BE32(t uint16) uint32 {
	if b, _ := as.Get(t); len(b) >= 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// BE64 returns a number in network byte order, or 0.
func (as Attrs) BE64(t uint16) uint64 {
	if b, _ := as.Get(t); len(b) >= 8 {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Nested decodes the attributes inside the one of that type; none when it is missing or broken.
func (as Attrs) Nested(t uint16) Attrs {
	b, _ := as.Get(t)
	inner, _ := Decode(b)
	return inner
}
