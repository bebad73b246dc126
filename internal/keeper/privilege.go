package keeper

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"salp/internal/config"
	"salp/internal/plan"
)

// capabilities is the effective set of this process (capabilities(7)).
type capabilities uint64

func ownCapabilities() (capabilities, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read own capabilities: capget: %w", err)
	}
	return capabilities(uint64(data[1].Effective)<<32 | uint64(data[0].Effective)), nil
}

func (c capabilities) has(n int) bool { return c&(1<<n) != 0 }

// need is a capability that a configuration takes, and what for.
type need struct {
	capability int
	name       string
	why        string
}

// needs returns what cfg takes to run as planned with the worker as user who.
func needs(cfg *config.Config, p plan.Plan, who identity, firstFreePort uint16) []need {
	var all []need
	if !p.Empty() {
		all = append(all, need{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "to write nft tables, ip rules and routes"})
	}
	if l := needsRaw(cfg); l != "" {
		all = append(all, need{unix.CAP_NET_RAW, "CAP_NET_RAW", fmt.Sprintf("for the sockets of listener %s, which are transparent or marked", l)})
	}
	for _, l := range cfg.Listeners {
		for _, a := range l.Listen {
			if l.Via != config.ViaKernel && a.Port() < firstFreePort {
				all = append(all, need{unix.CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE", fmt.Sprintf("to listen on %s (listener %s)", a, l.Name)})
			}
		}
	}
	if who.changes && cfg.Worker() {
		why := fmt.Sprintf("to start the worker as user %s", who.name)
		all = append(all, need{unix.CAP_SETUID, "CAP_SETUID", why}, need{unix.CAP_SETGID, "CAP_SETGID", why}, need{unix.CAP_SETPCAP, "CAP_SETPCAP", why})
	}
	return all
}

// needsRaw returns the name of a listener that takes CAP_NET_RAW, "" when none does. The mark of a link takes it, too (socket(7), SO_MARK).
func needsRaw(cfg *config.Config) string {
	for _, l := range cfg.Listeners {
		if l.Via != config.ViaKernel && (l.Source == config.SourceClient || l.Intercept != nil || marks(cfg, l) || len(cfg.Links) > 0) {
			return l.Name
		}
	}
	return ""
}

// marks says whether the listener's connections to servers may get a mark or a link, which takes CAP_NET_RAW since Linux 5.17 (socket(7), SO_MARK).
func marks(cfg *config.Config, l *config.Listener) bool {
	marked := l.Marking.Mark != 0 || l.Marking.Link != ""
	if list := cfg.AccessList(l.Access); list != nil {
		for _, rule := range list.Rules {
			marked = marked || rule.Mark != 0 || rule.Link != ""
		}
	}
	return marked
}

// missing says which capabilities this process lacks, all at once; nil when none.
func missing(all []need, have capabilities) error {
	var lines []string
	seen := map[int]bool{}
	for i, n := range all {
		if have.has(n.capability) || seen[n.capability] {
			continue
		}
		seen[n.capability] = true
		if last := len(lines) - 1; last >= 0 && all[i-1].why == n.why {
			lines[last] = strings.Replace(lines[last], " "+n.why, " and "+n.name+" "+n.why, 1)
			continue
		}
		lines = append(lines, n.name+" "+n.why)
	}
	if lines == nil {
		return nil
	}
	return errors.New("this process lacks " + strings.Join(lines, "; ") + ": run as root, or give these capabilities to the service")
}

// firstFreePort returns the lowest port that everybody may listen on (ip-sysctl, ip_unprivileged_port_start).
func firstFreePort() uint16 {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return 1024
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 16)
	if err != nil {
		return 1024
	}
	return uint16(n)
}

// identity is whom a worker runs as.
type identity struct {
	name     string
	uid, gid uint32
	changes  bool // it is not who runs the keeper
}

// workerIdentity finds the user of the configuration; without one, root takes salp or else nobody, and anybody else stays who he is.
func workerIdentity(cfg *config.Config) (identity, error) {
	own := uint32(os.Geteuid())
	if cfg.User == "" && own != 0 {
		return identity{name: strconv.Itoa(int(own)), uid: own, gid: uint32(os.Getegid())}, nil
	}
	names := []string{cfg.User}
	if cfg.User == "" {
		names = []string{"salp", "nobody"}
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		var unknown user.UnknownUserError
		if errors.As(err, &unknown) {
			continue
		}
		if err != nil {
			return identity{}, fmt.Errorf("user %s: %w", name, err)
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return identity{}, fmt.Errorf("user %s: %w", name, err)
		}
		return identity{name: name, uid: uint32(uid), gid: uint32(gid), changes: uint32(uid) != own}, nil
	}
	if cfg.User == "" {
		return identity{}, errors.New("there is no user salp and none nobody to run the worker as: make one, or name one with the key user")
	}
	return identity{}, config.Errors{cfg.Fault(config.Path{"user"}, fmt.Sprintf("there is no user %s on this host", cfg.User), "make that user, or name another")}
}

// launch says with what a worker starts.
type launch struct {
	who  identity
	have capabilities // of the keeper
	raw  bool         // the worker gets CAP_NET_RAW: its configuration takes it
}

func launchOf(cfg *config.Config) (launch, error) {
	who, err := workerIdentity(cfg)
	if err != nil {
		return launch{}, err
	}
	have, err := ownCapabilities()
	if err != nil {
		return launch{}, err
	}
	return launch{who: who, have: have, raw: needsRaw(cfg) != "" && have.has(unix.CAP_NET_RAW)}, nil
}

// attributes returns how the kernel is to start the worker: as that user without its groups, and in a session of its own so that a
// terminal's signals do not reach it.
func (l launch) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true}
	if l.who.changes {
		a.Credential = &syscall.Credential{Uid: l.who.uid, Gid: l.who.gid}
	}
	if l.raw {
		a.AmbientCaps = []uintptr{unix.CAP_NET_RAW}
	}
	return a
}

// confine takes from the calling thread, and so from what it starts, every way to more privileges: no_new_privs, and a bounding set of
// at most CAP_NET_RAW (prctl(2)). Without CAP_SETPCAP the bounding set stays, which no_new_privs makes useless.
func (l launch) confine() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_NO_NEW_PRIVS: %w", err)
	}
	if !l.have.has(unix.CAP_SETPCAP) {
		return nil
	}
	for c := uintptr(0); ; c++ {
		in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // past the last one that this kernel has
		}
		if err != nil {
			return fmt.Errorf("prctl PR_CAPBSET_READ %d: %w", c, err)
		}
		if in == 0 || l.raw && c == unix.CAP_NET_RAW {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("prctl PR_CAPBSET_DROP %d: %w", c, err)
		}
	}
}
