package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The texts below are those of nft 1.0.6: what `nft list` prints for the same objects, tabs and order of set elements included.

// Text is the table as `nft list table` prints it.
func (t Table) Text() string {
	var blocks []string
	if t.Owner {
		blocks = append(blocks, "\tflags owner\n")
	}
	for _, name := range t.Counters {
		blocks = append(blocks, "\tcounter "+name+" {\n\t\tpackets 0 bytes 0\n\t}\n")
	}
	for _, s := range t.Sets {
		blocks = append(blocks, s.text())
	}
	for _, f := range t.Flowtables {
		blocks = append(blocks, f.Text())
	}
	for _, c := range t.Chains {
		blocks = append(blocks, c.text())
	}
	return "table inet " + t.Name + " {\n" + strings.Join(blocks, "\n") + "}\n"
}

func (c Chain) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
	if c.Hook != "" {
		fmt.Fprintf(&b, "\t\ttype %s hook %s priority %s; policy accept;\n", c.Type, c.Hook, priorityText(c.Hook, c.Priority))
	}
	for _, r := range c.Rules {
		b.WriteString("\t\t" + r.Text() + "\n")
	}
	b.WriteString("\t}\n")
	return b.String()
}

// priorityText spells a priority relative to the nearest named one, if one is within ten. (nft(8), CHAINS)
func priorityText(hook string, priority int) string {
	for _, named := range []struct {
		name string
		at   int
		hook string
	}{{"raw", -300, ""}, {"mangle", -150, ""}, {"dstnat", -100, "prerouting"}, {"filter", 0, ""}, {"security", 50, ""}, {"srcnat", 100, "postrouting"}} {
		if named.hook != "" && named.hook != hook {
			continue
		}
		switch d := priority - named.at; {
		case d == 0:
			return named.name
		case d > 0 && d <= 10:
			return fmt.Sprintf("%s + %d", named.name, d)
		case d < 0 && d >= -10:
			return fmt.Sprintf("%s - %d", named.name, -d)
		}
	}
	return strconv.Itoa(priority)
}

// Text is the rule on one line, its comment last.
func (r NFTRule) Text() string {
	words := make([]string, 0, len(r.Exprs)+1)
	for _, e := range r.Exprs {
		words = append(words, e.Text())
	}
	if r.Comment != "" {
		words = append(words, `comment "`+r.Comment+`"`)
	}
	return strings.Join(words, " ")
}

// Text spells interface names in nft's order, which is that of the names as little-endian numbers.
func (e IIFName) Text() string {
	names := slices.Clone(e.Names)
	slices.SortFunc(names, compareIfnames)
	for i, n := range names {
		names[i] = `"` + n + `"`
	}
	return "iifname " + unless(e.Not) + oneOf(names)
}

func (e L4Proto) Text() string {
	protos := slices.Clone(e.Protos)
	slices.Sort(protos)
	names := make([]string, len(protos))
	for i, p := range protos {
		names[i] = protoText(p)
	}
	return "meta l4proto " + oneOf(names)
}

func (e NFProto) Text() string { return "meta nfproto " + e.Family.String() }

func (e DPort) Text() string {
	ranges := slices.SortedFunc(slices.Values(e.Ranges), func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	words := make([]string, len(ranges))
	for i, r := range ranges {
		words[i] = r.String()
	}
	return protoName(e.Proto) + " dport " + oneOf(words)
}

func (e TCPFlags) Text() string {
	switch {
	case e.Value == 0 && e.Not:
		return "tcp flags " + flagsText(e.Mask) // any of them
	case e.Value == 0:
		return "tcp flags ! " + flagsText(e.Mask)
	}
	return "tcp flags " + unless(e.Not) + flagsText(e.Value) + " / " + flagsText(e.Mask)
}

func (SocketTransparent) Text() string { return "socket transparent 1" }
func (SocketWildcard) Text() string    { return "socket wildcard 1" }
func (e SocketMark) Text() string      { return "socket mark " + bitsText(e.Mask, e.Value) }
func (e Mark) Text() string            { return "meta mark " + bitsText(e.Mask, e.Value) }
func (e CTMark) Text() string          { return "ct mark " + bitsText(e.Mask, e.Value) }

func (e CTDNAT) Text() string {
	if e.Not {
		return "ct status ! dnat"
	}
	return "ct status dnat"
}

func (e InSet) Text() string { return "meta l4proto " + unless(e.Not) + "@" + e.Set }

// Text spells route types in the order of their numbers.
func (e DaddrType) Text() string {
	order := []string{"unspec", "unicast", "local", "broadcast", "anycast", "multicast"}
	types := slices.SortedFunc(slices.Values(e.Types), func(a, b string) int {
		return cmp.Compare(slices.Index(order, a), slices.Index(order, b))
	})
	return "fib daddr type " + unless(e.Not) + oneOf(types)
}

func (e Daddr) Text() string {
	family, what := "ip6", e.Prefix.String()
	if e.Prefix.Addr().Is4() {
		family = "ip"
	}
	if e.Prefix.IsSingleIP() {
		what = e.Prefix.Addr().String()
	}
	return family + " daddr " + unless(e.Not) + what
}

func (e SetMark) Text() string { return fmt.Sprintf("meta mark set meta mark | 0x%08x", e.Bits) }

func (e SetCTMark) Text() string {
	if e.Clear {
		return fmt.Sprintf("ct mark set ct mark & 0x%08x", ^e.Bits)
	}
	return fmt.Sprintf("ct mark set ct mark | 0x%08x", e.Bits)
}

func (e SetZone) Text() string { return fmt.Sprintf("ct zone set %d", e.Zone) }

func (e TProxy) Text() string {
	if e.To.Addr().Is4() {
		return "tproxy ip to " + e.To.String()
	}
	return "tproxy ip6 to " + e.To.String()
}

func (e Redirect) Text() string  { return fmt.Sprintf("redirect to :%d", e.Port) }
func (RejectReset) Text() string { return "reject with tcp reset" }

// Text is counter, and the name of the table's counter if it is that.
func (e Counter) Text() string {
	if e.Name == "" {
		return "counter"
	}
	return `counter name "` + e.Name + `"`
}

func (e Jump) Text() string    { return "jump " + e.Chain }
func (e Verdict) Text() string { return e.Word }

// String is one port or first-last.
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// bitsText spells "& mask == value". When the mask is a run of bits from the top nft takes it for a prefix and prints value/length.
func bitsText(mask, value uint32) string {
	if inverted := ^mask; mask != 0 && inverted&(inverted+1) == 0 {
		length := 0
		for m := mask; m != 0; m <<= 1 {
			length++
		}
		return fmt.Sprintf("0x%08x/%d", value, length)
	}
	return fmt.Sprintf("& 0x%08x == 0x%08x", mask, value)
}

// protoName is the protocol of ports, TCP when none is said.
func protoName(p byte) string { return protoText(cmp.Or(p, TCP)) }

func flagsText(flags byte) string {
	var words []string
	for i, name := range []string{"fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"} {
		if flags&(1<<i) != 0 {
			words = append(words, name)
		}
	}
	return strings.Join(words, ",")
}

func protoText(p byte) string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMPv6:
		return "ipv6-icmp"
	case protoGRE:
		return "gre"
	case protoESP:
		return "esp"
	case protoSCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

// compareIfnames orders as nft does: a name is a little-endian number of 16 bytes.
func compareIfnames(a, b string) int {
	if c := cmp.Compare(len(a), len(b)); c != 0 {
		return c
	}
	for i := len(a) - 1; i >= 0; i-- {
		if c := cmp.Compare(a[i], b[i]); c != 0 {
			return c
		}
	}
	return 0
}

// oneOf spells one value bare and several as an anonymous set.
func oneOf(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return "{ " + strings.Join(words, ", ") + " }"
}

func unless(not bool) string {
	if not {
		return "!= "
	}
	return ""
}
