package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"

	"salp/internal/config"
	"salp/internal/control"
)

// passedOn are the only variables of the environment that a worker gets: those by which an operator tunes the Go runtime.
var passedOn = []string{"GOMAXPROCS", "GOGC", "GOMEMLIMIT", "GODEBUG", "GOTRACEBACK"}

// child is a worker process, seen from its parent: one that spawn has started, or that an earlier program of this process had.
type child struct {
	process *os.Process
	conn    *control.Conn
	stderr  *os.File
}

// spawn starts command as a worker: the control socket is its descriptor 3, and beside its standard descriptors it has no other.
func spawn(command []string, with launch) (*child, error) {
	conn, end, err := control.Pair()
	if err != nil {
		return nil, err
	}
	defer end.Close()
	reader, writer, err := os.Pipe()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("pipe for the worker's log: %w", err)
	}
	defer writer.Close()

	cmd := exec.Command(command[0], command[1:]...)
	cmd.Args[0] = "salp" // for who lists processes
	cmd.Dir = "/"
	cmd.Env = []string{}
	for _, name := range passedOn {
		if value, set := os.LookupEnv(name); set {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Stderr = writer
	cmd.ExtraFiles = []*os.File{end}
	cmd.SysProcAttr = with.attributes()
	if err := startConfined(cmd, with); err != nil {
		conn.Close()
		reader.Close()
		if errors.Is(err, fs.ErrPermission) && with.who.changes {
			return nil, fmt.Errorf("start worker as user %s: %w (may that user execute this program's file?)", with.who.name, err)
		}
		return nil, fmt.Errorf("start worker as user %s: %w", with.who.name, err)
	}
	return &child{process: cmd.Process, conn: conn, stderr: reader}, nil
}

// startConfined starts cmd from a thread that has given up what the worker must not have. Go's fork cannot do that, and these
// properties belong to threads, so a thread is spent on it: its goroutine ends locked, and it with it. That is also why the worker has no
// parent-death signal: it comes when the thread ends. The worker notices the end of the keeper by its control socket.
func startConfined(cmd *exec.Cmd, with launch) error {
	result := make(chan error, 1)
	go func() { result <- confineAndStart(cmd, with) }()
	return <-result
}

func confineAndStart(cmd *exec.Cmd, with launch) error {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// The first thread cannot end before the process does: hold it, so that another one is taken.
		defer runtime.UnlockOSThread()
		return startConfined(cmd, with)
	}
	if err := with.confine(); err != nil {
		return err
	}
	return cmd.Start()
}

// configFile returns a descriptor of a file in memory that holds the configuration's text.
func configFile(cfg *config.Config) (int, error) {
	return memoryFile("configuration", cfg.Text)
}

// memoryFile returns a descriptor of a sealed file in memory with that text, at its start (memfd_create(2)). What names it in errors.
func memoryFile(what string, text []byte) (int, error) {
	fd, err := unix.MemfdCreate("salp-"+what, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("memory file for the %s: memfd_create: %w", what, err)
	}
	for len(text) > 0 {
		n, err := unix.Write(fd, text)
		if err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("memory file for the %s: write: %w", what, err)
		}
		text = text[n:]
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("memory file for the %s: seek: %w", what, err)
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("memory file for the %s: seal: %w", what, err)
	}
	return fd, nil
}

// keepDescriptors makes descriptors that this process itself was started with stay in it: none of them is a worker's business.
func keepDescriptors() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("mark descriptors close-on-exec: close_range: %w", err)
	}
	return nil
}

// raiseFileLimit lets workers have as many connections as the kernel permits one process to have descriptors. It is best effort: without
// CAP_SYS_RESOURCE only the hard limit can be reached.
func raiseFileLimit() (limit uint64) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	most := fileLimitOfKernel()
	if most > r.Max {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most}); err == nil {
			return most
		}
	}
	r.Cur = r.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	return r.Cur
}

// fileLimitOfKernel returns fs.nr_open, the highest limit that a process may have (proc_sys_fs(5)).
func fileLimitOfKernel() uint64 {
	var n uint64
	text, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return 0
	}
	if _, err := fmt.Sscan(string(text), &n); err != nil {
		return 0
	}
	return n
}
