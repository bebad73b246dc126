package lab

import (
	"fmt"
	"os"
	"strings"
)

const procSys = "/proc/sys/"

// Sysctl writes a value, named as below /proc/sys with slashes ("net/ipv4/ip_forward"), in the host's namespace.
func (h *Host) Sysctl(name, value string) error {
	return h.Do(func() error { return h.fault(writeSysctl(name, value), "sysctl") })
}

// ReadSysctl returns a value in the host's namespace, without the newline.
func (h *Host) ReadSysctl(name string) (value string, err error) {
	err = h.Do(func() error {
		text, err := os.ReadFile(procSys + name)
		value = strings.TrimRight(string(text), "\n")
		return h.fault(err, "sysctl %s", name)
	})
	return value, err
}

// writeSysctl writes below the calling thread's /proc/sys/net, which the kernel resolves by the thread's namespace.
func writeSysctl(name, value string) error {
	if !strings.HasPrefix(name, "net/") {
		return fmt.Errorf("%s is not a setting of a network namespace: it would change the whole machine", name)
	}
	f, err := os.OpenFile(procSys+name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("writing %q: %w", value, err)
	}
	return nil
}
