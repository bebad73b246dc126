package config

import (
	"strings"

	"go.yaml.in/yaml/v4"

	"salp/internal/logformat"
)

// logLine is a form of access log lines.
func logLine() kind[string] {
	return word("`squid`, `common`, `combined`, `json` or a text with % codes", map[string]any{"anyOf": []any{
		map[string]any{"enum": []string{"squid", "common", "combined", "json"}}, map[string]any{"pattern": "%"}}}, func(s string) (problem, hint string) {
		if _, err := logformat.Parse(s); err != nil {
			hint = "see docs/http.md for the codes"
			if !strings.Contains(s, "%") {
				hint = "write squid, common, combined, json, or a text with % codes"
			}
			return err.Error(), hint
		}
		return "", ""
	})
}

// readAccessList turns a reader of rules into one of lists of rules.
func readAccessList(rules kind[[]AccessRule]) func(*reader, *yaml.Node, Path) (AccessList, bool) {
	return func(r *reader, n *yaml.Node, at Path) (AccessList, bool) {
		v, ok := rules.read(r, n, at)
		return AccessList{Rules: v}, ok
	}
}
