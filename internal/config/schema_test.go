package config

import (
	"encoding/json"
	"fmt"
	"go.yaml.in/yaml/v4"
	"math"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// What Parse accepts is valid by the schema, and what is wrong with a key, a type or a word is not.
func TestSchema(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(JSONSchema(), &schema); err != nil {
		t.Fatal(err)
	}
	accepted := cases(t, "testdata/good/*.txtar")
	for name, text := range accepted {
		if problem := validate(schema, jsonValue(t, text), "file"); problem != "" {
			t.Errorf("%s is good and the schema refuses it: %s", name, problem)
		}
	}
	refused := cases(t, "testdata/errors/*.txtar")
	for _, name := range []string{"unknown-key", "unknown-key-elsewhere", "later-capabilities", "mode-key", "no-listeners", "listeners-empty", "listener-scalar",
		"wrong-types", "scalar-for-list", "empty-lists", "bad-names", "server-addresses", "ports", "numbers", "enums", "workers", "workers-word", "user-root",
		"kernel-table-zero", "listen-and-intercept", "neither", "listen-without-pool", "source-port-without-client", "on-failure-without-intercept",
		"pool-without-servers", "intercept-incomplete", "address-forms", "durations"} {
		text, ok := refused[name]
		if !ok {
			t.Errorf("there is no case %s", name)
			continue
		}
		if validate(schema, jsonValue(t, text), "file") == "" {
			t.Errorf("%s is wrong and the schema takes it", name)
		}
	}
}

// cases returns the inputs of cases by name.
func cases(t *testing.T, pattern string) map[string][]byte {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	all := map[string][]byte{}
	for _, file := range files {
		text, _ := readCase(t, file)
		all[strings.TrimSuffix(filepath.Base(file), ".txtar")] = []byte(text)
	}
	return all
}

// jsonValue reads YAML as an editor with a schema would: into what JSON could hold.
func jsonValue(t *testing.T, text []byte) any {
	var v any
	if err := yaml.Load(text, &v); err != nil {
		t.Fatal(err)
	}
	return plainJSON(v)
}

func plainJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = plainJSON(v[k])
		}
		return v
	case map[any]any:
		m := map[string]any{}
		for k, x := range v {
			m[fmt.Sprint(k)] = plainJSON(x)
		}
		return m
	case []any:
		for i := range v {
			v[i] = plainJSON(v[i])
		}
		return v
	case int, int64, uint64:
		return float64(reflect.ValueOf(v).Convert(reflect.TypeFor[int64]()).Int())
	}
	return v
}

// validate checks a value by the part of JSON Schema (draft 2020-12) that JSONSchema uses. It returns "" or what is wrong; a keyword it does
// not know is wrong too.
func validate(schema map[string]any, v any, at string) string {
	for _, keyword := range slices.Sorted(func(yield func(string) bool) {
		for k := range schema {
			if !yield(k) {
				return
			}
		}
	}) {
		if problem := keywordHolds(schema, keyword, v, at); problem != "" {
			return problem
		}
	}
	return ""
}

func keywordHolds(schema map[string]any, keyword string, v any, at string) string {
	rule := schema[keyword]
	wrong := fmt.Sprintf("%s: %v is against %s %v", at, v, keyword, rule)
	ok := true
	switch keyword {
	case "$schema", "title", "description", "default", "then", "patternProperties", "properties":
	case "type":
		ok = hasType(v, rule.(string))
	case "enum":
		ok = slices.ContainsFunc(rule.([]any), func(x any) bool { return reflect.DeepEqual(x, v) })
	case "const":
		ok = reflect.DeepEqual(rule, v)
	case "pattern":
		s, isString := v.(string)
		ok = !isString || regexp.MustCompile(rule.(string)).MatchString(s)
	case "minLength", "maxLength":
		s, isString := v.(string)
		n := float64(utf8.RuneCountInString(s))
		ok = !isString || keyword == "minLength" && n >= rule.(float64) || keyword == "maxLength" && n <= rule.(float64)
	case "minimum", "maximum":
		n, isNumber := v.(float64)
		ok = !isNumber || keyword == "minimum" && n >= rule.(float64) || keyword == "maximum" && n <= rule.(float64)
	case "not":
		ok = validate(rule.(map[string]any), v, at) != ""
	case "if":
		if validate(rule.(map[string]any), v, at) == "" {
			return validate(schema["then"].(map[string]any), v, at)
		}
	case "anyOf", "oneOf", "allOf":
		return combined(keyword, rule.([]any), v, at, wrong)
	default:
		return collectionHolds(schema, keyword, v, at, wrong)
	}
	if ok && (keyword == "properties" || keyword == "patternProperties") {
		return membersHold(schema, keyword, v, at)
	}
	if !ok {
		return wrong
	}
	return ""
}

func hasType(v any, name string) bool {
	switch x := v.(type) {
	case string:
		return name == "string"
	case float64:
		return name == "number" || name == "integer" && x == math.Trunc(x)
	case bool:
		return name == "boolean"
	case map[string]any:
		return name == "object"
	case []any:
		return name == "array"
	}
	return false
}

func combined(keyword string, rules []any, v any, at, wrong string) string {
	holds := 0
	for _, rule := range rules {
		problem := validate(rule.(map[string]any), v, at)
		if problem == "" {
			holds++
		} else if keyword == "allOf" {
			return problem
		}
	}
	if holds == 0 || keyword == "oneOf" && holds != 1 {
		return wrong
	}
	return ""
}

func collectionHolds(schema map[string]any, keyword string, v any, at, wrong string) string {
	object, _ := v.(map[string]any)
	array, _ := v.([]any)
	has := func(key any) bool { _, ok := object[key.(string)]; return ok }
	rule, ok := schema[keyword], true
	switch keyword {
	case "required":
		ok = object == nil || !slices.ContainsFunc(rule.([]any), func(k any) bool { return !has(k) })
	case "dependentRequired":
		for key, needs := range rule.(map[string]any) {
			ok = ok && (!has(key) || !slices.ContainsFunc(needs.([]any), func(k any) bool { return !has(k) }))
		}
	case "minProperties":
		ok = object == nil || len(object) >= int(rule.(float64))
	case "maxProperties":
		ok = object == nil || len(object) <= int(rule.(float64))
	case "minItems":
		ok = array == nil || len(array) >= int(rule.(float64))
	case "maxItems":
		ok = len(array) <= int(rule.(float64))
	case "items":
		for i, item := range array {
			if problem := validate(rule.(map[string]any), item, fmt.Sprintf("%s[%d]", at, i)); problem != "" {
				return problem
			}
		}
	case "additionalProperties":
		for key := range object {
			ok = ok && (schemaFor(schema, key) != nil || rule != false)
		}
	default:
		return at + ": the test does not know " + keyword
	}
	if !ok {
		return wrong
	}
	return ""
}

func membersHold(schema map[string]any, keyword string, v any, at string) string {
	object, _ := v.(map[string]any)
	for key, member := range object {
		if s := schemaFor(map[string]any{keyword: schema[keyword]}, key); s != nil {
			if problem := validate(s, member, at+"."+key); problem != "" {
				return problem
			}
		}
	}
	return ""
}

// schemaFor returns the schema of an object's member, or nil.
func schemaFor(schema map[string]any, key string) map[string]any {
	if properties, ok := schema["properties"].(map[string]any); ok {
		if s, ok := properties[key].(map[string]any); ok {
			return s
		}
	}
	patterns, _ := schema["patternProperties"].(map[string]any)
	for pattern, s := range patterns {
		if regexp.MustCompile(pattern).MatchString(key) {
			return s.(map[string]any)
		}
	}
	return nil
}
