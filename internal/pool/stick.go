package pool

import (
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
)

// Table remembers which server each client had. It lies in memory that several processes may share: the workers of two generations
// and, because the keeper holds it, those that come after a crash. Nothing in it is a pointer, and no process can leave it in a state that harms another.
//
// It is a hash table of buckets of eight entries with no lock. An entry is two words: which server, until when; and the client's hash
// XORed with that. A reader who sees one word of an old entry and one of a new finds that they do not match any client, and takes it for empty. (Hyatt,
// Mann, A lock-less transposition table implementation for parallel search, 2002)
type Table struct {
	words   []atomic.Uint64
	buckets uint64
}

const (
	tableHeader  = 8 // words
	tableVersion = 0x53616c7053740001
	ways8        = 8 // entries in a bucket
)

// TableWords is how many words a table for that many clients takes.
func TableWords(clients int) int {
	buckets := (clients + ways8 - 1) / ways8
	return tableHeader + max(buckets, 1)*ways8*2
}

// OpenTable uses memory as a table, and makes it an empty one if it is not a table. Two processes that share the memory need not agree
// who comes first if it is zero at the beginning, but one of them may lose what it remembers then.
func OpenTable(words []atomic.Uint64) *Table {
	t := &Table{words: words, buckets: uint64(len(words)-tableHeader) / (2 * ways8)}
	if words[0].Load() != tableVersion {
		words[1].Store(rand.Uint64())
		words[0].Store(tableVersion)
	}
	return t
}

// Copy takes over what another table remembers.
func (t *Table) Copy(from *Table) {
	if from.words[0].Load() != tableVersion {
		return
	}
	t.words[1].Store(from.words[1].Load()) // hashes mean the same in both
	for i := tableHeader; i+1 < len(from.words); i += 2 {
		value := from.words[i+1].Load()
		if key := from.words[i].Load() ^ value; value != 0 {
			t.set(key, value)
		}
	}
}

// key is the client's hash, by a seed that is the table's own: who chooses addresses cannot choose where they fall.
func (t *Table) key(a netip.Addr) uint64 { return mix(hashAddr(a) ^ t.words[1].Load()) }

func (t *Table) bucket(key uint64) []atomic.Uint64 {
	at := tableHeader + key%t.buckets*2*ways8
	return t.words[at : at+2*ways8]
}

// get returns the server that a client had, now in seconds since 1970.
func (t *Table) get(client netip.Addr, now uint32) (id uint32, ok bool) {
	key := t.key(client)
	b := t.bucket(key)
	for i := 0; i < len(b); i += 2 {
		value := b[i+1].Load()
		if value != 0 && b[i].Load()^value == key {
			return uint32(value >> 32), uint32(value) > now
		}
	}
	return 0, false
}

// put remembers a client's server.
func (t *Table) put(client netip.Addr, id, until uint32) {
	t.set(t.key(client), uint64(id)<<32|uint64(until))
}

// set takes the client's own entry, an empty one, or the one whose time is over first.
func (t *Table) set(key, value uint64) {
	b := t.bucket(key)
	at, least := 0, uint32(0xffffffff)
	for i := 0; i < len(b); i += 2 {
		held := b[i+1].Load()
		if held != 0 && b[i].Load()^held == key {
			at = i
			break
		}
		if until := uint32(held); until < least {
			at, least = i, until
		}
	}
	b[at+1].Store(value)
	b[at].Store(key ^ value)
}
