package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits of the kernel and, for comments, of nft.
const (
	maxName    = 255 // of tables, chains and sets: NFT_NAME_MAXLEN less its NUL
	maxComment = 128 // NFTNL_UDATA_COMMENT_MAXLEN
	maxIfname  = 15  // IFNAMSIZ less its NUL
	maxDepth   = 16  // NFT_JUMP_STACK_SIZE
)

// Validate says what in the value no kernel would take, or would take for something else than meant. What Make returns is valid.
func (p Plan) Validate() error {
	var errs []error
	for i, t := range p.Tables {
		if slices.ContainsFunc(p.Tables[:i], func(o Table) bool { return o.Name == t.Name }) {
			errs = append(errs, fmt.Errorf("table %s is there twice", t.Name))
		}
		if err := t.validate(); err != nil {
			errs = append(errs, fmt.Errorf("table %s: %w", t.Name, err))
		}
	}
	for _, r := range p.Rules {
		if err := p.validateRule(r); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.Text(), err))
		}
	}
	for i, r := range p.Routes {
		if err := r.validate(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.Text(), err))
		}
		if slices.ContainsFunc(p.Routes[:i], func(o Route) bool { return o.Key() == r.Key() }) {
			errs = append(errs, fmt.Errorf("%s: the table has another route with this destination and metric", r.Text()))
		}
	}
	for _, s := range p.Sysctls {
		if s.Name == "" || s.Value == "" || strings.Contains(s.Name, "..") || strings.HasPrefix(s.Name, "/") {
			errs = append(errs, fmt.Errorf("sysctl %q = %q is not a value below /proc/sys", s.Name, s.Value))
		}
	}
	return errors.Join(errs...)
}

func (t Table) validate() error {
	if err := validName(t.Name); err != nil {
		return err
	}
	var errs []error
	names := map[string]bool{}
	for _, s := range t.Sets {
		errs = append(errs, validName(s.Name), unique(names, "set "+s.Name), t.validateSet(s))
	}
	for _, name := range t.Counters {
		errs = append(errs, validName(name), unique(names, "counter "+name))
	}
	for _, f := range t.Flowtables {
		errs = append(errs, validName(f.Name), unique(names, "flowtable "+f.Name), f.validate())
	}
	for _, c := range t.Chains {
		errs = append(errs, validName(c.Name), unique(names, "chain "+c.Name), c.validate())
		for i, r := range c.Rules {
			if err := t.validateNFTRule(r); err != nil {
				errs = append(errs, fmt.Errorf("chain %s: rule %d: %s: %w", c.Name, i+1, r.Text(), err))
			}
		}
		errs = append(errs, t.validateJumps(c, nil))
	}
	return errors.Join(errs...)
}

func unique(names map[string]bool, name string) error {
	if names[name] {
		return fmt.Errorf("%s is there twice", name)
	}
	names[name] = true
	return nil
}

// validName accepts what nft reads back as one word. (nft(8), LEXICAL CONVENTIONS)
func validName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("the name %q has %d bytes; 1 to %d are allowed", name, len(name), maxName)
	}
	for i, c := range []byte(name) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		other := c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
		if !letter && (i == 0 || !other) {
			return fmt.Errorf("the name %q is not a letter followed by letters, digits, dots, - and _", name)
		}
	}
	return nil
}

func validIfname(name string) error {
	if name == "" || len(name) > maxIfname || strings.ContainsAny(name, "/*\" \t\n") {
		return fmt.Errorf("%q is no interface name", name)
	}
	return nil
}

func (c Chain) validate() error {
	hooks := []string{"prerouting", "input", "forward", "output", "postrouting"}
	switch {
	case c.Hook == "" && (c.Type != "" || c.Priority != 0):
		return fmt.Errorf("chain %s has a type or priority but no hook", c.Name)
	case c.Hook != "" && !slices.Contains(hooks, c.Hook):
		return fmt.Errorf("chain %s: no hook is called %q", c.Name, c.Hook)
	case c.Hook != "" && c.Type != "filter" && c.Type != "nat" && c.Type != "route":
		return fmt.Errorf("chain %s: no type is called %q", c.Name, c.Type)
	case c.Type == "route" && c.Hook != "output" || c.Type == "nat" && c.Hook == "forward":
		return fmt.Errorf("chain %s: there is no type %s at hook %s", c.Name, c.Type, c.Hook)
	}
	return nil
}

// validateJumps follows the jumps from a chain: each must lead to a regular chain, not round, and not too deep.
func (t Table) validateJumps(c Chain, way []string) error {
	if slices.Contains(way, c.Name) {
		return fmt.Errorf("chain %s jumps back to itself", c.Name)
	}
	if way = append(way[:len(way):len(way)], c.Name); len(way) > maxDepth {
		return fmt.Errorf("chain %s is %d jumps away from %s", c.Name, len(way)-1, way[0])
	}
	for _, r := range c.Rules {
		for _, e := range r.Exprs {
			for _, to := range t.jumps(e) {
				n := slices.IndexFunc(t.Chains, func(o Chain) bool { return o.Name == to && o.Hook == "" })
				if n < 0 {
					return fmt.Errorf("chain %s jumps to %s, which is no regular chain of the table", c.Name, to)
				}
				if err := t.validateJumps(t.Chains[n], way); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (t Table) validateNFTRule(r NFTRule) error {
	if len(r.Comment) > maxComment || strings.ContainsAny(r.Comment, "\"\n") {
		return fmt.Errorf("the comment has %d bytes, or a quote or line end; %d are allowed", len(r.Comment), maxComment)
	}
	var seen seen
	for _, e := range r.Exprs {
		if seen.final {
			return fmt.Errorf("%s comes after a verdict", e.Text())
		}
		if err := seen.add(t, e); err != nil {
			return fmt.Errorf("%s: %w", e.Text(), err)
		}
	}
	if len(r.Exprs) == 0 {
		return errors.New("it is empty")
	}
	return nil
}

// seen is what the expressions of a rule before the present one have established.
type seen struct {
	family     Family
	tcp, udp   bool // by a match of its own or an implied one
	ports      bool // by a match of both
	explicit   bool // by L4Proto
	nfproto    bool
	statements bool // something is changed already
	final      bool
}

func (s *seen) add(t Table, e Expr) error {
	switch e := e.(type) {
	case IIFName, L4Proto, DaddrType, DPort, Daddr, InSet:
		return s.match(t, e)
	case OIFName:
		return s.match(t, IIFName(e))
	case SPort:
		return s.match(t, DPort(e))
	case Saddr:
		return s.match(t, Daddr(e))
	case NFProto:
		s.family, s.nfproto = e.Family, true
	case TCPFlags:
		return s.imply(TCP)
	case SetMark, SetCTMark, SetZone:
		s.statements = true
	case Jump, Verdict:
		s.final = true
	case RejectReset:
		s.final = true
		return s.needTCP()
	case Redirect:
		s.final = true
		if e.Port == 0 {
			return errors.New("it has no port")
		}
		return s.needPorts()
	case TProxy:
		return s.tproxy(e)
	default:
		return s.more(t, e)
	}
	return nil
}

func (s *seen) match(t Table, e Expr) error {
	switch e := e.(type) {
	case IIFName:
		for _, name := range e.Names {
			if err := validIfname(name); err != nil {
				return err
			}
		}
		return nonEmpty(len(e.Names))
	case L4Proto:
		s.explicit, s.tcp, s.udp = true, s.tcp || slices.Equal(e.Protos, []byte{TCP}), s.udp || slices.Equal(e.Protos, []byte{UDP})
		s.ports = len(e.Protos) == 2 && slices.Contains(e.Protos, TCP) && slices.Contains(e.Protos, UDP)
		return nonEmpty(len(e.Protos))
	case DaddrType:
		return nonEmpty(len(e.Types))
	case DPort:
		for i, r := range e.Ranges {
			if r.First > r.Last || i > 0 && r.First <= e.Ranges[i-1].Last {
				return fmt.Errorf("the range %s is backwards, or not after the one before", r)
			}
		}
		return errors.Join(nonEmpty(len(e.Ranges)), s.imply(cmp.Or(e.Proto, TCP)))
	case Daddr:
		if s.nfproto {
			return errors.New("the address implies the family, which nft would not list")
		}
		s.family = IPv6
		if e.Prefix.Addr().Is4() {
			s.family = IPv4
		}
		if !e.Prefix.IsValid() || e.Prefix != e.Prefix.Masked() {
			return errors.New("the prefix has bits beyond its length")
		}
	case InSet:
		if !slices.ContainsFunc(t.Sets, func(o Set) bool { return o.Name == e.Set && o.Type == "inet_proto" }) {
			return errors.New("the table has no such set of protocols")
		}
	}
	return nil
}

func nonEmpty(n int) error {
	if n == 0 {
		return errors.New("it matches nothing")
	}
	return nil
}

func (s *seen) imply(proto byte) error {
	if s.explicit {
		return fmt.Errorf("it implies %s, and nft would not list the match before", strings.ToUpper(protoText(proto)))
	}
	if proto != TCP && proto != UDP {
		return fmt.Errorf("protocol %s has no ports here", protoText(proto))
	}
	s.tcp, s.udp = s.tcp || proto == TCP, s.udp || proto == UDP
	return nil
}

func (s *seen) needPorts() error {
	if !s.tcp && !s.udp {
		return errors.New("the rule does not match TCP or UDP")
	}
	return nil
}

func (s *seen) needTCP() error {
	if !s.tcp {
		return errors.New("the rule does not match TCP")
	}
	return nil
}

// tproxy also insists that nothing is changed before: the statement ends the rule when nobody listens, and what was changed stays.
func (s *seen) tproxy(e TProxy) error {
	want := IPv6
	if e.To.Addr().Is4() {
		want = IPv4
	}
	switch {
	case s.family != want:
		return fmt.Errorf("the rule does not match %s", want)
	case s.statements:
		return errors.New("something is changed before it and would stay changed when nobody listens")
	case e.To.Port() == 0 || !e.To.Addr().IsValid():
		return errors.New("it has no address and port")
	}
	return s.needPorts()
}
