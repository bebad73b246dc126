package config

import "path/filepath"

// InFile returns the path of a file that the configuration names to be read: a relative one counts from the configuration's own directory.
func (c *Config) InFile(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(c.File), name)
}

// Files returns the names, as the configuration has them, of all files that the worker needs the content of: lists, users, certificates and
// keys, each once, in the order of the file. Pages are in directories: see PageDirectories.
func (c *Config) Files() []string {
	var all []string
	seen := map[string]bool{"": true}
	add := func(names ...string) {
		for _, name := range names {
			if !seen[name] {
				seen[name], all = true, append(all, name)
			}
		}
	}
	for _, l := range c.Listeners {
		if l.Auth != nil {
			add(l.Auth.Basic.File)
		}
		if l.TLS != nil {
			for _, pair := range l.TLS.Certificates {
				add(pair.Certificate, pair.Key)
			}
			if l.TLS.ACME != nil {
				add(l.TLS.ACME.Authority)
			}
		}
		if u := l.UpstreamTLS; u != nil {
			add(u.Authorities, u.Certificate, u.Key)
		}
	}
	for _, l := range c.Lists {
		add(l.Names, l.Addresses)
	}
	return all
}

// PageDirectories returns the names of the directories with error pages, each once.
func (c *Config) PageDirectories() []string {
	var all []string
	seen := map[string]bool{"": true}
	for _, l := range c.Listeners {
		if name := l.Errors.Pages; !seen[name] {
			seen[name], all = true, append(all, name)
		}
	}
	return all
}
