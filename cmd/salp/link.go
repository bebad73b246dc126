package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"salp/internal/admin"
)

// linkOrders are what may be wanted of a link.
var linkOrders = []string{"drain", "down", "ready"}

func newLinkCommand(env *environment) *cobra.Command {
	var runDir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "link [NAME [drain|down|ready]]",
		Short: "Show the Internet links and their history, or take one out for maintenance",
		Long: `Show the Internet links of the running gateway, or one of them with its history. With a verb, change it:

  drain  it gets no new flows; those it has go on
  down   it is used for nothing, and on_link_down says what becomes of its flows
  ready  it is again what its checks say

What was set stays over reloads, upgrades and restarts of the gateway, until it is set to ready.`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && !slices.Contains(linkOrders, args[1]) {
				return usageError{fmt.Errorf("%q is none of drain, down and ready", args[1])}
			}
			client, err := admin.Dial(runDir)
			if err != nil {
				return err
			}
			defer client.Close()
			if len(args) == 2 {
				a, err := client.SetLink(cmd.Context(), admin.LinkWish{Link: args[0], State: args[1]})
				if err != nil {
					return err
				}
				fmt.Fprintf(env.Stdout, "%s: %s; %d of %d links are up\n", args[0], a.State, a.Up, a.Links)
				return nil
			}
			status, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			links := status.Links
			if len(args) == 1 {
				links = slices.DeleteFunc(slices.Clone(links), func(l admin.Link) bool { return l.Name != args[0] })
				if len(links) == 0 {
					return fmt.Errorf("there is no link %s: 'salp link' lists them", args[0])
				}
			}
			if asJSON {
				return printJSON(env.Stdout, links)
			}
			printLinks(env.Stdout, links, status.Links, time.Now())
			printLinkless(env.Stdout, status.Linkless)
			printHistory(env.Stdout, links)
			return nil
		},
	}
	runDirFlag(cmd, &runDir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printLinks prints a table of some of all links, and below it what does not fit.
func printLinks(w io.Writer, links, all []admin.Link, now time.Time) {
	p := painter(w)
	if len(links) == 0 {
		fmt.Fprintln(w, "no links")
		return
	}
	var flows, bytes uint64
	for _, l := range all {
		flows, bytes = flows+l.Flows, bytes+l.BytesIn+l.BytesOut
	}
	g := newGrid(p.dim, "LINK", "STATE", "FOR ", "INTERFACE", "GATEWAY", "SHARE ", "LOSS ", "RTT ", "FLOWS ", "BYTES ")
	for _, l := range links {
		loss, rtt := "-", "-"
		if l.Checked {
			loss, rtt = fmt.Sprintf("%.0f%%", 100*l.Loss), rttWords(l.RTT)
		}
		carried, part := l.BytesIn+l.BytesOut, size(0)
		if carried > 0 {
			part = fmt.Sprintf("%s (%.0f%%)", size(carried), 100*float64(carried)/float64(bytes))
		}
		g.row(l.Name, upDown(p, l.Up, l.State), span(now.Sub(l.Since)), l.Interface, firstOf(l.Gateways), fmt.Sprintf("%.0f%%", 100*l.Share),
			loss, rtt, partOf(l.Flows, flows), part)
	}
	g.print(w, statusWidth)
	for _, l := range links {
		for _, line := range linkNotes(l, now) {
			fmt.Fprintf(w, "    %s %s\n", p.dim(l.Name+":"), line)
		}
	}
}

// printLinkless says what got no link, if anything did.
func printLinkless(w io.Writer, n *admin.Linkless) {
	if n == nil {
		return
	}
	if n.Refused > 0 {
		fmt.Fprintf(w, "    %d packets refused: no link was up that their flow may use\n", n.Refused)
	}
	if n.Dropped > 0 {
		fmt.Fprintf(w, "    %d packets dropped by rules with blackhole\n", n.Dropped)
	}
}

func rttWords(seconds float64) string {
	if seconds == 0 {
		return "-"
	}
	return time.Duration(seconds * float64(time.Second)).Round(10 * time.Microsecond).String()
}

func firstOf(all []string) string {
	if len(all) == 0 {
		return "-"
	}
	return all[0]
}

// partOf writes a count and its share of the total.
func partOf(n, of uint64) string {
	if of == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%.0f%%)", n, 100*float64(n)/float64(of))
}

// linkNotes lists what is particular about a link.
func linkNotes(l admin.Link, now time.Time) []string {
	var notes []string
	if words := l.State + " for " + span(now.Sub(l.Since)); l.Reason != "" {
		notes = append(notes, words+": "+l.Reason)
	} else if !l.Up {
		notes = append(notes, words)
	}
	if l.Flapping {
		notes = append(notes, "it comes and goes, and stays down until it has been good for a while")
	}
	if l.Wish != "" && l.Reason == "" {
		notes = append(notes, "an operator wants it "+l.Wish)
	}
	for _, t := range l.Targets {
		if t.Error != "" && l.Up {
			notes = append(notes, t.Name+": "+t.Error)
		}
	}
	if len(l.Addresses) > 0 {
		notes = append(notes, "its addresses: "+strings.Join(l.Addresses, " "))
	}
	if l.BytesIn+l.BytesOut > 0 {
		notes = append(notes, fmt.Sprintf("%s in, %s out", size(l.BytesIn), size(l.BytesOut)))
	}
	if l.Leaked > 0 {
		notes = append(notes, fmt.Sprintf("%d packets dropped whose source is not the link's", l.Leaked))
	}
	return notes
}

// printHistory prints the changes of all links, oldest first.
func printHistory(w io.Writer, links []admin.Link) {
	type change struct {
		link string
		admin.LinkChange
	}
	var all []change
	for _, l := range links {
		for _, c := range l.History {
			all = append(all, change{l.Name, c})
		}
	}
	if len(all) == 0 {
		return
	}
	slices.SortStableFunc(all, func(a, b change) int { return a.At.Compare(b.At) })
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", c.At.Format(time.DateTime), c.link, c.State, c.Reason)
	}
	table.Flush()
}
