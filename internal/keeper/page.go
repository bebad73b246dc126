package keeper

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/sock"
)

// page is the listening socket of the metrics. The keeper holds it open while monitors come and go; nobody in this process reads from it.
type page struct {
	address netip.AddrPort
	fd      int
}

// mostStatuses bounds how often a second the monitor may ask for the status: the loop has better to do.
const mostStatuses = 20

// openPage returns the socket that cfg wants: the one that is open, a new one, or none.
func (k *keeper) openPage(cfg *config.Config) (*page, error) {
	if cfg.Metrics == nil {
		return nil, nil
	}
	address := cfg.Metrics.Listen
	if k.page != nil && k.page.address == address {
		return k.page, nil
	}
	fds, err := sock.Listen(address, 1, sock.ListenOptions{})
	if err != nil {
		g := &group{place: place{address: address}, path: config.Path{"metrics", "listen"}}
		return nil, listenFault(cfg, g, err)
	}
	return &page{address, fds[0]}, nil
}

// usePage puts another socket, or none, in the place of the one that is open.
func (k *keeper) usePage(p *page) {
	if k.page != p {
		k.page.close()
		k.page = p
	}
	k.watching.stale = true
}

func (p *page) close() {
	if p != nil {
		unix.Close(p.fd)
	}
}

// tellPage has the monitor serve the page as the configuration in force wants it.
func (k *keeper) tellPage(m *monitor) error {
	want := control.Page{}
	var fds []int
	if k.page != nil && k.cfg != nil && k.cfg.Metrics != nil {
		want.From = k.cfg.Metrics.From
		fds = []int{k.page.fd}
	}
	if m.page == k.page && slices.Equal(m.pageFrom, want.From) {
		return nil
	}
	if err := m.child.conn.Send(control.Message{Page: &want}, fds...); err != nil {
		return err
	}
	m.page, m.pageFrom = k.page, want.From
	return nil
}

// answerStatus tells the monitor the status, for the metrics. The kernel is not compared with the plan for that.
func (k *keeper) answerStatus(m *monitor, ask *control.AskStatus, now time.Time) {
	answer := &control.Status{ID: ask.ID}
	if now.Sub(m.window) > time.Second {
		m.window, m.asked = now, 0
	}
	if m.asked++; m.asked > mostStatuses {
		answer.Error = "asked too often"
	} else if text, err := json.Marshal(k.status(now, false)); err != nil {
		answer.Error = err.Error()
	} else {
		answer.Status = text
	}
	if err := m.child.conn.Send(control.Message{Status: answer}); err != nil {
		m.log.Warn("monitor does not take the status, it is replaced", "error", err)
		m.kill()
	}
}

// savedPage is the page's socket in a saved state.
type savedPage struct {
	Address netip.AddrPort `json:"address"`
	File    int            `json:"file"`
}

func (p *page) save() *savedPage {
	if p == nil {
		return nil
	}
	return &savedPage{p.address, p.fd}
}

func (s *savedPage) recall() (*page, error) {
	if s == nil {
		return nil, nil
	}
	fd, err := copyOf(s.File)
	if err != nil {
		return nil, err
	}
	return &page{s.Address, fd}, nil
}
