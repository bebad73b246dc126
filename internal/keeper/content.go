package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"salp/internal/config"
	"salp/internal/control"
	"salp/internal/errorpage"
)

// contentEvery is how often the files that a configuration names are looked at for changes.
const contentEvery = time.Second

// contents opens the files that a worker needs and may not open itself, hands them to it, and does so again when they change: lists, users,
// certificates, keys, error pages, and the access log. The keeper looks at their metadata alone. A descriptor works in the worker's
// confinement, needs no permission there, and with it only root must be able to read a key.
type contents struct {
	cfg  *config.Config
	conn *control.Conn
	log  *slog.Logger

	mu   sync.Mutex
	seen map[string]mark // by kind and name
	told map[string]bool // what could not be opened, and the log knows
}

// mark tells one state of a file from another.
type mark struct {
	inode, device uint64
	size          int64
	changed       time.Time
}

func newContents(cfg *config.Config, conn *control.Conn, log *slog.Logger) *contents {
	return &contents{cfg: cfg, conn: conn, log: log, seen: map[string]mark{}, told: map[string]bool{}}
}

// first sends everything. The first file that cannot be opened ends it, with an error that tells the place in the configuration.
func (c *contents) first() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stateDirectories(); err != nil {
		return err
	}
	for _, name := range c.cfg.Files() {
		if err := c.file(name); err != nil {
			return err
		}
	}
	for _, name := range c.cfg.PageDirectories() {
		if err := c.pages(name); err != nil {
			return err
		}
	}
	return c.accessLog(false)
}

// stateDirectories makes the directories for account keys and certificates of ACME, which the worker writes itself, readable for its user alone.
func (c *contents) stateDirectories() error {
	for _, l := range c.cfg.Listeners {
		if l.TLS == nil || l.TLS.ACME == nil {
			continue
		}
		who, err := workerIdentity(c.cfg)
		if err != nil {
			return err
		}
		dir := l.TLS.ACME.State
		err = os.MkdirAll(filepath.Dir(dir), 0o755)
		if err == nil {
			if err = os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
				err = nil
			}
		}
		if err == nil && who.changes {
			err = os.Lchown(dir, int(who.uid), int(who.gid))
		}
		if err != nil {
			return c.cfg.Fault(config.Path{"listeners", l.Name, "tls", "acme", "state"}, err.Error(), "name a directory that can be made")
		}
	}
	return nil
}

// watch sends what changes, until done is closed.
func (c *contents) watch(done <-chan struct{}) {
	tick := time.NewTicker(contentEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.changed()
		case <-done:
			return
		}
	}
}

func (c *contents) changed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range c.cfg.Files() {
		c.tell(name, c.file(name))
	}
	for _, name := range c.cfg.PageDirectories() {
		c.tell(name, c.pages(name))
	}
	if c.cfg.Logs.Access != nil {
		c.tell(c.cfg.Logs.Access.File, c.accessLog(false))
	}
}

// tell logs what is wrong with a file, once.
func (c *contents) tell(name string, err error) {
	if err == nil || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) { // or the worker has just ended
		delete(c.told, name)
		return
	}
	if !c.told[name] {
		c.told[name] = true
		c.log.Warn("a file of the configuration cannot be read again, what it held stays in force", "error", err)
	}
}

// rotate opens the access log anew.
func (c *contents) rotate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.accessLog(true); err != nil {
		c.log.Warn("the access log cannot be opened anew", "error", err)
	}
}

// fresh says whether a file is another than was sent last, and remembers it.
func (c *contents) fresh(key string, info fs.FileInfo) bool {
	now := mark{size: info.Size(), changed: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		now.inode, now.device = st.Ino, st.Dev
	}
	if c.seen[key] == now {
		return false
	}
	c.seen[key] = now
	return true
}

func (c *contents) file(name string) error {
	path := c.cfg.InFile(name)
	info, err := os.Stat(path)
	if err != nil {
		return c.fault(name, err)
	}
	if !info.Mode().IsRegular() {
		return c.fault(name, fmt.Errorf("%s is not a file", path))
	}
	if !c.fresh("file:"+name, info) {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return c.fault(name, err)
	}
	defer f.Close()
	return c.conn.Send(control.Message{Content: &control.Content{Kind: control.ContentFile, Name: name}}, int(f.Fd()))
}

// pages sends all pages of a directory when one of them has changed.
func (c *contents) pages(name string) error {
	path := c.cfg.InFile(name)
	entries, err := os.ReadDir(path)
	if err != nil {
		return c.fault(name, err)
	}
	var files []string
	fresh := false
	for _, e := range entries {
		if !errorpage.IsPage(e.Name()) || len(files) == errorpage.MaxFiles {
			continue
		}
		info, err := os.Stat(filepath.Join(path, e.Name()))
		if err != nil || !info.Mode().IsRegular() {
			continue // it has gone just now
		}
		files = append(files, e.Name())
		fresh = c.fresh("page:"+name+"/"+e.Name(), info) || fresh
	}
	if n := int64(len(files)); c.seen["pages:"+name].size != n {
		c.seen["pages:"+name] = mark{size: n}
		fresh = true
	}
	if !fresh || len(files) == 0 {
		return nil
	}
	var fds []int
	for _, file := range files {
		f, err := os.Open(filepath.Join(path, file))
		if err != nil {
			return c.fault(name, err)
		}
		defer f.Close()
		fds = append(fds, int(f.Fd()))
	}
	return c.conn.Send(control.Message{Content: &control.Content{Kind: control.ContentPages, Name: name, Pages: files}}, fds...)
}

// accessLog sends the access log, opened anew, when it is another file than before, as after a rotation, or when it must be.
func (c *contents) accessLog(must bool) error {
	l := c.cfg.Logs.Access
	if l == nil {
		return nil
	}
	const key = "log"
	if info, err := os.Stat(l.File); err == nil && !must {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && c.seen[key] == (mark{inode: st.Ino, device: st.Dev}) {
			return nil
		}
	}
	// Without O_NONBLOCK the keeper would wait for who reads, where the file is a FIFO.
	f, err := os.OpenFile(l.File, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return c.cfg.Fault(config.Path{"logs", "access", "file"}, err.Error(), "make its directory, or write another path")
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			c.seen[key] = mark{inode: st.Ino, device: st.Dev}
		}
	}
	return c.conn.Send(control.Message{Content: &control.Content{Kind: control.ContentLog, Name: l.File}}, int(f.Fd()))
}

// fault says where in the configuration a file is named that cannot be read.
func (c *contents) fault(name string, err error) error {
	return c.cfg.Fault(c.cfg.PathOfFile(name), err.Error(), "make it, or mend the path")
}
