package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxWords bounds what is told of what a program printed, in bytes.
const maxWords = 4 << 10

// examine asks a new program what it is, and whether it could take over: it reads the configuration and the state that the running keeper would
// leave it, and changes nothing. It returns its version.
func examine(binary string, o Options, state int) (version string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), examineWithin)
	defer cancel()
	out, err := ask(ctx, binary, -1, "version")
	if err != nil {
		return "", fmt.Errorf("%s does not tell its version: %w", binary, err)
	}
	fields := strings.Fields(out)
	if len(fields) < 2 || fields[0] != "salp" {
		return "", fmt.Errorf("%s is not Salp: asked for its version it says %q", binary, out)
	}
	version = fields[1]
	_, err = ask(ctx, binary, state, "check", "--config", o.ConfigFile, "--run-dir", o.RunDir, "--takes-over", "/dev/fd/3")
	if err != nil {
		return "", fmt.Errorf("salp %s (%s) cannot take over: %w", version, binary, err)
	}
	return version, nil
}

// ask runs a program and returns what it prints. A descriptor that is not negative is its descriptor 3. The error has what it said when it failed.
func ask(ctx context.Context, binary string, with int, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.WaitDelay = time.Second
	cmd.Env = []string{}
	for _, name := range passedOn {
		if value, set := os.LookupEnv(name); set {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if with >= 0 {
		// A descriptor of its own: the file is closed here, the state is the caller's.
		fd, err := unix.FcntlInt(uintptr(with), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return "", err
		}
		file := os.NewFile(uintptr(fd), "state")
		defer file.Close()
		cmd.ExtraFiles = []*os.File{file}
	}
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", fmt.Errorf("no answer within %v", examineWithin)
	}
	if err != nil {
		said := strings.TrimSpace(words.String())
		if len(said) > maxWords {
			said = said[:maxWords] + " …"
		}
		if said == "" {
			return "", err
		}
		return "", errors.New(said)
	}
	return strings.TrimSpace(out.String()), nil
}
