package config

import (
	"fmt"
	"math/bits"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// nameForm is what listeners and pools may be called: the names become parts of nft chain names.
var nameForm = regexp.MustCompile(namePattern)

const namePattern = `^[a-zA-Z][a-zA-Z0-9_-]{0,31}$`

// word is text of a certain form. problem says what is wrong with a value, "" when it will do.
func word(words string, schema map[string]any, problem func(string) (problem, hint string)) kind[string] {
	schema["type"] = "string"
	return kind[string]{shape: shape{words: words, schema: schema}, read: func(r *reader, n *yaml.Node, at Path) (string, bool) {
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
			_, hint := problem(n.Value)
			if hint == "" && n.Kind == yaml.ScalarNode {
				hint = "if that is meant, put it in quotes: " + quote(n.Value)
			}
			r.wrongType(n, at, "the "+words, hint)
			return "", false
		}
		if p, hint := problem(n.Value); p != "" {
			r.bad(n, at, p, hint)
			return "", false
		}
		return n.Value, true
	}}
}

// enum is one of a few words.
func enum[V ~string](values ...V) kind[V] {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = string(v)
	}
	s := shape{words: "`" + strings.Join(all, "`, `") + "`", schema: map[string]any{"enum": all}}
	if len(all) > 1 {
		s.words = "one of " + s.words
	}
	return kind[V]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (V, bool) {
		if n.Kind != yaml.ScalarNode {
			r.wrongType(n, at, "a word", "write "+choice(all))
			return "", false
		}
		for _, v := range values {
			if string(v) == n.Value {
				return v, true
			}
		}
		entries := make([]entry, len(all))
		for i, v := range all {
			entries[i] = entry{key: v}
		}
		hint := "write " + choice(all)
		if best := nearest(n.Value, entries); best != "" && len(all) > 1 {
			hint = "did you mean " + best + "? It can be " + choice(all)
		}
		r.bad(n, at, "is not a value it can have", hint)
		return "", false
	}}
}

// choice lists words as in a, b or c.
func choice(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// number is a whole number within bounds, written in decimal digits.
func number[V ~int | ~uint16 | ~uint32](least, most int64) kind[V] {
	s := shape{words: fmt.Sprintf("number from %d to %d", least, most)}
	s.schema = map[string]any{"type": "integer", "minimum": least, "maximum": most}
	return kind[V]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (V, bool) {
		i, ok := r.integer(n, at, fmt.Sprintf("write a number from %d to %d", least, most))
		if ok && (i < least || i > most) {
			r.bad(n, at, "is out of range", fmt.Sprintf("write a number from %d to %d", least, most))
			ok = false
		}
		return V(i), ok
	}}
}

// integer reads a whole number in plain decimal digits: 010, 0x10 and 1_0 mean different things to different readers of YAML.
func (r *reader) integer(n *yaml.Node, at Path, hint string) (int64, bool) {
	if n.Kind != yaml.ScalarNode {
		r.wrongType(n, at, "a number", hint)
		return 0, false
	}
	i, err := strconv.ParseInt(n.Value, 10, 64)
	decimal := err == nil && strconv.FormatInt(i, 10) == n.Value
	if decimal && n.ShortTag() == "!!int" {
		return i, true
	}
	if decimal {
		r.bad(n, at, "in quotes is text, not a number", "write  "+n.Value+"  without quotes")
		return 0, false
	}
	switch v, err := strconv.ParseInt(strings.ReplaceAll(n.Value, "_", ""), 0, 64); {
	case err == nil && len(n.Value) > 1 && n.Value[0] == '0' && n.Value[1] >= '0' && n.Value[1] <= '9':
		hint = "leave out the zeros in front: to some programs they mean an octal number"
	case err == nil && n.ShortTag() == "!!int":
		hint = fmt.Sprintf("write it in decimal digits: %d", v)
	}
	r.bad(n, at, "is not a plain decimal number", hint)
	return 0, false
}

// autoNumber is a number or the word auto, which is 0.
func autoNumber(most int64) kind[int] {
	k := number[int](1, most)
	s := shape{words: fmt.Sprintf("`auto` or a %s", k.shape.words)}
	s.schema = map[string]any{"anyOf": []any{map[string]any{"const": "auto"}, k.shape.schema}}
	return kind[int]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (int, bool) {
		if n.Kind == yaml.ScalarNode && n.Value == "auto" {
			return 0, true
		}
		i, ok := r.integer(n, at, "write auto or a number")
		if ok && (i < 1 || i > most) {
			r.bad(n, at, "is out of range", fmt.Sprintf("write auto or a number from 1 to %d", most))
			ok = false
		}
		return int(i), ok
	}}
}

// span is a duration within bounds. zero says what 0 means; "" when 0 is not allowed.
func span(least, most time.Duration, zero string) kind[time.Duration] {
	bounds := fmt.Sprintf("from %s to %s", short(least), short(most))
	s := shape{words: "duration " + bounds, schema: map[string]any{"type": "string", "pattern": durationPattern}}
	if zero != "" {
		s.words += ", or `0` (" + zero + ")"
		s.schema = map[string]any{"anyOf": []any{s.schema, map[string]any{"const": 0}}}
	}
	return kind[time.Duration]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (time.Duration, bool) {
		if n.Kind != yaml.ScalarNode {
			r.wrongType(n, at, "a duration", "write it as  30s  or  1h30m")
			return 0, false
		}
		d, problem, hint := parseDuration(n.Value)
		switch {
		case problem != "":
		case d == 0 && zero != "":
		case d < least || d > most:
			problem, hint = "is out of range", "write a duration "+bounds
			if zero != "" {
				hint += ", or 0: " + zero
			}
		}
		if problem != "" {
			r.bad(n, at, problem, hint)
			return 0, false
		}
		return d, true
	}}
}

// wholeSeconds narrows a duration to full seconds, as far as the kernel's own setting goes.
func wholeSeconds(k kind[time.Duration]) kind[time.Duration] {
	read := k.read
	k.read = func(r *reader, n *yaml.Node, at Path) (time.Duration, bool) {
		d, ok := read(r, n, at)
		if ok && d%time.Second != 0 {
			r.bad(n, at, "is not a whole number of seconds", "write  "+short(d.Round(time.Second)))
			return 0, false
		}
		return d, ok
	}
	return k
}

// durationPattern is what a JSON Schema can say of a duration.
const durationPattern = `^([0-9]+(d|h|m|s|ms))+$`

// durationForm is a duration: whole numbers with units, the largest unit first.
var durationForm = regexp.MustCompile(`^(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?(?:([0-9]{1,9})ms)?$`)

// parseDuration reads 500ms, 2s, 1h30m, 1d. problem is "" when text is a duration.
func parseDuration(text string) (d time.Duration, problem, hint string) {
	const form = "write a number with a unit (ms, s, m, h, d), as in  30s  or  1h30m"
	if text == "0" {
		return 0, "", ""
	}
	if _, err := strconv.ParseUint(text, 10, 31); err == nil {
		return 0, "has no unit", "write  " + text + "s  for seconds, or another of ms, m, h, d"
	}
	if strings.HasPrefix(text, "-") {
		return 0, "is negative", form
	}
	m := durationForm.FindStringSubmatch(text)
	if m == nil || text == "" {
		if v, err := time.ParseDuration(text); err == nil && v >= time.Millisecond {
			return 0, "is not a duration as written here", "write  " + short(v.Round(time.Millisecond))
		}
		return 0, "is not a duration", form
	}
	units := []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second, time.Millisecond}
	const limit = 100 * 365 * 24 * time.Hour
	for i, unit := range units {
		count, _ := strconv.ParseInt("0"+m[i+1], 10, 64) // nine digits at most
		if time.Duration(count) > limit/unit {
			return 0, "is too long", form
		}
		d += time.Duration(count) * unit
	}
	return d, "", ""
}

// short writes a duration as this file does: 1h, 30s, 1h30m, 500ms.
func short(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	var b strings.Builder
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if count := d / u.unit; count > 0 {
			fmt.Fprintf(&b, "%d%s", count, u.name)
			d -= count * u.unit
		}
	}
	return b.String()
}

// mask is a mask of exactly four of 32 bits, in hexadecimal or decimal.
func mask() kind[uint32] {
	s := shape{words: "mask of exactly four bits, in hexadecimal"}
	s.schema = map[string]any{"anyOf": []any{
		map[string]any{"type": "integer", "minimum": 15, "maximum": 0xf0000000},
		map[string]any{"type": "string", "pattern": "^0x[0-9a-fA-F]{1,8}$"},
	}}
	return kind[uint32]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (uint32, bool) {
		const hint = "write four bits that nobody else uses, as in  0xf0000000"
		if n.Kind != yaml.ScalarNode {
			r.wrongType(n, at, "a mask", hint)
			return 0, false
		}
		base, digits := 10, n.Value
		if hex, ok := strings.CutPrefix(n.Value, "0x"); ok {
			base, digits = 16, hex
		}
		v, err := strconv.ParseUint(digits, base, 32)
		if err != nil || base == 10 && digits != strconv.FormatUint(v, 10) {
			r.bad(n, at, "is not a mask of 32 bits", hint)
			return 0, false
		}
		if c := bits.OnesCount32(uint32(v)); c != 4 {
			r.bad(n, at, fmt.Sprintf("has %d bits, and Salp needs exactly four", c), hint)
			return 0, false
		}
		return uint32(v), true
	}}
}
