package control

import (
	"fmt"
	"net/netip"
	"time"

	"salp/internal/probe"
)

// Watch tells the monitor all that it is to do from now on, in place of what it was told before. A job with the same ID and the same content
// goes on in its rhythm; a new or changed one begins at once.
type Watch struct {
	Jobs      []Job     `json:"jobs,omitempty"`
	Names     []string  `json:"names,omitempty"` // host names to follow
	Resolvers Resolvers `json:"resolvers"`
}

// Job is a probe that is repeated.
type Job struct {
	ID     string        `json:"id"`             // the keeper's, unique in a Watch; by its first part, up to a slash, the keeper knows whose it is
	Every  time.Duration `json:"every"`          // from the beginning of one probe to that of the next; above 0
	Soon   time.Duration `json:"soon,omitempty"` // the same after a probe that failed; 0: Every
	Jitter float64       `json:"jitter"`         // share of Every, 0 to 1, by which it is longer or shorter at random
	Probe  probe.Spec    `json:"probe"`
}

// Resolvers says whom to ask for names.
type Resolvers struct {
	Servers []netip.AddrPort `json:"servers,omitempty"` // empty: those of /etc/resolv.conf
	Timeout time.Duration    `json:"timeout"`           // of one try
	MinTTL  time.Duration    `json:"min_ttl"`           // answers are kept at least so long
	MaxTTL  time.Duration    `json:"max_ttl"`           // and at most so long
}

// Results tells the keeper how probes ended.
type Results struct {
	Results []Result `json:"results"`
}

// Result is the end of one probe.
type Result struct {
	ID    string        `json:"id"`    // of the job
	At    time.Time     `json:"at"`    // when it ended
	Error string        `json:"error"` // "" when the answer was as it should be
	RTT   time.Duration `json:"rtt"`
}

// OK tells whether the answer was as it should be.
func (r *Result) OK() bool { return r.Error == "" }

// Names tells the keeper what names are now: those of Watch that have been asked for since the last message.
type Names struct {
	Names []Name `json:"names"`
}

// Name is what a host name is now.
type Name struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"` // sorted; empty with an Error, or when there are none
	Error     string       `json:"error,omitempty"`
}

// Call asks the monitor to call a webhook: an HTTP POST of a JSON body.
type Call struct {
	ID      uint64        `json:"id"`
	URL     string        `json:"url"`
	Body    []byte        `json:"body"`
	Timeout time.Duration `json:"timeout"`
}

// Called answers Call.
type Called struct {
	ID    uint64 `json:"id"`
	Error string `json:"error,omitempty"`
}

func (w *Watch) check() error {
	seen := make(map[string]bool, len(w.Jobs))
	for _, j := range w.Jobs {
		if j.ID == "" || seen[j.ID] || j.Every <= 0 || j.Probe.Timeout <= 0 || j.Jitter < 0 || j.Jitter > 1 {
			return fmt.Errorf("control: job %q every %v, timeout %v, jitter %v", j.ID, j.Every, j.Probe.Timeout, j.Jitter)
		}
		seen[j.ID] = true
	}
	return nil
}
