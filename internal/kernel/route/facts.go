package route

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Attributes of struct ifinfomsg's messages that x/sys/unix spells, and the one that it does not: what kind of master a port has.
const infoSlaveKind = 4 // IFLA_INFO_SLAVE_KIND

// Interfaces returns the interfaces with their addresses. AcceptsRA says only that an interface has a route learned from
// router advertisements; the caller knows whether the kernel or a program listens to them.
func (c *Conn) Interfaces() ([]plan.Interface, error) {
	body := make([]byte, unix.SizeofIfInfomsg)
	list, err := c.s.Dump(wire.Message{Type: unix.RTM_GETLINK, Body: body, Operation: "list", Object: "interfaces"})
	if err != nil {
		return nil, err
	}
	var out []plan.Interface
	place := map[uint32]int{}
	for _, m := range list {
		if len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		as, err := wire.Decode(m.Data[unix.SizeofIfInfomsg:])
		if err != nil {
			return nil, err
		}
		flags := binary.NativeEndian.Uint32(m.Data[8:])
		place[binary.NativeEndian.Uint32(m.Data[4:])] = len(out)
		out = append(out, plan.Interface{Name: as.String(unix.IFLA_IFNAME), Loopback: flags&unix.IFF_LOOPBACK != 0, Up: flags&unix.IFF_UP != 0, Enslaved: enslaved(as)})
	}
	if err := c.addresses(out, place); err != nil {
		return nil, err
	}
	return out, c.advertised(out, place)
}

// enslaved says whether packets arrive on the interface's master. A VRF is a master too, but prerouting sees its ports.
func enslaved(as wire.Attrs) bool {
	return as.Has(unix.IFLA_MASTER) && as.Nested(unix.IFLA_LINKINFO).String(infoSlaveKind) != "vrf"
}

func (c *Conn) addresses(out []plan.Interface, place map[uint32]int) error {
	list, err := c.s.Dump(wire.Message{Type: unix.RTM_GETADDR, Body: make([]byte, unix.SizeofIfAddrmsg), Operation: "list", Object: "addresses"})
	if err != nil {
		return err
	}
	for _, m := range list {
		if len(m.Data) < unix.SizeofIfAddrmsg {
			continue
		}
		as, err := wire.Decode(m.Data[unix.SizeofIfAddrmsg:])
		if err != nil {
			return err
		}
		b, ok := as.Get(unix.IFA_LOCAL) // on point-to-point links IFA_ADDRESS is the peer's
		if !ok {
			b, _ = as.Get(unix.IFA_ADDRESS)
		}
		addr, ok := netip.AddrFromSlice(b)
		i, known := place[binary.NativeEndian.Uint32(m.Data[4:])]
		if ok && known {
			out[i].Addresses = append(out[i].Addresses, netip.PrefixFrom(addr, int(m.Data[1])))
		}
	}
	return nil
}

// advertised marks the interfaces that have routes by router advertisement.
func (c *Conn) advertised(out []plan.Interface, place map[uint32]int) error {
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[5] = unix.AF_INET6, unix.RTPROT_RA // the kernel filters by protocol
	list, err := c.s.Dump(wire.Message{Type: unix.RTM_GETROUTE, Body: body, Operation: "list", Object: "IPv6 routes"})
	if wire.Is(err, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.ENOENT) {
		return nil
	}
	for _, m := range list {
		if len(m.Data) < unix.SizeofRtMsg || m.Data[0] != unix.AF_INET6 || m.Data[5] != unix.RTPROT_RA {
			continue
		}
		as, err := wire.Decode(m.Data[unix.SizeofRtMsg:])
		if err != nil {
			return err
		}
		if i, known := place[as.U32(unix.RTA_OIF)]; known {
			out[i].AcceptsRA = true
		}
	}
	return err
}
