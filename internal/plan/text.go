package plan

import (
	"fmt"
	"strings"
)

// Text is the whole plan for people: each part under a comment line that says what reads it. An empty plan is "".
func (p Plan) Text() string {
	var parts []string
	for _, part := range []struct{ head, text string }{
		{"# nft -f", p.NFTText()},
		{"# ip", p.IPText()},
		{"# sysctl", p.SysctlText()},
	} {
		if part.text != "" {
			parts = append(parts, part.head+"\n"+part.text)
		}
	}
	return strings.Join(parts, "\n")
}

// NFTText is the tables as `nft list ruleset` prints them, and input for `nft -f`.
func (p Plan) NFTText() string {
	var b strings.Builder
	for _, t := range p.Tables {
		b.WriteString(t.Text())
	}
	return b.String()
}

// IPText is the routes and rules as commands for a shell, the routes first.
func (p Plan) IPText() string {
	var b strings.Builder
	for _, r := range p.Routes {
		b.WriteString(r.Text() + "\n")
	}
	for _, r := range p.Rules {
		b.WriteString(r.Text() + "\n")
	}
	return b.String()
}

// SysctlText is the sysctls as commands for a shell, in the order to be set.
func (p Plan) SysctlText() string {
	var b strings.Builder
	for _, s := range p.Sysctls {
		b.WriteString(s.Text() + "\n")
	}
	return b.String()
}

// Text is the command that sets the value, and why.
func (s Sysctl) Text() string {
	return fmt.Sprintf("sysctl -w %s=%s # %s", s.Name, s.Value, s.Why)
}

func ipFlag(f Family) string {
	if f == IPv6 {
		return "-6 "
	}
	return ""
}
