package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// validateSet says what of a set is not what nft would list again.
func (t Table) validateSet(s Set) error {
	switch {
	case s.Lapse > 0 && !s.Timeout:
		return fmt.Errorf("set %s: elements lapse, and it is not a set with timeouts", s.Name)
	case s.Dynamic && (!s.Runtime || s.Size == 0):
		return fmt.Errorf("set %s: rules add elements, so it needs a size, and they are run-time state", s.Name)
	case s.Runtime && len(s.Elements) > 0:
		return fmt.Errorf("set %s: its elements are run-time state, and the plan has some", s.Name)
	case s.Numbered() && s.Data == "":
		return fmt.Errorf("set %s: only maps have numbers for keys", s.Name)
	}
	for _, e := range s.Elements {
		_, data, isMap := strings.Cut(e, " : ")
		if isMap != (s.Data != "") {
			return fmt.Errorf("set %s: element %q: maps have key and data, sets a key", s.Name, e)
		}
		if s.Data == "counter" && !slices.Contains(t.Counters, strings.Trim(data, `"`)) {
			return fmt.Errorf("set %s: the table has no counter %s", s.Name, data)
		}
	}
	return nil
}

// jumps are the chains that an expression leads to, a named map's included.
func (t Table) jumps(e Expr) []string {
	switch e := e.(type) {
	case Jump:
		return []string{e.Chain}
	case Goto:
		return []string{e.Chain}
	case VMap:
		var to []string
		for _, r := range e.Entries {
			to = append(to, t.jumps(r.Do)...)
		}
		for _, s := range t.Sets {
			if s.Name == e.Map {
				to = append(to, s.jumps()...)
			}
		}
		slices.Sort(to)
		return slices.Compact(to)
	}
	return nil
}

// jumps are the chains that a verdict map leads to.
func (s Set) jumps() (to []string) {
	for _, e := range s.Elements {
		_, do, _ := strings.Cut(e, " : ")
		if word, chain, ok := strings.Cut(do, " "); ok && (word == "jump" || word == "goto") {
			to = append(to, chain)
		}
	}
	return to
}

// hasMap wants a map of that name whose keys and data are of the types.
func (t Table) hasMap(name string, key Key, data ...string) error {
	n := slices.IndexFunc(t.Sets, func(s Set) bool { return s.Name == name })
	if n < 0 || !slices.Contains(data, t.Sets[n].Data) {
		return fmt.Errorf("the table has no map %s with data %s", name, strings.Join(data, " or "))
	}
	return t.Sets[n].keyed(key)
}

// keyed says why a set cannot be asked with the key.
func (s Set) keyed(key Key) error {
	fields, ok := key.(Fields)
	if !ok {
		if _, marks := key.(MaskedMark); marks || !s.Numbered() {
			return fmt.Errorf("%s does not have such keys", s.Name)
		}
		return nil
	}
	if kind := fields.SetType(); kind != s.Type {
		return fmt.Errorf("%s has keys of type %s, not %s", s.Name, s.Type, kind)
	}
	return nil
}

// key checks a key and notes what it implies.
func (s *seen) key(k Key) error {
	switch k := k.(type) {
	case Fields:
		return s.fields(k)
	case NumGen:
		return nonEmpty(int(k.Mod))
	case JHash:
		if k.Seed == 0 {
			return errors.New("without a seed the kernel draws one")
		}
		return errors.Join(nonEmpty(int(k.Mod)), s.fields(k.Fields))
	case MaskedMark:
		return nonEmpty(int(k.Mask))
	}
	return errors.New("it has no key")
}

func (s *seen) fields(fields Fields) error {
	for _, f := range fields {
		switch family, port, _ := strings.Cut(string(f), " "); {
		case fieldTypes[f] == "":
			return fmt.Errorf("no field is called %q", f)
		case family == "ip" || family == "ip6":
			if s.nfproto {
				return errors.New("the address implies the family, which nft would not list")
			}
			s.family = IPv4
			if family == "ip6" {
				s.family = IPv6
			}
		case family == "tcp" || family == "udp":
			if s.explicit {
				return fmt.Errorf("%s implies the protocol, and nft would not list the match before", port)
			}
			s.tcp, s.udp = family == "tcp", family == "udp"
		}
	}
	return nonEmpty(len(fields))
}

// more checks the matches and statements for routing and NAT.
func (s *seen) more(t Table, e Expr) error {
	switch e := e.(type) {
	case In:
		n := slices.IndexFunc(t.Sets, func(o Set) bool { return o.Name == e.Set && o.Data == "" })
		if n < 0 {
			return errors.New("the table has no such set")
		}
		return errors.Join(s.fields(e.Key), t.Sets[n].keyed(e.Key))
	case VMap:
		return s.vmap(t, e)
	case SetMarkFrom:
		s.statements = true
		return errors.Join(s.key(e.Key), t.hasMap(e.Map, e.Key, "mark", "meta mark"))
	case CounterFrom:
		return errors.Join(s.fields(e.Key), t.hasMap(e.Map, e.Key, "counter"))
	case Counter:
		if e.Name != "" && !slices.Contains(t.Counters, e.Name) {
			return errors.New("the table has no such counter")
		}
	case SetMarkBits:
		s.statements = true
		if e.Mask == 0 || e.Value&^e.Mask != 0 {
			return errors.New("the value is outside its mask")
		}
	case Meter:
		return s.meter(t, e)
	case RateOver:
		return e.Rate.validate()
	case RateUnder:
		return e.Rate.validate()
	case ClampMSS:
		return s.needTCP()
	case DSCP:
		if s.nfproto {
			return errors.New("it implies the family, which nft would not list")
		}
		if s.family = e.Family; e.Value > 63 {
			return errors.New("it is six bits")
		}
	case FlowAdd:
		s.statements = true
		return t.flow(e)
	case CTState, CTStatus, SaddrType:
		return named(e)
	}
	return s.nat(t, e)
}

// named checks that words are known.
func named(e Expr) error {
	switch e := e.(type) {
	case CTState:
		if e.Not && len(e.States) != 1 {
			return errors.New("not is for one state")
		}
		return known(e.States, CTStates)
	case CTStatus:
		return known(e.Bits, CTStatusBits)
	case SaddrType:
		return nonEmpty(len(e.Types))
	}
	return nil
}

func known(names []string, all map[string]uint32) error {
	for _, n := range names {
		if all[n] == 0 {
			return fmt.Errorf("nothing is called %q", n)
		}
	}
	return nonEmpty(len(names))
}

func (s *seen) vmap(t Table, e VMap) error {
	s.final = true
	if err := s.key(e.Key); err != nil {
		return err
	}
	if e.Map != "" {
		return t.hasMap(e.Map, e.Key, "verdict")
	}
	if _, fields := e.Key.(Fields); fields {
		return errors.New("fields are looked up in a named map")
	}
	_, marks := e.Key.(MaskedMark)
	for i, r := range e.Entries {
		switch r.Do.(type) {
		case Jump, Goto, Verdict:
		default:
			return fmt.Errorf("%T is no verdict", r.Do)
		}
		if r.First > r.Last || i > 0 && r.First <= e.Entries[i-1].Last || marks && r.First != r.Last {
			return fmt.Errorf("the entry %d-%d is backwards, not after the one before, or a range of marks", r.First, r.Last)
		}
	}
	return nonEmpty(len(e.Entries))
}

func (s *seen) meter(t Table, e Meter) error {
	n := slices.IndexFunc(t.Sets, func(o Set) bool { return o.Name == e.Set && o.Dynamic && o.Data == "" })
	switch {
	case n < 0:
		return errors.New("the table has no such dynamic set")
	case (e.Timeout > 0 || e.Update) && !t.Sets[n].Timeout:
		return errors.New("the set has no timeouts")
	}
	err := errors.Join(s.fields(e.Key), t.Sets[n].keyed(e.Key))
	if e.Connections > 0 {
		return err
	}
	return errors.Join(err, e.Rate.validate())
}

func (r Rate) validate() error {
	if r.Count == 0 || r.Burst == 0 || !slices.Contains([]string{"second", "minute", "hour", "day", "week"}, r.Per) {
		return fmt.Errorf("%d per %q with a burst of %d is no rate", r.Count, r.Per, r.Burst)
	}
	return nil
}

func (s *seen) nat(t Table, e Expr) error {
	switch e := e.(type) {
	case DNAT:
		s.final = true
		return s.dnat(t, e)
	case SNAT:
		s.final = true
		if !e.To.IsValid() {
			return errors.New("it has no address")
		}
	case SNATPrefix:
		s.final = true
		for _, p := range e.Pairs {
			if !whole(p.From) || !whole(p.To) || p.From.Bits() != p.To.Bits() || p.From.Addr().BitLen() != e.Pairs[0].To.Addr().BitLen() ||
				p.To.Addr().BitLen() != p.From.Addr().BitLen() {
				return fmt.Errorf("%s and %s are not prefixes of one family and length", p.From, p.To)
			}
		}
		return nonEmpty(len(e.Pairs))
	case Masquerade, Reject, Goto:
		s.final = true
	case SetDirZone, NoTrack:
		s.statements = true
	}
	return nil
}

func whole(p netip.Prefix) bool { return p.IsValid() && p == p.Masked() }

func (s *seen) dnat(t Table, e DNAT) error {
	port := e.Port
	if e.Map != "" {
		if err := s.key(e.Key); err != nil {
			return err
		}
	} else {
		if port = e.To.Port() != 0; !e.To.Addr().IsValid() || e.To.Addr().Is4() != (e.Family == IPv4) {
			return errors.New("it has no address of its family")
		}
	}
	if port && !s.tcp && !s.udp && !s.ports {
		return errors.New("the rule does not match TCP or UDP")
	}
	if e.Map == "" {
		return nil
	}
	if s.tcp && s.explicit || s.udp && s.explicit || s.ports {
		return errors.New("beside a match of the protocol alone nft would list the map's type anew: match a port")
	}
	addr := "ipv4_addr"
	if e.Family == IPv6 {
		addr = "ipv6_addr"
	}
	data := []string{addr, string(DaddrOf(e.Family))}
	if port {
		data = []string{addr + " . inet_service"}
		for _, f := range []Field{TCPDPort, UDPDPort, THDPort} {
			data = append(data, string(DaddrOf(e.Family))+" . "+string(f))
		}
	}
	return t.hasMap(e.Map, e.Key, data...)
}
