package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// MaxSize is the most bytes a configuration may have.
const MaxSize = 1 << 20

// maxDepth is the deepest nesting; the table of keys needs seven levels.
const maxDepth = 32

// Load reads and parses the file at path. Its error is of type Errors.
func Load(path string) (*Config, error) {
	text, err := readFile(path)
	if err != nil {
		e := &Error{File: path, Message: "cannot be read: " + err.Error()}
		var pe *fs.PathError
		if errors.As(err, &pe) {
			e.Message = "cannot be read: " + pe.Err.Error()
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			e.Message, e.Hint = "there is no such file", "name the configuration with  -c FILE"
		case errors.Is(err, fs.ErrPermission):
			e.Hint = "run as root, or let this user read it"
		}
		return nil, Errors{e}
	}
	return Parse(path, text)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	return io.ReadAll(io.LimitReader(f, MaxSize+1))
}

// Parse checks text and returns it as a Config, with defaults filled in. file is its name in messages. The error is of type
// Errors: every mistake there is, in the order of their places. The Config keeps text.
func Parse(file string, text []byte) (*Config, error) {
	r := newReader(file, "")
	if len(text) > MaxSize {
		r.fault(&yaml.Node{}, fmt.Sprintf("is larger than %d KiB, the most a configuration may have", MaxSize>>10), "")
		return nil, r.result()
	}
	if e := checkText(file, text); e != nil {
		return nil, Errors{e}
	}
	r = newReader(file, string(text))
	r.table = root.shape.keys
	top := r.load(text)
	if top == nil {
		return nil, r.result()
	}
	r.inspect(top)
	r.places.at[Path{}.id()] = place{1, 1}
	cfg, ok := root.read(r, top, nil)
	cfg.File, cfg.Text, cfg.places = file, text, r.places
	fillLinks(&cfg)
	if ok {
		r.errs = append(r.errs, check(&cfg, r.refused)...)
	}
	if err := r.result(); err != nil {
		return nil, err
	}
	return &cfg, nil
}

// checkText refuses what is not text, before a parser sees it.
func checkText(file string, text []byte) *Error {
	line, column := 1, 0
	for rest := text; len(rest) > 0; {
		c, size := utf8.DecodeRune(rest)
		rest = rest[size:]
		column++
		problem := ""
		switch {
		case c == '\n':
			line, column = line+1, 0
		case c == '\ufeff' && line == 1 && column == 1:
			column = 0
		case c == utf8.RuneError && size == 1:
			problem = "a byte that is not UTF-8"
		case c == '\r' && (len(rest) == 0 || rest[0] != '\n'), c < ' ' && c != '\t' && c != '\r', c >= 0x7f && c < 0xa0,
			c == '\u2028', c == '\u2029', c == '\ufeff', c == '\ufffe', c == '\uffff':
			problem = fmt.Sprintf("the invisible character U+%04X", c)
		}
		if problem != "" {
			p := newPlaces(strings.ToValidUTF8(string(text), "\ufffd"))
			return p.fault(file, line, column, problem, "save the file as plain UTF-8 text, without it")
		}
	}
	return nil
}

// load parses the text as one YAML document and returns its top node, or nil after reporting what is in the way.
func (r *reader) load(text []byte) *yaml.Node {
	loader, err := yaml.NewLoader(strings.NewReader(string(text)), yaml.WithPlugin(limits{}))
	if err != nil {
		r.syntax(err)
		return nil
	}
	var doc, second yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF) || err == nil && emptyDocument(&doc):
		r.fault(&yaml.Node{Line: 1, Column: 1}, "the file is empty", "see examples/ for files to begin with")
		return nil
	case err != nil:
		r.syntax(err)
		return nil
	}
	switch err := loader.Load(&second); {
	case err == nil:
		r.fault(&second, "a second document begins here", "a configuration is one document: remove this line and what does not belong")
	case !errors.Is(err, io.EOF):
		r.syntax(err)
	}
	return doc.Content[0]
}

func emptyDocument(doc *yaml.Node) bool {
	return len(doc.Content) == 0 || doc.Content[0].Kind == yaml.ScalarNode && doc.Content[0].ShortTag() == "!!null"
}

// limits bounds what the YAML parser does.
type limits struct{}

var errDepth = errors.New("nested too deeply")

func (limits) CheckDepth(depth int, _ *yaml.DepthContext) error {
	if depth > maxDepth {
		return errDepth
	}
	return nil
}

// CheckAlias lets aliases through: a tree of nodes keeps them unexpanded, and inspect refuses them with their place.
func (limits) CheckAlias(int, int) error { return nil }
