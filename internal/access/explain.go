package access

import "fmt"

// Step is one rule that was asked, and what came of it.
type Step struct {
	Rule  int    `json:"rule"`
	Line  int    `json:"line"`  // of the file
	Allow bool   `json:"allow"` // what the rule would say
	Met   bool   `json:"met"`   // every condition is met: the rule decides
	Needs Need   `json:"needs"` // not 0: it depends on something that is not known
	Why   string `json:"why"`   // the first condition that is not met; of a rule that decides, its conditions
}

// Explain asks the rules as Decide does and tells of each that was asked why it decided or not.
func (l *List) Explain(f *Facts) []Step {
	var steps []Step
	for i := range l.rules {
		r := &l.rules[i]
		s := Step{Rule: i, Line: r.line, Allow: r.allow}
		s.Met, s.Needs = r.match(f)
		s.Why = r.why(f, s)
		steps = append(steps, s)
		if s.Met || s.Needs&^Response != 0 {
			break
		}
	}
	return steps
}

func (r *rule) why(f *Facts, s Step) string {
	text := ""
	for i := range r.conditions {
		c := &r.conditions[i]
		met, needs := c.met(f)
		if !s.Met && s.Needs == 0 && !met && needs == 0 || s.Needs != 0 && needs != 0 {
			return fmt.Sprintf("%s: [%s]", c.key, c.text)
		}
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("%s: [%s]", c.key, c.text)
	}
	if text == "" {
		return "{}"
	}
	return text
}

// Place says which rule decided, as people and logs name it: office[2], or office when no rule matched.
func (v Verdict) Place() string {
	switch {
	case v.list == nil:
		return ""
	case v.Rule == NoRule:
		return v.list.name
	}
	return fmt.Sprintf("%s[%d]", v.list.name, v.Rule)
}

// Line returns the line of the file where the rule that decided stands, or 0.
func (v Verdict) Line() int {
	if v.list == nil || v.Rule == NoRule {
		return 0
	}
	return v.list.rules[v.Rule].line
}
