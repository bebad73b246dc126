package wire

import (
	"bytes"
	"encoding/binary"

	"github.com/mdlayher/netlink"
)

// Attr is a netlink attribute. The library's AttributeEncoder writes attributes one after the other; messages here are put
// together from lists, which say in one place what a message holds.
type Attr = netlink.Attribute

// Bytes is an attribute with a raw payload.
func Bytes(t uint16, b []byte) Attr { return Attr{Type: t, Data: b} }

// String is an attribute with a string that ends in a zero byte.
func String(t uint16, s string) Attr { return Bytes(t, append([]byte(s), 0)) }

// U8 is an attribute of one byte.
func U8(t uint16, v uint8) Attr { return Bytes(t, []byte{v}) }

// U32 is an attribute in the byte order of the host.
func U32(t uint16, v uint32) Attr { return Bytes(t, binary.NativeEndian.AppendUint32(nil, v)) }

// BE32 is an attribute in network byte order.
func BE32(t uint16, v uint32) Attr { return Bytes(t, binary.BigEndian.AppendUint32(nil, v)) }

// BE64 is an attribute in network byte order.
func BE64(t uint16, v uint64) Attr { return Bytes(t, binary.BigEndian.AppendUint64(nil, v)) }

// Nest is an attribute that holds attributes.
func Nest(t uint16, attrs ...Attr) Attr { return Bytes(t|netlink.Nested, Append(nil, attrs...)) }

// Append adds the encoded attributes to b.
func Append(b []byte, attrs ...Attr) []byte {
	encoded, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		panic("wire: " + err.Error()) // only for a payload of 64 KiB, and nobody comes near
	}
	return append(b, encoded...)
}

// Attrs are the attributes of a message that was read, without flags in their types; those inside an attribute are decoded when
// asked for. The library's AttributeDecoder meets attributes in the order in which they came, these are looked up by type.
type Attrs []Attr

// Decode splits a message's attributes.
func Decode(b []byte) (Attrs, error) {
	as, err := netlink.UnmarshalAttributes(b)
	for i := range as {
		as[i].Type &^= netlink.Nested | netlink.NetByteOrder
	}
	return as, err
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
