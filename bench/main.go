// Command bench measures Salp beside HAProxy, nginx, Squid and Traffic Server, in private networks of this machine, with direct forwarding as the limit.
//
// It needs root. `go run ./bench` measures everything, which takes about a quarter of an hour; -quick is for a look.
//
// How it is laid out: a row (row.go) is a kind of traffic, a mode is a way to be in the path, a peer (peer.go) is a program that
// carries traffic. For every row and mode the peers are measured in turn, and that several times (run.go); each measurement has
// a network of its own (network.go), and counts only if the peer was in the path (evidence.go).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"salp/bench/traffic"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == roleArgument {
		fail(playRole(os.Args[2:]))
		return
	}
	o, err := parseOptions(os.Args[1:], os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fail(bench(ctx, o, os.Stdout, os.Stderr))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// roleArgument as the first argument makes this program the client or the server of a measurement.
const roleArgument = "traffic"

func playRole(args []string) error {
	if len(args) != 2 {
		return errors.New("the traffic roles are for the bench itself")
	}
	switch args[0] {
	case "serve":
		at, err := netip.ParseAddrPort(args[1])
		if err != nil {
			return err
		}
		return traffic.Serve(at, trafficLoops(), os.Stdin, os.Stdout)
	case "load":
		var job traffic.Job
		if err := json.Unmarshal([]byte(args[1]), &job); err != nil {
			return err
		}
		return traffic.Load(job, os.Stdin, os.Stdout)
	}
	return fmt.Errorf("no traffic role %q", args[0])
}

// bench measures what is asked for and reports it.
func bench(ctx context.Context, o options, out, progress io.Writer) error {
	peers, done, err := o.present(ctx, progress)
	if err != nil {
		return err
	}
	defer done()
	r := newReport(ctx, o, peers)
	err = measureAll(ctx, o, peers, r, progress)
	if err := errors.Join(err, r.text(out)); err != nil { // what has been measured is worth seeing all the same
		return err
	}
	if o.json != "" {
		if err := r.writeJSON(o.json, out); err != nil {
			return err
		}
	}
	if o.write != "" {
		if err := r.record(o.write); err != nil {
			return err
		}
	}
	if n := r.missed(); o.strict && n > 0 {
		return fmt.Errorf("%d goals are missed", n)
	}
	return nil
}
