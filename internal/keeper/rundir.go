package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// runDirLock is held as long as a keeper uses its run directory; the kernel lets go of it when the process ends (flock(2)).
type runDirLock struct{ file *os.File }

// lockRunDir makes the directory when there is none, and takes it for this process.
func lockRunDir(dir string) (*runDirLock, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, runDirError(dir, err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, runDirError(dir, err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("a gateway%s runs already with run directory %s: stop it with 'salp down --run-dir %s', or give this one its own with --run-dir", holder(file), dir, dir)
		}
		return nil, fmt.Errorf("run directory %s: flock: %w", dir, err)
	}
	// The number is only for the message above, so a failure to write it does not matter.
	_ = file.Truncate(0)
	_, _ = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return &runDirLock{file}, nil
}

// holder names the process that holds the lock, when it said so.
func holder(file *os.File) string {
	text := make([]byte, 20)
	n, _ := file.ReadAt(text, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}

func runDirError(dir string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("run directory %s: %w: run as root, or name a directory of yours with --run-dir", dir, err)
	}
	return fmt.Errorf("run directory: %w", err)
}

// release lets another keeper have the directory. The lock file stays: removing it would let two hold a lock of that name.
func (l *runDirLock) release() { l.file.Close() }
