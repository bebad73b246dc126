package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The variables by which one program tells the next, in the same process, what it inherits. They are all that must stay as it is between
// versions, so that any two find back to each other.
const (
	// variableState holds the descriptors of the state's file and of the old program's: "5 6".
	variableState = "SALP_UPGRADE"
	// variableArgs holds the arguments that the old program is to be gone back to with, as a JSON array.
	variableArgs = "SALP_UPGRADE_BACK"
	// variableFailure says why the program that was to take over has gone back to this one.
	variableFailure = "SALP_UPGRADE_FAILED"
)

// inherited is what a program gets from the one that it takes the place of. Its descriptors, and those in the state, are not close-on-exec
// until all is taken over: until then the old program can be gone back to.
type inherited struct {
	state   int
	old     int      // the old program's file
	args    []string // the old program's
	failure string   // the old program is this one: why the new one has gone back
}

// inheritance returns what the program before this one left; nil when there was none.
func inheritance() (*inherited, error) {
	text, set := os.LookupEnv(variableState)
	if !set {
		return nil, nil
	}
	h := &inherited{failure: os.Getenv(variableFailure)}
	first, second, two := strings.Cut(text, " ")
	var err, err2 error
	h.state, err = inheritedDescriptor(first)
	h.old, err2 = inheritedDescriptor(second)
	if err := errors.Join(err, err2); err != nil || !two {
		return nil, fmt.Errorf("the environment variable %s is %q, and only the keeper sets it: %w", variableState, text, err)
	}
	if err := json.Unmarshal([]byte(os.Getenv(variableArgs)), &h.args); err != nil || len(h.args) == 0 {
		return nil, fmt.Errorf("the environment variable %s is %q, and only the keeper sets it: %w", variableArgs, os.Getenv(variableArgs), err)
	}
	return h, nil
}

func inheritedDescriptor(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err == nil && n < 3 {
		err = errors.New("not a descriptor that a program inherits")
	}
	return n, err
}

// environment returns this program's with what the next one must know.
func (h *inherited) environment() []string {
	var all []string
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !slices.Contains([]string{variableState, variableArgs, variableFailure}, name) {
			all = append(all, v)
		}
	}
	args, _ := json.Marshal(h.args) // strings always can be
	all = append(all, fmt.Sprintf("%s=%d %d", variableState, h.state, h.old), variableArgs+"="+string(args))
	if h.failure != "" {
		all = append(all, variableFailure+"="+h.failure)
	}
	return all
}

// taken forgets the way back: this program has taken over.
func (h *inherited) taken(s *saved) {
	for _, name := range []string{variableState, variableArgs, variableFailure} {
		_ = os.Unsetenv(name)
	}
	closeAll([]int{h.state, h.old})
	// What this program uses of them it has copies of.
	closeAll(s.descriptors())
}

// maxFailure bounds the reason that goes back to the old program, in bytes: an environment has room for 128 KiB a variable (execve(2)).
const maxFailure = 8 << 10

// GoBack has the program go on that this one was to take the place of, because of reason. It returns at once when there is none, when this
// program has taken over already, or when it was itself gone back to.
func GoBack(reason error) {
	h, err := inheritance()
	if err != nil || h == nil || h.failure != "" {
		return
	}
	h.failure = strings.ReplaceAll(reason.Error(), "\x00", "")
	if len(h.failure) > maxFailure {
		h.failure = h.failure[:maxFailure] + " …"
	}
	path := fmt.Sprintf("/proc/self/fd/%d", h.old)
	// What this program has opened itself is close-on-exec, as the Go runtime has it.
	err = syscall.Exec(path, h.args, h.environment())
	fmt.Fprintf(os.Stderr, "salp: the old program cannot be gone back to: execute %s: %v\n", path, err)
}

// copyOf returns a close-on-exec copy of an inherited descriptor.
func copyOf(fd int) (int, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return -1, fmt.Errorf("descriptor %d, which the old program left: %w", fd, err)
	}
	return n, nil
}

// fileOf returns a close-on-exec copy of an inherited descriptor.
func fileOf(fd int, name string) (*os.File, error) {
	n, err := copyOf(fd)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(n), name), nil
}
