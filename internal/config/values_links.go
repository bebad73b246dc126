package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// oneOrMore is a value, or a list of such values.
func oneOrMore[V any](words string, k kind[V], limit int) kind[[]V] {
	many := list(words, k, limit)
	s := shape{words: k.shape.words + ", or a list of them"}
	s.schema = map[string]any{"anyOf": []any{k.shape.jsonSchema(), many.shape.jsonSchema()}}
	return kind[[]V]{shape: s, read: func(r *reader, n *yaml.Node, at Path) ([]V, bool) {
		if n.Kind == yaml.SequenceNode {
			return many.read(r, n, at)
		}
		v, ok := k.read(r, n, at)
		return []V{v}, ok
	}}
}

// hostAddress is an address without a port. linkLocal says that one of those will do.
func hostAddress(linkLocal bool) kind[netip.Addr] {
	return scalar("address", "an address", `^[0-9a-fA-F.:]+$`, func(s string) (netip.Addr, string, string) {
		const form = `write an address, as in  192.0.2.1  or  "2001:db8::1"`
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil && strings.Contains(s, "/"):
			return a, "is not an address", "leave out the / and what follows"
		case err != nil:
			return a, "is not an address", form
		case a.Zone() != "":
			return a, "has a zone", "write  " + quote(a.WithZone("").String()) + ": the interface is known"
		case a.Is4In6():
			return a, "is an IPv4 address written as IPv6", "write  " + a.Unmap().String()
		case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return a, "is not the address of another machine or a network interface", form
		case a.IsLinkLocalUnicast() && !linkLocal:
			return a, "is a link-local address, which reaches no further than one network", form
		}
		return a, "", ""
	})
}

// perFamily is an address, or a list of an IPv4 and an IPv6 one, or the word that stands for none.
func perFamily(none string, linkLocal bool) kind[ByFamily] {
	one := hostAddress(linkLocal)
	many := list("addresses", one, 2)
	s := shape{words: "`" + none + "`, an address, or a list of an IPv4 and an IPv6 address"}
	s.schema = map[string]any{"anyOf": []any{map[string]any{"const": none}, one.shape.jsonSchema(), many.shape.jsonSchema()}}
	return kind[ByFamily]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (b ByFamily, ok bool) {
		var all []netip.Addr
		switch {
		case n.Kind == yaml.ScalarNode && n.Value == none:
			return b, true
		case n.Kind == yaml.SequenceNode:
			all, ok = many.read(r, n, at)
		default:
			var a netip.Addr
			a, ok = one.read(r, n, at)
			all = []netip.Addr{a}
		}
		for _, a := range all {
			slot := &b.IPv6
			if a.Is4() {
				slot = &b.IPv4
			}
			if slot.IsValid() && a.IsValid() {
				r.fault(n, at.key()+" has two addresses of one family", "name one of each family")
				return b, false
			}
			*slot = a
		}
		return b, ok
	}}
}

// prefix is an address with a prefix length.
func prefix() kind[netip.Prefix] {
	return scalar("prefix", "a prefix", `^[0-9a-fA-F.:]+(/[0-9]+)?$`, parsePrefix)
}

// placeItem is an address, a prefix, a host name or list:NAME.
func placeItem() kind[Place] {
	return scalar("address, prefix, host name or `list:NAME`", "an address, a prefix or a name", `^\S+$`, readPlace)
}

func readPlace(s string) (p Place, problem, hint string) {
	if name, problem, hint, is := listItem(s); is {
		return Place{List: name}, problem, hint
	}
	numeric := !strings.ContainsFunc(s, func(c rune) bool { return (c < '0' || c > '9') && c != '.' })
	if numeric || strings.ContainsAny(s, ":/") {
		p.Prefix, problem, hint = parsePrefix(s)
		return p, problem, hint
	}
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "*") {
		return p, "stands for names that nobody can list", "name each host, or its addresses"
	}
	p.Name, problem, hint = hostName(s, s)
	return p, problem, hint
}

// target is an address with a port, which may be left out where there is a usual one. usual is 0 when there is none.
func target(usual uint16) kind[netip.AddrPort] {
	k := address(false)
	if usual == 0 {
		return k
	}
	k.shape.words = fmt.Sprintf("address, with a port unless it is %d", usual)
	k.shape.schema = map[string]any{"type": "string", "pattern": `^(\[[0-9a-fA-F:.]+\]:[0-9]{1,5}|[0-9a-fA-F:.]+)$`}
	read := k.read
	k.read = func(r *reader, n *yaml.Node, at Path) (netip.AddrPort, bool) {
		if a, err := netip.ParseAddr(n.Value); n.Kind == yaml.ScalarNode && err == nil {
			ap := netip.AddrPortFrom(a, usual)
			if problem, hint := unfit(ap, false); problem != "" {
				r.bad(n, at, problem, hint)
				return ap, false
			}
			return ap, true
		}
		return read(r, n, at)
	}
	return k
}

// portless is an address whose port may be left out, which is port 0.
func portless() kind[netip.AddrPort] {
	k := target(1)
	read := k.read
	k.shape.words = "address, with or without a port"
	k.read = func(r *reader, n *yaml.Node, at Path) (netip.AddrPort, bool) {
		a, ok := read(r, n, at)
		if _, err := netip.ParseAddr(n.Value); err == nil {
			a = netip.AddrPortFrom(a.Addr(), 0)
		}
		return a, ok
	}
	return k
}

// webURL is a URL of HTTP or HTTPS.
func webURL() kind[string] {
	return word("URL", map[string]any{"pattern": "^https?://[^ ]+$", "maxLength": 2048}, func(s string) (problem, hint string) {
		u, err := url.Parse(s)
		switch {
		case err != nil, len(s) > 2048, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
			return "is not a URL of HTTP", "write it as  http://host/path  or  https://host/path"
		case u.User != nil:
			return "has a name or a password in it", "leave them out"
		case u.Fragment != "":
			return "has a # part, which no server is sent", "leave it out"
		}
		return "", ""
	})
}

var rateForm = regexp.MustCompile(`^([0-9]{1,6})(?:\.([0-9]{1,3}))?(kbit|Mbit|Gbit)$`)

// rate is bits a second, as in 100Mbit.
func rate() kind[uint64] {
	const form = "write a number with a unit (kbit, Mbit, Gbit), as in  100Mbit"
	return scalar("bits a second, as `100Mbit`", "a rate", rateForm.String(), func(s string) (uint64, string, string) {
		m := rateForm.FindStringSubmatch(s)
		if m == nil {
			if _, err := strconv.ParseUint(s, 10, 31); err == nil {
				return 0, "has no unit", "write  " + s + "Mbit, or another of kbit, Gbit"
			}
			return 0, "is not a rate", form
		}
		unit := map[string]uint64{"kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}[m[3]]
		whole, _ := strconv.ParseUint(m[1], 10, 64)
		part, _ := strconv.ParseUint((m[2] + "000")[:3], 10, 64)
		v := whole*unit + part*unit/1000
		if v < 1e4 || v > 1e12 {
			return 0, "is out of range", "write a rate from 10kbit to 1000Gbit"
		}
		return v, "", ""
	})
}

// percent is a share, as in 20%.
func percent() kind[int] {
	return scalar("share from `1%` to `100%`", "a share", `^[0-9]{1,3}%$`, func(s string) (int, string, string) {
		digits, ok := strings.CutSuffix(s, "%")
		v, err := strconv.Atoi(digits)
		switch {
		case err != nil || strconv.Itoa(v) != digits:
			return 0, "is not a share", "write it as  20%"
		case !ok:
			return 0, "has no %", "write  " + digits + "%"
		case v < 1 || v > 100:
			return 0, "is out of range", "write a share from 1% to 100%"
		}
		return v, "", ""
	})
}

// codePoint is a DiffServ code point.
func codePoint() kind[uint8] {
	k := dscp()
	return kind[uint8]{shape: k.shape, read: func(r *reader, n *yaml.Node, at Path) (uint8, bool) {
		v, ok := k.read(r, n, at)
		if !ok {
			return 0, false
		}
		return *v, true
	}}
}

// program is a program and its arguments.
func program() kind[[]string] {
	argument := scalar("text", "a word", "", func(s string) (string, string, string) {
		if strings.Contains(s, "\x00") || len(s) > 4096 {
			return "", "cannot be an argument", ""
		}
		return s, "", ""
	})
	k := list("words", argument, 64)
	read := k.read
	k.read = func(r *reader, n *yaml.Node, at Path) ([]string, bool) {
		words, ok := read(r, n, at)
		if ok && len(words) > 0 && !(filepath.IsAbs(words[0]) && filepath.Clean(words[0]) == words[0]) {
			r.fault(n.Content[0], fmt.Sprintf("%s: %s is not the absolute path of a program", at.key(), quote(words[0])),
				"write its whole path, and each argument as a word of its own, as in  [/usr/local/bin/link-changed, office]")
			return nil, false
		}
		return words, ok
	}
	return k
}

// linkMask is a mask of two to eight bits that lie side by side.
func linkMask() kind[uint32] {
	k := mask()
	k.shape.words = "mask of two to eight bits side by side, in hexadecimal"
	k.shape.schema = map[string]any{"anyOf": []any{
		map[string]any{"type": "integer", "minimum": 3, "maximum": 0xff000000},
		map[string]any{"type": "string", "pattern": "^0x[0-9a-fA-F]{1,8}$"},
	}}
	k.read = func(r *reader, n *yaml.Node, at Path) (uint32, bool) {
		const hint = "write two to eight bits side by side that nobody else uses, as in  0x0f000000"
		if n.Kind != yaml.ScalarNode {
			r.wrongType(n, at, "a mask", hint)
			return 0, false
		}
		base, digits := 10, n.Value
		if hex, ok := strings.CutPrefix(n.Value, "0x"); ok {
			base, digits = 16, hex
		}
		v, err := strconv.ParseUint(digits, base, 32)
		if err != nil || base == 10 && digits != strconv.FormatUint(v, 10) {
			r.bad(n, at, "is not a mask of 32 bits", hint)
			return 0, false
		}
		if !sideBySide(uint32(v)) {
			r.bad(n, at, "is not two to eight bits side by side", hint)
			return 0, false
		}
		return uint32(v), true
	}
	return k
}

// sideBySide says whether v is two to eight bits next to one another.
func sideBySide(v uint32) bool {
	return slices.ContainsFunc([]uint32{0x3, 0x7, 0xf, 0x1f, 0x3f, 0x7f, 0xff}, func(run uint32) bool {
		for shift := range 32 {
			if run<<shift == v && run<<shift>>shift == run {
				return true
			}
		}
		return false
	})
}
