package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Where no process is in the path, what a peer adds is a few functions of the kernel among all that the machine does for client and server. On a machine that others
// use too, the processor time of two windows differs by more than these. A profile tells what share of one window they took, which hardly varies; what they cost others
// by taking room in caches it does not tell.

// profiled makes a check that samples can be taken.
func profiled(on bool) error {
	if !on {
		return nil
	}
	if _, err := exec.LookPath("perf"); err != nil {
		return errors.New("-profile needs perf (Debian: linux-perf)")
	}
	return nil
}

// observe waits for the length of a window, and with -profile returns the file of the samples that were taken in it. They are read when the window has been measured, for
// that costs time of its own.
func (t *trial) observe() (samples string, err error) {
	if !t.options.profile {
		return "", t.sleep(t.options.window)
	}
	samples = filepath.Join(t.net.dir, "perf.data")
	record := exec.CommandContext(t.ctx, "perf", "record", "-q", "-a", "-F", "3997", "-o", samples, "--", "sleep", fmt.Sprint(t.options.window.Seconds()))
	if out, err := record.CombinedOutput(); err != nil {
		return "", fmt.Errorf("perf record: %w\n%s", err, out)
	}
	return samples, nil
}

// shareOf returns what share of the processors' busy time packets took on their way through the kernel's filters and routing; 0 without samples.
func shareOf(ctx context.Context, samples string) (float64, error) {
	if samples == "" {
		return 0, nil
	}
	out, err := exec.CommandContext(ctx, "perf", "report", "-i", samples, "--stdio", "--no-children", "-F", "overhead,symbol").Output()
	if err != nil {
		return 0, fmt.Errorf("perf report: %w", err)
	}
	return pathShare(string(out))
}

// pathShare adds up the lines of perf's report that are of the way, as a share of all that are not idleness.
func pathShare(text string) (float64, error) {
	var way, busy float64
	for line := range strings.Lines(text) {
		f := strings.Fields(line) // 2.19%  [k] fib_rules_lookup
		if len(f) < 3 || !strings.HasSuffix(f[0], "%") || strings.Contains(f[2], "halt") || strings.Contains(f[2], "idle") {
			continue
		}
		percent, err := strconv.ParseFloat(strings.TrimSuffix(f[0], "%"), 64)
		if err != nil {
			continue
		}
		busy += percent
		if f[1] == "[k]" && onTheWay(f[2]) {
			way += percent
		}
	}
	if busy == 0 {
		return 0, errors.New("perf saw no busy processor")
	}
	return way / busy, nil
}

// onTheWay says whether a function of the kernel belongs to filtering, connection tracking, translation or routing.
func onTheWay(symbol string) bool {
	for _, prefix := range []string{
		"nf_", "__nf_", "nft_", "hash_by_src", "l4proto_manip", "inet_proto_csum", "skb_ensure_writable", // netfilter
		"__xfrm_decode", "__skb_flow_dissect", // nf_xfrm_me_harder, of each packet that is translated
		"sized_strscpy", "strnlen", // names of interfaces, for nft
		"fib", "__fib", "ip_route_input", "l3mdev", "dev_get_by_index_rcu", // routing
	} {
		if strings.HasPrefix(symbol, prefix) {
			return true
		}
	}
	return false
}

// byWay is what a unit costs in multiples of all that is not on the way, which is the same work for all peers without a process.
func byWay(s sample) float64 { return 1 / (1 - s.Way) }
