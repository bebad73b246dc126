package access

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	_ "time/tzdata" // the worker may run where the machine has no zone files

	"salp/internal/config"
)

// Rules are everything that a configuration says about access.
type Rules struct {
	lists  map[string]*list
	access map[string]*List
	routes map[string]*Routes
}

// list is a list from a file. Its content is replaced as a whole while loops look things up.
type list struct {
	names     atomic.Pointer[NameSet]
	addresses atomic.Pointer[AddressSet]
}

// Compile makes the rules of a configuration. Lists in files are empty until SetList fills them.
func Compile(c *config.Config) *Rules {
	r := &Rules{lists: map[string]*list{}, access: map[string]*List{}, routes: map[string]*Routes{}}
	for _, l := range c.Lists {
		r.lists[l.Name] = &list{}
	}
	for _, a := range c.Access {
		compiled := &List{name: a.Name}
		for i := range a.Rules {
			compiled.rules = append(compiled.rules, r.rule(c, a.Name, i, &a.Rules[i]))
		}
		r.access[a.Name] = compiled
	}
	for _, l := range c.Listeners {
		if len(l.Routes) == 0 {
			continue
		}
		routes := &Routes{}
		for i := range l.Routes {
			routes.rules = append(routes.rules, rule{allow: true, conditions: r.conditions(&l.Routes[i].When)})
		}
		r.routes[l.Name] = routes
	}
	return r
}

// List returns the access list with the name, nil when there is none.
func (r *Rules) List(name string) *List { return r.access[name] }

// Routes returns the routes of the listener with the name, nil when it has none.
func (r *Rules) Routes(listener string) *Routes { return r.routes[listener] }

// SetList reads the content of a list and puts it in force at once, everywhere. After an error the content before stays. It may take
// seconds for millions of lines: call it on a goroutine of its own.
func (r *Rules) SetList(l *config.List, content io.Reader) error {
	into, ok := r.lists[l.Name]
	if !ok {
		return fmt.Errorf("access: no list %q", l.Name)
	}
	if l.Names != "" {
		names, err := ReadNames(content)
		if err == nil {
			into.names.Store(names)
		}
		return err
	}
	addresses, err := ReadAddresses(content)
	if err == nil {
		into.addresses.Store(addresses)
	}
	return err
}

func (r *Rules) rule(c *config.Config, list string, index int, from *config.AccessRule) rule {
	line, _ := c.Place(config.Path{"access", list, index})
	out := rule{allow: from.Allow != nil, line: line}
	if from.Allow != nil {
		out.conditions = r.conditions(from.Allow)
	} else {
		out.conditions = r.conditions(from.Deny)
	}
	if from.Marking != (config.Marking{}) {
		out.marking = &from.Marking
	}
	return out
}

func (r *Rules) conditions(c *config.Conditions) []condition {
	all := append(r.side(&c.Match, false), r.side(&c.Not, true)...)
	if c.HostVerified != nil {
		all = append(all, condition{key: "host_verified", text: fmt.Sprint(*c.HostVerified), needs: Verification, test: verified(*c.HostVerified), weight: 20})
	}
	slices.SortStableFunc(all, func(a, b condition) int { return cmp.Compare(a.weight, b.weight) })
	return all
}

// side compiles the conditions of one side, plain or not_.
func (r *Rules) side(m *config.Match, not bool) []condition {
	var all []condition
	add := func(key, text string, weight int, needs Need, test tester) {
		if not {
			key = "not_" + key
		}
		all = append(all, condition{key: key, text: text, not: not, needs: needs, test: test, weight: weight})
	}
	if m.Ports != nil {
		add("ports", join(m.Ports, portText), 1, 0, portRanges(m.Ports))
	}
	if m.Method != nil {
		add("method", join(m.Method, plain), 2, 0, &words{of: func(f *Facts) string { return f.Method }, all: m.Method})
	}
	if m.Listener != nil {
		add("listener", join(m.Listener, plain), 3, 0, &words{of: func(f *Facts) string { return f.Listener }, all: m.Listener})
	}
	if m.From != nil {
		add("from", join(m.From, addressText), 4, 0, r.addresses(m.From, false))
	}
	if m.Time != nil {
		add("time", join(m.Time, spanText), 6, 0, newWeek(m.Time))
	}
	if m.Host != nil {
		add("host", join(m.Host, hostText), 7, 0, r.hosts(m.Host, false))
	}
	if m.SNI != nil {
		add("sni", join(m.SNI, hostText), 7, 0, r.hosts(m.SNI, true))
	}
	if m.ALPN != nil {
		add("alpn", join(m.ALPN, plain), 5, 0, offers(m.ALPN))
	}
	if m.Header != nil {
		test := headers{}
		for _, h := range m.Header {
			test = append(test, headerTest{h.Name, newMatcher(h.Value)})
		}
		add("header", join(m.Header, func(h config.HeaderItem) string { return h.Name + ": " + patternText(h.Value) }), 8, 0, test)
	}
	if m.Path != nil {
		add("path", join(m.Path, patternText), 9, 0, paths(matchers(m.Path)))
	}
	if m.User != nil {
		add("user", join(m.User, plain), 18, User, &words{of: func(f *Facts) string { return f.User }, all: m.User, any: slices.Contains(m.User, "*")})
	}
	if m.To != nil {
		add("to", join(m.To, addressText), 19, Address, r.addresses(m.To, true))
	}
	if m.ContentType != nil {
		add("content_type", join(m.ContentType, patternText), 30, Response, contentTypes(matchers(m.ContentType)))
	}
	return all
}

func matchers(patterns []config.Pattern) (all []matcher) {
	for _, p := range patterns {
		all = append(all, newMatcher(p))
	}
	return all
}

func (r *Rules) addresses(items []config.AddressItem, server bool) *addresses {
	t := &addresses{server: server}
	var fixed []netip.Prefix
	for _, item := range items {
		if item.List != "" {
			t.lists = append(t.lists, r.lists[item.List])
		} else {
			fixed = append(fixed, item.Prefix)
		}
	}
	t.fixed = NewAddressSet(fixed)
	return t
}

func (r *Rules) hosts(items []config.HostItem, sni bool) *hosts {
	t := &hosts{sni: sni, exact: map[string]bool{}, suffix: map[string]bool{}}
	for _, item := range items {
		switch {
		case item.List != "":
			t.lists = append(t.lists, r.lists[item.List])
		case item.Suffix:
			t.suffix[item.Name] = true
		default:
			t.exact[item.Name] = true
		}
	}
	return t
}

func newWeek(spans []config.TimeSpan) (all week) {
	for _, s := range spans {
		zone := time.Local
		if s.Zone != "" {
			if z, err := time.LoadLocation(s.Zone); err == nil {
				zone = z
			}
		}
		all = append(all, span{s, zone})
	}
	return all
}

// join writes the items of a condition as the file has them.
func join[T any](items []T, text func(T) string) string {
	var all []string
	for _, item := range items {
		all = append(all, text(item))
	}
	return strings.Join(all, ", ")
}

func plain(s string) string { return s }

func portText(p config.PortRange) string {
	if p.First == p.Last {
		return fmt.Sprint(p.First)
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

func addressText(a config.AddressItem) string {
	switch {
	case a.List != "":
		return "list:" + a.List
	case a.Prefix.IsSingleIP():
		return a.Prefix.Addr().String()
	}
	return a.Prefix.String()
}

func hostText(h config.HostItem) string {
	switch {
	case h.List != "":
		return "list:" + h.List
	case h.Suffix:
		return "." + h.Name
	}
	return h.Name
}

func patternText(p config.Pattern) string {
	if p.Regexp {
		return "~" + p.Text
	}
	return p.Text
}

func spanText(s config.TimeSpan) string {
	var days []string
	for d := range 7 {
		if s.Days>>d&1 == 1 && s.Days != 1<<7-1 {
			days = append(days, strings.ToLower(time.Weekday(d).String()[:3]))
		}
	}
	text := strings.Join(days, "+")
	if s.From != 0 || s.To != 24*60 {
		text += fmt.Sprintf(" %02d:%02d-%02d:%02d", s.From/60, s.From%60, s.To/60, s.To%60)
	}
	return strings.TrimSpace(text + " " + s.Zone)
}
