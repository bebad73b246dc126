package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/link"
)

// SavedFormat is the number of the form in which a keeper leaves its state to the program that takes its place; SavedOldest is the oldest form
// that this program reads. A field may be added without a new number when a reader that does not know it does no harm: unknown ones are
// ignored, missing ones are zero.
const (
	SavedFormat = 1
	SavedOldest = 1
)

// maxSaved bounds the text of a saved state in bytes.
const maxSaved = 256 << 20

// saved is all that a keeper must know to go on where the program before it, in the same process, left off.
type saved struct {
	Format     int                   `json:"format"`
	Version    string                `json:"version"` // of the program that saved it
	PID        int                   `json:"pid"`
	Since      time.Time             `json:"since"`
	ConfigFile string                `json:"config_file"`
	Generation uint64                `json:"generation"`
	Configs    map[uint64][]byte     `json:"configs"` // texts, by generation: those that a worker serves, and the one in force
	Ports      map[string]uint16     `json:"ports,omitempty"`
	Files      savedFiles            `json:"files"`
	Sockets    []savedSockets        `json:"sockets"`
	Page       *savedPage            `json:"page,omitempty"`
	Workers    []savedWorker         `json:"workers"`
	Restarts   uint64                `json:"restarts"`
	Totals     totals                `json:"totals"`
	Servers    []control.ServerStats `json:"servers,omitempty"` // totals
	Pools      []control.PoolStats   `json:"pools,omitempty"`   // totals
	Tables     []savedTable          `json:"tables,omitempty"`
	Downs      []savedDowns          `json:"downs,omitempty"`
	Drops      drops                 `json:"drops,omitempty"`
	Links      savedLinks            `json:"links"`
	Reload     *admin.Reload         `json:"reload,omitempty"`
	Reloads    admin.Reloads         `json:"reloads"`
	Upgrade    admin.Upgrade         `json:"upgrade"` // the one that this is for
	Repairs    []admin.Repair        `json:"repairs,omitempty"`
	Repaired   uint64                `json:"repaired"`
}

// savedFiles are descriptors that there is one of.
type savedFiles struct {
	Lock  int `json:"lock"`
	Admin int `json:"admin"`
	Owner int `json:"owner"` // the netlink socket that owns the nft table
}

// savedSockets are the listening sockets of one place.
type savedSockets struct {
	Address     netip.AddrPort `json:"address"`
	Transparent bool           `json:"transparent"`
	Files       []int          `json:"files"`
}

// savedWorker is a worker, which stays this process's child.
type savedWorker struct {
	PID        int                   `json:"pid"`
	Version    string                `json:"version"`
	Generation uint64                `json:"generation"`
	Current    bool                  `json:"current"`
	Since      time.Time             `json:"since"`
	State      admin.WorkerState     `json:"state"`
	Deadline   time.Time             `json:"deadline"`
	Stats      control.Stats         `json:"stats"`
	Servers    []control.ServerStats `json:"servers,omitempty"`
	Pools      []control.PoolStats   `json:"pools,omitempty"`
	Cut        int                   `json:"cut"`
	Refusal    string                `json:"refusal,omitempty"`
	Control    int                   `json:"control"` // descriptor of its control socket
	Log        int                   `json:"log"`     // descriptor of the pipe from its standard error
}

// save describes the keeper with the descriptors that the next program must inherit.
func (k *keeper) save(lock, admin *os.File) (*saved, error) {
	s := &saved{
		Format: SavedFormat, Version: k.options.Version, PID: os.Getpid(), Since: k.since, ConfigFile: k.options.ConfigFile,
		Generation: k.generation, Configs: map[uint64][]byte{k.generation: k.cfg.Text}, Ports: k.ports,
		Restarts: k.restarts, Totals: k.totals, Servers: slices.Collect(maps.Values(k.poolTotals.servers)),
		Pools: slices.Collect(maps.Values(k.poolTotals.pools)), Tables: k.tables.save(), Reload: k.lastReload, Reloads: k.reloads,
		Downs: k.servers.saveDowns(), Drops: k.drops, Links: k.links.save(), Upgrade: *k.lastUpgrade, Page: k.page.save(), Repairs: k.repairing.done, Repaired: k.repairing.count,
	}
	owner, err := k.kernel.Owner()
	if err != nil {
		return nil, err
	}
	s.Files.Owner = owner
	var errs [2]error
	s.Files.Lock, errs[0] = descriptor(lock)
	s.Files.Admin, errs[1] = descriptor(admin)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	for p, fds := range k.sockets {
		s.Sockets = append(s.Sockets, savedSockets{Address: p.address, Transparent: p.transparent, Files: fds})
	}
	for _, w := range k.workers {
		if w.gone {
			continue // an upgrade waits until it has ended; this is to see whether one could be
		}
		s.Configs[w.generation] = w.cfg.Text
		one := savedWorker{
			PID: w.pid, Version: w.version, Generation: w.generation, Current: w == k.current, Since: w.since, State: w.state,
			Deadline: w.deadline, Stats: w.stats, Servers: w.servers, Pools: w.pools, Cut: w.cut, Refusal: w.refusal,
		}
		if one.Control, err = w.child.conn.Descriptor(); err != nil {
			return nil, err
		}
		if one.Log, err = descriptor(w.child.stderr); err != nil {
			return nil, fmt.Errorf("log of worker %d: %w", w.pid, err)
		}
		s.Workers = append(s.Workers, one)
	}
	return s, nil
}

// savedLinks is what is known of links, beside what the kernel has.
type savedLinks struct {
	Known []link.Saved            `json:"known,omitempty"`
	Names map[string][]netip.Addr `json:"names,omitempty"`
	Began map[string]link.Traffic `json:"began,omitempty"` // see links.began
}

func (l *links) save() savedLinks {
	if !l.any() {
		return savedLinks{}
	}
	return savedLinks{Known: l.set.Saved(), Names: l.names, Began: l.began}
}

// savedDowns is how often a server went down.
type savedDowns struct {
	Pool    string         `json:"pool"`
	Server  string         `json:"server"`
	Address netip.AddrPort `json:"address"`
	Downs   uint64         `json:"downs"`
}

func (s *servers) saveDowns() (all []savedDowns) {
	for _, one := range s.all {
		if one.downs > 0 {
			all = append(all, savedDowns{one.pool, one.server, one.address, one.downs})
		}
	}
	return all
}

func (s *servers) recallDowns(all []savedDowns) {
	for _, d := range all {
		if one := s.byKey[serverKey{d.Pool, d.Server, d.Address}]; one != nil {
			one.downs = d.Downs
		}
	}
}

// descriptor returns the number of a file's descriptor and leaves its mode alone, which os.File.Fd does not promise.
func descriptor(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	number := -1
	err = raw.Control(func(fd uintptr) { number = int(fd) })
	return number, err
}

// descriptors returns all that the next program must inherit.
func (s *saved) descriptors() []int {
	all := []int{s.Files.Lock, s.Files.Admin, s.Files.Owner}
	for _, g := range s.Sockets {
		all = append(all, g.Files...)
	}
	if s.Page != nil {
		all = append(all, s.Page.File)
	}
	for _, t := range s.Tables {
		all = append(all, t.File)
	}
	for _, w := range s.Workers {
		all = append(all, w.Control, w.Log)
	}
	return all
}

// file returns a descriptor of a memory file with the state.
func (s *saved) file() (int, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return -1, fmt.Errorf("encode the state: %w", err)
	}
	return memoryFile("state", text)
}

// readSaved reads a state, and refuses one that this program does not understand.
func readSaved(from io.ReaderAt) (*saved, error) {
	text, err := io.ReadAll(io.NewSectionReader(from, 0, maxSaved))
	if err != nil {
		return nil, fmt.Errorf("read the state of the running gateway: %w", err)
	}
	var head struct {
		Format  int    `json:"format"`
		Version string `json:"version"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, fmt.Errorf("read the state of the running gateway: %w", err)
	}
	if head.Format < SavedOldest || head.Format > SavedFormat {
		return nil, fmt.Errorf("the running gateway, of version %s, leaves its state in form %d, and this program reads forms %d to %d: stop the gateway and start this one instead",
			head.Version, head.Format, SavedOldest, SavedFormat)
	}
	s := &saved{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("read the state of the running gateway: %w", err)
	}
	return s, nil
}

// configs parses every configuration that the state has, as the program must that takes over.
func (s *saved) configs() (map[uint64]*config.Config, error) {
	all := map[uint64]*config.Config{}
	for generation, text := range s.Configs {
		cfg, err := config.Parse(s.ConfigFile, text)
		if err != nil {
			return nil, fmt.Errorf("the configuration of generation %d, which is in use, is refused: %w", generation, err)
		}
		all[generation] = cfg
	}
	if all[s.Generation] == nil {
		return nil, errors.New("the state lacks the configuration in force")
	}
	for _, w := range s.Workers {
		if all[w.Generation] == nil {
			return nil, fmt.Errorf("the state lacks the configuration of worker %d", w.PID)
		}
	}
	return all, nil
}

// CanTakeOver tells whether this program could take the place of one that saved its state in that file. It changes nothing.
func CanTakeOver(state io.ReaderAt) error {
	s, err := readSaved(state)
	if err != nil {
		return err
	}
	_, err = s.configs()
	return err
}
