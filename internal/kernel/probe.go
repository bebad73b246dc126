package kernel

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/nft"
	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Feature is something that Salp asks of the kernel, and whether it is there.
type Feature struct {
	Name    string       `json:"name"`
	Support plan.Support `json:"support"`
	Message string       `json:"message"` // what was found, and what to do when it is not there
}

// Probe asks the kernel of the calling thread's network namespace for every feature that Salp uses. It leaves no trace: what
// it tries is undone in the same transaction or exists on a socket of its own.
func Probe() []Feature {
	features := []Feature{version(), capability("CAP_NET_ADMIN", unix.CAP_NET_ADMIN, "to write tables, rules and routes"),
		capability("CAP_NET_RAW", unix.CAP_NET_RAW, "for transparent sockets"), transparentSockets()}
	h, err := Open(Options{RunDir: "/run/salp"})
	if err != nil {
		return append(features, Feature{"netlink", plan.No, err.Error()})
	}
	defer h.Close()
	for _, t := range nft.Trials() {
		support, message := h.try(t.Name)
		features = append(features, Feature{t.Name, support, message})
	}
	return append(features, verdict("conntrack", h.conntrack.Reachable(), "this kernel lacks CONFIG_NF_CT_NETLINK: entries of redirected connections are not removed at the end"),
		verdict("sock_destroy", h.diag.CanDestroy(), "a client port that a TIME_WAIT socket holds is not freed: such connections fall back to another port"))
}

func (h *Host) try(name string) (plan.Support, string) {
	for _, t := range nft.Trials() {
		if t.Name == name {
			f := verdict(name, h.nft.Try(t), "")
			return f.Support, f.Message
		}
	}
	return plan.Unknown, "no such feature"
}

// verdict turns the kernel's answer into yes, no, or could not tell.
func verdict(name string, err error, without string) Feature {
	switch {
	case err == nil:
		return Feature{name, plan.Yes, "works"}
	case wire.Is(err, unix.EPERM, unix.EACCES):
		return Feature{name, plan.Unknown, "could not tell: asking needs CAP_NET_ADMIN in this network namespace (run as root)"}
	case wire.Is(err, unix.ENOENT, unix.EOPNOTSUPP, unix.EINVAL, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT):
		message := err.Error()
		if without != "" {
			message += "; " + without
		}
		return Feature{name, plan.No, message}
	}
	return Feature{name, plan.Unknown, "could not tell: " + err.Error()}
}

const oldest = "5.15" // the oldest Linux that Salp is for

func version() Feature {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Feature{"kernel version", plan.Unknown, err.Error()}
	}
	release := unix.ByteSliceToString(u.Release[:])
	major, minor, ok := majorMinor(release)
	switch {
	case !ok:
		return Feature{"kernel version", plan.Unknown, "Linux " + release}
	case major < 5 || major == 5 && minor < 15:
		return Feature{"kernel version", plan.No, fmt.Sprintf("Linux %s; Salp is for Linux %s and newer", release, oldest)}
	}
	return Feature{"kernel version", plan.Yes, "Linux " + release}
}

func majorMinor(release string) (major, minor int, ok bool) {
	parts := strings.FieldsFunc(release, func(r rune) bool { return r < '0' || r > '9' })
	if len(parts) < 2 {
		return 0, 0, false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return major, minor, err1 == nil && err2 == nil
}

func capability(name string, bit int, why string) Feature {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return Feature{name, plan.Unknown, err.Error()}
	}
	lines := strings.Split(string(b), "\n")
	at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "CapEff:") })
	if at < 0 {
		return Feature{name, plan.Unknown, "the kernel does not tell"}
	}
	effective, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(lines[at], "CapEff:")), 16, 64)
	switch {
	case err != nil:
		return Feature{name, plan.Unknown, err.Error()}
	case effective&(1<<bit) == 0:
		return Feature{name, plan.No, fmt.Sprintf("this process lacks %s, needed %s: run as root, or give it to the service (AmbientCapabilities=%s)", name, why, name)}
	}
	return Feature{name, plan.Yes, "this process has it"}
}

func transparentSockets() Feature {
	const name = "transparent sockets"
	var errs []error
	for _, s := range []struct{ family, level, option int }{{unix.AF_INET, unix.SOL_IP, unix.IP_TRANSPARENT}, {unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT}} {
		fd, err := unix.Socket(s.family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if errors.Is(err, unix.EAFNOSUPPORT) && s.family == unix.AF_INET6 {
			continue
		}
		if err == nil {
			err = unix.SetsockoptInt(fd, s.level, s.option, 1)
			unix.Close(fd)
		}
		errs = append(errs, err)
	}
	switch err := errors.Join(errs...); {
	case errors.Is(err, unix.EPERM):
		return Feature{name, plan.Unknown, "could not tell: asking needs CAP_NET_RAW or CAP_NET_ADMIN"}
	case err != nil:
		return Feature{name, plan.No, "set IP_TRANSPARENT: " + err.Error()}
	}
	return Feature{name, plan.Yes, "work"}
}
