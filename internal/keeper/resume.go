package keeper

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/admin"
	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/kernel"
	"salp/internal/plan"
)

// resumption is a keeper that is about to go on where the program before it left off. Until it is committed nothing of the old program is closed.
type resumption struct {
	from   *inherited
	saved  *saved
	keeper *keeper
	host   *kernel.Host
}

// resume makes a keeper of what the program before this one left, up to the point from which there is no way back.
func resume(h *inherited, o Options) (*resumption, error) {
	file, err := fileOf(h.state, "state")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	s, err := readSaved(file)
	if err != nil {
		return nil, err
	}
	if s.PID != os.Getpid() {
		return nil, fmt.Errorf("the state that %s names is of process %d, not of this one", variableState, s.PID)
	}
	configs, err := s.configs()
	if err != nil {
		return nil, err
	}
	lock, err := fileOf(s.Files.Lock, "lock")
	if err != nil {
		return nil, err
	}
	owner, err := fileOf(s.Files.Owner, "netlink")
	if err != nil {
		return nil, err
	}
	defer owner.Close()
	cfg := configs[s.Generation]
	sink := newLogSink(o.Log, cfg.Logs)
	host, err := kernel.Open(kernel.Options{RunDir: o.RunDir, Log: sink.logger(), Owner: owner})
	if err != nil {
		return nil, err
	}
	k := newKeeper(o, sink, host)
	k.lock = &runDirLock{lock}
	r := &resumption{from: h, saved: s, keeper: k, host: host}
	k.recall(s, cfg)
	if err := errors.Join(k.recallSockets(s), k.tables.recall(s.Tables), k.recallWorkers(s, configs)); err != nil {
		return nil, err
	}
	return r, r.bring()
}

// recall takes in what is neither a descriptor nor a process.
func (k *keeper) recall(s *saved, cfg *config.Config) {
	k.since, k.cfg, k.generation, k.ports = s.Since, cfg, s.Generation, s.Ports
	k.restarts, k.lastReload, k.repairing.done, k.repairing.count = s.Restarts, s.Reload, s.Repairs, s.Repaired
	now := time.Now()
	var err error
	if k.links, err = newLinks(cfg, s.Links.Known, s.Links.Names, now); err != nil {
		k.log.Warn("lists of addresses for links", "error", err)
	}
	if s.Links.Began != nil {
		k.links.began = s.Links.Began
	}
	k.servers = k.servers.next(cfg, now)
	k.servers.commit(now)
	k.servers.recallDowns(s.Downs)
	k.watching.stale = true
	k.reloads = s.Reloads
	if s.Drops != nil {
		k.drops = s.Drops
	}
	if s.Totals != nil {
		k.totals = s.Totals
	}
	for _, c := range s.Servers {
		k.poolTotals.servers[serverKey{c.Pool, c.Server, c.Address}] = c
	}
	for _, c := range s.Pools {
		k.poolTotals.pools[c.Pool] = c
	}
	k.lastUpgrade = &s.Upgrade
}

func (k *keeper) recallSockets(s *saved) (err error) {
	if k.page, err = s.Page.recall(); err != nil {
		return err
	}
	for _, g := range s.Sockets {
		p := place{address: g.Address, transparent: g.Transparent}
		for _, fd := range g.Files {
			n, err := copyOf(fd)
			if err != nil {
				return err
			}
			k.sockets[p] = append(k.sockets[p], n)
		}
	}
	return nil
}

func (k *keeper) recallWorkers(s *saved, configs map[uint64]*config.Config) error {
	for _, one := range s.Workers {
		w, err := recallWorker(one, configs[one.Generation], k.log)
		if err != nil {
			return fmt.Errorf("worker %d: %w", one.PID, err)
		}
		if !ownChild(one.PID) { // its number may be another's by now
			w.log.Warn("worker ended while one program took the other's place")
			w.child.conn.Close()
			w.child.stderr.Close()
			k.totals.add(w)
			k.poolTotals.add(w)
			continue
		}
		k.workers = append(k.workers, w)
		if one.Current {
			k.current = w
		}
	}
	return nil
}

func recallWorker(s savedWorker, cfg *config.Config, log *slog.Logger) (*worker, error) {
	fd, err := copyOf(s.Control)
	if err != nil {
		return nil, err
	}
	conn, err := control.FromFD(uintptr(fd))
	if err != nil {
		return nil, err
	}
	stderr, err := fileOf(s.Log, "log")
	if err != nil {
		return nil, err
	}
	process, err := os.FindProcess(s.PID)
	if err != nil {
		return nil, err
	}
	w := newWorker(&child{process: process, conn: conn, stderr: stderr}, log)
	w.version, w.generation, w.cfg, w.since = s.Version, s.Generation, cfg, s.Since
	w.state, w.deadline, w.cut, w.refusal = s.State, s.Deadline, s.Cut, s.Refusal
	w.stats, w.servers, w.pools = s.Stats, s.Servers, s.Pools
	w.lastBeat = time.Now() // nobody has listened to it meanwhile
	return w, nil
}

// bring makes the plan anew, brings the kernel to it, and has it divert: what this version plans otherwise than the old one changes here.
func (r *resumption) bring() error {
	k := r.keeper
	facts, err := k.facts(k.links)
	if err != nil {
		return err
	}
	k.plan, err = plan.Make(k.cfg, facts)
	if err != nil {
		return err
	}
	for _, w := range k.workers {
		if w == k.current || w.cfg == k.cfg || !transparent(w.cfg) {
			continue
		}
		old, err := plan.Make(w.cfg, facts)
		if err != nil {
			return fmt.Errorf("the plan of generation %d, which drains: %w", w.generation, err)
		}
		k.plan = carry(k.plan, old)
	}
	k.groups = groupsOf(k.cfg, k.ports, facts.IPv6)
	for _, g := range k.groups {
		g.fds = k.sockets[g.place]
	}
	if k.plan.Empty() {
		return nil
	}
	changes, err := k.kernel.Apply(k.plan)
	if err != nil {
		return err
	}
	for _, c := range changes {
		k.log.Info("kernel follows the plan of the new version", "change", c.String())
	}
	k.alive = true // refreshAlive sets it anew, or away
	k.refreshed = time.Time{}
	k.refreshAlive(time.Now())
	return nil
}

// commit is the point from which there is no way back: this program has taken over.
func (r *resumption) commit() error {
	k := r.keeper
	server, err := serveInherited(k, r.saved.Files.Admin)
	if err != nil {
		return err
	}
	k.server = server
	r.from.taken(r.saved)
	if err := keepDescriptors(); err != nil {
		return err
	}
	for _, w := range k.workers {
		go w.relayLog()
		go w.listen(k.post)
		w.watchContents()
	}
	return nil
}

func serveInherited(k *keeper, fd int) (*admin.Server, error) {
	socket, err := fileOf(fd, "admin")
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	return admin.Resume(k.options.RunDir, socket, &gateway{k}, k.log)
}

// ownChild tells whether a process is this one's child, which it is until it has been waited for.
func ownChild(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// "pid (name) state ppid …", and a name may hold anything (proc_pid_stat(5)).
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	return len(fields) > 1 && fields[1] == strconv.Itoa(unix.Getpid())
}

// takeOver goes on after an upgrade: with a worker of this version, when this is the new program.
func (k *keeper) takeOver(failure string) {
	now := time.Now()
	k.agenda.at(taskPulse, now)
	k.watch()
	if !k.plan.Empty() {
		k.agenda.atLatest(taskRepair, now.Add(repairDelay))
	}
	if failure != "" {
		k.lastUpgrade.State, k.lastUpgrade.Error = admin.UpgradeFailed, failure
		k.log.Error("upgrade failed, the old program goes on", "binary", k.lastUpgrade.Binary, "error", failure)
		k.systemd.ready(k.statusLine())
		if k.current == nil {
			k.agenda.at(taskRestart, now)
		}
		return
	}
	k.log.Info("took over from the old program", "version", k.options.Version, "before", k.lastUpgrade.From, "workers", len(k.workers))
	k.beginReload([]answerTo{k.upgraded})
}

// upgraded is told how the first worker of this version does.
func (k *keeper) upgraded(_ uint64, err error) {
	if err != nil {
		k.lastUpgrade.State = admin.UpgradeHalf
		k.lastUpgrade.Error = "the keeper is upgraded, but its worker is not, the old one goes on: " + err.Error()
		return
	}
	k.lastUpgrade.State = admin.UpgradeDone
	k.log.Info("upgraded", "version", k.options.Version, "before", k.lastUpgrade.From, "took", time.Since(k.lastUpgrade.At).Round(time.Millisecond))
}

// maxGenerations bounds how many workers there are at once: each more is one that drains.
const maxGenerations = 16

// boundGenerations ends the drain of the oldest workers when there are too many.
func (k *keeper) boundGenerations(now time.Time) {
	var draining []*worker
	for _, w := range k.workers {
		if w.state == admin.WorkerDraining && w.refusal == "" && !w.hurried {
			draining = append(draining, w)
		}
	}
	slices.SortFunc(draining, func(a, b *worker) int { return int(a.generation) - int(b.generation) })
	for len(draining) > maxGenerations-1 {
		w := draining[0]
		draining = draining[1:]
		w.hurried = true
		w.log.Warn("the drain of the oldest worker is cut short: there are too many generations at once", "most", maxGenerations, "connections", w.connections())
		w.drain(0, now)
	}
}
