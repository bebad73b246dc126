package lab

import (
	"encoding/binary"
	"fmt"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pattern returns a reader of n bytes that never repeat within reach: each eight bytes hold their own position, scrambled, so
// that a byte lost, doubled or moved shows at once.
func Pattern(n int64) io.Reader { return &pattern{left: n} }

type pattern struct {
	at, left int64
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	if int64(len(b)) > p.left {
		b = b[:p.left]
	}
	fill(b, p.at)
	p.at += int64(len(b))
	p.left -= int64(len(b))
	return len(b), nil
}

// fill writes the pattern's bytes from position at.
func fill(b []byte, at int64) {
	var word [8]byte
	for len(b) > 0 {
		binary.LittleEndian.PutUint64(word[:], uint64(at/8+1)*0x9e3779b97f4a7c15)
		n := copy(b, word[at%8:])
		b, at = b[n:], at+int64(n)
	}
}

// CheckPattern reads r to its end and returns how many bytes of Pattern came; an error names the first wrong byte.
func CheckPattern(r io.Reader) (int64, error) {
	got, want := make([]byte, 64<<10), make([]byte, 64<<10)
	var at int64
	for {
		n, err := r.Read(got)
		fill(want[:n], at)
		if string(got[:n]) != string(want[:n]) {
			for i := range n {
				if got[i] != want[i] {
					return at + int64(i), fmt.Errorf("byte %d is %#x, want %#x", at+int64(i), got[i], want[i])
				}
			}
		}
		at += int64(n)
		if err == io.EOF {
			return at, nil
		}
		if err != nil {
			return at, err
		}
	}
}

// peerGone says whether a connection was reset or closed in both directions, without reading from it.
func peerGone(raw syscall.RawConn) (gone bool, err error) {
	err = control(raw, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		if err != nil {
			return err
		}
		const closed, closeWait = 7, 8 // include/net/tcp_states.h
		gone = info.State == closed || info.State == closeWait
		return nil
	})
	return gone, err
}
