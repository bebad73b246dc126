package access

import (
	"bufio"
	"bytes"
	"fmt"
	"hash/maphash"
	"io"
	"math/bits"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// NameSet is a set of host names and of names with all below them. It keeps a 64-bit hash of each name and not the name: 11 bytes a name however long.
// Two names may have the same hash: a set of a million takes another for one of its own once in 10^13 lookups. The seed is random and
// secret, so nobody can choose such a name. It is immutable.
type NameSet struct {
	seed  maphash.Seed
	slots []uint64 // open addressing; 0 is free. The lowest bit says that everything below the name is in the set, too
	count int
}

// longestLine bounds a line of a list.
const longestLine = 4096

// Len returns how many entries there are.
func (s *NameSet) Len() int {
	if s == nil {
		return 0
	}
	return s.count
}

// Has says whether a host, as Host returns it, is in the set.
func (s *NameSet) Has(host string) bool {
	if s == nil || s.count == 0 {
		return false
	}
	h := maphash.String(s.seed, host)
	if s.find(exactly(h)) || s.find(below(h)) {
		return true
	}
	if isAddress(host) {
		return false
	}
	for {
		i := strings.IndexByte(host, '.')
		if i < 0 {
			return false
		}
		host = host[i+1:]
		if s.find(below(maphash.String(s.seed, host))) {
			return true
		}
	}
}

// exactly and below are the entries of a name alone and of one with all below it. Neither is 0.
func exactly(h uint64) uint64 { return max(h&^1, 2) }
func below(h uint64) uint64   { return h | 1 }

// home is where an entry is looked for first: its hash scaled to the table's length.
func (s *NameSet) home(h uint64) int {
	high, _ := bits.Mul64(h, uint64(len(s.slots)))
	return int(high)
}

func (s *NameSet) find(h uint64) bool {
	for i := s.home(h); ; i++ {
		if i == len(s.slots) {
			i = 0
		}
		switch s.slots[i] {
		case h:
			return true
		case 0:
			return false
		}
	}
}

func (s *NameSet) insert(h uint64) {
	for i := s.home(h); ; i++ {
		if i == len(s.slots) {
			i = 0
		}
		switch s.slots[i] {
		case h:
			return
		case 0:
			s.slots[i] = h
			s.count++
			return
		}
	}
}

// ReadNames reads a set: a name a line, # begins a comment, .NAME and *.NAME are a name with all below it, and lines of /etc/hosts are understood.
// Its error tells the line.
func ReadNames(r io.Reader) (*NameSet, error) {
	seed := maphash.MakeSeed()
	var entries []uint64
	err := eachLine(r, func(line []byte) error {
		fields := line
		first, rest, several := cutBlank(line)
		if several {
			if _, err := netip.ParseAddr(string(first)); err != nil {
				return fmt.Errorf("%.60q is not one name", line)
			}
			fields = rest // as in /etc/hosts
		}
		for len(fields) > 0 {
			var name []byte
			name, fields, _ = cutBlank(fields)
			h, err := hashName(seed, name)
			if err != nil {
				return err
			}
			entries = append(entries, h)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s := &NameSet{seed: seed, slots: make([]uint64, len(entries)+len(entries)/3+1)}
	for _, h := range entries {
		s.insert(h)
	}
	return s, nil
}

func hashName(seed maphash.Seed, name []byte) (uint64, error) {
	whole := name
	name, all := bytes.CutPrefix(name, []byte("*"))
	name, dot := bytes.CutPrefix(name, []byte("."))
	name = bytes.TrimSuffix(name, []byte("."))
	plain := len(name) > 0 && len(name) <= 253 && !(all && !dot)
	for i, c := range name {
		switch {
		case c >= 'A' && c <= 'Z':
			name[i] = c + 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.', c == '_', c == ':':
		case c >= 0x80:
			ascii, err := idna.Lookup.ToASCII(string(name))
			if err != nil {
				return 0, fmt.Errorf("%.60q is not a host name", whole)
			}
			name = []byte(ascii)
			if dot {
				return below(maphash.Bytes(seed, name)), nil
			}
			return exactly(maphash.Bytes(seed, name)), nil
		default:
			plain = false
		}
	}
	if !plain {
		return 0, fmt.Errorf("%.60q is not a host name", whole)
	}
	if bytes.IndexByte(name, ':') >= 0 {
		a, err := netip.ParseAddr(string(name))
		if err != nil {
			return 0, fmt.Errorf("%.60q is not a host name", whole)
		}
		name = []byte(a.String())
	}
	if dot {
		return below(maphash.Bytes(seed, name)), nil
	}
	return exactly(maphash.Bytes(seed, name)), nil
}

// cutBlank returns the first word of a line and what follows it.
func cutBlank(line []byte) (first, rest []byte, several bool) {
	i := bytes.IndexAny(line, " \t")
	if i < 0 {
		return line, nil, false
	}
	rest = bytes.TrimLeft(line[i:], " \t")
	return line[:i], rest, len(rest) > 0
}

// eachLine calls do for what each line has beside blanks and comments. It may change the bytes and must not keep them.
func eachLine(r io.Reader, do func(line []byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), longestLine)
	n := 0
	for lines.Scan() {
		n++
		line := lines.Bytes()
		if n == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		if i := bytes.IndexByte(line, '#'); i >= 0 {
			line = line[:i]
		}
		line = bytes.Trim(line, " \t\r")
		if len(line) == 0 {
			continue
		}
		if err := do(line); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("line %d: %w", n+1, err)
	}
	return nil
}
