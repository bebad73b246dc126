package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"salp/internal/admin"
)

func newTopCommand(env *environment) *cobra.Command {
	var runDir string
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch listeners, servers and links live, with rates",
		Long: `Watch the running gateway: listeners, servers and links with their rates, renewed every second.

  o c i u e n   sort by open connections, connections a second, bytes in, bytes out, errors, name
  r             the other way round
  1 2 3 0       listeners alone, servers alone, links alone, all
  + -           faster, slower
  q or ^C       quit`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < fastest || every > slowest {
				return usageError{fmt.Errorf("--every must be %v to %v", fastest, slowest)}
			}
			out, terminal := env.Stdout.(*os.File)
			if !terminal || !term.IsTerminal(int(out.Fd())) || !term.IsTerminal(int(os.Stdin.Fd())) {
				return errors.New("top needs a terminal: 'salp status' is for everything else")
			}
			client, err := admin.Dial(runDir)
			if err != nil {
				return err
			}
			defer client.Close()
			return (&top{client: client, out: out, every: every, view: view{paint: painter(out), sort: sortOpen}}).run(cmd.Context())
		},
	}
	runDirFlag(cmd, &runDir)
	cmd.Flags().DurationVarP(&every, "every", "d", time.Second, "`time` between two looks")
	return cmd
}

const (
	fastest = 100 * time.Millisecond
	slowest = time.Minute
)

// ANSI (ECMA-48) and xterm sequences: another screen without a cursor, whose lines are cut and do not wrap; clearing.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// top is the command while it runs.
type top struct {
	client *admin.Client
	out    *os.File
	every  time.Duration
	view   view
	fault  error // of the last look
}

// run shows the view until a key or ctx ends it, and leaves the terminal as it was.
func (t *top) run(ctx context.Context) error {
	in := int(os.Stdin.Fd())
	before, err := term.MakeRaw(in)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer func() { _ = term.Restore(in, before) }() // nothing else can be done
	_, _ = io.WriteString(t.out, enterScreen)
	defer func() { _, _ = io.WriteString(t.out, leaveScreen) }()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	keys := make(chan byte)
	go readKeys(os.Stdin, keys, ctx.Done())
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			t.look(ctx)
			look.Reset(t.every)
		case <-resized:
		case key, open := <-keys:
			if !open || !t.press(key) {
				return nil
			}
		}
		t.draw()
	}
}

// readKeys passes on what is typed. It ends with the program.
func readKeys(from io.Reader, to chan<- byte, done <-chan struct{}) {
	defer close(to)
	buf := make([]byte, 64)
	for {
		n, err := from.Read(buf)
		for _, key := range buf[:n] {
			select {
			case to <- key:
			case <-done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// look asks the gateway. While it does not answer the last view stays, and says so.
func (t *top) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var s *admin.Status
	if s, t.fault = t.client.Status(ctx); t.fault == nil {
		t.view.add(s, time.Now())
	}
}

// press does what a key means, and tells whether to go on. In raw mode ^C is a key.
func (t *top) press(key byte) bool {
	const controlC, controlD = 3, 4
	switch key {
	case 'q', 'Q', controlC, controlD:
		return false
	case '+':
		t.every = max(t.every/2, fastest)
	case '-':
		t.every = min(2*t.every, slowest)
	default:
		t.view.press(key)
	}
	return true
}

func (t *top) draw() {
	width, height, err := term.GetSize(int(t.out.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 24
	}
	lines := t.view.lines(width, height, t.fault)
	_, _ = io.WriteString(t.out, home+strings.Join(lines, clearLine+"\r\n")+clearLine+clearBelow) // a terminal that is gone ends the keys
}
