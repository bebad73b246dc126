package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"salp/internal/admin"
	"salp/internal/control"
)

// view is what top shows: the last two statuses and how to order them.
type view struct {
	paint   paint
	now     *admin.Status
	at      time.Time
	before  *admin.Status // nil: only one look yet
	between time.Duration
	sort    sortKey
	reverse bool
	only    byte // '1', '2', '3': one section; else all
}

// sortKey is the key that chooses an order.
type sortKey byte

const (
	sortOpen   sortKey = 'o'
	sortRate   sortKey = 'c'
	sortIn     sortKey = 'i'
	sortOut    sortKey = 'u'
	sortErrors sortKey = 'e'
	sortName   sortKey = 'n'
)

var sortWords = map[sortKey]string{sortOpen: "open", sortRate: "conn/s", sortIn: "in/s", sortOut: "out/s", sortErrors: "errors/s", sortName: "name"}

// add takes in a look. After an upgrade, or when the gateway was started anew, there are no rates until the next one.
func (v *view) add(s *admin.Status, at time.Time) {
	v.before, v.between = nil, 0
	if v.now != nil && v.now.Since.Equal(s.Since) {
		v.before, v.between = v.now, at.Sub(v.at)
	}
	v.now, v.at = s, at
}

func (v *view) press(key byte) {
	switch {
	case sortWords[sortKey(key)] != "":
		v.sort = sortKey(key)
	case key == 'r':
		v.reverse = !v.reverse
	case key >= '0' && key <= '3':
		v.only = key
	}
}

// line is one row of a section. Rates are for a second.
type line struct {
	key, name, state string
	good             bool
	open             uint64
	offloaded        bool // bytes are not known
	total            counts
	rate             rates
}

// counts only grow.
type counts struct{ connections, in, out, errors uint64 }

type rates struct{ connections, in, out, errors float64 }

// lines draws the view into so many columns and rows.
func (v *view) lines(width, height int, fault error) []string {
	if v.now == nil {
		text := "waiting for the gateway …"
		if fault != nil {
			text = fault.Error()
		}
		return []string{cut(text, width)}
	}
	sections := v.sections()
	lines := v.head(width, fault)
	shown := 0
	for _, s := range sections {
		if len(s.lines) > 0 {
			shown++
		}
	}
	left := height - len(lines) - 1
	for _, s := range sections {
		if len(s.lines) == 0 {
			continue
		}
		room := left / shown // what one section does not take is for the next
		part := v.section(s, width, room)
		lines = append(lines, part...)
		left -= len(part)
		shown--
	}
	for len(lines) < height-1 {
		lines = append(lines, "")
	}
	order := sortWords[v.sort]
	if v.reverse {
		order += ", the other way round"
	}
	foot := cut(fmt.Sprintf("by %s   o c i u e n r: order   1 2 3 0: sections   + -: speed   q: quit", order), width)
	return append(lines[:max(height-1, 0)], v.paint.dim(foot))
}

// head is the gateway as a whole.
func (v *view) head(width int, fault error) []string {
	s := v.now
	var open uint64
	draining := 0
	for _, w := range s.Workers {
		open += w.Connections
		if w.State == admin.WorkerDraining {
			draining++
		}
	}
	workers := count(len(s.Workers), "worker")
	if draining > 0 {
		workers += fmt.Sprintf(" (%d draining)", draining)
	}
	lines := []string{
		v.paint.bold(cut(fmt.Sprintf("salp %s  %s for %s  generation %d  %s  %d open", s.Version, s.State, span(time.Duration(s.Uptime*float64(time.Second))), s.Generation, workers, open), width)),
	}
	switch {
	case fault != nil:
		lines = append(lines, v.paint.red(cut("no answer: "+fault.Error(), width)))
	case s.Kernel.Needed && !s.Alive:
		lines = append(lines, v.paint.red(cut("not taking in: new connections are treated as on_failure says", width)))
	case s.Kernel.Error != "":
		lines = append(lines, v.paint.red(cut("kernel: "+s.Kernel.Error, width)))
	case s.Upgrade != nil && s.Upgrade.State == admin.UpgradeRunning:
		lines = append(lines, v.paint.yellow(cut("upgrading to "+s.Upgrade.Binary, width)))
	default:
		lines = append(lines, "")
	}
	return lines
}

// part is a section with its rows.
type part struct {
	title, state string
	lines        []line
}

func (v *view) sections() []part {
	before := map[string]counts{}
	if v.before != nil {
		for _, s := range gather(v.before) {
			for _, l := range s.lines {
				before[s.title+l.key] = l.total
			}
		}
	}
	all := gather(v.now)
	for i := range all {
		if v.only >= '1' && v.only <= '3' && int(v.only-'1') != i {
			all[i].lines = nil
		}
		for j := range all[i].lines {
			l := &all[i].lines[j]
			if was, known := before[all[i].title+l.key]; known && v.between > 0 {
				l.rate = perSecond(was, l.total, v.between)
			}
		}
		v.order(all[i].lines)
	}
	return all
}

func perSecond(was, is counts, d time.Duration) rates {
	per := func(a, b uint64) float64 {
		if b < a {
			return 0
		}
		return float64(b-a) / d.Seconds()
	}
	return rates{per(was.connections, is.connections), per(was.in, is.in), per(was.out, is.out), per(was.errors, is.errors)}
}

// gather brings listeners, servers and links into one form.
func gather(s *admin.Status) []part {
	listeners := part{title: "LISTENER", state: "MODE"}
	for _, l := range s.Listeners {
		c := l.Counters
		listeners.lines = append(listeners.lines, line{key: l.Name, name: l.Name, state: l.Mode, good: true, open: c.Active, offloaded: l.Offloaded,
			total: counts{c.Accepted, c.BytesIn, c.BytesOut, total(c.Errors)}})
	}
	servers := part{title: "SERVER", state: "STATE"}
	for _, p := range s.Pools {
		for _, one := range p.Servers {
			name := p.Name + "/" + one.Name
			if one.Address != "" && one.Address != one.Name {
				name += " " + one.Address
			}
			servers.lines = append(servers.lines, line{key: p.Name + "/" + one.Name + "/" + one.Address, name: name, state: string(one.State),
				good: one.State == control.ServerUp, open: one.Active, offloaded: one.Offloaded, total: counts{one.Connections, one.BytesIn, one.BytesOut, total(one.Errors)}})
		}
	}
	links := part{title: "LINK", state: "STATE"}
	for _, l := range s.Links {
		links.lines = append(links.lines, line{key: l.Name, name: l.Name + " " + l.Interface, state: l.State, good: l.Up, total: counts{l.Flows, l.BytesIn, l.BytesOut, l.Downs}})
	}
	return []part{listeners, servers, links}
}

// order sorts the busiest first, names from a to z.
func (v *view) order(lines []line) {
	slices.SortStableFunc(lines, func(a, b line) int {
		c := 0
		switch v.sort {
		case sortOpen:
			c = cmp.Compare(b.open, a.open)
		case sortRate:
			c = cmp.Compare(b.rate.connections, a.rate.connections)
		case sortIn:
			c = cmp.Compare(b.rate.in, a.rate.in)
		case sortOut:
			c = cmp.Compare(b.rate.out, a.rate.out)
		case sortErrors:
			c = cmp.Compare(b.rate.errors, a.rate.errors)
		}
		c = cmp.Or(c, strings.Compare(a.name, b.name))
		if v.reverse {
			return -c
		}
		return c
	})
}

// section draws one section into so many rows, a blank one before it. What does not fit is counted.
func (v *view) section(s part, width, height int) []string {
	room := height - 2
	if room < 1 {
		return nil
	}
	hidden := 0
	if len(s.lines) > room {
		hidden = len(s.lines) - room + 1
	}
	g := newGrid(v.paint.dim, s.title, s.state, "OPEN ", "CONN/S ", "IN/S ", "OUT/S ", "ERR/S ")
	for _, l := range s.lines[:len(s.lines)-hidden] {
		paint := v.paint.green
		if !l.good {
			paint = v.paint.red
		}
		if s.title == "LISTENER" {
			paint = nil
		}
		g.row(l.name, gridCell{l.state, paint}, fmt.Sprint(l.open), fmt.Sprintf("%.1f", l.rate.connections), counted(l.offloaded, uint64(l.rate.in)), counted(l.offloaded, uint64(l.rate.out)), fmt.Sprintf("%.1f", l.rate.errors))
	}
	lines := append([]string{""}, g.lines(width)...)
	if hidden > 0 {
		lines = append(lines, v.paint.dim(fmt.Sprintf("… and %d more", hidden)))
	}
	return lines
}
