package keeper

import (
	"fmt"

	"golang.org/x/sys/unix"

	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/pool"
)

// tables are the memory in which workers remember which client has which server. The keeper holds it, as files that it never looks into, so
// that it outlives reloads, upgrades and crashes: nothing is handed over from one worker to the next, all of them use the same.
type tables map[tableKey]int // descriptors

type tableKey struct {
	pool    string
	clients int
}

// fill makes those tables that a configuration needs and that are not there.
func (t tables) fill(cfg *config.Config) error {
	for _, p := range cfg.Pools {
		if p.Stick == nil {
			continue
		}
		key := tableKey{p.Name, p.Stick.Size}
		if _, there := t[key]; there {
			continue
		}
		fd, err := tableFile(p.Stick.Size)
		if err != nil {
			return fmt.Errorf("memory for stick of pool %s: %w", p.Name, err)
		}
		t[key] = fd
	}
	return nil
}

// tableFile makes a file in memory for that many clients, whose size nobody can change. It takes memory only as it fills.
func tableFile(clients int) (int, error) {
	fd, err := unix.MemfdCreate("salp-stick", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("memfd_create: %w", err)
	}
	if err := unix.Ftruncate(fd, int64(pool.TableWords(clients))*8); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("ftruncate: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("seal: %w", err)
	}
	return fd, nil
}

// keep closes the tables that a configuration does not need.
func (t tables) keep(cfg *config.Config) {
	for key, fd := range t {
		if p := cfg.Pool(key.pool); p == nil || p.Stick == nil || p.Stick.Size != key.clients {
			unix.Close(fd)
			delete(t, key)
		}
	}
}

// send hands the tables of a configuration to a worker, each with the one of another size whose place it takes.
func (t tables) send(conn *control.Conn, cfg *config.Config) error {
	for _, p := range cfg.Pools {
		if p.Stick == nil {
			continue
		}
		fds := []int{t[tableKey{p.Name, p.Stick.Size}]}
		for key, fd := range t {
			if key.pool == p.Name && key.clients != p.Stick.Size {
				fds = append(fds, fd)
				break
			}
		}
		if err := conn.Send(control.Message{Table: &control.Table{Pool: p.Name}}, fds...); err != nil {
			return err
		}
	}
	return nil
}

// savedTable is a table over an upgrade.
type savedTable struct {
	Pool    string `json:"pool"`
	Clients int    `json:"clients"`
	File    int    `json:"file"`
}

func (t tables) save() []savedTable {
	var all []savedTable
	for key, fd := range t {
		all = append(all, savedTable{key.pool, key.clients, fd})
	}
	return all
}

func (t tables) recall(saved []savedTable) error {
	for _, s := range saved {
		fd, err := copyOf(s.File)
		if err != nil {
			return err
		}
		t[tableKey{s.Pool, s.Clients}] = fd
	}
	return nil
}
