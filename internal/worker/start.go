package worker

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"salp/internal/control"
)

// socketGroup are the listening sockets of one address of one listener.
type socketGroup struct {
	control.Sockets
	fds []int
}

// startOrder is Start with the text of the configuration, and the files that came before it.
type startOrder struct {
	control.Start
	text   []byte
	memory memory
	pools  *control.Pools // nil: the keeper knows nothing of them yet
	others *control.Elsewhere
	links  *control.Links // nil: there are none

	contents []handed
}

// maxConfig bounds the configuration's text in bytes.
const maxConfig = 16 << 20

// receiveStart takes sockets and files until the keeper says Start.
func receiveStart(conn *control.Conn, log *slog.Logger) ([]socketGroup, startOrder, error) {
	var groups []socketGroup
	order := startOrder{memory: memory{}}
	for {
		m, fds, err := conn.Receive()
		switch {
		case err != nil:
			closeGroups(groups)
			closeContents(order.contents)
			return nil, startOrder{}, fmt.Errorf("worker: waiting for Start: %w", err)
		case m.Sockets != nil:
			groups = append(groups, socketGroup{*m.Sockets, fds})
		case m.Content != nil:
			order.contents = append(order.contents, handed{*m.Content, fds})
		case m.Start != nil:
			text, err := readText(fds)
			if err != nil {
				closeGroups(groups)
				closeContents(order.contents)
				return nil, startOrder{}, err
			}
			order.Start, order.text = *m.Start, text
			return groups, order, nil
		case m.Table != nil:
			order.memory.open(m.Table, fds, log)
		case m.Pools != nil:
			order.pools = m.Pools
		case m.Elsewhere != nil:
			order.others = m.Elsewhere
		case m.Links != nil:
			order.links = m.Links
		default:
			log.Warn("the keeper sent something else before Start")
			closeFDs(fds)
		}
	}
}

// readText reads the file that came with Start from its beginning, wherever the sender left its offset.
func readText(fds []int) ([]byte, error) {
	if len(fds) != 1 {
		closeFDs(fds)
		return nil, errors.New("worker: Start came without the configuration")
	}
	f := os.NewFile(uintptr(fds[0]), "configuration")
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, 0, maxConfig))
	if err != nil {
		return nil, fmt.Errorf("worker: read the configuration: %w", err)
	}
	return text, nil
}

func closeGroups(groups []socketGroup) {
	for _, g := range groups {
		closeFDs(g.fds)
	}
}
