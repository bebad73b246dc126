package test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"net/smtp"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/control"
	"salp/internal/lab"
)

// eximFile is the least that exim takes in mail with: everything is accepted, logged and thrown away.
const eximFile = `primary_hostname = NAME.example.org
spool_directory = DIR/spool
log_file_path = DIR/%slog
pid_file_path = DIR/pid
daemon_smtp_ports = 25
tls_advertise_hosts =
rfc1413_query_timeout = 0s
smtp_accept_max = 200
smtp_load_reserve = 500
queue_only = true
log_selector = +smtp_confirmation
acl_smtp_rcpt = take
acl_smtp_data = discard
begin acl
take:
  accept
discard:
  discard
begin routers
nowhere:
  driver = redirect
  data = :blackhole:
begin transports
begin retry
`

// exim is Debian's exim as a mail server in a namespace.
type exim struct {
	*lab.Process
	dir string
}

// exim starts one on a host's port 25.
func (r *rig) exim(h *lab.Host, name string) *exim {
	r.Helper()
	e := &exim{dir: filepath.Join(r.dir, name)}
	r.must(os.MkdirAll(filepath.Join(e.dir, "spool"), 0o755))
	file := filepath.Join(e.dir, "exim.conf")
	r.must(os.WriteFile(file, []byte(strings.NewReplacer("NAME", name, "DIR", e.dir).Replace(eximFile)), 0o644))
	who, err := user.Lookup("Debian-exim")
	r.must(err)
	uid, err := strconv.Atoi(who.Uid)
	r.must(err)
	gid, err := strconv.Atoi(who.Gid)
	r.must(err)
	for _, dir := range []string{e.dir, filepath.Join(e.dir, "spool")} {
		r.must(os.Chown(dir, uid, gid))
	}
	cmd := exec.Command("exim4", "-C", file, "-bdf")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	e.Process, err = h.Start(cmd)
	r.must(err)
	return e
}

// clients returns the addresses that a log says mail came from.
func (e *exim) clients() map[string]bool {
	text, _ := os.ReadFile(filepath.Join(e.dir, "mainlog")) // none came yet
	all := map[string]bool{}
	for _, m := range regexp.MustCompile(`H=\S* ?\(?\S*\)? ?\[([0-9a-f.:]+)\]`).FindAllStringSubmatch(string(text), -1) {
		all[m[1]] = true
	}
	return all
}

// sendMail holds an SMTP session from an address of the client.
func (r *rig) sendMail(from netip.Addr, to string) error {
	conn, err := r.net.Client().DialWith(to, lab.DialOptions{From: netip.AddrPortFrom(from, 0), Timeout: patience})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	c, err := smtp.NewClient(conn, "mx.example.org")
	if err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	if err := c.Hello("sender.example"); err != nil {
		return err
	}
	if err := c.Mail("sender@sender.example"); err != nil {
		return err
	}
	if err := c.Rcpt("you@example.org"); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "Subject: hello\r\n\r\nfrom %s\r\n", from); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return c.Quit()
}

// TestMailClusterOfExim has two of Debian's mail servers behind the gateway: their logs have the senders' addresses, and when one is killed under
// load no new session fails.
func TestMailClusterOfExim(t *testing.T) {
	if _, err := exec.LookPath("exim4"); err != nil {
		t.Skip("skipped: needs Debian's exim4-daemon-light as a peer")
	}
	r := newRig(t, 2)
	servers := []*exim{r.exim(r.net.Servers[0], "mx1"), r.exim(r.net.Servers[1], "mx2")}
	senders := []netip.Addr{netip.MustParseAddr("10.0.1.2")}
	for i := range 5 {
		a := netip.AddrFrom4([4]byte{10, 0, 1, byte(40 + i)})
		r.must(r.net.Client().Addr("e0", a.String()+"/24"))
		senders = append(senders, a)
	}
	s := r.start(`listeners: {smtp: {listen: ["10.0.1.1:25"], source: client, pool: mail}}
pools:
  mail:
    balance: round-robin
    servers: ["10.0.2.2:25", "10.0.2.3:25"]
    check: {every: 200ms, rise: 1, fall: 1, expect: "220 "}
`)
	s.awaitUp(2)
	stop := make(chan struct{})
	var running sync.WaitGroup
	var mu sync.Mutex
	sent, failed := 0, map[time.Time]error{}
	for _, from := range senders {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(10+rand.IntN(20)) * time.Millisecond): // senders in step would each have one server alone, in turn
				}
				began := time.Now()
				err := r.sendMail(from, "10.0.1.1:25")
				mu.Lock()
				if sent++; err != nil {
					failed[began] = err
				}
				mu.Unlock()
			}
		})
	}
	lacks := func() (missing []string) {
		for _, e := range servers {
			seen := e.clients()
			for _, from := range senders {
				if !seen[from.String()] {
					missing = append(missing, fmt.Sprintf("%s in %s", from, e.dir))
				}
			}
			if seen["10.0.2.1"] {
				missing = append(missing, "the gateway is in "+e.dir)
			}
		}
		return missing
	}
	for end := time.Now().Add(patience); len(lacks()) > 0 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
	}
	if missing := lacks(); len(missing) > 0 {
		t.Errorf("the logs lack senders: %q", missing)
	}
	r.must(servers[1].Signal(syscall.SIGKILL))
	<-servers[1].Done()
	killed := time.Now()
	s.awaitUp(1)
	time.Sleep(500 * time.Millisecond)
	close(stop)
	running.Wait()
	t.Logf("%d sessions, %d of them failed", sent, len(failed))
	for began, err := range failed {
		if began.After(killed) {
			t.Errorf("a session that began %v after the kill failed: %v", began.Sub(killed), err)
		}
	}
	if sent < 20 {
		t.Errorf("only %d sessions", sent)
	}
}

// awaitUp waits until so many servers of all pools are up and have been checked.
func (s *salp) awaitUp(want int) {
	s.r.Helper()
	s.await(fmt.Sprintf("with %d servers up", want), func(st *admin.Status) bool {
		up := 0
		for _, p := range st.Pools {
			for i := range p.Servers {
				if p.Servers[i].State == control.ServerUp && p.Servers[i].Checked != nil {
					up++
				}
			}
		}
		return up == want
	})
}
