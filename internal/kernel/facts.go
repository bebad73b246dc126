package kernel

import (
	"fmt"
	"os"
	"strconv"

	"salp/internal/kernel/wire"
	"salp/internal/plan"

	"golang.org/x/sys/unix"
)

// Facts gathers what a plan needs to know about the host. It needs no privilege, except that only CAP_NET_ADMIN can tell
// whether tproxy works. Sockets of this process, and of the process that applied the plan in the state file, are left out of
// Listening; Ports are those of that plan.
func (h *Host) Facts() (plan.Facts, error) {
	interfaces, err := h.route.Interfaces()
	if err != nil {
		return plan.Facts{}, err
	}
	f := plan.Facts{Interfaces: interfaces, IPv6: h.ipv6(), TProxy: h.tproxy()}
	for i := range f.Interfaces {
		f.Interfaces[i].AcceptsRA = f.Interfaces[i].AcceptsRA && h.kernelHearsRA(f.Interfaces[i].Name)
	}
	s, _, err := h.load()
	if err != nil {
		return plan.Facts{}, err
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

// ipv6 says whether the host does IPv6: that the kernel has it, and that it is not switched off on the loopback interface,
// without which nothing can be delivered to a local listener.
func (h *Host) ipv6() bool {
	off, err := h.sysctl.Read("net/ipv6/conf/lo/disable_ipv6")
	return err == nil && off == "0"
}

// kernelHearsRA says whether the kernel itself takes router advertisements on an interface as a host does, and will not any
// more once it forwards. Where a program like systemd-networkd listens to them the value is 0 and forwarding changes nothing.
func (h *Host) kernelHearsRA(name string) bool {
	v, err := h.sysctl.Read("net/ipv6/conf/" + name + "/accept_ra")
	return err == nil && v == "1"
}

// tproxy says whether the kernel can divert. The answer is kept: a kernel does not unlearn it, and asking waits for all
// processors once.
func (h *Host) tproxy() plan.Support {
	if known := plan.Support(h.canDivert.Load()); known != plan.Unknown {
		return known
	}
	all := plan.Yes
	for _, name := range []string{"nft tproxy", "nft tproxy IPv6", "nft socket"} {
		support, _ := h.try(name)
		if support != plan.Yes {
			all = support
		}
		if support == plan.No {
			break
		}
	}
	h.canDivert.Store(int32(all))
	return all
}
