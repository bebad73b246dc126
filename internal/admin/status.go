// Package admin is how the other commands talk to a running gateway: HTTP over a Unix socket in its run directory.
package admin

import (
	"time"

	"salp/internal/control"
)

// Status is what a running gateway tells about itself. It is the answer of GET /status and of `salp status --json`.
type Status struct {
	Version    string     `json:"version"`
	PID        int        `json:"pid"` // of the keeper
	State      State      `json:"state"`
	Since      time.Time  `json:"since"`          // when the keeper started
	Uptime     float64    `json:"uptime_seconds"` // since then
	RunDir     string     `json:"run_dir"`
	ConfigFile string     `json:"config_file"` // absolute
	Generation uint64     `json:"generation"`  // of the configuration in force, from 1
	Alive      bool       `json:"alive"`       // a worker answers, so new connections are taken in
	Workers    []Worker   `json:"workers"`
	Restarts   uint64     `json:"restarts"`          // workers that were replaced because they crashed or hung
	Reload     *Reload    `json:"reload,omitempty"`  // the last one, when there was one
	Upgrade    *Upgrade   `json:"upgrade,omitempty"` // the last one, when there was one
	Reloads    Reloads    `json:"reloads"`
	Listeners  []Listener `json:"listeners"`
	Pools      []Pool     `json:"pools,omitempty"`
	Links      []Link     `json:"links,omitempty"`
	Linkless   *Linkless  `json:"linkless,omitempty"` // what got none of the links
	Kernel     Kernel     `json:"kernel"`
}

// State is where a gateway is in its life.
type State string

const (
	StateStarting State = "starting"
	StateRunning  State = "running"
	StateStopping State = "stopping" // draining
)

// Worker is one process that carries traffic.
type Worker struct {
	PID         int         `json:"pid"`
	Version     string      `json:"version"`    // of the binary it was started from
	Generation  uint64      `json:"generation"` // of the configuration it serves
	State       WorkerState `json:"state"`
	Since       time.Time   `json:"since"`
	Connections uint64      `json:"connections"`               // open now
	LogLost     uint64      `json:"access_log_lost,omitempty"` // lines that could not be written
}

// WorkerState is where a worker is in its life.
type WorkerState string

const (
	WorkerStarting WorkerState = "starting"
	WorkerRunning  WorkerState = "running"
	WorkerHung     WorkerState = "hung"     // no sign of life lately; new connections pass it by
	WorkerDraining WorkerState = "draining" // accepts no more
)

// Reload is the outcome of one.
type Reload struct {
	At    time.Time `json:"at"`
	Good  bool      `json:"good"`
	Error string    `json:"error,omitempty"` // why the old configuration stayed
}

// Reloads counts them since the gateway was started.
type Reloads struct {
	Good    uint64 `json:"good"`
	Refused uint64 `json:"refused"`
}

// Upgrade is the outcome of one, or one that is under way.
type Upgrade struct {
	Number uint64       `json:"number"` // from 1
	At     time.Time    `json:"at"`     // when it began
	Binary string       `json:"binary"` // the path of the new one
	From   string       `json:"from"`   // the version before
	To     string       `json:"to,omitempty"`
	State  UpgradeState `json:"state"`
	Error  string       `json:"error,omitempty"` // what went wrong
}

// UpgradeState is how far an upgrade is.
type UpgradeState string

const (
	UpgradeRunning UpgradeState = "running"
	UpgradeDone    UpgradeState = "done"   // a worker of the new version takes the connections
	UpgradeHalf    UpgradeState = "half"   // the keeper is of the new version, but its worker did not start: the old one goes on
	UpgradeFailed  UpgradeState = "failed" // the old version goes on
)

// UpgradeOrder is the body of POST /upgrade.
type UpgradeOrder struct {
	Binary string `json:"binary,omitempty"` // path; "": the file that the running program was started from
}

// UpgradeAnswer is the answer of POST /upgrade: the new binary is good and about to run. How that goes is told by Status.Upgrade.
type UpgradeAnswer struct {
	Number uint64 `json:"number,omitempty"` // see Upgrade
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
	Error  string `json:"error,omitempty"` // why nothing happens
}

// Listener is one listener of the configuration in force, with its counters since the keeper started: those of workers that
// have ended are in them, so they never go back.
type Listener struct {
	Name       string   `json:"name"`
	Mode       string   `json:"mode"`                 // in words, see Mode
	Addresses  []string `json:"addresses,omitempty"`  // that clients dial
	Interfaces []string `json:"interfaces,omitempty"` // whose connections are taken in
	Ports      []string `json:"ports,omitempty"`      // "80", "8000-8999": those that are taken in
	Method     string   `json:"method,omitempty"`     // tproxy or redirect; intercepting listeners only
	LocalPort  uint16   `json:"local_port,omitempty"` // where diverted connections arrive
	Source     string   `json:"source"`
	SourcePort string   `json:"source_port,omitempty"`
	OnFailure  string   `json:"on_failure,omitempty"`
	Pool       string   `json:"pool,omitempty"`
	Limits     Limits   `json:"limits"`
	Offloaded  bool     `json:"offloaded,omitempty"` // flows of its servers pass no rules (offload), so bytes are not counted: bytes_in and bytes_out are 0, whatever was sent

	Counters control.Listener    `json:"counters"`
	Queue    control.AcceptQueue `json:"accept_queue"` // connections that the worker has not taken yet
}

// Limits bound a listener; 0: no bound.
type Limits struct {
	Connections int `json:"connections"`
	PerClient   int `json:"per_client"`
	Rate        int `json:"rate"`        // new connections a second
	ClientRate  int `json:"client_rate"` // and of one client address
}

// Mode names what a listener does, by the two questions: does it intercept, and does the server see the client?
func Mode(intercepts, sourceIsClient bool) string {
	switch {
	case intercepts && sourceIsClient:
		return "fully transparent"
	case intercepts:
		return "inbound transparent"
	case sourceIsClient:
		return "outbound transparent"
	default:
		return "explicit"
	}
}

// Kernel is how the kernel compares with the plan.
type Kernel struct {
	Needed      bool     `json:"needed"` // the configuration wants something in the kernel
	InSync      bool     `json:"in_sync"`
	Differences []string `json:"differences,omitempty"` // what the next repair would do
	Error       string   `json:"error,omitempty"`       // why it could not be compared or repaired
	Repairs     []Repair `json:"repairs,omitempty"`     // the last ones, oldest first
	Repaired    uint64   `json:"repaired"`              // how many there were
}

// Repair is one thing that another program changed and Salp put back.
type Repair struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
	By   string    `json:"by,omitempty"` // who probably changed it
}

// ReloadAnswer is the answer of POST /reload.
type ReloadAnswer struct {
	Generation uint64 `json:"generation,omitempty"`
	Error      string `json:"error,omitempty"` // why the old configuration stayed
}
