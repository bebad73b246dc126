// Package procstat reads from /proc what the bench needs to know: the processor time, memory and descriptors of a tree of
// processes, and the TCP counters and sockets of the calling thread's network namespace. (proc(5))
package procstat

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Tree returns the given processes and all their descendants.
func Tree(roots ...int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pid, parent, err := parseStat(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		children[parent] = append(children[parent], pid)
	}
	return descend(roots, children), nil
}

func descend(roots []int, children map[int][]int) []int {
	var all []int
	for _, pid := range roots {
		all = append(all, pid)
		all = append(all, descend(children[pid], children)...)
	}
	return all
}

// parseStat returns the first and the fourth field of /proc/PID/stat. The second, the name, may hold blanks and parentheses.
func parseStat(text string) (pid, parent int, err error) {
	left, right := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if left < 0 || right < left {
		return 0, 0, errors.New("no name in parentheses")
	}
	fields := strings.Fields(text[right+1:])
	if len(fields) < 2 {
		return 0, 0, errors.New("too few fields")
	}
	pid, err1 := strconv.Atoi(strings.TrimSpace(text[:left]))
	parent, err2 := strconv.Atoi(fields[1])
	return pid, parent, errors.Join(err1, err2)
}

// CPU returns the time that all threads of these processes have run so far, to the nanosecond. A thread that ends takes its
// time with it.
func CPU(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			return 0, err
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if gone(err) {
				continue
			}
			if err != nil {
				return 0, err
			}
			d, err := parseSchedstat(string(text))
			if err != nil {
				return 0, fmt.Errorf("%s: %w", path, err)
			}
			sum += d
		}
	}
	return sum, nil
}

// parseSchedstat returns the first field of /proc/PID/task/TID/schedstat: nanoseconds on a processor.
// (Documentation/scheduler/sched-stats.rst)
func parseSchedstat(text string) (time.Duration, error) {
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return 0, fmt.Errorf("%d fields instead of 3", len(fields))
	}
	ns, err := strconv.ParseInt(fields[0], 10, 64)
	return time.Duration(ns), err
}

// MachineCPU returns the time in which the machine's processors were not idle, softirqs and the time that a hypervisor took
// included. Its grain is a hundredth of a second.
func MachineCPU() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseBusy(string(text))
}

const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture Go runs Linux on

func parseBusy(text string) (time.Duration, error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, errors.New("/proc/stat does not begin with the sum of the processors")
	}
	var busy time.Duration
	for i, f := range fields[1:9] { // user nice system idle iowait irq softirq steal
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		if i != 3 && i != 4 {
			busy += time.Duration(n) * tick
		}
	}
	return busy, nil
}

// Memory is what processes hold, in bytes.
type Memory struct {
	RSS int64 // pages shared between processes count for each
	PSS int64 // pages shared between n processes count for a n-th
}

// MemoryOf returns the sum over these processes.
func MemoryOf(pids []int) (Memory, error) {
	var sum Memory
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if gone(err) {
			continue
		}
		if err != nil {
			return sum, err
		}
		values := parseKB(bytes.NewReader(text))
		sum.RSS += values["Rss"]
		sum.PSS += values["Pss"]
	}
	return sum, nil
}

// KernelMemory returns what the kernel holds for itself on the whole machine, in bytes: slab caches, stacks and page tables.
func KernelMemory() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	values := parseKB(bytes.NewReader(text))
	return values["Slab"] + values["KernelStack"] + values["PageTables"], nil
}

// parseKB reads lines of the form "Name:  12 kB" and returns bytes; other lines do not matter.
func parseKB(r io.Reader) map[string]int64 {
	values := map[string]int64{}
	for lines := bufio.NewScanner(r); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 || fields[2] != "kB" {
			continue
		}
		if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
			values[strings.TrimSuffix(fields[0], ":")] = n << 10
		}
	}
	return values
}

// gone says that a process ended while it was looked at: ESRCH comes from reading a file that was opened before.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrProcessDone) || isESRCH(err)
}
