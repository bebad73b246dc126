package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a process inside a host.
type Process struct {
	Cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts cmd in the host's namespace, in a process group of its own (or a session, if cmd asks for one) so that ^C reaches
// only this process. The kernel kills it when this process ends (prctl(2), PR_SET_PDEATHSIG) and Close when the lab ends. A
// context given to exec.CommandContext works. Give cmd writers for its output, not pipes: it is waited for from the start.
func (h *Host) Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = !cmd.SysProcAttr.Setsid // a session has a process group of its own, and may not ask for another
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = time.Second // grandchildren may hold the output open
	}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, fmt.Errorf("host %s: %w", h.Name, errClosed)
	}
	err, _ := h.fork.do(cmd.Start)
	h.mu.Unlock()
	if err != nil {
		return nil, h.fault(err, "starting %s", cmd.Path)
	}
	p := &Process{Cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Run runs a program in the host's namespace and returns what it wrote; the error holds that too.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := h.Start(cmd)
	if err != nil {
		return "", err
	}
	if err := p.Wait(); err != nil {
		return out.String(), h.fault(err, "%s %s: %s", name, strings.Join(args, " "), strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// Pid returns the process's number.
func (p *Process) Pid() int { return p.Cmd.Process.Pid }

// Wait waits for the end of the process and returns exec.Cmd's error. It may be called often and concurrently.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal to the process; os.ErrProcessDone when it has ended.
func (p *Process) Signal(s os.Signal) error { return p.Cmd.Process.Signal(s) }

// Stop sends SIGTERM, waits up to bound and kills. It returns Wait's error.
func (p *Process) Stop(bound time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(bound):
		_ = p.Signal(syscall.SIGKILL) // it may have ended just now
	}
	return p.Wait()
}

// Inside returns the numbers of the processes that live in the host's namespace.
func (h *Host) Inside() ([]int, error) {
	ns, err := h.Namespace()
	if err != nil {
		return nil, err
	}
	return processesIn(map[string]bool{ns: true})
}

func processesIn(namespaces map[string]bool) ([]int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, path := range paths {
		ns, err := os.Readlink(path)
		if err != nil || !namespaces[ns] {
			continue // ended meanwhile, or not ours
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// killInside kills every process in the hosts' namespaces and waits until they are gone. No process of others can be in there.
func killInside(hosts []*Host) error {
	namespaces := map[string]bool{}
	for _, h := range hosts {
		ns, err := h.Namespace()
		if err != nil {
			return err
		}
		namespaces[ns] = true
	}
	for range 200 {
		pids, err := processesIn(namespaces)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			killIn(namespaces, pid)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("processes in the lab do not end")
}

// killIn kills pid if it still is a process of these namespaces: the descriptor keeps the number from meaning another one.
func killIn(namespaces map[string]bool, pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // gone
	}
	defer unix.Close(fd)
	if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && namespaces[ns] {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // gone meanwhile: good
	}
}
