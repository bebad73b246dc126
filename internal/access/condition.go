package access

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"salp/internal/config"
)

// addresses tests an address against prefixes of the file and lists.
type addresses struct {
	server bool
	fixed  *AddressSet
	lists  []*list
}

func (t *addresses) holds(f *Facts) bool {
	a := f.Client
	if t.server {
		a = f.Server
	}
	if !a.IsValid() {
		return false
	}
	a = a.Unmap()
	if t.fixed.Has(a) {
		return true
	}
	for _, l := range t.lists {
		if l.addresses.Load().Has(a) {
			return true
		}
	}
	return false
}

type portRanges []config.PortRange

func (t portRanges) holds(f *Facts) bool {
	for _, p := range t {
		if f.Port >= p.First && f.Port <= p.Last {
			return f.Port != 0
		}
	}
	return false
}

// words tests a fact that is one word of a few.
type words struct {
	of  func(*Facts) string
	any bool // every word will do
	all []string
}

func (t *words) holds(f *Facts) bool {
	w := t.of(f)
	return w != "" && (t.any || slices.Contains(t.all, w))
}

// offers tests the protocols that a TLS client offers.
type offers []string

func (t offers) holds(f *Facts) bool {
	return slices.ContainsFunc(f.ALPN, func(protocol string) bool { return slices.Contains(t, protocol) })
}

// hosts tests a host name.
type hosts struct {
	sni    bool
	exact  map[string]bool
	suffix map[string]bool
	lists  []*list
}

func (t *hosts) holds(f *Facts) bool {
	host := f.Host
	if t.sni {
		host = f.SNI
	}
	if host == "" {
		return false
	}
	if t.exact[host] || t.below(host) {
		return true
	}
	for _, l := range t.lists {
		if l.names.Load().Has(host) {
			return true
		}
	}
	return false
}

func (t *hosts) below(host string) bool {
	if len(t.suffix) == 0 || isAddress(host) {
		return false
	}
	for {
		if t.suffix[host] {
			return true
		}
		i := strings.IndexByte(host, '.')
		if i < 0 {
			return false
		}
		host = host[i+1:]
	}
}

type paths []matcher

func (t paths) holds(f *Facts) bool {
	if f.Path == "" {
		return false
	}
	return anyMatches(t, Path(f.Path))
}

type headers []headerTest

type headerTest struct {
	name  string
	value matcher
}

func (t headers) holds(f *Facts) bool {
	if f.Header == nil {
		return false
	}
	for i := range t {
		for n := 0; ; n++ {
			value, ok := f.Header.Value(t[i].name, n)
			if !ok {
				break
			}
			if t[i].value.matches(value) {
				return true
			}
		}
	}
	return false
}

type contentTypes []matcher

func (t contentTypes) holds(f *Facts) bool {
	return f.ContentType != "" && anyMatches(t, f.ContentType)
}

func anyMatches(all []matcher, s string) bool {
	for i := range all {
		if all[i].matches(s) {
			return true
		}
	}
	return false
}

type verified bool

func (t verified) holds(f *Facts) bool { return f.HostVerified == bool(t) }

// week tests the time of the week.
type week []span

type span struct {
	config.TimeSpan
	zone *time.Location
}

func (t week) holds(f *Facts) bool {
	for i := range t {
		if t[i].holds(f.Time) {
			return true
		}
	}
	return false
}

func (s *span) holds(now time.Time) bool {
	now = now.In(s.zone)
	day, minute := int(now.Weekday()), now.Hour()*60+now.Minute()
	on := func(day int) bool { return s.Days>>day&1 == 1 }
	if s.From < s.To {
		return on(day) && minute >= s.From && minute < s.To
	}
	return on(day) && minute >= s.From || on((day+6)%7) && minute < s.To
}

// isAddress says that a host is an IP address, which has no parents.
func isAddress(host string) bool {
	if host == "" || host[len(host)-1] > '9' && strings.IndexByte(host, ':') < 0 {
		return false // no address of version 4 ends in a letter, and every one of version 6 has a colon
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}
