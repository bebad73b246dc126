package listen

import (
	"net/netip"
	"sync/atomic"
)

// Own is the set of addresses that this process listens on: connecting there would be a loop. Has may be called by all loops at once.
type Own struct {
	exact map[netip.AddrPort]bool
	any   map[uint16]bool // ports of listeners on the unspecified address
	local atomic.Pointer[map[netip.Addr]bool]
}

// NewOwn makes the set of the addresses listened on.
func NewOwn(listening []netip.AddrPort) *Own {
	o := &Own{exact: make(map[netip.AddrPort]bool), any: make(map[uint16]bool)}
	for _, a := range listening {
		if a.Addr().IsUnspecified() {
			o.any[a.Port()] = true
		} else {
			o.exact[a] = true
		}
	}
	return o
}

// NeedsLocal says whether some listener takes every address of the host, so that SetLocal must tell which these are.
func (o *Own) NeedsLocal() bool { return len(o.any) > 0 }

// SetLocal tells the addresses that the host has now.
func (o *Own) SetLocal(addrs []netip.Addr) {
	local := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		local[a.Unmap().WithZone("")] = true
	}
	o.local.Store(&local)
}

// Has says whether a connection to that address would come back to us.
func (o *Own) Has(a netip.AddrPort) bool {
	if o.exact[a] {
		return true
	}
	if !o.any[a.Port()] {
		return false
	}
	if a.Addr().IsLoopback() || a.Addr().IsUnspecified() {
		return true
	}
	local := o.local.Load()
	return local != nil && (*local)[a.Addr()]
}
