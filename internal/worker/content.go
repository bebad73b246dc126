package worker

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"salp/internal/access"
	"salp/internal/accesslog"
	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/errorpage"
	"salp/internal/htpasswd"
	"salp/internal/resolve"
	"salp/internal/sock"
)

// maxFile bounds a file that the keeper hands over; a list of millions of names fits.
const maxFile = 256 << 20

// handed is what came with one Content.
type handed struct {
	control.Content
	fds []int
}

// services are what listeners share that comes from files: access rules with their lists, users, error pages, certificates and the access log. The
// keeper opens those files; what is in them is read and judged here, without privilege.
type services struct {
	cfg   *config.Config
	log   *slog.Logger
	rules *access.Rules
	users map[string]*htpasswd.Users  // by the name of the file
	pages map[string]*errorpage.Pages // by the name of the directory; "" has the built-in ones
	lines *accesslog.Log              // nil: there is none

	resolver *resolve.Resolver // of names that requests and TLS clients have

	files   map[string][]byte         // of certificates and keys
	changed []func(name string) error // are told of one that changed
}

// newServices reads everything that came before Start. What is wrong with a file is an error with its place in the configuration.
func newServices(cfg *config.Config, contents []handed, log *slog.Logger) (*services, error) {
	s := &services{cfg: cfg, log: log, rules: access.Compile(cfg), users: map[string]*htpasswd.Users{}, pages: map[string]*errorpage.Pages{"": {}}, files: map[string][]byte{},
		resolver: resolve.New(resolve.Options{Servers: cfg.Resolvers.Servers, Timeout: cfg.Resolvers.Timeout, MinTTL: cfg.Resolvers.MinTTL, MaxTTL: cfg.Resolvers.MaxTTL})}
	for _, l := range cfg.Listeners {
		if l.Errors.Pages != "" {
			s.pages[l.Errors.Pages] = &errorpage.Pages{}
		}
		if l.Auth == nil || s.users[l.Auth.Basic.File] != nil {
			continue
		}
		users, err := htpasswd.New()
		if err != nil {
			return nil, err
		}
		s.users[l.Auth.Basic.File] = users
	}
	var failed error
	for _, h := range contents {
		if err := s.take(h); err != nil && failed == nil {
			failed = err
		}
	}
	return s, failed
}

// take puts in force what the keeper handed over, and closes its descriptors. After an error what was before stays.
func (s *services) take(h handed) error {
	files := make([]*os.File, len(h.fds))
	for i, fd := range h.fds {
		files[i] = os.NewFile(uintptr(fd), h.Name)
	}
	if h.Kind == control.ContentLog {
		return s.takeLog(files[0])
	}
	defer func() {
		for _, f := range files {
			_ = f.Close() // only read from
		}
	}()
	var err error
	if h.Kind == control.ContentPages {
		err = s.takePages(h, files)
	} else {
		err = s.takeFile(h.Name, io.NewSectionReader(files[0], 0, maxFile)) // a descriptor may have been read from, by the worker before
	}
	if err != nil {
		return s.cfg.Fault(s.cfg.PathOfFile(h.Name), fmt.Sprintf("%s: %v", s.cfg.InFile(h.Name), err), "mend the file")
	}
	return nil
}

func (s *services) takeLog(f *os.File) error {
	if s.lines != nil {
		s.lines.Reopen(f)
		return nil
	}
	var err error
	s.lines, err = accesslog.New(s.cfg.Logs.Access.Format, f, s.log)
	return err
}

func (s *services) takePages(h handed, files []*os.File) error {
	pages := s.pages[h.Name]
	if pages == nil {
		return nil // of no listener
	}
	next := map[string]*os.File{}
	for i, name := range h.Pages {
		next[name] = files[i]
	}
	return pages.Read(h.Pages, func(name string) (io.Reader, error) {
		return io.NewSectionReader(next[name], 0, errorpage.MaxFile+1), nil
	})
}

// takeFile gives a file to whom it is for: it may be several things at once.
func (s *services) takeFile(name string, r *io.SectionReader) error {
	used := false
	for _, l := range s.cfg.Lists {
		if l.Names == name || l.Addresses == name {
			used = true
			if err := s.rules.SetList(l, io.NewSectionReader(r, 0, r.Size())); err != nil {
				return err
			}
		}
	}
	if users := s.users[name]; users != nil {
		used = true
		if err := users.Load(io.NewSectionReader(r, 0, r.Size())); err != nil {
			return err
		}
	}
	if used {
		return nil
	}
	const maxPEM = 4 << 20
	text, err := io.ReadAll(io.LimitReader(r, maxPEM))
	if err != nil {
		return err
	}
	s.files[name] = text
	var failed error
	for _, tell := range s.changed {
		if err := tell(name); err != nil {
			failed = err
		}
	}
	return failed
}

// follow takes what the keeper hands over later, one after the other, off the loops.
func (s *services) follow(contents <-chan handed) {
	for h := range contents {
		if err := s.take(h); err != nil {
			s.log.Error("a file that changed is wrong, what was before stays in force", "error", err)
			continue
		}
		s.log.Info("took a file that changed", "name", h.Name)
	}
}

// logLost is how many lines of the access log were lost.
func (s *services) logLost() uint64 {
	if s.lines == nil {
		return 0
	}
	return s.lines.Dropped()
}

// close writes what waits for the access log.
func (s *services) close() {
	if s.lines != nil {
		s.lines.Close()
	}
}

func closeContents(contents []handed) {
	for _, h := range contents {
		for _, fd := range h.fds {
			sock.Close(fd)
		}
	}
}
