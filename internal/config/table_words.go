package config

import (
	"regexp"
	"slices"
	"strings"
)

var userForm = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.-]{0,31}$`)

// userName is the name of a user who is not root.
func userName() kind[string] {
	return word("name of a user", map[string]any{"pattern": userForm.String(), "not": map[string]any{"const": "root"}}, func(s string) (problem, hint string) {
		switch {
		case s == "root":
			return "would give the worker every privilege", "name an unprivileged user, or remove the key"
		case !userForm.MatchString(s):
			return "cannot be the name of a user", "a name is up to 32 letters, digits, _ . and -, and begins with a letter or _"
		}
		return "", ""
	})
}

// nftWords are words of the nft language that cannot be table names where its text is read back. (nft(8))
var nftWords = []string{"accept", "add", "arp", "bridge", "chain", "comment", "counter", "create", "delete", "destroy", "drop", "element", "ether",
	"flags", "flush", "handle", "hook", "icmp", "icmpv6", "import", "inet", "insert", "ip", "ip6", "jump", "list", "map", "mark", "meta", "monitor",
	"netdev", "policy", "position", "priority", "queue", "redirect", "reject", "rename", "replace", "reset", "return", "rule", "ruleset", "set",
	"socket", "table", "tcp", "tproxy", "type", "udp", "vlan"}

// tableName is the name of an nft table.
func tableName() kind[string] {
	return word("name of an nft table", map[string]any{"pattern": namePattern}, func(s string) (problem, hint string) {
		switch {
		case !nameForm.MatchString(s):
			return "cannot be the name of an nft table here", "a name is a letter, then up to 31 letters, digits, _ and -"
		case slices.Contains(nftWords, strings.ToLower(s)):
			return "is a word of the nft language", "choose another name"
		}
		return "", ""
	})
}
