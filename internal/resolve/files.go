package resolve

import (
	"bufio"
	"bytes"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// filesFor is how long it is not looked whether the files have changed.
	filesFor = 2 * time.Second
	// maxFile bounds what is read of a file in bytes; a hosts file that blocks names has some megabytes.
	maxFile = 32 << 20
	// maxServers bounds the servers taken from resolv.conf, as resolv.conf(5) does (MAXNS).
	maxServers = 3
)

// files are resolv.conf(5) and hosts(5), read again when they change.
type files struct {
	mutex   sync.Mutex
	looked  time.Time
	conf    source
	hosts   source
	named   []netip.AddrPort
	byNames map[string][]netip.Addr
}

// source is a file and what it was when it was read last.
type source struct {
	path     string
	modified time.Time
	size     int64
	read     bool
}

func newFiles(conf, hosts string) *files {
	return &files{conf: source{path: conf}, hosts: source{path: hosts}}
}

// servers returns the DNS servers that resolv.conf names. When it names none, one on the host itself is meant (resolv.conf(5)).
func (f *files) servers() []netip.AddrPort {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.refresh()
	if len(f.named) == 0 {
		return []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
	}
	return f.named
}

// host returns the addresses that the hosts file has for a name, in lower case.
func (f *files) host(name string) []netip.Addr {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.refresh()
	return slices.Clone(f.byNames[name])
}

func (f *files) refresh() {
	now := time.Now()
	if now.Sub(f.looked) < filesFor {
		return
	}
	f.looked = now
	if text, changed := f.conf.changed(); changed {
		f.named = parseConf(text)
	}
	if text, changed := f.hosts.changed(); changed {
		f.byNames = parseHosts(text)
	}
}

// changed returns the content of a file when it is another than before; a file that is not there is an empty one.
func (s *source) changed() ([]byte, bool) {
	info, err := os.Stat(s.path)
	if err != nil {
		was := s.read
		s.modified, s.size, s.read = time.Time{}, 0, false
		return nil, was
	}
	if s.read && info.ModTime().Equal(s.modified) && info.Size() == s.size {
		return nil, false
	}
	file, err := os.Open(s.path)
	if err != nil {
		return nil, false
	}
	defer func() { _ = file.Close() }() // only read from
	text, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return nil, false
	}
	s.modified, s.size, s.read = info.ModTime(), info.Size(), true
	return text, true
}

// parseConf reads the nameserver lines of resolv.conf(5); what else is there is not for a program that takes names as complete.
func parseConf(text []byte) []netip.AddrPort {
	var servers []netip.AddrPort
	for line := range bytes.Lines(text) {
		words := strings.Fields(string(line))
		if len(words) < 2 || words[0] != "nameserver" || len(servers) == maxServers {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
	}
	return servers
}

// parseHosts reads hosts(5): an address and its names on each line, # begins a comment.
func parseHosts(text []byte) map[string][]netip.Addr {
	all := map[string][]netip.Addr{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() { // an overlong line ends it; such a file is no hosts file
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		a, err := netip.ParseAddr(words[0])
		if err != nil || !usable(a) || a.Zone() != "" {
			continue
		}
		for _, name := range words[1:] {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			if len(all[name]) < maxAddresses && !slices.Contains(all[name], a) {
				all[name] = append(all[name], a)
			}
		}
	}
	for _, addrs := range all {
		slices.SortFunc(addrs, netip.Addr.Compare)
	}
	return all
}
