// Package demo shows the real gateway at work in a private network of namespaces: real connections, and what each side and the
// kernel saw of them. It touches nothing outside that network and leaves nothing behind.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"salp/internal/lab"
)

// Options are what a demo needs to know.
type Options struct {
	Out    io.Writer
	Color  bool
	Binary string // the salp program to run as gateway; "": this program
}

// Scene is one thing that can be shown.
type Scene struct {
	Name    string
	Summary string             // one line
	clients int                // in the network; 0: one
	servers int                // the same
	build   func(*stage) error // makes the network; nil: the standard one
	run     func(ctx context.Context, s *stage) error
}

// Scenes returns all scenes, the default one first.
func Scenes() []Scene {
	return []Scene{modes, mail, web, links}
}

// Run shows the named scene ("": the default one). When ctx ends it stops and cleans up as at the end. An error means that the
// scene could not be set up, or that what happened is not what Salp promises.
func Run(ctx context.Context, name string, o Options) error {
	scene, err := find(name)
	if err != nil {
		return err
	}
	s, err := newStage(o, scene)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.lab.Close() }) // so that nothing waits for what will not come; close below tells the error
	defer stop()
	err = scene.run(ctx, s)
	if ctx.Err() != nil {
		err = errors.New("interrupted; the private network and everything in it is gone")
	}
	if err = errors.Join(err, s.close()); err == nil {
		s.page.blank()
		s.page.line("Nothing of this network is left. Configurations to begin with are in examples/.")
	}
	return err
}

// UnknownScene is the error for a name that no scene has.
type UnknownScene struct{ Name string }

func (e UnknownScene) Error() string {
	names := make([]string, 0, len(Scenes()))
	for _, s := range Scenes() {
		names = append(names, s.Name)
	}
	return fmt.Sprintf("no scene is called %q; there is: %s", e.Name, strings.Join(names, ", "))
}

func find(name string) (Scene, error) {
	for _, s := range Scenes() {
		if s.Name == name || name == "" {
			return s, nil
		}
	}
	return Scene{}, UnknownScene{name}
}

// stage is what a scene plays on.
type stage struct {
	page   *page
	net    *lab.Net
	office *lab.Office // of the scene links
	lab    *lab.Lab
	dir    string // run directory and configuration of the gateway
	binary string
}

func newStage(o Options, scene Scene) (s *stage, err error) {
	s = &stage{page: &page{out: o.Out, color: o.Color}, binary: o.Binary}
	if s.binary == "" {
		if s.binary, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	if s.lab, err = lab.New(); err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, errors.New("the demo needs root: it makes network namespaces (CAP_SYS_ADMIN, CAP_NET_ADMIN). Try: sudo salp demo")
		}
		return nil, err
	}
	if scene.build != nil {
		err = scene.build(s)
	} else {
		s.net, err = s.lab.Standard(max(scene.clients, 1), max(scene.servers, 1))
	}
	if err != nil {
		return nil, errors.Join(err, s.lab.Close())
	}
	if s.dir, err = os.MkdirTemp("", "salp-demo-"); err != nil {
		return nil, errors.Join(err, s.lab.Close())
	}
	return s, nil
}

func (s *stage) close() error {
	return errors.Join(s.lab.Close(), os.RemoveAll(s.dir))
}
