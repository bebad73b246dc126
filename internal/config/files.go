package config

import (
	"path/filepath"
	"slices"
)

// InFile returns the path of a file that the configuration names to be read: a relative one counts from the configuration's own directory.
func (c *Config) InFile(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(c.File), name)
}

// namedFile is a file or directory that the configuration names.
type namedFile struct {
	name string
	at   Path
}

// files returns all files that the worker needs the content of, and dirs the directories with error pages, in the order of the file.
func (c *Config) files() (files, dirs []namedFile) {
	add := func(at Path, name string) {
		if name != "" {
			files = append(files, namedFile{name, at})
		}
	}
	for _, l := range c.Listeners {
		at := Path{"listeners", l.Name}
		if l.Errors.Pages != "" {
			dirs = append(dirs, namedFile{l.Errors.Pages, at.with("errors").with("pages")})
		}
		if l.Auth != nil {
			add(at.with("auth").with("basic").with("file"), l.Auth.Basic.File)
		}
		if t := l.TLS; t != nil {
			at := at.with("tls")
			for i, pair := range t.Certificates {
				at := at.with("certificates").with(i)
				add(at.with("certificate"), pair.Certificate)
				add(at.with("key"), pair.Key)
			}
			if t.ACME != nil {
				add(at.with("acme").with("authority"), t.ACME.Authority)
			}
		}
		if u := l.UpstreamTLS; u != nil {
			at := at.with("upstream_tls")
			add(at.with("authorities"), u.Authorities)
			add(at.with("certificate"), u.Certificate)
			add(at.with("key"), u.Key)
		}
	}
	for _, l := range c.Lists {
		add(Path{"lists", l.Name, "names"}, l.Names)
		add(Path{"lists", l.Name, "addresses"}, l.Addresses)
	}
	return files, dirs
}

// Files returns the names, as the configuration has them, of all files that the worker needs the content of: lists, users, certificates and
// keys, each once.
func (c *Config) Files() []string {
	files, _ := c.files()
	return namesOf(files)
}

// PageDirectories returns the names of the directories with error pages, each once.
func (c *Config) PageDirectories() []string {
	_, dirs := c.files()
	return namesOf(dirs)
}

func namesOf(files []namedFile) (all []string) {
	for _, f := range files {
		if !slices.Contains(all, f.name) {
			all = append(all, f.name)
		}
	}
	return all
}

// PathOfFile returns where the configuration first names a file or directory.
func (c *Config) PathOfFile(name string) Path {
	files, dirs := c.files()
	for _, f := range append(files, dirs...) {
		if f.name == name {
			return f.at
		}
	}
	return nil
}
