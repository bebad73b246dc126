package admin

import "time"

// Link is one Internet link.
type Link struct {
	Name      string    `json:"name"`
	Interface string    `json:"interface"`
	State     string    `json:"state"`              // up, down or drain
	Up        bool      `json:"up"`                 // new flows use it
	Since     time.Time `json:"since"`              // of the state
	Reason    string    `json:"reason,omitempty"`   // of a state that is not up
	Flapping  bool      `json:"flapping,omitempty"` // it stays down until it has been good for a while
	Wish      string    `json:"wish,omitempty"`     // what an operator wants: drain, down; "": what checks say

	Addresses []string `json:"addresses,omitempty"` // its own, best first
	Gateways  []string `json:"gateways,omitempty"`  // configured or learned, one for each family that has one
	Learned   bool     `json:"learned,omitempty"`   // the gateways are learned from others' default routes

	Weight  int     `json:"weight"`            // as configured
	Share   float64 `json:"share"`             // of new flows that are spread over all links, 0 to 1, now
	Metered bool    `json:"metered,omitempty"` // takes part in spreading only when no other can

	Checked bool         `json:"checked"`               // it is probed, so that loss and latency are known
	Loss    float64      `json:"loss"`                  // share of the last probes that were lost, 0 to 1
	RTT     float64      `json:"rtt_seconds,omitempty"` // mean of the last probes that were answered
	Targets []LinkTarget `json:"targets,omitempty"`

	Flows    uint64 `json:"flows"`     // that were sent over it
	BytesIn  uint64 `json:"bytes_in"`  // that its interface has received since the gateway started
	BytesOut uint64 `json:"bytes_out"` // and sent
	Leaked   uint64 `json:"leaked"`    // packets dropped that would have left with a source that is not the link's

	Downs   uint64       `json:"downs"`             // how often it went down, as far as is remembered
	History []LinkChange `json:"history,omitempty"` // the last changes, oldest first
}

// Linkless is what got no link, as the kernel counts it, since the links' table was made.
type Linkless struct {
	Refused uint64 `json:"refused"` // packets that began a flow which no link was up for
	Dropped uint64 `json:"dropped"` // packets that a rule sent to blackhole
}

// LinkTarget is one target of a link's probes.
type LinkTarget struct {
	Name  string `json:"name"`            // "ping 9.9.9.9"
	Error string `json:"error,omitempty"` // of the last probe
}

// LinkChange is a change of a link's state.
type LinkChange struct {
	At     time.Time `json:"at"`
	State  string    `json:"state"`
	Reason string    `json:"reason,omitempty"`
}

// LinkWish is the body of POST /link.
type LinkWish struct {
	Link  string `json:"link"`
	State string `json:"state"` // drain, down, or ready: what checks say
}

// LinkAnswer is the answer of POST /link.
type LinkAnswer struct {
	State string `json:"state,omitempty"` // what the link is now
	Up    int    `json:"up"`              // how many links are up now
	Links int    `json:"links"`
	Error string `json:"error,omitempty"` // why nothing was changed
}
