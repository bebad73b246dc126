package link

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"salp/internal/control"
	"salp/internal/probe"
)

// target is what one probe of a link asks.
type target struct {
	what string // for a person: "ping 9.9.9.9"
	spec probe.Spec
}

// Resolved takes in the addresses of the host names in use, in place of those known before.
func (s *Set) Resolved(names map[string][]netip.Addr) {
	s.names = names
	s.aim()
}

// Names returns the host names whose addresses the checks need.
func (s *Set) Names() []string {
	var names []string
	for _, l := range s.links {
		if l.Config.Check == nil {
			continue
		}
		for _, text := range l.Config.Check.HTTP {
			if u, err := url.Parse(text); err == nil {
				if _, err := netip.ParseAddr(u.Hostname()); err != nil {
					names = append(names, strings.ToLower(u.Hostname()))
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// aim makes the targets what names say now. A target whose name has no address is left out: that is the resolver's fault, not the link's.
func (s *Set) aim() {
	for _, l := range s.links {
		if l.machine == nil {
			continue
		}
		l.targets = s.targets(l)
		l.machine.SetPolicy(l.policy())
	}
}

func (s *Set) targets(l *Link) []target {
	c := l.Config.Check
	base := probe.Spec{Timeout: c.Timeout, Mark: s.cfg.Kernel.LinkMark(l.Number), Device: l.Config.Interface}
	var all []target
	add := func(what string, to netip.AddrPort, set func(*probe.Spec)) {
		spec := base
		spec.Target = to
		if set != nil {
			set(&spec)
		}
		all = append(all, target{what, spec})
	}
	for _, a := range c.Ping {
		add("ping "+a.String(), netip.AddrPortFrom(a, 0), func(p *probe.Spec) { p.Ping = &probe.Ping{} })
	}
	for _, a := range c.TCP {
		add("tcp "+a.String(), a, nil)
	}
	for _, text := range c.HTTP {
		if to, set, ok := s.web(text); ok {
			add("http "+text, to, set)
		}
	}
	for _, a := range c.DNS {
		add("dns "+a.String(), a, func(p *probe.Spec) { p.DNS = &probe.DNS{Name: c.DNSName} })
	}
	return all
}

// web makes a probe of a URL.
func (s *Set) web(text string) (to netip.AddrPort, set func(*probe.Spec), ok bool) {
	u, err := url.Parse(text)
	if err != nil {
		return to, nil, false
	}
	host := strings.ToLower(u.Hostname())
	addr, err := netip.ParseAddr(host)
	if err != nil {
		known := s.names[host]
		if len(known) == 0 {
			return to, nil, false
		}
		addr = known[0]
	}
	port := map[string]uint64{"http": 80, "https": 443}[u.Scheme]
	if p := u.Port(); p != "" {
		if port, err = strconv.ParseUint(p, 10, 16); err != nil {
			return to, nil, false
		}
	}
	return netip.AddrPortFrom(addr, uint16(port)), func(p *probe.Spec) {
		p.HTTP = &probe.HTTP{Path: u.RequestURI(), Host: u.Host}
		if u.Scheme == "https" {
			p.TLS = &probe.TLS{Name: u.Hostname(), Verify: true}
		}
	}, true
}

// jobPrefix is what the IDs of the probes of links begin with.
const jobPrefix = "link/"

// Jobs returns the probes that the monitor is to repeat. Where the interface is not there, or has no address, none is sent.
func (s *Set) Jobs() []control.Job {
	var jobs []control.Job
	for _, l := range s.links {
		if l.machine == nil || l.fault != "" {
			continue
		}
		for i, t := range l.targets {
			jobs = append(jobs, control.Job{ID: fmt.Sprintf("%s%s/%d", jobPrefix, l.Config.Name, i), Every: l.Config.Check.Every, Soon: l.Config.Check.Timeout, Probe: t.spec})
		}
	}
	return jobs
}

// ParseJob says which link and target the ID of a job is about.
func ParseJob(id string) (name string, number int, ok bool) {
	rest, ok := strings.CutPrefix(id, jobPrefix)
	if !ok {
		return "", 0, false
	}
	name, digits, ok := strings.Cut(rest, "/")
	number, err := strconv.Atoi(digits)
	return name, number, ok && err == nil
}

// Target is one target of a link's probes and how it answered last.
type Target struct {
	What  string
	Error string // "" when it answered
	Known bool
}

// Targets returns the targets.
func (l *Link) Targets() []Target {
	var all []Target
	for i, t := range l.targets {
		s := l.machine.Target(i)
		all = append(all, Target{What: t.what, Error: s.Error, Known: !s.At.IsZero()})
	}
	return all
}
