package procstat

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
)

func isESRCH(err error) bool { return errors.Is(err, syscall.ESRCH) }

// Counters are sums since the network namespace was made. (RFC 2011, RFC 4022)
type Counters struct {
	Forwarded    int64 // IPv4 packets passed on without a local socket
	ActiveOpens  int64 // connections begun here
	PassiveOpens int64 // connections accepted here
}

// Sub returns what was added since an earlier reading.
func (c Counters) Sub(was Counters) Counters {
	return Counters{c.Forwarded - was.Forwarded, c.ActiveOpens - was.ActiveOpens, c.PassiveOpens - was.PassiveOpens}
}

// ReadCounters reads those of the calling thread's network namespace.
func ReadCounters() (Counters, error) {
	text, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		return Counters{}, err
	}
	return parseSNMP(string(text))
}

// parseSNMP reads pairs of lines, the first with the names and the second with the values.
func parseSNMP(text string) (Counters, error) {
	values := map[string]int64{}
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, numbers := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if len(names) != len(numbers) || len(names) == 0 || names[0] != numbers[0] {
			return Counters{}, fmt.Errorf("/proc/net/snmp: lines %d and %d do not fit", i+1, i+2)
		}
		for k := 1; k < len(names); k++ {
			n, err := strconv.ParseInt(numbers[k], 10, 64)
			if err != nil {
				return Counters{}, fmt.Errorf("/proc/net/snmp: %w", err)
			}
			values[names[0]+names[k]] = n
		}
	}
	for _, name := range []string{"Ip:ForwDatagrams", "Tcp:ActiveOpens", "Tcp:PassiveOpens"} {
		if _, ok := values[name]; !ok {
			return Counters{}, fmt.Errorf("/proc/net/snmp has no %s", name)
		}
	}
	return Counters{values["Ip:ForwDatagrams"], values["Tcp:ActiveOpens"], values["Tcp:PassiveOpens"]}, nil
}

// Socket is an IPv4 TCP socket that a process holds.
type Socket struct {
	Local, Remote netip.AddrPort
	Listening     bool
	Inode         uint64
}

// States of /proc/net/tcp that matter here. (include/net/tcp_states.h)
const (
	established = "01"
	listening   = "0A"
)

// Sockets returns the listening and the established IPv4 TCP sockets of the calling thread's network namespace.
func Sockets() ([]Socket, error) {
	text, err := os.ReadFile("/proc/thread-self/net/tcp")
	if err != nil {
		return nil, err
	}
	return parseTCP(string(text))
}

func parseTCP(text string) ([]Socket, error) {
	var all []Socket
	for i, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if i == 0 || len(f) < 10 || f[3] != established && f[3] != listening {
			continue
		}
		local, err1 := parseAddrPort(f[1])
		remote, err2 := parseAddrPort(f[2])
		inode, err3 := strconv.ParseUint(f[9], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, fmt.Errorf("/proc/net/tcp line %d: %w", i+1, err)
		}
		all = append(all, Socket{local, remote, f[3] == listening, inode})
	}
	return all, nil
}

// parseAddrPort reads "0100007F:0050": the address as a number in the machine's byte order, the port as one read from left.
func parseAddrPort(text string) (netip.AddrPort, error) {
	a, p, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(a)
	if err != nil || len(b) != 4 {
		return netip.AddrPort{}, fmt.Errorf("address %q", text)
	}
	port, err := strconv.ParseUint(p, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port %q", text)
	}
	var octets [4]byte
	binary.NativeEndian.PutUint32(octets[:], binary.BigEndian.Uint32(b))
	return netip.AddrPortFrom(netip.AddrFrom4(octets), uint16(port)), nil
}

// Descriptors are the open files of processes.
type Descriptors struct {
	Count  int
	inodes map[uint64]bool // of sockets
}

// Holds says whether one of the processes has the socket open.
func (d Descriptors) Holds(s Socket) bool { return d.inodes[s.Inode] }

// DescriptorsOf looks at the open files of these processes.
func DescriptorsOf(pids []int) (Descriptors, error) {
	d := Descriptors{inodes: map[uint64]bool{}}
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		entries, err := os.ReadDir(dir)
		if gone(err) {
			continue
		}
		if err != nil {
			return d, err
		}
		for _, e := range entries {
			target, err := os.Readlink(dir + "/" + e.Name())
			if err != nil {
				continue // closed meanwhile
			}
			d.Count++
			if text, ok := strings.CutPrefix(target, "socket:["); ok {
				if n, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64); err == nil {
					d.inodes[n] = true
				}
			}
		}
	}
	return d, nil
}
