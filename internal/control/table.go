package control

import (
	"fmt"
	"net/netip"
)

// Table hands over the memory in which a pool's workers remember which client has which server: a file in memory (memfd) that all of them
// map. A second descriptor is the table of another size that was used before, whose content the worker takes over. The keeper sends it before Start.
type Table struct {
	Pool string `json:"pool"`
}

// Elsewhere tells a worker how many connections the other workers have, so that all together keep to max_connections of a server and
// limits.connections and per_client of a listener. It is whole: what is not in it has none.
type Elsewhere struct {
	Servers   []Place           `json:"servers"`
	Listeners map[string]uint64 `json:"listeners,omitempty"`
	Clients   []ClientCount     `json:"clients,omitempty"` // of listeners with limits.per_client; several of one client add up
}

// Empty says that the others have nothing that counts.
func (m *Elsewhere) Empty() bool { return len(m.Servers)+len(m.Listeners)+len(m.Clients) == 0 }

// MostClients bounds the clients that a worker tells of: those with the most connections.
const MostClients = 1024

// ClientCount is how many connections a client has on a listener.
type ClientCount struct {
	Listener string     `json:"listener"`
	Client   netip.Addr `json:"client"`
	Active   int32      `json:"active"`
}

// checkClients refuses counts that nobody can have: they are added up and taken off a limit.
func checkClients(all []ClientCount) error {
	for _, c := range all {
		if c.Active < 0 || c.Active > 1<<24 || !c.Client.IsValid() {
			return fmt.Errorf("control: client %v has %d connections on listener %q", c.Client, c.Active, c.Listener)
		}
	}
	return nil
}

// Place is how many connections there are to one address.
type Place struct {
	Pool    string         `json:"pool"`
	Address netip.AddrPort `json:"address"`
	Active  uint64         `json:"active"`
}
