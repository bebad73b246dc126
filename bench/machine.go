package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// machine is what the bench ran on.
type machine struct {
	Processor  string
	Processors int
	MemoryGiB  float64
	Kernel     string
	Go         string // that built the bench, and salp unless another program was given
}

func thisMachine() machine {
	m := machine{Processors: runtime.NumCPU(), Go: runtime.Version(), Processor: "unknown processor", Kernel: "unknown"}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if name := field(string(text), "model name"); name != "" {
			m.Processor = name
		}
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kb float64
		if _, err := fmt.Sscanf(field(string(text), "MemTotal"), "%f kB", &kb); err == nil {
			m.MemoryGiB = kb / (1 << 20)
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(text))
	}
	return m
}

// field returns the first value of that name in lines of the form "name : value".
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (m machine) String() string {
	return fmt.Sprintf("%d processors (%s), %.0f GiB, Linux %s, %s", m.Processors, m.Processor, m.MemoryGiB, m.Kernel, m.Go)
}
