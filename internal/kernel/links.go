package kernel

import (
	"net/netip"

	"salp/internal/kernel/route"
)

// Traffic returns the bytes that each interface has received and sent since it was made, by name.
func (h *Host) Traffic() (map[string]route.Traffic, error) { return h.route.Traffic() }

// ForgetFlows removes the connection tracking entries whose mark has the value in the bits of mask: TCP connections behind a masquerade are then
// reset by the other side, UDP flows begin anew. still is asked when the entries are known; when it is false they stay. It returns how many
// were removed.
func (h *Host) ForgetFlows(value, mask uint32, still func() bool) (int, error) {
	return h.conntrack.FlushMarked(value, mask, still)
}

// Lookup asks the kernel which way a packet would take: its routing answers, with rules and mark. (RTM_GETROUTE)
func (h *Host) Lookup(from, to netip.Addr, mark uint32, iif string) (route.Way, error) {
	return h.route.Lookup(from, to, mark, iif)
}
