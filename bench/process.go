package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"salp/bench/traffic"
	"salp/internal/lab"
)

// tail keeps the end of what a process writes.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if over := len(t.text) - tailSize; over > 0 {
		t.text = t.text[over:]
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}

// player is this program in a traffic role, on a host of the network. It is asked by lines and answers in JSON.
type player struct {
	role string
	proc *lab.Process
	in   *os.File
	out  *os.File
	read *bufio.Reader
	log  *tail
}

// session puts a process into a session of its own. The scheduler shares the processors out between sessions first (sched(7), autogroup)
// and daemons have their own: if one peer has and another has not, it is the scheduler that is compared.
func session() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// patience bounds every answer of a player.
const patience = 20 * time.Second

func play(h *lab.Host, role, argument string) (*player, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, inR.Close(), inW.Close())
	}
	p := &player{role: role, in: inW, out: outR, read: bufio.NewReader(outR), log: &tail{}}
	cmd := exec.Command(self, roleArgument, role, argument)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, p.log
	cmd.SysProcAttr = session()
	p.proc, err = h.Start(cmd)
	if err := errors.Join(err, inR.Close(), outW.Close()); err != nil {
		return nil, errors.Join(err, inW.Close(), outR.Close())
	}
	return p, nil
}

// hear waits for the next answer.
func (p *player) hear(v any) error {
	if err := p.out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	line, err := p.read.ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("traffic %s ended: %s", p.role, p.log)
	}
	if err != nil {
		return fmt.Errorf("traffic %s: %w %s", p.role, err, p.log)
	}
	return json.Unmarshal(line, v)
}

// ask asks for an answer.
func (p *player) ask(v any) error {
	if _, err := p.in.WriteString("\n"); err != nil {
		return fmt.Errorf("traffic %s: %w %s", p.role, err, p.log)
	}
	return p.hear(v)
}

// stop ends the process.
func (p *player) stop() {
	p.in.Close()
	_ = p.proc.Stop(time.Second) // it has been asked all that it was for
	p.out.Close()
}

// serve starts the server and returns when it listens.
func (n *network) serve() (*player, error) {
	at := n.server
	if len(n.servers) > 0 {
		at = netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
	}
	p, err := play(n.Server(), "serve", at.String())
	if err != nil {
		return nil, err
	}
	if err := p.hear(&struct{}{}); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// load starts the client and returns when all its connections have had an answer.
func (n *network) load(job traffic.Job) (*player, error) {
	text, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	p, err := play(n.Client(), "load", string(text))
	if err != nil {
		return nil, err
	}
	if err := p.hear(&traffic.Count{}); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}
