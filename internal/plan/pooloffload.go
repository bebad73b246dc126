package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"salp/internal/config"
)

const (
	poolsFlows      = "pools-flows"
	offloadedServer = "offloaded" // sets: what is dialled and the server that it is sent to
)

// flowtable is that of the kernel path, or nil when there is to be none, or cannot be. Any interface may turn out to lead to a client or to a
// server, so all those that can carry packets are in it: the keeper makes the plan again when others come.
func (t *poolsTable) flowtable(cfg *config.Config) *Flowtable {
	if t.facts.Flowtable != Yes || !slices.ContainsFunc(cfg.Listeners, (*config.Listener).Offloads) {
		return nil
	}
	var devices []string
	for _, i := range t.interfaces {
		if i.Up && !i.Loopback && !i.Peer && !i.Enslaved { // what a bridge's port hears is the bridge's
			devices = append(devices, i.Name)
		}
	}
	return newFlowtable(poolsFlows, devices)
}

// uncounted are the servers that a listener with offload uses, as keys of sets: rules see a few packets of theirs, so their bytes are not told.
func uncounted(cfg *config.Config, facts []ServerFact) map[string]bool {
	all := map[string]bool{}
	for _, l := range cfg.Listeners {
		if l.Offloads() {
			for _, s := range serversOf(cfg.Pool(l.Pool), facts) {
				all[serviceKey(s.Address, protoNumber(l.Transport))] = true
			}
		}
	}
	return all
}

// offload notes whether what clients of a listener dial and a server gets is carried past the rules.
func (t *poolsTable) offload(l *config.Listener, f Family, server string) {
	if len(t.Flowtables) == 0 {
		return
	}
	to := &t.ruled
	if l.Offload {
		to = &t.offloaded
	}
	for _, a := range t.dialled(l, f) {
		add(to, f, fmt.Sprintf("%s . %s", a, server))
	}
}

// dialled are the addresses of a listener.
func (t *poolsTable) dialled(l *config.Listener, f Family) (all []netip.Addr) {
	for _, a := range l.Listen {
		switch {
		case a.Addr().Is4() != (f == IPv4):
		case !a.Addr().IsUnspecified():
			all = append(all, a.Addr().WithZone(""))
		default:
			for _, i := range t.interfaces {
				for _, p := range ofOne(f, i.Addresses) {
					all = append(all, p.Addr())
				}
			}
		}
	}
	return all
}

// passOn takes a flow up by a packet from its server, once client and server have talked: of TCP behind the handshake, of UDP after two seconds,
// so that a question and its answer make no entry. The server's side is the right one before Linux 5.19, where the kernel looked for the
// other way without the packet's mark (net/netfilter/nft_flow_offload.c, nft_flow_route): the way to a client may be a link's, that to
// a server is none. An ICMP error is related to a flow, and is no packet of it: the key has the protocol.
func (t *poolsTable) passOn(f Family) []NFTRule {
	elements := slices.DeleteFunc(t.offloaded[f], func(e string) bool { return slices.Contains(t.ruled[f], e) })
	if len(elements) == 0 {
		return nil
	}
	key := Fields{OriginalDaddrOf(f), SaddrOf(f), L4ProtoKey, THSPort}
	set := Set{Name: offloadedServer + f.digit(), Type: key.SetType(), Elements: elements}
	t.Sets = append(t.Sets, set)
	return []NFTRule{rule("its packets pass no rules from now on", CTStatus{Bits: []string{"assured"}}, In{Key: key, Set: set.Name}, FlowAdd{Flowtable: poolsFlows})}
}
