package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"
)

// shape describes a type of value for people and for JSON Schema.
type shape struct {
	words  string         // the type in words, for the reference page
	schema map[string]any // the type as JSON Schema; of a mapping only what its keys do not say
	keys   []entry        // the keys of a mapping
	name   string         // a mapping with names the operator chooses: what stands for the name in documentation
	limit  int            // how many such names there may be
	short  *shape         // the other way to write a mapping that has but one key
	item   *shape         // of a list
}

// entry is one key of the file: the one place that says what it is called, what it means and what it is by default.
type entry struct {
	key      string
	required bool
	def      string // the default as it would be written; "" when there is none
	absent   string // what it means to leave the key out, when that is not a value
	doc      string
	watch    string   // what to watch out for
	example  string   // the key with a value, as it would be written
	aka      []string // what other programs call it, for "did you mean"
	shape    shape    // filled in by prop
}

// kind reads one type of value and describes it. read reports mistakes to the reader; its bool says whether the value can be used.
type kind[V any] struct {
	shape shape
	fresh func() V // the value of a mapping that is left out; nil for other types
	read  func(r *reader, n *yaml.Node, at Path) (V, bool)
}

// field is a key of a mapping that is read into a T.
type field[T any] struct {
	entry
	read  func(r *reader, n *yaml.Node, at Path, into *T)
	reset func(into *T) // sets the default
}

// prop makes a key whose values are of kind k and live in the part of T that slot returns. A default that cannot be read is a
// mistake in this package and panics when the program starts.
func prop[T, V any](e entry, k kind[V], slot func(*T) *V) field[T] {
	e.shape = k.shape
	f := field[T]{entry: e, reset: func(*T) {}}
	f.read = func(r *reader, n *yaml.Node, at Path, into *T) {
		if v, ok := k.read(r, n, at); ok {
			*slot(into) = v
			return
		}
		r.refused[at.id()] = true
	}
	switch {
	case e.def != "":
		var doc yaml.Node
		err := yaml.Load([]byte(e.def), &doc)
		v, ok := k.read(newReader("default", ""), doc.Content[0], Path{e.key})
		if err != nil || !ok {
			panic("config: the default of " + e.key + " cannot be read")
		}
		f.reset = func(into *T) { *slot(into) = v }
	case k.fresh != nil:
		f.reset = func(into *T) { *slot(into) = k.fresh() }
	}
	return f
}

// mapping is a mapping with the given keys.
func mapping[T any](schema map[string]any, fields ...field[T]) kind[T] {
	k := kind[T]{shape: shape{words: "mapping", schema: schema}}
	byKey := map[string]field[T]{}
	for _, f := range fields {
		k.shape.keys = append(k.shape.keys, f.entry)
		byKey[f.key] = f
	}
	entries := k.shape.keys
	k.fresh = func() (v T) {
		for _, f := range fields {
			f.reset(&v)
		}
		return v
	}
	k.read = func(r *reader, n *yaml.Node, at Path) (T, bool) {
		v := k.fresh()
		ok := r.eachKey(n, at, func(key, value *yaml.Node, at Path) {
			f, known := byKey[key.Value]
			if !known {
				// What is below a misspelt key is read as what was meant, so that all mistakes come out at once.
				meant := r.unknown(key, at, entries)
				at = at[:len(at)-1].with(meant)
				if meant == "" || r.places.has(at) {
					return
				}
				f = byKey[meant]
			}
			r.places.mark(at, key, value)
			if r.hasValue(key, value) {
				f.read(r, value, at, &v)
			}
		})
		if ok {
			r.demand(n, at, entries)
		}
		return v, ok
	}
	return k
}

// demand reports the required keys that a mapping lacks.
func (r *reader) demand(n *yaml.Node, at Path, entries []entry) {
	for _, e := range entries {
		if e.required && !r.places.has(at.with(e.key)) {
			where := n
			if line, column := r.places.find(at); line > 0 {
				where = &yaml.Node{Line: line, Column: column}
			}
			what := at.key()
			if len(at) == 0 {
				what = "the file"
			}
			r.fault(where, what+" lacks "+e.key, "add for example  "+firstLine(e.example))
		}
	}
}

// optional is a mapping that may be left out as a whole.
func optional[T any](k kind[T]) kind[*T] {
	return kind[*T]{shape: k.shape, read: func(r *reader, n *yaml.Node, at Path) (*T, bool) {
		v, ok := k.read(r, n, at)
		return &v, ok
	}}
}

// named is a mapping from names the operator chooses to values of kind k, in the order of the file.
func named[T any](k kind[T], limit int, setName func(*T, string)) kind[[]*T] {
	s := k.shape
	s.name, s.words, s.limit = "NAME", "mapping with names as keys", limit
	return kind[[]*T]{shape: s, read: func(r *reader, n *yaml.Node, at Path) ([]*T, bool) {
		if count := len(n.Content) / 2; n.Kind == yaml.MappingNode && count > limit {
			r.fault(n, fmt.Sprintf("%s has %d entries, %d are allowed", at.key(), count, limit), "")
			return nil, false
		}
		var all []*T
		ok := r.eachKey(n, at, func(key, value *yaml.Node, at Path) {
			r.places.mark(at, key, value)
			if !nameForm.MatchString(key.Value) {
				r.fault(key, fmt.Sprintf("%s cannot be a name", quote(key.Value)), "a name is a letter, then up to 31 letters, digits, _ and -")
			}
			if !r.hasValue(key, value) {
				return
			}
			if v, ok := k.read(r, value, at); ok {
				setName(&v, key.Value)
				all = append(all, &v)
			}
		})
		if ok && len(n.Content) == 0 {
			r.fault(n, at.key()+" is empty", "add an entry, or remove the key")
		}
		return all, ok
	}}
}

// list is a list of at least one and at most limit values. words are the type of its items in the plural.
func list[V any](words string, k kind[V], limit int) kind[[]V] {
	s := shape{words: "list of " + words, item: &k.shape}
	s.schema = map[string]any{"type": "array", "minItems": 1, "maxItems": limit}
	return kind[[]V]{shape: s, read: func(r *reader, n *yaml.Node, at Path) ([]V, bool) {
		if n.Kind != yaml.SequenceNode {
			r.wrongType(n, at, "a list", listHint(n))
			return nil, false
		}
		if len(n.Content) == 0 {
			r.fault(n, at.key()+" is an empty list", "name at least one, or remove the key")
		}
		if len(n.Content) > limit {
			r.fault(n, fmt.Sprintf("%s has %d entries, %d are allowed", at.key(), len(n.Content), limit), "")
			return nil, false
		}
		var all []V
		for i, item := range n.Content {
			at := at.with(i)
			r.places.mark(at, nil, item)
			v, ok := k.read(r, item, at)
			if !ok {
				v = *new(V) // keeps the indexes those of the file; no Config with a mistake leaves this package
			}
			all = append(all, v)
		}
		return all, true
	}}
}

// listHint shows a lone scalar as the list it should have been.
func listHint(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode {
		return "write it as  [a, b]"
	}
	value := n.Value
	if strings.ContainsAny(value, ":[]{},\"") {
		value = quote(value)
	}
	return "write  [" + clip(value) + "]"
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
