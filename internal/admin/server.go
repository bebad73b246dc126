package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// maxPath is how long the name of a Unix socket may be (unix(7), sun_path with its final zero byte).
const maxPath = 107

// SocketPath returns where the gateway with that run directory answers.
func SocketPath(runDir string) string { return filepath.Join(runDir, "salp.sock") }

// maxWish bounds the body of a request in bytes.
const maxWish = 64 << 10

// Gateway is what the server asks and tells. Its methods are called by several goroutines at once.
type Gateway interface {
	Status(ctx context.Context) (Status, error)
	// Reload returns when the new configuration is in force, or why it is not.
	Reload(ctx context.Context) (generation uint64, err error)
	// Upgrade has another binary take the place of the running program, and returns once that is about to happen, or why it does not. An
	// empty path means the file that the running program was started from.
	Upgrade(ctx context.Context, binary string) (UpgradeAnswer, error)
	// SetServer has a server of a pool drained, in maintenance, or as its checks say, until it is told otherwise.
	SetServer(ctx context.Context, w ServerWish) (ServerChange, error)
	// SetLink has an Internet link drained, taken down, or as its checks say, until it is told otherwise.
	SetLink(ctx context.Context, w LinkWish) (LinkAnswer, error)
	// Stop returns once the gateway has begun to stop.
	Stop(ctx context.Context) error
}

// Server answers on the socket of a run directory.
type Server struct {
	http     *http.Server
	listener *net.UnixListener
	path     string
	done     chan struct{}
}

// Serve starts to answer. The caller must hold the run directory (two servers in one would take each other's socket): what is in the
// socket's place is from a gateway that died and is removed.
func Serve(runDir string, gateway Gateway, log *slog.Logger) (*Server, error) {
	path := SocketPath(runDir)
	if len(path) > maxPath {
		return nil, fmt.Errorf("admin socket: the path %s is longer than the %d bytes a Unix socket may have: choose a shorter run directory", path, maxPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	// The mode is set before bind(2), which takes it over: there is no moment in which others may connect.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmod error
		err := c.Control(func(fd uintptr) { chmod = syscall.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmod)
	}}
	listener, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return serveOn(listener, path, gateway, log)
}

// Resume answers on a socket that Release returned, in this program or in the one before it in the same process. The file stays the caller's.
func Resume(runDir string, file *os.File, gateway Gateway, log *slog.Logger) (*Server, error) {
	listener, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return serveOn(listener, SocketPath(runDir), gateway, log)
}

func serveOn(l net.Listener, path string, gateway Gateway, log *slog.Logger) (*Server, error) {
	listener, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("admin socket: %s is no Unix socket", l.Addr())
	}
	listener.SetUnlinkOnClose(false) // Close does it, Release must not
	s := &Server{
		path:     path,
		listener: listener,
		done:     make(chan struct{}),
		http: &http.Server{
			Handler:           handler(gateway),
			ReadHeaderTimeout: 5 * time.Second,
			IdleTimeout:       time.Minute,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		},
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("admin socket has stopped answering", "socket", path, "error", err)
		}
	}()
	return s, nil
}

// Close answers what is being asked, for a second at most, and removes the socket.
func (s *Server) Close() error {
	err := s.shutdown()
	if removed := os.Remove(s.path); !errors.Is(removed, fs.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	return err
}

// Release answers what is being asked, for a second at most, and no more. The socket stays: who connects waits until somebody answers by
// Resume. The caller closes the file.
func (s *Server) Release() (*os.File, error) {
	file, err := s.listener.File()
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if err := s.shutdown(); err != nil {
		file.Close()
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return file, nil
}

func (s *Server) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	<-s.done
	return err
}

func handler(gateway Gateway) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		status, err := gateway.Status(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		answer(w, http.StatusOK, status)
	})
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, r *http.Request) {
		generation, err := gateway.Reload(r.Context())
		if err != nil {
			answer(w, http.StatusUnprocessableEntity, ReloadAnswer{Error: err.Error()})
			return
		}
		answer(w, http.StatusOK, ReloadAnswer{Generation: generation})
	})
	mux.HandleFunc("POST /upgrade", func(w http.ResponseWriter, r *http.Request) {
		var order UpgradeOrder
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&order); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		result, err := gateway.Upgrade(r.Context(), order.Binary)
		if err != nil {
			answer(w, http.StatusUnprocessableEntity, UpgradeAnswer{Error: err.Error()})
			return
		}
		answer(w, http.StatusAccepted, result)
	})
	mux.HandleFunc("POST /pool", func(w http.ResponseWriter, r *http.Request) {
		var wish ServerWish
		err := json.NewDecoder(io.LimitReader(r.Body, maxWish)).Decode(&wish)
		var change ServerChange
		if err == nil {
			change, err = gateway.SetServer(r.Context(), wish)
		}
		if err != nil {
			answer(w, http.StatusUnprocessableEntity, ServerChange{Error: err.Error()})
			return
		}
		answer(w, http.StatusOK, change)
	})
	mux.HandleFunc("POST /link", func(w http.ResponseWriter, r *http.Request) {
		var wish LinkWish
		err := json.NewDecoder(io.LimitReader(r.Body, maxWish)).Decode(&wish)
		var result LinkAnswer
		if err == nil {
			result, err = gateway.SetLink(r.Context(), wish)
		}
		if err != nil {
			answer(w, http.StatusUnprocessableEntity, LinkAnswer{Error: err.Error()})
			return
		}
		answer(w, http.StatusOK, result)
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, r *http.Request) {
		if err := gateway.Stop(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

func answer(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(value) // the client is gone; there is nobody to tell
}
