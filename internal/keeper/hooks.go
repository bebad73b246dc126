package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os/exec"
	"syscall"
	"time"

	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/link"
	"salp/internal/plan"
)

const (
	// hooksWaiting bounds the changes of one link that wait for the program of the one before to end.
	hooksWaiting = 16
	// hookOutput bounds what is kept of what a program writes.
	hookOutput = 4 << 10
	// callTries is how often a webhook is called until it answers, with a pause that grows from callPause fourfold.
	callTries = 4
	callPause = time.Second
	// callsWaiting bounds the webhooks that have not answered.
	callsWaiting = 64
)

// hooks calls what is to be called when links change: programs from here, one at a time for each link; webhooks by the monitor. It belongs to the
// loop; the programs run beside it.
type hooks struct {
	log    *slog.Logger
	queues map[string]chan *hookRun // by link
	calls  map[uint64]*call
	last   uint64
	send   func(control.Call) bool             // gives a call to the monitor; false: there is none that takes it
	later  func(after time.Duration, f func()) // runs f on the loop
	who    func(user string) (identity, error)
}

func newHooks(k *keeper) *hooks {
	return &hooks{
		log: k.log, queues: map[string]chan *hookRun{}, calls: map[uint64]*call{},
		send: func(c control.Call) bool {
			m := k.watching.monitor
			return m != nil && !m.ending && m.sent != nil && m.child.conn.Send(control.Message{Call: &c}) == nil
		},
		later: func(after time.Duration, f func()) {
			time.AfterFunc(after, func() {
				select {
				case k.requests <- f:
				case <-k.quit:
				}
			})
		},
		who: func(user string) (identity, error) { return workerIdentity(&config.Config{User: user}) },
	}
}

// hookRun is one run of a program.
type hookRun struct {
	link    string
	command []string
	env     []string
	who     identity
	timeout time.Duration
}

// call is a webhook that has not answered yet.
type call struct {
	control.Call
	link string
	left int
	wait time.Duration
}

// notice is what a webhook is sent, as JSON. The variables of a program have the same.
type notice struct {
	Link      string     `json:"link"`
	State     link.State `json:"state"`
	Was       link.State `json:"was"`
	Reason    string     `json:"reason,omitempty"`
	Interface string     `json:"interface"`
	Address   string     `json:"address,omitempty"`
	Gateway   string     `json:"gateway,omitempty"`
	Time      time.Time  `json:"time"`
}

func noticeOf(c link.Change, l *link.Link) notice {
	n := notice{Link: c.Link, State: c.State, Was: c.Was, Reason: c.Reason, Interface: l.Config.Interface, Time: c.At}
	for _, f := range []plan.Family{plan.IPv6, plan.IPv4} { // IPv4 before IPv6, where both are there
		if way := l.Way(f); way.Usable() {
			n.Address, n.Gateway = way.Addresses[0].String(), ""
			if way.Gateway.IsValid() {
				n.Gateway = way.Gateway.String()
			}
		}
	}
	return n
}

func (n notice) env() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SALP_LINK=" + n.Link, "SALP_STATE=" + string(n.State),
		"SALP_WAS=" + string(n.Was), "SALP_REASON=" + n.Reason, "SALP_INTERFACE=" + n.Interface, "SALP_ADDRESS=" + n.Address,
		"SALP_GATEWAY=" + n.Gateway, "SALP_TIME=" + n.Time.Format(time.RFC3339)}
}

// changed calls what is to be called for a change.
func (h *hooks) changed(c link.Change, l *link.Link, cfg *config.Config) {
	hook := l.Config.OnChange
	if hook == nil {
		return
	}
	n := noticeOf(c, l)
	if hook.Webhook != "" {
		h.call(n, hook)
	}
	if len(hook.Run) == 0 {
		return
	}
	user := hook.User
	if user == "" {
		user = cfg.User
	}
	who, err := h.who(user)
	if err != nil {
		h.log.Error("the program for a link's change cannot be run", "link", c.Link, "program", hook.Run[0], "error", err)
		return
	}
	queue := h.queues[c.Link]
	if queue == nil {
		queue = make(chan *hookRun, hooksWaiting)
		h.queues[c.Link] = queue
		go func() {
			for r := range queue {
				r.run(h.log)
			}
		}()
	}
	select {
	case queue <- &hookRun{link: c.Link, command: hook.Run, env: n.env(), who: who, timeout: hook.Timeout}:
	default:
		h.log.Warn("a link's change is not told to the program: those before it wait for it to end", "link", c.Link, "program", hook.Run[0])
	}
}

// run runs the program to its end, or kills it and what it has started when its time is over.
func (r *hookRun) run(log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.command[0], r.command[1:]...)
	cmd.Dir, cmd.Env = "/", r.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if r.who.changes {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: r.who.uid, Gid: r.who.gid}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	output := &tail{}
	cmd.Stdout, cmd.Stderr = output, output
	began := time.Now()
	err := cmd.Run()
	log = log.With("link", r.link, "program", r.command[0], "took", time.Since(began).Round(time.Millisecond))
	switch {
	case ctx.Err() != nil:
		log.Warn("the program for a link's change was killed: its time was over", "output", output.String())
	case err != nil:
		log.Warn("the program for a link's change failed", "error", err, "output", output.String())
	default:
		log.Debug("the program for a link's change has run", "output", output.String())
	}
}

// tail keeps the last of what is written to it. One goroutine of exec writes, and reads come after its end.
type tail struct{ text []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.text = append(t.text, b...)
	if extra := len(t.text) - hookOutput; extra > 0 {
		t.text = append(t.text[:0], t.text[extra:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	return string(bytes.ToValidUTF8(bytes.TrimSpace(t.text), []byte("?")))
}

// call has the monitor call a webhook.
func (h *hooks) call(n notice, hook *config.LinkHook) {
	if len(h.calls) >= callsWaiting {
		h.log.Warn("a link's change is not told to the webhook: too many calls have not been answered", "link", n.Link, "url", hook.Webhook)
		return
	}
	body, err := json.Marshal(n)
	if err != nil {
		h.log.Error("a link's change has no JSON form", "link", n.Link, "error", err)
		return
	}
	h.last++
	c := &call{Call: control.Call{ID: h.last, URL: hook.Webhook, Body: body, Timeout: hook.Timeout}, link: n.Link, left: callTries, wait: callPause}
	h.calls[c.ID] = c
	h.try(c)
}

// try gives a call to the monitor. When there is none, it counts as a call that has failed.
func (h *hooks) try(c *call) {
	c.left--
	if !h.send(c.Call) {
		h.failed(c, "the monitor does not run")
	}
}

// called takes in how a call ended.
func (h *hooks) called(a *control.Called) {
	c := h.calls[a.ID]
	switch {
	case c == nil:
	case a.Error == "":
		delete(h.calls, c.ID)
		h.log.Debug("a webhook was called", "link", c.link, "url", c.URL)
	default:
		h.failed(c, a.Error)
	}
}

// lost takes in that a monitor has ended, with all the calls that it had.
func (h *hooks) lost() {
	for _, c := range h.calls {
		h.failed(c, "the monitor has ended")
	}
}

func (h *hooks) failed(c *call, reason string) {
	if c.left <= 0 {
		delete(h.calls, c.ID)
		h.log.Warn("a webhook could not be called", "link", c.link, "url", c.URL, "error", reason)
		return
	}
	wait := c.wait
	c.wait *= 4
	h.log.Debug("a webhook did not answer", "link", c.link, "url", c.URL, "error", reason, "again_in", wait)
	h.later(wait, func() {
		if h.calls[c.ID] == c {
			h.try(c)
		}
	})
}
