package worker

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"salp/internal/config"
	"salp/internal/errorpage"
	"salp/internal/tlsproxy"
)

// CheckFiles reads every file that a configuration names as a worker would: lists, users, certificates, keys and error pages. Its error is a config.Errors, with
// all that is wrong. unread are those that the caller may not read, as keys that only root should.
func CheckFiles(cfg *config.Config) (unread []string, err error) {
	log := slog.New(slog.DiscardHandler)
	s, err := newServices(cfg, nil, log)
	if err != nil {
		return nil, err
	}
	var faults config.Errors
	fault := func(at config.Path, err error, hint string) {
		faults = append(faults, cfg.Fault(at, err.Error(), hint))
	}
	for _, name := range cfg.Files() {
		switch err := s.checkFile(name); {
		case errors.Is(err, fs.ErrPermission):
			unread = append(unread, cfg.InFile(name))
		case errors.As(err, new(*fs.PathError)):
			fault(cfg.PathOfFile(name), err, "make it, or mend the path")
		case err != nil:
			fault(cfg.PathOfFile(name), errors.New(cfg.InFile(name)+": "+err.Error()), "mend the file")
		}
	}
	for _, name := range cfg.PageDirectories() {
		if err := s.checkPages(name); err != nil {
			fault(cfg.PathOfFile(name), err, "mend the directory, or the path")
		}
	}
	if faults == nil && unread == nil { // only then both halves of each pair are there
		for _, n := range cfg.Listeners {
			at := config.Path{"listeners", n.Name}
			if n.TLS != nil {
				c, err := tlsproxy.NewCertificates(n.TLS, s.files)
				if err != nil {
					fault(append(at, "tls"), err, "mend the files")
					continue
				}
				for _, why := range c.Invalid(time.Now()) {
					fault(append(at, "tls"), errors.New(why), "get a new one, or set this machine's clock")
				}
			}
			var f *config.Error
			if _, err := s.upstream(n, log); errors.As(err, &f) {
				faults = append(faults, f)
			}
		}
	}
	if faults == nil {
		return unread, nil
	}
	return unread, faults
}

func (s *services) checkFile(name string) error {
	f, err := os.Open(s.cfg.InFile(name))
	if err != nil {
		return err
	}
	defer f.Close()
	return s.takeFile(name, io.NewSectionReader(f, 0, maxFile))
}

func (s *services) checkPages(name string) error {
	path := s.cfg.InFile(name)
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if errorpage.IsPage(e.Name()) {
			names = append(names, e.Name())
		}
	}
	var opened []*os.File
	defer func() {
		for _, f := range opened {
			_ = f.Close() // only read from
		}
	}()
	return s.pages[name].Read(names, func(name string) (io.Reader, error) {
		f, err := os.Open(filepath.Join(path, name))
		if err == nil {
			opened = append(opened, f)
		}
		return f, err
	})
}
