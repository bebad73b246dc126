package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"salp/internal/kernel/route"
	"salp/internal/kernel/sysctl"
	"salp/internal/plan"
)

// state is what must be known to leave the host as it was, also by a process that has no configuration and did not write it.
// It is on disk before the kernel is touched.
type state struct {
	Boot      string            `json:"boot"`      // the kernel's boot id: after a reboot nothing of ours is left
	Namespace string            `json:"namespace"` // network namespace
	PID       int               `json:"pid"`       // the process that wrote it
	Tables    []string          `json:"tables,omitempty"`
	Rules     []plan.Rule       `json:"rules,omitempty"`
	Routes    []plan.Route      `json:"routes,omitempty"`
	Sysctls   []sysctl.Kept     `json:"sysctls,omitempty"` // in the order in which they were set
	CTMark    uint32            `json:"ct_mark,omitempty"` // bits of the conntrack mark that are ours
	Marks     uint32            `json:"marks,omitempty"`   // bits of socket marks that are ours
	Ports     map[string]uint16 `json:"ports,omitempty"`   // local ports that diverted connections arrive at, by listener
}

func (s *state) empty() bool {
	return len(s.Tables)+len(s.Rules)+len(s.Routes)+len(s.Sysctls) == 0
}

func (s *state) routing() route.State { return route.State{Rules: s.Rules, Routes: s.Routes} }

func (s *state) setRouting(of ...route.State) {
	s.Rules, s.Routes = nil, nil
	for _, one := range of {
		s.Rules = append(s.Rules, one.Rules...)
		s.Routes = append(s.Routes, one.Routes...)
	}
}

// take notes what a plan wants besides rules and routes.
func (s *state) take(p plan.Plan) {
	for _, t := range p.Tables {
		if !slices.Contains(s.Tables, t.Name) {
			s.Tables = append(s.Tables, t.Name)
		}
	}
	s.Marks |= p.Marks
	s.CTMark |= p.LinkMarks
	s.Ports = map[string]uint16{}
	eachExpr(p, func(chain string, e plan.Expr) {
		switch e := e.(type) {
		case plan.SetCTMark:
			s.CTMark |= e.Bits
		case plan.TProxy:
			s.notePort(chain, e.To.Port())
		case plan.Redirect:
			s.notePort(chain, e.Port)
		}
	})
}

// notePort keeps a listener's port. A plan has one chain for each intercepting listener, named after it, that ends in its port.
func (s *state) notePort(chain string, port uint16) {
	for _, prefix := range []string{"intercept-", "redirect-"} {
		if listener, ok := strings.CutPrefix(chain, prefix); ok {
			s.Ports[listener] = port
		}
	}
}

func eachExpr(p plan.Plan, do func(chain string, e plan.Expr)) {
	for _, t := range p.Tables {
		for _, c := range t.Chains {
			for _, r := range c.Rules {
				for _, e := range r.Exprs {
					do(c.Name, e)
				}
			}
		}
	}
}

func tableNames(ts []plan.Table) (names []string) {
	for _, t := range ts {
		names = append(names, t.Name)
	}
	return names
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// StateFile is where a gateway with this run directory writes down, before it touches the kernel, what Remove is to undo.
func StateFile(runDir string) string { return filepath.Join(runDir, "state.json") }

func (h *Host) stateFile() string { return StateFile(h.runDir) }

// load reads the state. One from before a reboot says nothing about this kernel and counts for none. foreign tells that it was
// written in another network namespace.
func (h *Host) load() (s *state, foreign bool, err error) {
	fresh := &state{Boot: bootID(), Namespace: h.sysctl.Namespace()}
	b, err := os.ReadFile(h.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read the state file: %w", err)
	}
	var old state
	if err := json.Unmarshal(b, &old); err != nil {
		return nil, false, fmt.Errorf("read the state file %s: %w; it is written whole or not at all, so somebody else has changed it: repair it, or remove it and undo by hand what it lists", h.stateFile(), err)
	}
	if old.Boot != fresh.Boot {
		return fresh, false, nil
	}
	if old.Namespace != fresh.Namespace {
		return fresh, true, nil
	}
	return &old, false, nil
}

// save writes the state by rename, and does not come back before it is on disk.
func (h *Host) save(s *state) error {
	s.PID = os.Getpid()
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write the state file: %w", err)
	}
	b = append(b, '\n')
	if old, err := os.ReadFile(h.stateFile()); err == nil && string(old) == string(b) {
		return nil
	}
	if err := os.MkdirAll(h.runDir, 0o755); err != nil {
		return fmt.Errorf("make the run directory: %w", err)
	}
	if err := replace(h.stateFile(), b); err != nil {
		return fmt.Errorf("write the state file: %w", err)
	}
	return nil
}

func replace(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".state-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()) // an ordinary user may ask for the plan, and it names no secret
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// forget removes the state file, and what a crash has left of writing one.
func (h *Host) forget() error {
	leftovers, _ := filepath.Glob(filepath.Join(h.runDir, ".state-*"))
	for _, name := range leftovers {
		_ = os.Remove(name)
	}
	err := os.Remove(h.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the state file: %w", err)
	}
	return syncDir(h.runDir)
}
