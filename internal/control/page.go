package control

import (
	"encoding/json"
	"fmt"
	"net/netip"
)

// Page has the monitor serve the metrics. The packet carries one descriptor, the listening socket, which takes the place of the one before;
// without any the page is served no more.
type Page struct {
	From []netip.Prefix `json:"from,omitempty"` // who may read it; empty: all that reach the socket
}

// AskStatus asks the keeper for its status.
type AskStatus struct {
	ID uint64 `json:"id"`
}

// Status answers AskStatus with an admin.Status as JSON.
type Status struct {
	ID     uint64          `json:"id"`
	Status json.RawMessage `json:"status,omitempty"`
	Error  string          `json:"error,omitempty"` // why there is none
}

func (p *Page) check(descriptors int) error {
	if descriptors > 1 {
		return fmt.Errorf("control: page with %d descriptors", descriptors)
	}
	return nil
}
