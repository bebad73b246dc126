package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"salp/internal/admin"
	"salp/internal/control"
)

// busy is the status of a gateway that has something of everything, with names that are long.
func busy(more uint64) *admin.Status {
	s := &admin.Status{
		Version: "v1.2.3-45-gabcdef0", State: admin.StateRunning, Since: time.UnixMilli(1000), Uptime: 3600, ConfigFile: "/etc/salp/salp.yaml", Generation: 12, Alive: true,
		Workers: []admin.Worker{
			{PID: 1234567, Version: "v1.2.2", Generation: 11, State: admin.WorkerDraining, Connections: 17},
			{PID: 1234599, Version: "v1.2.3-45-gabcdef0", Generation: 12, State: admin.WorkerRunning, Connections: 12345},
		},
		Upgrade: &admin.Upgrade{State: admin.UpgradeDone, From: "v1.2.2", To: "v1.2.3"},
		Kernel:  admin.Kernel{Needed: true, InSync: true},
		Links: []admin.Link{
			{Name: "embratel", Interface: "wan1", Gateways: []string{"203.0.113.1", "fe80::1"}, State: "up", Up: true, Weight: 100, RTT: 0.0123, Flows: 123456, BytesIn: 1 << 40, BytesOut: 1 << 38},
			{Name: "starlink", Interface: "wan2", State: "down", Reason: "no answer", Loss: 1},
		},
	}
	for i := range 9 {
		s.Listeners = append(s.Listeners, admin.Listener{Name: fmt.Sprintf("listener-number-%d", i), Mode: "fully transparent", SourcePort: "keep", Interfaces: []string{"eth0.100"},
			Ports: []string{"25", "465", "587"}, Counters: control.Listener{Active: uint64(i), Accepted: 1000 + more*uint64(i), BytesIn: 1 << 33, BytesOut: 1 << 43, Errors: map[string]uint64{control.ErrorIdle: 7}}})
	}
	p := admin.Pool{Name: "mail-cluster"}
	for i := range 20 {
		p.Servers = append(p.Servers, admin.PoolServer{Name: fmt.Sprintf("mx%02d.mail.example.org:25", i), Address: fmt.Sprintf("10.0.2.%d:25", i), State: control.ServerUp, Weight: 1,
			Active: uint64(i), Connections: 123456 + more*uint64(20-i), BytesIn: 1 << 33, BytesOut: 1 << 35, Checked: &admin.Checked{Took: 0.00123}})
	}
	p.Servers[3].State, p.Servers[3].Reason = control.ServerDown, "connection refused"
	s.Pools = []admin.Pool{p}
	return s
}

func TestStatusFitsAHundredColumns(t *testing.T) {
	var out bytes.Buffer
	printStatus(&out, busy(0))
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > statusWidth {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{"listener-number-8", "mx19.mail", "12345", "draining", "v1.2.2", "starlink", "no answer", "connection refused", "upgraded at"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the status does not show %q", want)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("colours though it is no terminal")
	}
	if t.Failed() {
		t.Log(out.String())
	}
}

// Bytes that nobody counts are no 0, and it is said why.
func TestOffloadedBytesAreNotShown(t *testing.T) {
	s := busy(0)
	s.Listeners, s.Pools[0].Servers, s.Links = s.Listeners[:1], s.Pools[0].Servers[:1], nil
	s.Listeners[0].Offloaded, s.Pools[0].Servers[0].Offloaded = true, true
	var out bytes.Buffer
	printStatus(&out, s)
	if text := strings.Join(strings.Fields(out.String()), " "); strings.Count(text, " - - ") != 2 || !strings.Contains(text, "offload carries them past the rules") {
		t.Errorf("%s", out.String())
	}
	v := view{sort: sortOpen}
	v.add(s, time.Now())
	if text := strings.Join(strings.Fields(strings.Join(v.lines(100, 40, nil), " ")), " "); strings.Count(text, " - - ") != 2 {
		t.Errorf("top: %s", text)
	}
}

func TestTopFits(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {80, 10}, {200, 60}, {60, 5}, {80, 3}} {
		v := view{sort: sortOpen}
		start := time.Now()
		v.add(busy(0), start)
		v.add(busy(10), start.Add(2*time.Second))
		lines := v.lines(size[0], size[1], nil)
		if len(lines) != size[1] {
			t.Errorf("%v: %d lines:\n%s", size, len(lines), strings.Join(lines, "\n"))
		}
		for _, l := range lines {
			if n := utf8.RuneCountInString(l); n > size[0] {
				t.Errorf("%v: %d columns: %s", size, n, l)
			}
		}
	}
}

func TestTopRatesAndOrder(t *testing.T) {
	v := view{sort: sortOpen}
	start := time.Now()
	v.add(busy(0), start)
	servers := func() []line { return v.sections()[1].lines }
	if l := servers()[0]; l.name != "mail-cluster/mx19.mail.example.org:25 10.0.2.19:25" || l.rate.connections != 0 {
		t.Errorf("at first: %+v", l)
	}
	v.add(busy(10), start.Add(2*time.Second))
	v.press('c')
	if l := servers()[0]; !strings.Contains(l.name, "mx00") || l.rate.connections != 100 { // 200 more in two seconds
		t.Errorf("by rate: %+v", l)
	}
	v.press('r')
	if l := servers()[0]; !strings.Contains(l.name, "mx19") {
		t.Errorf("the other way round: %+v", l)
	}
	v.press('r')
	v.press('n')
	if l := servers(); !slices.IsSortedFunc(l, func(a, b line) int { return strings.Compare(a.name, b.name) }) {
		t.Error("not by name")
	}
	v.press('3')
	if text := strings.Join(v.lines(80, 24, nil), "\n"); strings.Contains(text, "mx0") || !strings.Contains(text, "embratel") {
		t.Errorf("links alone:\n%s", text)
	}
	v.press('x') // which means nothing
	again := busy(0)
	again.Since = time.UnixMilli(2000)
	v.add(again, start.Add(4*time.Second))
	if v.before != nil {
		t.Error("rates over a start")
	}
}
