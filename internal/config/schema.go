package config

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"

	"go.yaml.in/yaml/v4"
)

// rootRules says that a file has listeners or links.
var rootRules = map[string]any{"anyOf": []any{
	map[string]any{"required": []string{"listeners"}},
	map[string]any{"required": []string{"links"}},
}}

// listenerRules is what a schema can say about the keys of a listener that need or exclude one another. The function check has the last word.
var listenerRules = map[string]any{
	"oneOf": []any{
		map[string]any{"required": []string{"listen"}},
		map[string]any{"required": []string{"intercept"}},
	},
	"dependentRequired": map[string]any{
		"on_failure":  []string{"intercept"},
		"source_port": []string{"source"},
	},
	"allOf": []any{
		map[string]any{
			"if":   map[string]any{"required": []string{"source_port"}},
			"then": map[string]any{"properties": map[string]any{"source": map[string]any{"const": SourceClient}}},
		},
		map[string]any{
			"if":   map[string]any{"required": []string{"listen"}, "not": protocolIs(ProtocolHTTP)},
			"then": map[string]any{"anyOf": []any{map[string]any{"required": []string{"pool"}}, map[string]any{"required": []string{"routes"}}}},
		},
		map[string]any{
			"if":   map[string]any{"anyOf": onlyHTTP()},
			"then": protocolIs(ProtocolHTTP),
		},
	},
}

// protocolIs is a schema of listeners of that protocol.
func protocolIs(p Protocol) map[string]any {
	return map[string]any{"required": []string{"protocol"}, "properties": map[string]any{"protocol": map[string]any{"const": p}}}
}

// onlyHTTP are schemas of listeners with a key that only those of protocol http may have.
func onlyHTTP() (all []any) {
	for _, key := range httpOnlyKeys {
		all = append(all, map[string]any{"required": []string{key}})
	}
	return all
}

// JSONSchema returns a JSON Schema (draft 2020-12) of the file, for editors and other programs: docs/salp.schema.json. What Parse
// accepts is valid by it; it cannot say everything that Parse refuses.
func JSONSchema() []byte {
	top := root.shape.jsonSchema()
	top["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	top["title"] = "Salp configuration"
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(top); err != nil {
		panic("config: the table of keys has no JSON form: " + err.Error())
	}
	return b.Bytes()
}

// jsonSchema returns the schema of values of this shape.
func (s *shape) jsonSchema() map[string]any {
	schema := maps.Clone(s.schema)
	if schema == nil {
		schema = map[string]any{}
	}
	switch {
	case s.item != nil:
		schema["items"] = s.item.jsonSchema()
		return s.underNames(schema)
	case s.keys == nil:
		return schema
	}
	properties, required := map[string]any{}, []string{}
	for _, e := range s.keys {
		properties[e.key] = e.jsonSchema()
		if e.required {
			required = append(required, e.key)
		}
	}
	schema["type"], schema["properties"], schema["additionalProperties"] = "object", properties, false
	if len(required) > 0 {
		schema["required"] = required
	}
	if s.short != nil {
		schema = map[string]any{"anyOf": []any{s.short.jsonSchema(), schema}}
	}
	return s.underNames(schema)
}

// underNames makes of the schema of a value that of a mapping from names to it, when the shape is one.
func (s *shape) underNames(schema map[string]any) map[string]any {
	if s.name == "" {
		return schema
	}
	return map[string]any{"type": "object", "minProperties": 1, "maxProperties": s.limit, "additionalProperties": false,
		"patternProperties": map[string]any{namePattern: schema}}
}

// jsonSchema returns the schema of the key's value, with its documentation.
func (e *entry) jsonSchema() map[string]any {
	schema := e.shape.jsonSchema()
	schema["description"] = strings.ReplaceAll(e.doc, "`", "")
	if e.def != "" {
		var v any
		if err := yaml.Load([]byte(e.def), &v); err != nil {
			panic("config: the default of " + e.key + " cannot be read: " + err.Error())
		}
		schema["default"] = v
	}
	return schema
}
