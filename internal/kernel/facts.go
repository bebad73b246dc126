package kernel

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/sysctl"
	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Facts gathers what a plan needs to know about the host. It needs no privilege, except that only CAP_NET_ADMIN can tell
// whether tproxy works. Sockets of this process, and of the process that applied the plan in the state file, are left out of
// Listening; Ports are those of that plan.
func (h *Host) Facts() (plan.Facts, error) {
	interfaces, err := h.route.Interfaces()
	if err != nil {
		return plan.Facts{}, err
	}
	f := plan.Facts{Interfaces: interfaces, IPv6: h.ipv6(), TProxy: h.able(&h.canDivert, "nft tproxy", "nft tproxy IPv6", "nft socket"),
		KernelPath: h.able(&h.canForward, "nft kernel path"), Flowtable: h.able(&h.canOffload, "nft flowtable")}
	s, _, err := h.load()
	if err != nil {
		return plan.Facts{}, err
	}
	for i := range f.Interfaces {
		f.Interfaces[i].AcceptsRA = h.hearsRA(f.Interfaces[i], s)
		f.Interfaces[i].StrictPath = h.strictPath(f.Interfaces[i].Name)
	}
	f.Ports = s.Ports
	holders := []string{"self"}
	if s.PID != 0 && s.PID != os.Getpid() && !s.empty() {
		holders = append(holders, strconv.Itoa(s.PID))
	}
	f.Listening, err = h.diag.Listening(holders...)
	if wire.Is(err, unix.ENOENT) {
		return f, fmt.Errorf("%w; the kernel lacks CONFIG_INET_TCP_DIAG (modprobe tcp_diag)", err)
	}
	return f, err
}

// Gateways returns the default routes that others have put into the kernel, in any table. Those of routing daemons are left out.
func (h *Host) Gateways() ([]plan.Gateway, error) { return h.route.Gateways() }

// ipv6 says whether the host does IPv6: that the kernel has it, and that it is not switched off on the loopback interface,
// without which nothing can be delivered to a local listener.
func (h *Host) ipv6() bool {
	off, err := h.sysctl.Read("net/ipv6/conf/lo/disable_ipv6")
	return err == nil && off == "0"
}

// hearsRA says whether the kernel itself takes router advertisements on an interface as a host does, and would not any more once
// it forwards. Where a program like systemd-networkd listens to them the value is 0 and forwarding changes nothing. Where Salp
// has set 2 the answer stays yes, also while there is no route: else the next plan would give the 1 back while the host
// forwards, and the routes would never return.
func (h *Host) hearsRA(i plan.Interface, s *state) bool {
	name := "net/ipv6/conf/" + i.Name + "/accept_ra"
	v, err := h.sysctl.Read(name)
	if err != nil {
		return false
	}
	ours := slices.ContainsFunc(s.Sysctls, func(k sysctl.Kept) bool { return k.Name == name && k.Former == "1" && k.Set == v })
	return ours || v == "1" && i.AcceptsRA
}

// strictPath says whether the kernel drops IPv4 packets that come in by an interface and whose answers would not leave by it. The larger
// of the two values counts. (Documentation/networking/ip-sysctl.rst, rp_filter)
func (h *Host) strictPath(name string) bool {
	all, err := h.sysctl.Read("net/ipv4/conf/all/rp_filter")
	own, ownErr := h.sysctl.Read("net/ipv4/conf/" + name + "/rp_filter")
	return err == nil && ownErr == nil && max(all, own) == "1"
}

// able says whether the kernel can do all of some trials. The answer is kept: a kernel does not unlearn it, and asking waits for all
// processors once.
func (h *Host) able(kept *atomic.Int32, trials ...string) plan.Support {
	if known := plan.Support(kept.Load()); known != plan.Unknown {
		return known
	}
	all := plan.Yes
	for _, name := range trials {
		support, _ := h.try(name)
		if support != plan.Yes {
			all = support
		}
		if support == plan.No {
			break
		}
	}
	kept.Store(int32(all))
	return all
}
