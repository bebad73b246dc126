package dial

import "sync/atomic"

// Secure is what a loop and the goroutine that speaks TLS for it tell each other of a connection to a server, beside the bytes: the pair of local
// sockets between them carries neither a reset nor a reason. Who tells sets it before it closes its socket. Its methods may be called on nil, which is a
// connection without TLS, and by both sides at once.
type Secure struct {
	broken atomic.Bool
	end    atomic.Uint32
}

// The ends that a server's TLS can have; 0 is a good one, or none yet.
const (
	endCut uint32 = 1 + iota
	endRefused
)

// Break says that the connection is about to be reset by the loop.
func (s *Secure) Break() {
	if s != nil {
		s.broken.Store(true)
	}
}

// Broken says that the loop has reset the connection: the server must not take that for an end.
func (s *Secure) Broken() bool { return s != nil && s.broken.Load() }

// Cut says that the server's side has ended without the end that TLS has, its close_notify: what came before may not be all (RFC 8446 6.1).
func (s *Secure) Cut() { s.end.CompareAndSwap(0, endCut) }

// Refuse says that there is no TLS with the server: the handshake failed, or the server refused what it was shown.
func (s *Secure) Refuse() { s.end.Store(endRefused) }

// WasCut says that the end of what the server sent is not its own.
func (s *Secure) WasCut() bool { return s != nil && s.end.Load() != 0 }

// WasRefused says that there is no TLS with the server.
func (s *Secure) WasRefused() bool { return s != nil && s.end.Load() == endRefused }
