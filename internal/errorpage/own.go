package errorpage

import (
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// MaxFile is the most bytes that a page of the operator's own may have.
	MaxFile = 256 << 10
	// MaxFiles is how many there may be.
	MaxFiles = 200
)

// fileForm is what the files of pages are called: 403.html, 403.it.html, error.html.
var fileForm = regexp.MustCompile(`^([45][0-9][0-9]|error)(\.[a-z]{2,3})?\.html$`)

// IsPage says whether a file is one of the pages by its name.
func IsPage(name string) bool { return fileForm.MatchString(name) }

// Read makes Pages of the operator's files. open gives each file's content by its name; it is asked for those alone that IsPage likes.
func Read(names []string, open func(name string) (io.Reader, error)) (*Pages, error) {
	p := &Pages{own: map[string]string{}}
	for _, name := range names {
		if !IsPage(name) {
			continue
		}
		if len(p.own) == MaxFiles {
			return nil, fmt.Errorf("errorpage: more than %d pages", MaxFiles)
		}
		r, err := open(name)
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
		switch {
		case err != nil:
			return nil, fmt.Errorf("errorpage: %s: %w", name, err)
		case len(text) > MaxFile:
			return nil, fmt.Errorf("errorpage: %s has more than %d KiB", name, MaxFile>>10)
		case !utf8.Valid(text):
			return nil, fmt.Errorf("errorpage: %s is not UTF-8", name)
		}
		p.own[name] = string(text)
	}
	return p, nil
}

// template returns the operator's page for a status: in the first language that the client likes and that there is, or without one, or that for
// all errors.
func (p *Pages) template(status int, acceptLanguage string) (string, bool) {
	if p == nil || len(p.own) == 0 {
		return "", false
	}
	for _, base := range []string{strconv.Itoa(status), "error"} {
		best, weight := "", 0.0
		for _, w := range weigh(acceptLanguage) {
			language, _, _ := strings.Cut(w.item, "-")
			if text, ok := p.own[base+"."+language+".html"]; ok && w.weight > weight {
				best, weight = text, w.weight
			}
		}
		if weight > 0 {
			return best, true
		}
		if text, ok := p.own[base+".html"]; ok {
			return text, true
		}
	}
	return "", false
}
