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
//
// A client has two buckets and is put into the emptier one, and there is half as much room again as clients, so that nobody is forgotten
// before the table is full. (Azar, Broder, Karlin, Upfal, Balanced Allocations, 1999)
type Table struct {
	words   []atomic.Uint64
	buckets uint64
}

const (
	tableHeader  = 8 // words
	tableVersion = 0x53616c7053740001
	ways8        = 8 // entries in a bucket
)

// TableWords is how many words a table for that many clients takes: 24 bytes for each.
func TableWords(clients int) int {
	buckets := (clients + clients/2 + ways8 - 1) / ways8
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

// buckets2 are the two in which a client may be.
func (t *Table) buckets2(key uint64) (one, other []atomic.Uint64) {
	return t.bucket(key % t.buckets), t.bucket(mix(key) % t.buckets)
}

func (t *Table) bucket(n uint64) []atomic.Uint64 {
	at := tableHeader + n*2*ways8
	return t.words[at : at+2*ways8]
}

// find returns where the client's entry is in a bucket and what it holds; 0: it has none.
func find(b []atomic.Uint64, key uint64) (at int, value uint64) {
	for i := 0; i < len(b); i += 2 {
		value := b[i+1].Load()
		if value != 0 && b[i].Load()^value == key {
			return i, value
		}
	}
	return 0, 0
}

// get returns the server that a client had, now in seconds since 1970.
func (t *Table) get(client netip.Addr, now uint32) (id uint32, ok bool) {
	key := t.key(client)
	one, other := t.buckets2(key)
	_, value := find(one, key)
	if value == 0 {
		_, value = find(other, key)
	}
	return uint32(value >> 32), uint32(value) > now
}

// put remembers a client's server.
func (t *Table) put(client netip.Addr, id, until uint32) {
	t.set(t.key(client), uint64(id)<<32|uint64(until))
}

// set takes the client's own entry, an empty one in the bucket that has more of them, or the one whose time is over first.
func (t *Table) set(key, value uint64) {
	one, other := t.buckets2(key)
	for _, b := range [][]atomic.Uint64{one, other} {
		if at, held := find(b, key); held != 0 {
			write(b, at, key, value)
			return
		}
	}
	at, least, empty := room(one)
	if a, l, e := room(other); e > empty || e == empty && l < least {
		one, at = other, a
	}
	write(one, at, key, value)
}

// room returns which entry of a bucket would be given up first, until when that one holds, and how many are empty.
func room(b []atomic.Uint64) (at int, least uint32, empty int) {
	least = 0xffffffff
	for i := 0; i < len(b); i += 2 {
		held := b[i+1].Load()
		if held == 0 {
			empty++
		}
		if until := uint32(held); until < least {
			at, least = i, until
		}
	}
	return at, least, empty
}

func write(b []atomic.Uint64, at int, key, value uint64) {
	b[at+1].Store(value)
	b[at].Store(key ^ value)
}
