package worker

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Flags of a route. (linux/route.h, linux/ipv6_route.h)
const (
	routeUp      = 0x1
	routeGateway = 0x2
	routeReject  = 0x200
	routeAnycast = 0x100000
	routeLocal   = 0x80000000
)

// routed returns the prefixes that the main table has on an interface's own link, though this host may have no address in them.
func routed(shared func(name string) bool) (all []netip.Prefix, err error) {
	for _, family := range []struct {
		file  string
		parse func(line string) (netip.Prefix, string, bool)
	}{{"/proc/self/net/route", onLink4}, {"/proc/self/net/ipv6_route", onLink6}} {
		file, err := os.Open(family.file)
		if os.IsNotExist(err) {
			continue // without IPv6
		}
		if err != nil {
			return nil, err
		}
		defer file.Close()
		lines := bufio.NewScanner(file) // a line at a time: the whole may be a hundred megabytes
		for lines.Scan() {
			if p, name, ok := family.parse(lines.Text()); ok && shared(name) {
				all = append(all, p)
			}
		}
		if err := lines.Err(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// onLink4 reads a line of /proc/net/route. (fib_route_seq_show, net/ipv4/fib_trie.c: addresses are numbers as the host stores them)
func onLink4(line string) (p netip.Prefix, name string, ok bool) {
	f := strings.Fields(line)
	if len(f) < 8 {
		return p, "", false
	}
	destination, err1 := strconv.ParseUint(f[1], 16, 32)
	flags, err2 := strconv.ParseUint(f[3], 16, 32)
	mask, err3 := strconv.ParseUint(f[7], 16, 32)
	if err1 != nil || err2 != nil || err3 != nil || flags&(routeUp|routeGateway|routeReject) != routeUp {
		return p, "", false
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(destination))
	address, length := netip.AddrFrom4(b), bits.OnesCount32(uint32(mask))
	return netip.PrefixFrom(address, length), f[0], length > 0 && !address.IsMulticast()
}

// onLink6 reads a line of /proc/net/ipv6_route. (ipv6_route_native_seq_show, net/ipv6/ip6_fib.c)
func onLink6(line string) (p netip.Prefix, name string, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 {
		return p, "", false
	}
	destination, err1 := hex.DecodeString(f[0])
	length, err2 := strconv.ParseUint(f[1], 16, 8)
	flags, err3 := strconv.ParseUint(f[8], 16, 32)
	if err1 != nil || err2 != nil || err3 != nil || len(destination) != 16 || length > 128 || flags&(routeUp|routeGateway|routeReject|routeAnycast|routeLocal) != routeUp {
		return p, "", false
	}
	address := netip.AddrFrom16([16]byte(destination))
	return netip.PrefixFrom(address, int(length)), f[9], length > 0 && !address.IsMulticast()
}
