package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"
)

// address is an IP address with a port. own says that it is one to listen on, where 0.0.0.0 and [::] mean every address.
func address(own bool) kind[netip.AddrPort] {
	s := shape{words: "address with port", schema: map[string]any{"type": "string", "pattern": `^([0-9.]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$`}}
	return kind[netip.AddrPort]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (netip.AddrPort, bool) {
		const form = `write an address with a port, as in  "10.0.0.1:80"  or  "[2001:db8::1]:80"`
		if n.Kind != yaml.ScalarNode {
			if !bareIPv6(n) { // which inspect has reported
				r.wrongType(n, at, "an address with a port", form)
			}
			return netip.AddrPort{}, false
		}
		a, err := netip.ParseAddrPort(n.Value)
		problem, hint := "is not an address with a port", addressHint(n.Value, form)
		if err == nil {
			problem, hint = unfit(a, own)
		}
		if problem != "" {
			r.bad(n, at, problem, hint)
			return netip.AddrPort{}, false
		}
		return a, true
	}}
}

// bareIPv6 says that a node is what YAML makes of [2001:db8::1]:80 without quotes: a mapping whose key is a list.
func bareIPv6(n *yaml.Node) bool {
	return n.Kind == yaml.MappingNode && len(n.Content) == 2 && n.Content[0].Kind == yaml.SequenceNode && n.Content[0].Style&yaml.FlowStyle != 0
}

// bareIPv6Form finds an IPv6 address with a port that is not in quotes.
var bareIPv6Form = regexp.MustCompile(`(?:^|[\s,\[])(\[[0-9a-fA-F:.]*:[0-9a-fA-F.]*:[0-9a-fA-F:.]*\]:[0-9]+)`)

const quotesForIPv6 = `in YAML a [ begins a list: put the address in quotes, as in  "[2001:db8::1]:80"`

// unfit says why an address cannot be used, "" when it can.
func unfit(a netip.AddrPort, own bool) (problem, hint string) {
	ip := a.Addr()
	switch {
	case a.Port() == 0:
		return "has port 0", "ports are 1 to 65535"
	case ip.Is4In6():
		return "is an IPv4 address written as IPv6", fmt.Sprintf("write  %q", netip.AddrPortFrom(ip.Unmap(), a.Port()))
	case ip.Zone() != "", ip.IsLinkLocalUnicast() && ip.Is6():
		return "is a link-local address, which Salp leaves alone", "use an address that is valid beyond one link"
	case ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is not the address of one machine", "TCP needs a unicast address"
	case ip.IsUnspecified() && !own:
		return "names no machine", "write the server's own address"
	}
	return "", ""
}

// addressHint guesses what someone who wrote text as an address with a port was after.
func addressHint(text, form string) string {
	if port, ok := strings.CutPrefix(text, ":"); ok || strings.HasPrefix(text, "*:") {
		port = strings.TrimPrefix(port, "*:")
		if _, err := strconv.ParseUint(port, 10, 16); err == nil {
			return fmt.Sprintf(`for every address write both  "0.0.0.0:%s", "[::]:%s"`, port, port)
		}
		return form
	}
	if ip, err := netip.ParseAddr(text); err == nil {
		hint := fmt.Sprintf("the port is missing: write  %q", netip.AddrPortFrom(ip.WithZone(""), 80))
		if i := strings.LastIndex(text, ":"); i > 0 && ip.Is6() {
			if a, err := netip.ParseAddrPort("[" + text[:i] + "]:" + text[i+1:]); err == nil {
				hint = fmt.Sprintf("an IPv6 address with a port needs brackets: write  %q", a)
			}
		}
		return hint
	}
	if host, port, ok := strings.Cut(text, ":"); ok && host != "" && strings.ContainsFunc(host, unicode.IsLetter) && !strings.Contains(port, ":") {
		return "names are not looked up: write the address itself"
	}
	if _, err := strconv.ParseUint(text, 10, 16); err == nil {
		return fmt.Sprintf(`for every address write both  "0.0.0.0:%s", "[::]:%s"`, text, text)
	}
	return form
}

// ports is one TCP port or a range of them.
func ports() kind[PortRange] {
	s := shape{words: "port or range of ports", schema: map[string]any{"anyOf": []any{
		map[string]any{"type": "integer", "minimum": 1, "maximum": 65535},
		map[string]any{"type": "string", "pattern": "^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$"},
	}}}
	return kind[PortRange]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (PortRange, bool) {
		const form = "write a port from 1 to 65535, or a range as in  8000-8099"
		if n.Kind != yaml.ScalarNode {
			r.wrongType(n, at, "a port or a range of ports", form)
			return PortRange{}, false
		}
		from, to, isRange := strings.Cut(n.Value, "-")
		first, okFirst := parsePort(from)
		last, okLast := first, true
		if isRange {
			last, okLast = parsePort(to)
		}
		if !okFirst || !okLast {
			r.bad(n, at, "is not a port or a range of ports", portHint(n.Value, form))
			return PortRange{}, false
		}
		if last < first {
			r.bad(n, at, "is a range that ends before it begins", fmt.Sprintf("write  %d-%d", last, first))
			return PortRange{}, false
		}
		return PortRange{first, last}, true
	}}
}

// parsePort reads a port in plain decimal digits.
func parsePort(s string) (uint16, bool) {
	v, err := strconv.ParseUint(s, 10, 16)
	return uint16(v), err == nil && v > 0 && strconv.FormatUint(v, 10) == s
}

var portNames = map[string]string{"ssh": "22", "smtp": "25", "http": "80", "pop3": "110", "imap": "143", "https": "443"}

// portHint guesses what someone who wrote text as a port was after.
func portHint(text, form string) string {
	if number, ok := portNames[strings.ToLower(text)]; ok {
		return "write  " + number
	}
	for _, separator := range []string{":", "..", " - ", "–"} {
		from, to, ok := strings.Cut(text, separator)
		_, okFrom := parsePort(from)
		_, okTo := parsePort(to)
		if ok && okFrom && okTo {
			return "write  " + from + "-" + to
		}
	}
	if v, err := strconv.ParseUint(text, 0, 16); err == nil && v > 0 && strings.HasPrefix(text, "0x") {
		return fmt.Sprintf("write it in decimal digits: %d", v)
	}
	switch strings.ToLower(text) {
	case "*", "all", "any":
		return "for every port write  1-65535"
	}
	return form
}

var interfaceForm = regexp.MustCompile(`^[^\s/:*+]{1,15}$`)

// interfaceName is the name of a network interface.
func interfaceName() kind[string] {
	return word("name of an interface", map[string]any{"pattern": interfaceForm.String()}, func(s string) (problem, hint string) {
		switch {
		case s == "lo":
			return "is the loopback interface, where nothing comes in from clients", "name the interface that clients come in by"
		case s == "all", s == "any", strings.ContainsAny(s, "*+"):
			return "stands for several interfaces", "name each interface"
		case s == ".", s == "..", !interfaceForm.MatchString(s):
			return "cannot be the name of an interface", "see  ip link"
		}
		return "", ""
	})
}
