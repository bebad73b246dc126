package nft

import (
	"os"

	"salp/internal/kernel/wire"
)

// Adopt is Open with the socket of an earlier program of this process, which Owner told it to leave open over execve(2): the tables that the
// socket owns are this connection's from then on. The file stays the caller's.
func Adopt(holder string, owner *os.File) (*Conn, error) {
	c, err := Open(holder)
	if err != nil {
		return nil, err
	}
	w, err := wire.Adopt(owner)
	if err != nil {
		c.Close()
		return nil, err
	}
	c.writer.Close()
	c.writer = w
	return c, nil
}

// Owner is the number of the descriptor of the socket that owns the tables; the descriptor stays the connection's.
func (c *Conn) Owner() (int, error) { return c.writer.Descriptor() }
