package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"salp/internal/admin"
)

func newStatusCommand(env *environment) *cobra.Command {
	var runDir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the running gateway carries, and whether the kernel is as planned",
		Long: `Show the running gateway: its listeners and their mode in words, connections, bytes, errors by kind,
its workers, and whether the kernel is as planned. Exits 1 when no gateway runs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := admin.Dial(runDir)
			if err != nil {
				return err
			}
			defer client.Close()
			status, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(env.Stdout, status)
			}
			printStatus(env.Stdout, status)
			return nil
		},
	}
	runDirFlag(cmd, &runDir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// statusWidth is how wide what printStatus prints is at most, in characters. Texts that are not Salp's own, as errors, may be longer.
const statusWidth = 100

func printStatus(w io.Writer, s *admin.Status) {
	p := painter(w)
	fmt.Fprintf(w, "%s %s, %s for %s, configuration %s (generation %d)\n",
		p.bold("salp"), s.Version, s.State, span(time.Duration(s.Uptime*float64(time.Second))), s.ConfigFile, s.Generation)
	if r := s.Reload; r != nil && !r.Good {
		fmt.Fprintf(w, "%s at %s; the configuration before it stays in force:\n%s\n", p.red("last reload refused"), r.At.Format(time.DateTime), r.Error)
	}
	printUpgrade(w, p, s.Upgrade)
	printKernel(w, p, s)
	printWorkers(w, p, s)
	if len(s.Listeners) > 0 {
		printListeners(w, p, s.Listeners)
	}
	if len(s.Links) > 0 {
		fmt.Fprintln(w)
		printLinks(w, s.Links, s.Links, time.Now())
		printLinkless(w, s.Linkless)
	}
	if len(s.Pools) > 0 {
		fmt.Fprintln(w)
	}
	printPools(w, p, s.Pools)
}

// printUpgrade tells of the last upgrade what an operator must know: where it is, or why it did not become whole.
func printUpgrade(w io.Writer, p paint, u *admin.Upgrade) {
	if u == nil {
		return
	}
	switch u.State {
	case admin.UpgradeDone:
		fmt.Fprintf(w, "upgraded at %s from %s\n", u.At.Format(time.DateTime), u.From)
	case admin.UpgradeRunning:
		fmt.Fprintf(w, "%s to %s since %s\n", p.yellow("upgrading"), u.Binary, u.At.Format(time.DateTime))
	default:
		fmt.Fprintf(w, "%s at %s to %s: %s\n", p.red("last upgrade failed"), u.At.Format(time.DateTime), u.Binary, u.Error)
	}
}

func printKernel(w io.Writer, p paint, s *admin.Status) {
	k := s.Kernel
	switch {
	case k.Error != "":
		fmt.Fprintf(w, "kernel: %s\n", p.red(k.Error))
	case !k.Needed:
		fmt.Fprintln(w, "kernel: nothing needed")
	case k.InSync:
		fmt.Fprintf(w, "kernel: %s\n", p.green("as planned"))
	default:
		fmt.Fprintf(w, "kernel: %s\n", p.red("differs from the plan"))
		for _, difference := range k.Differences {
			fmt.Fprintf(w, "    %s\n", difference)
		}
	}
	for _, repair := range k.Repairs {
		by := ""
		if repair.By != "" {
			by = ", changed by " + repair.By
		}
		fmt.Fprintf(w, "    repaired %s: %s%s\n", repair.At.Format(time.DateTime), repair.What, by)
	}
	if k.Needed && !s.Alive {
		fmt.Fprintf(w, "%s: no worker answers; new connections are treated as on_failure says\n", p.red("not taking in"))
	}
}

func printWorkers(w io.Writer, p paint, s *admin.Status) {
	if len(s.Workers) == 1 && s.Workers[0].State == admin.WorkerRunning {
		fmt.Fprintf(w, "worker %d: running, %s\n", s.Workers[0].PID, count(int(s.Workers[0].Connections), "connection"))
	} else if len(s.Workers) > 0 {
		g := newGrid(p.dim, "WORKER", "STATE", "GENERATION ", "VERSION", "OPEN ", "SINCE")
		for _, worker := range s.Workers {
			state := gridCell{string(worker.State), nil}
			switch worker.State {
			case admin.WorkerHung:
				state.paint = p.red
			case admin.WorkerDraining:
				state.paint = p.yellow
			}
			g.row(fmt.Sprint(worker.PID), state, fmt.Sprint(worker.Generation), worker.Version, fmt.Sprint(worker.Connections), worker.Since.Format(time.DateTime))
		}
		g.print(w, statusWidth)
	}
	for _, worker := range s.Workers {
		if worker.LogLost > 0 {
			fmt.Fprintf(w, "%s by worker %d: the disk does not keep up\n", p.yellow(count(int(worker.LogLost), "line")+" of the access log lost"), worker.PID)
		}
	}
	if s.Restarts > 0 {
		fmt.Fprintf(w, "%s since the start\n", p.yellow(count(int(s.Restarts), "worker")+" replaced"))
	}
}

func printListeners(w io.Writer, p paint, listeners []admin.Listener) {
	if len(listeners) == 0 {
		return
	}
	fmt.Fprintln(w)
	g := newGrid(p.dim, "LISTENER", "MODE", "WHERE", "OPEN ", "TOTAL ", "IN ", "OUT ", "ERRORS ")
	for _, l := range listeners {
		c := l.Counters
		g.row(l.Name, modeWords(l), where(l), fmt.Sprint(c.Active), fmt.Sprint(c.Accepted), counted(l.Offloaded, c.BytesIn), counted(l.Offloaded, c.BytesOut), fmt.Sprint(total(c.Errors)))
	}
	g.print(w, statusWidth)
	for _, l := range listeners {
		for _, line := range details(l) {
			fmt.Fprintf(w, "    %s %s\n", p.dim(l.Name+":"), line)
		}
	}
}

// counted spells a number of bytes, or that nobody knows it.
func counted(offloaded bool, bytes uint64) string {
	if offloaded {
		return "-"
	}
	return size(bytes)
}

func upDown(p paint, up bool, text string) gridCell {
	if up {
		return gridCell{text, p.green}
	}
	return gridCell{text, p.red}
}

// modeWords tells the mode and what is particular about it.
func modeWords(l admin.Listener) string {
	words := l.Mode
	if l.SourcePort == "keep" || l.SourcePort == "require" {
		words += ", client's port"
	}
	if l.Method == "redirect" {
		words += ", by redirect"
	}
	return words
}

// where tells how connections come in.
func where(l admin.Listener) string {
	if len(l.Addresses) > 0 {
		return strings.Join(l.Addresses, " ")
	}
	return strings.Join(l.Interfaces, ",") + " to port " + strings.Join(l.Ports, ",")
}

// limitWords tells how a listener is bound, "" when it is not.
func limitWords(l admin.Limits) string {
	var words []string
	for _, bound := range []struct {
		n    int
		what string
	}{
		{l.Connections, "connections"}, {l.PerClient, "of one client"}, {l.Rate, "new ones a second"}, {l.ClientRate, "new ones a second of one client"},
	} {
		if bound.n > 0 {
			words = append(words, fmt.Sprintf("%d %s", bound.n, bound.what))
		}
	}
	return strings.Join(words, ", ")
}

// details lists what does not fit the table: limits, ports that could not be kept, and errors by kind.
func details(l admin.Listener) []string {
	var lines []string
	if words := limitWords(l.Limits); words != "" {
		lines = append(lines, "limits: "+words)
	}
	if l.Queue.Waiting > 0 || l.Queue.Dropped > 0 {
		lines = append(lines, fmt.Sprintf("accept queue: %d of %d wait, %d dropped", l.Queue.Waiting, l.Queue.Bound, l.Queue.Dropped))
	}
	if l.Counters.Retries > 0 {
		lines = append(lines, fmt.Sprintf("connects tried again before the client noticed: %d", l.Counters.Retries))
	}
	if l.Counters.PortFallbacks > 0 {
		lines = append(lines, fmt.Sprintf("client's port kept %d times, taken %d times (another was used)", l.Counters.PortKept, l.Counters.PortFallbacks))
	}
	kinds := make([]string, 0, len(l.Counters.Errors))
	for kind, n := range l.Counters.Errors {
		if n > 0 {
			kinds = append(kinds, fmt.Sprintf("%s %d", kind, n))
		}
	}
	slices.Sort(kinds)
	if len(kinds) > 0 {
		lines = append(lines, "errors: "+strings.Join(kinds, ", "))
	}
	return lines
}

func total(counts map[string]uint64) (sum uint64) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

// size prints a number of bytes in binary units.
func size(bytes uint64) string {
	value, units := float64(bytes), []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	unit := 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}

// span prints a duration as people say it.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}
