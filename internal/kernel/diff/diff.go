// Package diff holds the words in which the kernel packages tell what they changed or would change.
package diff

import "fmt"

// Op is what happened to an object.
type Op string

const (
	Add     Op = "add"
	Remove  Op = "remove"
	Alter   Op = "change"
	Restore Op = "restore" // a sysctl went back to the value it had before Salp
)

// Change is one difference between the kernel and what is wanted: done by Apply and Remove, only told by Diff.
type Change struct {
	Op     Op     `json:"op"`
	Object string `json:"object"`         // what, in nft, ip or sysctl words: `ip -6 rule`, `nft rule inet salp divert`, `sysctl net/ipv4/ip_forward`
	Was    string `json:"was,omitempty"`  // "" when it was not there
	Want   string `json:"want,omitempty"` // "" when it is to go
}

// String returns the change as one line that begins with +, - or ~ as in a diff.
func (c Change) String() string {
	switch {
	case c.Op == Add:
		return "+ " + c.Object + detail(c.Want)
	case c.Op == Remove:
		return "- " + c.Object + detail(c.Was)
	case c.Was == "" || c.Want == "":
		return "~ " + c.Object + detail(c.Was+c.Want)
	}
	return fmt.Sprintf("~ %s: %s → %s", c.Object, c.Was, c.Want)
}

func detail(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}
