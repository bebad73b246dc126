package test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// snapshot is what the gateway's kernel holds, by section. Two snapshots are equal only when every byte is.
type snapshot map[string]string

// volatile are settings that change by themselves.
var volatile = []string{"nf_conntrack_count", "ipv4/route/", "ipv6/route/"}

// look reads what Salp might change: the whole nft ruleset with handles, ip rules and routes of all tables, and every setting.
func (r *rig) look() snapshot {
	r.Helper()
	s := snapshot{"nft": r.gw("nft", "-a", "-s", "list", "ruleset")}
	for _, family := range []string{"-4", "-6"} {
		s["rules "+family] = r.gw("ip", family, "-d", "rule", "list")
		s["routes "+family] = sorted(r.gw("ip", family, "-d", "route", "show", "table", "all"))
	}
	r.must(r.net.Gateway.Do(func() error { return s.readSettings() }))
	return s
}

func sorted(text string) string {
	lines := strings.Split(text, "\n")
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func (s snapshot) readSettings() error {
	return filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		for _, v := range volatile {
			if strings.Contains(path, v) {
				return nil
			}
		}
		if text, err := os.ReadFile(path); err == nil { // some can only be written
			s[path] = string(text)
		}
		return nil
	})
}

// differences lists what is not as it was. Settings that are new came with a kernel module, which nobody unloads.
func (s snapshot) differences(now snapshot) string {
	var b strings.Builder
	var keys []string
	for k := range s {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		if s[k] != now[k] {
			fmt.Fprintf(&b, "%s was\n%s\nand is\n%s\n", k, s[k], now[k])
		}
	}
	return b.String()
}

// wantAsBefore fails the test when anything differs.
func (r *rig) wantAsBefore(before snapshot) {
	r.Helper()
	if d := before.differences(r.look()); d != "" {
		r.Errorf("the gateway is not as it was before:\n%s", d)
	}
}
