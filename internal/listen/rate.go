package listen

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Rate bounds how much a second each client may ask for: connections or requests. It keeps for each the time at which what it has asked for so far
// would be used up, had it kept to the rate (the generic cell rate algorithm, ITU-T I.371). It holds no client longer than that. All loops may use it at once.
type Rate struct {
	every time.Duration // one of them
	ahead time.Duration // how far a burst may run ahead
	seed  maphash.Seed
	shard [rateShards]rateShard
}

const (
	rateShards = 64
	// rateClients bounds what is kept in a shard; when it is full, those whose time is over go, and if all are busy, all do.
	rateClients = 4096
)

type rateShard struct {
	sync.Mutex
	due map[netip.Addr]int64 // nanoseconds since 1970
	_   [48]byte
}

// NewRate makes one for so many a second, of which burst may come at once; 0: as many as in a second.
func NewRate(perSecond, burst int) *Rate {
	if burst <= 0 {
		burst = perSecond
	}
	r := &Rate{every: time.Second / time.Duration(perSecond), seed: maphash.MakeSeed()}
	r.ahead = r.every * time.Duration(burst)
	for i := range r.shard {
		r.shard[i].due = make(map[netip.Addr]int64)
	}
	return r
}

// Take takes one of the client's in, or says that it is one too many.
func (r *Rate) Take(client netip.Addr, at time.Time) bool {
	s := &r.shard[maphash.Comparable(r.seed, client)%rateShards]
	now := at.UnixNano()
	s.Lock()
	defer s.Unlock()
	due := max(s.due[client], now) + int64(r.every)
	if due-now > int64(r.ahead) {
		return false
	}
	if _, there := s.due[client]; !there && len(s.due) >= rateClients {
		s.tidy(now)
	}
	s.due[client] = due
	return true
}

func (s *rateShard) tidy(now int64) {
	for client, due := range s.due {
		if due <= now {
			delete(s.due, client)
		}
	}
	if len(s.due) >= rateClients {
		clear(s.due)
	}
}
