package plan

import "salp/internal/config"

// firstPort is where the search for a free interception port begins: above the default ephemeral range (ip_local_port_range), so
// that no outgoing connection holds it.
const firstPort = 61440

// Ports returns the local port of each intercepting listener, by name: the one the file names, else the one it has already, else
// the first free one. A listener for which none is left is not in it.
func Ports(cfg *config.Config, f Facts) map[string]uint16 {
	named, ports := namedPorts(cfg), map[string]uint16{}
	var lacking []string
	for _, l := range cfg.Listeners {
		has, ok := f.Ports[l.Name]
		switch {
		case l.Intercept == nil:
		case l.Intercept.Port != 0:
			ports[l.Name] = l.Intercept.Port
		case ok && !named[has]:
			ports[l.Name] = has
		default:
			lacking = append(lacking, l.Name)
		}
	}
	taken := named
	for _, a := range f.Listening {
		taken[a.Port()] = true
	}
	for _, p := range f.Ports { // also those of listeners that are gone from the file and drain
		taken[p] = true
	}
	for _, name := range lacking {
		if p := freePort(taken); p != 0 {
			ports[name], taken[p] = p, true
		}
	}
	return ports
}

// namedPorts are those that the file gives to a listener.
func namedPorts(cfg *config.Config) map[uint16]bool {
	named := map[uint16]bool{}
	for _, l := range cfg.Listeners {
		for _, a := range l.Listen {
			named[a.Port()] = true
		}
		if l.Intercept != nil && l.Intercept.Port != 0 {
			named[l.Intercept.Port] = true
		}
	}
	return named
}

func freePort(taken map[uint16]bool) uint16 {
	for p := firstPort; p <= 65535; p++ {
		if !taken[uint16(p)] {
			return uint16(p)
		}
	}
	return 0
}
