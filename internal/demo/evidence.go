package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"salp/internal/lab"
	"salp/internal/plan"
)

const tcp = 6 // /etc/protocols

// finding is one thing that the kernel holds.
type finding struct{ kind, text, remark string }

// sockets returns the host's established TCP sockets towards a client and towards a server.
func sockets(h *lab.Host, client netip.AddrPort, seen lab.Peer) (found []finding, err error) {
	err = h.Do(func() error {
		all, err := netlink.SocketDiagTCP(nl.FAMILY_V4)
		if err != nil {
			return fmt.Errorf("reading sockets: %w", err)
		}
		for _, s := range all {
			if s.State != netlink.TCP_ESTABLISHED {
				continue
			}
			local := addrPort(s.ID.Source, s.ID.SourcePort)
			remote := addrPort(s.ID.Destination, s.ID.DestinationPort)
			text := fmt.Sprintf("%s ⇄ %s", local, remote)
			if remote == client {
				found = append(found, finding{"socket", text, "the half towards the client"})
			}
			if local == seen.From && remote == seen.To {
				found = append(found, finding{"socket", text, "the half towards the server"})
			}
		}
		return nil
	})
	sortFindings(found)
	return found, err
}

// flows returns the conntrack entries of the host that a client's address and port are in.
func flows(h *lab.Host, client netip.AddrPort) (found []finding, err error) {
	err = h.Do(func() error {
		all, err := netlink.ConntrackTableList(netlink.ConntrackTable, nl.FAMILY_V4)
		if err != nil {
			return fmt.Errorf("reading conntrack: %w", err)
		}
		for _, f := range all {
			if f.Forward.Protocol == tcp && addrPort(f.Forward.SrcIP, f.Forward.SrcPort) == client {
				found = append(found, flowFinding(f))
			}
		}
		return nil
	})
	sortFindings(found)
	return found, err
}

// demoMarks are the bits of the marks that the demo's gateways use, which do not move them.
var demoMarks = plan.MarksIn(0xf0000000)

func flowFinding(f *netlink.ConntrackFlow) finding {
	text := fmt.Sprintf("%s → %s, answered by %s", addrPort(f.Forward.SrcIP, f.Forward.SrcPort),
		addrPort(f.Forward.DstIP, f.Forward.DstPort), addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort))
	var marks []string
	for _, m := range []struct {
		bit  uint32
		says string
	}{{demoMarks.Intercepted, "taken in"}, {demoMarks.Zone, "upstream"}} {
		if f.Mark&m.bit != 0 {
			marks = append(marks, fmt.Sprintf("mark %#x: %s", m.bit, m.says))
		}
	}
	return finding{"conntrack", text, strings.Join(marks, ", ")}
}

// rules returns the host's ip rules for an interface that look at a mark, as `ip rule` would spell them.
func rules(h *lab.Host, iface string) (found []finding, err error) {
	err = h.Do(func() error {
		all, err := netlink.RuleList(nl.FAMILY_V4)
		if err != nil {
			return fmt.Errorf("reading ip rules: %w", err)
		}
		for _, r := range all {
			if r.Mark != 0 && r.Mask != nil && r.IifName == iface {
				text := fmt.Sprintf("%d: from all fwmark %#x/%#x iif %s lookup %d", r.Priority, r.Mark, *r.Mask, r.IifName, r.Table)
				found = append(found, finding{"ip rule", text, ""})
			}
		}
		return nil
	})
	return found, err
}

// planned returns the first rule of the plan that has the words, without its comment, which becomes the remark.
func planned(plan []string, words string) (found []finding) {
	for _, l := range plan {
		if strings.Contains(l, words) {
			text, comment, _ := strings.Cut(l, " comment ")
			return []finding{{"nft rule", text, strings.Trim(comment, `"`)}}
		}
	}
	return nil
}

func sortFindings(f []finding) {
	sort.Slice(f, func(i, j int) bool {
		return f[i].remark < f[j].remark || f[i].remark == f[j].remark && f[i].text < f[j].text
	})
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// state is what a gateway's kernel holds that Salp might change: one line for each table, ip rule, route and setting.
type state map[string]string

// readState reads it again when the kernel changed it while it was read.
func readState(h *lab.Host) (s state, err error) {
	for range 10 {
		s, err = readStateOnce(h)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return s, err
}

func readStateOnce(h *lab.Host) (state, error) {
	s := state{}
	err := h.Do(func() error {
		tables, err := (&nftables.Conn{}).ListTables()
		if err != nil {
			return fmt.Errorf("reading nft tables: %w", err)
		}
		for _, t := range tables {
			s[fmt.Sprintf("nft table %d %s", t.Family, t.Name)] = fmt.Sprint(t.Flags)
		}
		rules, err := netlink.RuleList(nl.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("reading ip rules: %w", err)
		}
		for _, r := range rules {
			s["ip rule "+r.String()] = fmt.Sprint(r.Mark)
		}
		if err := s.readRoutes(); err != nil {
			return err
		}
		return s.readSettings()
	})
	return s, err
}

func (s state) readRoutes() error {
	for _, family := range []int{nl.FAMILY_V4, nl.FAMILY_V6} {
		// Table 0 with this mask: the routes of all tables.
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("reading routes: %w", err)
		}
		for _, r := range routes {
			if r.Table < 255 || r.Table > 255 { // those in "local" come and go with addresses
				s["route "+r.String()] = ""
			}
		}
	}
	return nil
}

// changing are settings that the kernel changes by itself, or that come with a module.
var changing = []string{"nf_conntrack_count", "/netfilter/"}

func (s state) readSettings() error {
	return filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // settings of an interface may go while we look
		}
		for _, c := range changing {
			if strings.Contains(path, c) {
				return nil
			}
		}
		if text, err := os.ReadFile(path); err == nil { // some may only be written
			s["sysctl "+strings.TrimPrefix(path, "/proc/sys/")] = strings.TrimSpace(string(text))
		}
		return nil
	})
}

// differences returns what is otherwise in now than in before, one line for each.
func (before state) differences(now state) []string {
	var found []string
	for k, v := range now {
		if was, there := before[k]; !there {
			found = append(found, "new: "+k)
		} else if was != v {
			found = append(found, fmt.Sprintf("changed: %s: %s → %s", k, was, v))
		}
	}
	for k := range before {
		if _, there := now[k]; !there {
			found = append(found, "gone: "+k)
		}
	}
	sort.Strings(found)
	return found
}
