package control

import (
	"fmt"
	"net/netip"
)

// Links tells a worker how the Internet links are. It is whole. The keeper sends it before Start and again on every change, when the configuration
// has links.
type Links struct {
	Links []Link                    `json:"links"`           // in the order of the file
	Local []netip.Prefix            `json:"local,omitempty"` // the host's own networks: what is sent there uses no link
	Names map[string][]netip.Addr   `json:"names,omitempty"` // what the host names in rules resolve to
	Lists map[string][]netip.Prefix `json:"lists,omitempty"` // the lists of addresses that rules name; in the first message only
}

// Link is how one Internet link is.
type Link struct {
	Name   string `json:"name"`
	Up     bool   `json:"up"`             // new flows may use it
	Dead   bool   `json:"dead,omitempty"` // it is down, and not only drained: what is on it gets no answer
	Weight int    `json:"weight"`
	IPv4   bool   `json:"ipv4"` // there is a way out in the family
	IPv6   bool   `json:"ipv6"`
}

func (l *Links) check() error {
	for _, one := range l.Links {
		if one.Name == "" || one.Weight < 1 || one.Up && one.Dead {
			return fmt.Errorf("control: link %q with weight %d, up %v, dead %v", one.Name, one.Weight, one.Up, one.Dead)
		}
	}
	return nil
}
