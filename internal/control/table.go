package control

import "net/netip"

// Table hands over the memory in which a pool's workers remember which client has which server: a file in memory (memfd) that all of them
// map. A second descriptor is the table of another size that was used before, whose content the worker takes over. The keeper sends it before Start.
type Table struct {
	Pool string `json:"pool"`
}

// Elsewhere tells a worker how many connections the other workers have, so that all together keep to max_connections of a server and
// limits.connections of a listener. It is whole: what is not in it has none.
type Elsewhere struct {
	Servers   []Place           `json:"servers"`
	Listeners map[string]uint64 `json:"listeners,omitempty"`
}

// Place is how many connections there are to one address.
type Place struct {
	Pool    string         `json:"pool"`
	Address netip.AddrPort `json:"address"`
	Active  uint64         `json:"active"`
}
