package lab

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// settleBound is how long a kernel may take, an emulated one on a busy machine too.
const settleBound = 10 * time.Second

// settle waits until the kernel has finished with the host's IPv6 addresses: it adds their local routes, and the link-local ones, a
// little later by itself (net/ipv6/addrconf.c, addrconf_dad_work), which would look like a change that somebody made.
func (h *Host) settle() error {
	for end := time.Now().Add(settleBound); ; time.Sleep(2 * time.Millisecond) {
		settled, err := h.settled()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			err = nil // the kernel is at it: look again
		}
		if settled || err != nil {
			return h.fault(err, "waiting for IPv6 addresses")
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: the kernel does not finish with the IPv6 addresses within %s", h.Name, settleBound)
		}
	}
}

func (h *Host) settled() (bool, error) {
	links, err := h.nl.LinkList()
	if err != nil {
		return false, err
	}
	routes, err := h.nl.RouteListFiltered(nl.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return false, err
	}
	local := map[string]bool{}
	for _, r := range routes {
		if r.Dst != nil && r.Type == unix.RTN_LOCAL {
			local[r.Dst.IP.String()] = true
		}
	}
	for _, link := range links {
		addrs, err := h.nl.AddrList(link, nl.FAMILY_V6)
		if err != nil {
			return false, err
		}
		linkLocal := len(addrs) == 0 // no IPv6 here
		for _, a := range addrs {
			if a.Flags&unix.IFA_F_TENTATIVE != 0 || !local[a.IP.String()] {
				return false, nil
			}
			linkLocal = linkLocal || a.IP.IsLinkLocalUnicast() || a.IP.IsLoopback()
		}
		if !linkLocal {
			return false, nil
		}
	}
	return true, nil
}
