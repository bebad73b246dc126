package resolve

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxChain bounds how many aliases (CNAME) lead from a name to its addresses.
	maxChain = 8
	// maxAddresses bounds how many addresses a name may have.
	maxAddresses = 256
	// maxNegative bounds how long it is believed that there is nothing (RFC 2308 section 5 advises 1 to 3 hours at most).
	maxNegative = time.Hour
)

// answer is what one response says of a name.
type answer struct {
	addrs []netip.Addr  // none: the name has no addresses of this kind
	ttl   time.Duration // how long that may be believed
	none  bool          // there is no such name at all
}

// question makes a query for a name; recursion is asked for.
func question(id uint16, name string, kind dnsmessage.Type) ([]byte, error) {
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, fmt.Errorf("%q is no name for DNS", name)
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}},
	}
	text, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("%q is no name for DNS", name)
	}
	return text, nil
}

// errOther says that a message answers something else: it is stray, or forged.
var errOther = errors.New("not an answer to this question")

// parseHeader tells whether a message answers the question, and if it was cut short (TC). After an errOther the next message may do.
func parseHeader(p *dnsmessage.Parser, text []byte, id uint16, name string, kind dnsmessage.Type) (dnsmessage.Header, error) {
	h, err := p.Start(text)
	if err != nil || !h.Response || h.ID != id || h.OpCode != 0 {
		return h, errOther
	}
	q, err := p.Question()
	if err != nil || !strings.EqualFold(q.Name.String(), name+".") || q.Type != kind || q.Class != dnsmessage.ClassINET {
		return h, errOther
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return h, errOther
	}
	return h, nil
}

// record is what counts of a resource record of the answer.
type record struct {
	owner string // lower case
	alias string // of a CNAME, lower case; else ""
	addr  netip.Addr
	ttl   time.Duration
}

// parseAnswer reads the rest of a response whose header is good. The error is for a person.
func parseAnswer(p *dnsmessage.Parser, h dnsmessage.Header, name string, kind dnsmessage.Type) (answer, error) {
	switch h.RCode {
	case dnsmessage.RCodeSuccess, dnsmessage.RCodeNameError:
	default:
		return answer{}, codeError(h.RCode)
	}
	records, err := parseRecords(p, kind)
	if err != nil {
		return answer{}, err
	}
	a := follow(records, strings.ToLower(name+"."))
	if len(a.addrs) > 0 {
		return a, nil
	}
	a.ttl, a.none = min(negative(p), maxNegative), h.RCode == dnsmessage.RCodeNameError
	return a, nil
}

// codeError is a response that refuses to answer.
type codeError dnsmessage.RCode

// Error implements error.
func (e codeError) Error() string {
	switch dnsmessage.RCode(e) {
	case dnsmessage.RCodeServerFailure:
		return "the DNS server failed (SERVFAIL)"
	case dnsmessage.RCodeRefused:
		return "the DNS server refused (REFUSED)"
	case dnsmessage.RCodeFormatError:
		return "the DNS server did not understand (FORMERR)"
	case dnsmessage.RCodeNotImplemented:
		return "the DNS server cannot do that (NOTIMP)"
	}
	return fmt.Sprintf("the DNS server answered with code %d", e)
}

func parseRecords(p *dnsmessage.Parser, kind dnsmessage.Type) ([]record, error) {
	var all []record
	for len(all) < maxAddresses+maxChain {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return all, nil
		}
		if err != nil {
			return nil, errors.New("the DNS server's answer is broken")
		}
		r := record{owner: strings.ToLower(h.Name.String()), ttl: time.Duration(min(h.TTL, 1<<31-1)) * time.Second}
		switch {
		case h.Class != dnsmessage.ClassINET || h.Type != kind && h.Type != dnsmessage.TypeCNAME:
			err = p.SkipAnswer()
		case h.Type == dnsmessage.TypeCNAME:
			var c dnsmessage.CNAMEResource
			if c, err = p.CNAMEResource(); err == nil {
				r.alias = strings.ToLower(c.CNAME.String())
				all = append(all, r)
			}
		case h.Type == dnsmessage.TypeA:
			var a dnsmessage.AResource
			if a, err = p.AResource(); err == nil {
				r.addr = netip.AddrFrom4(a.A)
				all = append(all, r)
			}
		default:
			var a dnsmessage.AAAAResource
			if a, err = p.AAAAResource(); err == nil {
				r.addr = netip.AddrFrom16(a.AAAA)
				all = append(all, r)
			}
		}
		if err != nil {
			return nil, errors.New("the DNS server's answer is broken")
		}
	}
	return all, nil // what is beyond is not wanted
}

// follow takes the addresses that the aliases lead to, and nothing else that was sent along.
func follow(records []record, owner string) answer {
	ttl := time.Duration(1<<63 - 1)
	for range maxChain {
		a, next := answer{}, ""
		for _, r := range records {
			if r.owner != owner {
				continue
			}
			ttl = min(ttl, r.ttl)
			switch {
			case r.alias != "":
				next = r.alias
			case usable(r.addr) && len(a.addrs) < maxAddresses:
				a.addrs = append(a.addrs, r.addr)
			}
		}
		if len(a.addrs) > 0 {
			slices.SortFunc(a.addrs, netip.Addr.Compare)
			a.addrs, a.ttl = slices.Compact(a.addrs), ttl
			return a
		}
		if next == "" {
			break
		}
		owner = next
	}
	return answer{}
}

// usable refuses addresses that no server has, so that a name cannot make Salp connect to itself by 0.0.0.0, or to a group.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// negative returns how long it may be believed that there is nothing: the SOA record of the authority section says it (RFC 2308 section 5).
func negative(p *dnsmessage.Parser) time.Duration {
	if p.SkipAllAnswers() != nil {
		return 0
	}
	for range maxChain {
		h, err := p.AuthorityHeader()
		if err != nil {
			return 0
		}
		if h.Type != dnsmessage.TypeSOA {
			if p.SkipAuthority() != nil {
				return 0
			}
			continue
		}
		soa, err := p.SOAResource()
		if err != nil {
			return 0
		}
		return time.Duration(min(h.TTL, soa.MinTTL, 1<<31-1)) * time.Second
	}
	return 0
}
