package dial

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Networks knows which servers would answer which clients past this machine: those that share a network with them. All loops share it.
type Networks struct {
	onLink  atomic.Pointer[[]netip.Prefix]
	learnt  atomic.Pointer[map[pair]time.Time] // when it is forgotten
	mutex   sync.Mutex
	Learned func(client netip.Prefix, server netip.Addr) // is told what a try has shown, from a loop; nil: nobody
}

// pair is a client's network and a server.
type pair struct {
	client netip.Prefix
	server netip.Addr
}

const (
	// learntFor is how long the outcome of a try counts. It may have been wrong, as when a packet was lost.
	learntFor = time.Minute
	// mostLearnt bounds what is remembered.
	mostLearnt = 1024
)

// SetOnLink tells the prefixes of the networks that this machine has an address in. What else is on a link is learnt by tries.
func (n *Networks) SetOnLink(prefixes []netip.Prefix) { n.onLink.Store(&prefixes) }

// around says whether the server would answer the client directly. A nil Networks knows of none.
func (n *Networks) around(client, server netip.Addr) bool {
	if n == nil {
		return false
	}
	if onLink := n.onLink.Load(); onLink != nil {
		for _, p := range *onLink {
			if p.Contains(server) && p.Contains(client) {
				return true
			}
		}
	}
	learnt := n.learnt.Load()
	if learnt == nil || len(*learnt) == 0 {
		return false
	}
	until, known := (*learnt)[pair{network(client), server}]
	return known && time.Now().Before(until)
}

// network is the part of a client's address that counts as its network.
func network(client netip.Addr) netip.Prefix {
	bits := 64
	if client.Is4() {
		bits = 24
	}
	p, _ := client.Prefix(bits) // bits are within the family's
	return p
}

// learn remembers that the server did not answer the client through us.
func (n *Networks) learn(client, server netip.Addr) {
	if n == nil {
		return
	}
	n.mutex.Lock()
	defer n.mutex.Unlock()
	now, key := time.Now(), pair{network(client), server}
	next := map[pair]time.Time{}
	if old := n.learnt.Load(); old != nil {
		for k, until := range *old {
			if now.Before(until) && len(next) < mostLearnt {
				next[k] = until
			}
		}
	}
	_, known := next[key]
	next[key] = now.Add(learntFor)
	n.learnt.Store(&next)
	if !known && n.Learned != nil {
		n.Learned(key.client, server)
	}
}
