package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Flowtable is where the kernel keeps the way of flows that need no rules any more: their packets go from device to device, translated, past
// every chain but those at the very ingress. (Documentation/networking/nf_flowtable.rst)
type Flowtable struct {
	Name    string   `json:"name"`
	Devices []string `json:"devices"` // where packets are taken up; sorted
}

// mostDevices is how many a flowtable can have. (NFT_NETDEVICE_MAX in net/netfilter/nf_tables_api.c)
const mostDevices = 256

// newFlowtable returns nil when there are no devices.
func newFlowtable(name string, devices []string) *Flowtable {
	slices.Sort(devices)
	devices = slices.Compact(devices)
	if len(devices) == 0 {
		return nil
	}
	return &Flowtable{Name: name, Devices: devices[:min(len(devices), mostDevices)]}
}

// FlowAdd puts the flow of a packet into a flowtable of the table. The rule must be in hook forward, and match TCP or UDP.
type FlowAdd struct{ Flowtable string }

// Text is flow add and the flowtable.
func (e FlowAdd) Text() string { return "flow add @" + e.Flowtable }

// Text is the flowtable as nft lists it: it counts, so that conntrack's counters go on.
func (f Flowtable) Text() string {
	return fmt.Sprintf("\tflowtable %s {\n\t\thook ingress priority filter\n\t\tdevices = { %s }\n\t\tcounter\n\t}\n", f.Name, strings.Join(f.Devices, ", "))
}

func (f Flowtable) validate() error {
	if len(f.Devices) == 0 || !slices.IsSorted(f.Devices) {
		return fmt.Errorf("flowtable %s: it needs devices, sorted", f.Name)
	}
	return nil
}

// flow checks that the table has the flowtable.
func (t Table) flow(e FlowAdd) error {
	if !slices.ContainsFunc(t.Flowtables, func(f Flowtable) bool { return f.Name == e.Flowtable }) {
		return errors.New("the table has no such flowtable")
	}
	return nil
}
