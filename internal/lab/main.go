package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
)

// insideVariable marks a test process that runs in a network namespace of its own.
const insideVariable = "SALP_TEST_INSIDE"

// Main runs a package's tests with the whole process in a new network namespace, loopback up, when it may; that is what
// tests of code that opens sockets from many threads need. It is for TestMain, and returns the code to exit with. Without root
// the tests run where they are: those that need the namespace ask Inside and skip.
func Main(m interface{ Run() int }) int {
	if Inside() {
		if err := upLoopback(); err != nil {
			fmt.Fprintln(os.Stderr, "loopback of the tests' namespace:", err)
			return 1
		}
		return m.Run()
	}
	if os.Geteuid() != 0 {
		return m.Run()
	}
	return again()
}

// Inside tells whether this process runs in a network namespace that Main made for it.
func Inside() bool { return os.Getenv(insideVariable) != "" }

// NeedInside skips a test that would touch the host's own network namespace.
func NeedInside(t TB) {
	t.Helper()
	if !Inside() {
		t.Skipf("skipped: needs root, for a network namespace of its own")
	}
}

// again runs this test binary once more, in a new namespace.
func again() int {
	runtime.LockOSThread() // the death signal is tied to the thread that forks
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "a network namespace for the tests:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

func upLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
