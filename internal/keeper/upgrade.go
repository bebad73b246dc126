package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/admin"
)

// An upgrade has another program take the place of this one in the same process (execve(2)). The netlink socket that owns the nft table stays
// open over it, so no rule is ever away; so do the listening sockets and the control sockets of the workers, which stay this process's
// children and carry on. The new program reads where it stands from a file in memory (saved.go), goes on from there (resume.go), and then
// starts a worker of its own and drains the old one, as a reload does.
//
// All that can be asked before is asked before: the new program itself reads this keeper's state and the configuration. What is found out only
// when it runs, it answers by going back to the old program (inherit.go).

const (
	// examineWithin bounds how long the new program may take to examine what it would take over.
	examineWithin = 20 * time.Second
	// pauseWithin bounds how long the last preparations may take.
	pauseWithin = 5 * time.Second
	// upgradeAliveFor is how long the kernel goes on to divert while one program takes the other's place.
	upgradeAliveFor = 5 * time.Second
)

// upgrading is an upgrade under way.
type upgrading struct {
	binary string
	file   fs.FileInfo // of the binary when it was examined
	step   upgradeStep
	since  time.Time        // of the step
	answer upgradeAnswer    // nil when it has been given
	active map[*worker]bool // pausing: those that are still listened to
	socket *os.File         // pausing: the admin socket, as soon as it is let go of
}

type upgradeStep int

const (
	upgradeExamines upgradeStep = iota // the new program looks at what it would take over
	upgradeWaits                       // for a reload under way
	upgradePauses                      // no event must be lost
)

// upgradeAnswer tells somebody who asked for an upgrade that it is about to happen, or why it does not.
type upgradeAnswer func(admin.UpgradeAnswer, error)

var errUpgrading = errors.New("an upgrade is under way, which reads the configuration too")

// upgrade begins an upgrade. An empty path means the file that this program was started from. answer may be nil.
func (k *keeper) upgrade(binary string, answer upgradeAnswer) {
	if answer == nil {
		answer = func(admin.UpgradeAnswer, error) {}
	}
	file, err := k.beginUpgrade(&binary)
	if err != nil {
		k.log.Error("upgrade refused, nothing is changed", "error", err)
		answer(admin.UpgradeAnswer{}, err)
		return
	}
	last := admin.Upgrade{}
	if k.lastUpgrade != nil {
		last = *k.lastUpgrade
	}
	now := time.Now()
	k.lastUpgrade = &admin.Upgrade{Number: last.Number + 1, At: now, Binary: binary, From: k.options.Version, State: admin.UpgradeRunning}
	k.upgrading = &upgrading{binary: binary, file: file, since: now, answer: answer}
	k.log.Info("upgrading", "binary", binary, "from", k.options.Version)
	state, err := k.rehearsal()
	if err != nil {
		k.failUpgrade(err)
		return
	}
	o := k.options
	go func() {
		version, err := examine(binary, o, state)
		unix.Close(state)
		select {
		case k.requests <- func() { k.examined(version, err) }:
		case <-k.quit:
		}
	}()
}

// beginUpgrade refuses what cannot be now, and finds the binary.
func (k *keeper) beginUpgrade(binary *string) (fs.FileInfo, error) {
	switch {
	case k.stopping:
		return nil, errStopping
	case k.cfg == nil:
		return nil, errors.New("the gateway is still starting")
	case k.upgrading != nil:
		return nil, errors.New("an upgrade is under way")
	case k.repairing.unfit != "":
		return nil, fmt.Errorf("the configuration in force does not fit this host any more, and the new program could not plan anew: %s", k.repairing.unfit)
	}
	if *binary == "" {
		own, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program's file: %w", err)
		}
		*binary = own
	}
	if !filepath.IsAbs(*binary) {
		return nil, fmt.Errorf("%s is no absolute path", *binary)
	}
	file, err := os.Stat(*binary)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the new program: %w", err)
	case !file.Mode().IsRegular():
		return nil, fmt.Errorf("the new program: %s is no file", *binary)
	}
	return file, nil
}

// rehearsal returns a memory file with the state as it is now, for the new program to say whether it understands it.
func (k *keeper) rehearsal() (int, error) {
	none, err := os.Open(os.DevNull) // in place of what is only known at the end
	if err != nil {
		return -1, err
	}
	defer none.Close()
	s, err := k.save(none, none)
	if err != nil {
		return -1, err
	}
	return s.file()
}

// examined goes on when the new program has said what it is.
func (k *keeper) examined(version string, err error) {
	u := k.upgrading
	if u == nil {
		return // given up meanwhile
	}
	if err != nil {
		k.failUpgrade(err)
		return
	}
	k.lastUpgrade.To = version
	u.answer(admin.UpgradeAnswer{Number: k.lastUpgrade.Number, From: k.options.Version, To: version}, nil)
	u.answer = nil
	u.step, u.since = upgradeWaits, time.Now() // settle goes on
}

// pauseAll stops listening to the workers and answering on the admin socket, both between two messages: what comes then is for the new program.
func (k *keeper) pauseAll() {
	u := k.upgrading
	u.step, u.since, u.active = upgradePauses, time.Now(), map[*worker]bool{}
	for _, w := range k.workers {
		u.active[w] = true
		if err := w.child.conn.Pause(); err != nil {
			w.log.Debug("control socket cannot be paused: the worker has ended", "error", err)
		}
	}
	server := k.server
	go func() {
		socket, err := server.Release()
		select {
		case k.requests <- func() { k.released(socket, err) }:
		case <-k.quit:
			if err == nil {
				socket.Close()
			}
		}
	}()
}

func (k *keeper) released(socket *os.File, err error) {
	if err == nil {
		k.server = nil
	}
	if k.upgrading == nil { // given up meanwhile
		if err == nil {
			k.answerAgain(socket)
		}
		return
	}
	if err != nil {
		k.failUpgrade(err)
		return
	}
	k.upgrading.socket = socket
}

// settleUpgrade takes the next step when its time has come.
func (k *keeper) settleUpgrade(now time.Time) {
	u := k.upgrading
	switch {
	case u == nil || u.step == upgradeExamines:
	case u.step == upgradeWaits:
		if k.pending == nil && k.handover == nil && len(k.again) == 0 {
			k.pauseAll()
		}
	case len(u.active) == 0 && u.socket != nil:
		k.failUpgrade(k.replace()) // does not come back when all is well
	case now.Sub(u.since) > pauseWithin:
		k.failUpgrade(fmt.Errorf("the old program did not come to rest within %v", pauseWithin))
	}
}

// failUpgrade goes on as before.
func (k *keeper) failUpgrade(err error) {
	u := k.upgrading
	k.upgrading = nil
	k.lastUpgrade.State, k.lastUpgrade.Error = admin.UpgradeFailed, err.Error()
	k.log.Error("upgrade refused, the old program goes on", "binary", u.binary, "error", err)
	if u.answer != nil {
		u.answer(admin.UpgradeAnswer{}, err)
	}
	if u.step == upgradePauses {
		k.unpause(u)
	}
	if !k.stopping {
		k.systemd.ready(k.statusLine())
	}
}

func (k *keeper) unpause(u *upgrading) {
	for _, w := range k.workers {
		if !u.active[w] {
			if err := w.child.conn.Unpause(); err != nil {
				w.log.Warn("control socket cannot be listened to again", "error", err)
			}
			go w.listen(k.post)
			continue
		}
		w.again = true // its listener is about to say that it pauses
	}
	if u.socket != nil {
		k.answerAgain(u.socket)
	}
}

// onPaused is when nobody listens to a worker any more.
func (k *keeper) onPaused(w *worker) {
	if u := k.upgrading; u != nil && u.active[w] {
		delete(u.active, w)
		return
	}
	if w.again {
		w.again = false
		if err := w.child.conn.Unpause(); err != nil {
			w.log.Warn("control socket cannot be listened to again", "error", err)
		}
		go w.listen(k.post)
	}
}

// answerAgain serves the admin socket that was let go of.
func (k *keeper) answerAgain(socket *os.File) {
	defer socket.Close()
	server, err := admin.Resume(k.options.RunDir, socket, &gateway{k}, k.log)
	if err != nil {
		k.log.Error("the admin socket cannot be served again: commands will not find this gateway", "error", err)
		return
	}
	k.server = server
}

// replace has the new program take this one's place, and returns only when it cannot.
func (k *keeper) replace() error {
	u := k.upgrading
	now, err := os.Stat(u.binary)
	if err != nil {
		return err
	}
	if !os.SameFile(now, u.file) || now.Size() != u.file.Size() || !now.ModTime().Equal(u.file.ModTime()) {
		return fmt.Errorf("%s was changed after it had been examined: try again", u.binary)
	}
	old, err := os.Open("/proc/self/exe") // the way back
	if err != nil {
		return err
	}
	defer old.Close()
	s, err := k.save(k.lock.file, u.socket)
	if err != nil {
		return err
	}
	state, err := s.file()
	if err != nil {
		return err
	}
	defer unix.Close(state)
	if k.alive {
		if err := k.kernel.Alive(upgradeAliveFor); err != nil {
			return err
		}
	}
	if err := k.servers.remember(k.options.RunDir, time.Now()); err != nil {
		k.log.Warn("states of servers cannot be remembered for the new program", "error", err)
	}
	k.endMonitor()
	k.watching.stale = true
	k.systemd.reloading()
	k.log.Info("the new program takes over", "version", k.lastUpgrade.To)
	args := []string{"salp", "run", "--config", k.options.ConfigFile, "--run-dir", k.options.RunDir}
	way := inherited{state: state, old: int(old.Fd()), args: args}
	args = append([]string{u.binary}, args[1:]...)
	return execute(k.options, u.binary, args, way.environment(), append(s.descriptors(), state, way.old))
}

// execute runs another program in this process, with those descriptors and no others beside the standard ones. It returns only when it cannot.
func execute(o Options, path string, args, environment []string, descriptors []int) error {
	syscall.ForkLock.RLock() // a process that is started just now must not get them
	defer syscall.ForkLock.RUnlock()
	defer func() {
		for _, fd := range descriptors {
			unix.CloseOnExec(fd)
		}
	}()
	for _, fd := range descriptors {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
	}
	run := o.Exec
	if run == nil {
		run = syscall.Exec
	}
	if err := run(path, args, environment); err != nil {
		return fmt.Errorf("execute %s: %w", path, err)
	}
	return fmt.Errorf("execute %s: it came back", path)
}
