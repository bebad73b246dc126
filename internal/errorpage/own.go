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

// Read puts the operator's files in force. open gives each file's content by its name; it is asked for those alone that IsPage likes. After an
// error the pages before stay.
func (p *Pages) Read(names []string, open func(name string) (io.Reader, error)) error {
	own := map[string]string{}
	for _, name := range names {
		if !IsPage(name) {
			continue
		}
		if len(own) == MaxFiles {
			return fmt.Errorf("errorpage: more than %d pages", MaxFiles)
		}
		r, err := open(name)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
		switch {
		case err != nil:
			return fmt.Errorf("errorpage: %s: %w", name, err)
		case len(text) > MaxFile:
			return fmt.Errorf("errorpage: %s has more than %d KiB", name, MaxFile>>10)
		case !utf8.Valid(text):
			return fmt.Errorf("errorpage: %s is not UTF-8", name)
		}
		own[name] = string(text)
	}
	p.own.Store(&own)
	return nil
}

// template returns the operator's page for a status: in the first language that the client likes and that there is, or without one, or that for
// all errors.
func (p *Pages) template(status int, acceptLanguage string) (string, bool) {
	if p == nil || p.own.Load() == nil {
		return "", false
	}
	own := *p.own.Load()
	for _, base := range []string{strconv.Itoa(status), "error"} {
		best, weight := "", 0.0
		for _, w := range weigh(acceptLanguage) {
			language, _, _ := strings.Cut(w.item, "-")
			if text, ok := own[base+"."+language+".html"]; ok && w.weight > weight {
				best, weight = text, w.weight
			}
		}
		if weight > 0 {
			return best, true
		}
		if text, ok := own[base+".html"]; ok {
			return text, true
		}
	}
	return "", false
}
