package control

import "fmt"

// Content hands over files that the worker may not open itself: before Start all that the configuration names, and later each that has changed. The
// keeper does not look into them; the worker reads a file from its start and puts it in force when it is good. A packet carries the files'
// descriptors, open for reading, of the log for appending.
type Content struct {
	Kind  ContentKind `json:"kind"`
	Name  string      `json:"name"`            // as the configuration has it; of the log its path
	Pages []string    `json:"pages,omitempty"` // the names of the files in the directory Name, in the order of their descriptors
}

// ContentKind says what a Content is.
type ContentKind string

const (
	ContentFile  ContentKind = "file"
	ContentPages ContentKind = "pages" // all error pages of a directory
	ContentLog   ContentKind = "log"   // the access log
)

func (c *Content) check(descriptors int) error {
	want := 1
	if c.Kind == ContentPages {
		want = len(c.Pages)
	}
	if c.Name == "" || descriptors != want || c.Kind != ContentFile && c.Kind != ContentPages && c.Kind != ContentLog {
		return fmt.Errorf("control: content %q %q with %d descriptors", c.Kind, c.Name, descriptors)
	}
	return nil
}
