package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"salp/internal/control"
	"salp/internal/health"
)

// memoryFor is how long after it was written the file's word on a server counts as much as a check of one's own. When it is older, as
// after a crash, the first check decides.
const memoryFor = 30 * time.Second

// remembered is what outlives the keeper: what operators want, what was known of servers, and the addresses that names had.
type remembered struct {
	wishes  map[wishKey]wish
	names   map[string]*lookedUp
	servers []*server
}

// poolsFile is RUNDIR/pools.json.
type poolsFile struct {
	Written time.Time               `json:"written"`
	Wishes  []poolsFileWish         `json:"wishes,omitempty"`
	Servers []poolsFileServer       `json:"servers,omitempty"`
	Names   map[string][]netip.Addr `json:"names,omitempty"`
}

type poolsFileWish struct {
	Pool   string              `json:"pool"`
	Server string              `json:"server"`
	State  control.ServerState `json:"state"`
	Since  time.Time           `json:"since"`
}

type poolsFileServer struct {
	Pool    string         `json:"pool"`
	Server  string         `json:"server"`
	Address netip.AddrPort `json:"address"`
	Up      bool           `json:"up"` // as the checks say
	Since   time.Time      `json:"since"`
	Reason  string         `json:"reason,omitempty"`
}

func poolsPath(runDir string) string { return filepath.Join(runDir, "pools.json") }

// recallServers reads the file of a keeper before this one. A file that is not there or cannot be read is an empty memory; the error is worth a warning.
func recallServers(runDir string, now time.Time) (*remembered, error) {
	m := &remembered{wishes: map[wishKey]wish{}, names: map[string]*lookedUp{}}
	text, err := os.ReadFile(poolsPath(runDir))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	var f poolsFile
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err != nil {
		return m, fmt.Errorf("what was known of servers is forgotten: %w", err)
	}
	for _, w := range f.Wishes {
		if w.State == control.ServerDrain || w.State == control.ServerMaint {
			m.wishes[wishKey{w.Pool, w.Server}] = wish{w.State, w.Since}
		}
	}
	for name, addrs := range f.Names {
		m.names[name] = &lookedUp{addrs: addrs}
	}
	age := now.Sub(f.Written)
	for _, s := range f.Servers {
		one := &server{serverKey: serverKey{s.Pool, s.Server, s.Address}, state: control.ServerUp, since: s.Since, seen: map[*worker]uint64{}}
		one.machine = health.New(health.Policy{}, health.Verdict{Up: s.Up, Known: age >= 0 && age < memoryFor, Since: s.Since, Reason: s.Reason})
		if !s.Up {
			one.state, one.reason = control.ServerDown, s.Reason
		}
		m.servers = append(m.servers, one)
	}
	return m, nil
}

// remember writes the file, by rename, or removes it when there is nothing to remember.
func (s *servers) remember(runDir string, now time.Time) error {
	f := poolsFile{Written: now.Round(0), Names: map[string][]netip.Addr{}}
	for _, key := range sorted(s.wishes) {
		w := s.wishes[key]
		f.Wishes = append(f.Wishes, poolsFileWish{key.pool, key.server, w.state, w.since})
	}
	for name, n := range s.names {
		if len(n.addrs) > 0 {
			f.Names[name] = n.addrs
		}
	}
	for _, one := range s.all {
		if v := one.machine.Verdict(); v.Known {
			f.Servers = append(f.Servers, poolsFileServer{one.pool, one.server, one.address, v.Up, v.Since, v.Reason})
		}
	}
	path := poolsPath(runDir)
	if f.Wishes == nil && f.Servers == nil && len(f.Names) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	fresh := path + ".new"
	if err := os.WriteFile(fresh, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
